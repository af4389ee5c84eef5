"""Files that lost records: who notices, what readers are told, and what becomes of the replica."""

import os

import pytest

from ottla_broker.storage.end_witness import WITNESS_FILE, EndWitness
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def replica_directory(client, node_id, topic):
    return client.cluster.broker(node_id).data_dir / f"{topic}-0"


def logged(client, node_id, event):
    text = client.cluster.broker(node_id).log_path.read_text()
    return [line for line in text.splitlines() if f'"event": "{event}"' in line]


def append_witnessed(client, node_id, topic, value):
    """Append a record, and wait until that broker's witness tells of it: 100 ms at most."""
    end_offset = client.append(topic, value) + 1

    def is_witnessed():
        witness = EndWitness(client.cluster.broker(node_id).data_dir / WITNESS_FILE)
        try:
            return any(end.end_offset == end_offset for end in witness.ends.values())
        finally:
            witness.close()

    eventually(is_witnessed)


def lose_write_ahead_log(client, node_id, topic):
    """Kill the broker and remove what its newest commits are in."""
    client.cluster.broker(node_id).kill()
    [wal] = replica_directory(client, node_id, topic).glob("*.sqlite-wal")
    wal.unlink()


def flip(path, content):
    """Turn a bit of what the file holds, in place: a running broker has it open."""
    position = path.read_bytes().index(content)
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, bytes([content[0] ^ 1]), position)
    os.close(descriptor)


def test_a_follower_without_its_write_ahead_log_knows_it_and_is_refilled(start_cluster):
    client = start_cluster()
    client.create_topic("orders", partitions=1, replication_factor=3)
    client.wait_led("orders")
    for number in range(20):
        client.append("orders", number)
    victim = client.others(client.leader("orders"))[0]
    append_witnessed(client, victim, "orders", 20)
    lose_write_ahead_log(client, victim, "orders")
    client.cluster.broker(victim).start()
    client.cluster.broker(victim).wait_ready()
    client.wait_isr("orders", 3)
    eventually(lambda: logged(client, victim, "replica_refilled"))
    [line] = logged(client, victim, "log_lost_its_end")
    assert '"partition": "orders-0"' in line
    assert client.metric(victim, "ottla_lost_tails_total") == 1
    eventually(lambda: client.metric(victim, "ottla_unfit_replicas") == 0)
    found = client.wait_replicas_equal("orders")[0]
    assert len(found) == 21


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_the_only_replica_tells_what_it_lost_and_serves_the_rest(start_cluster, durability):
    client = start_cluster(
        brokers=1, settings={"OTTLA_TAIL_CACHE_BYTES": str(1 << 20), "OTTLA_SEGMENT_BYTES": "65536"}
    )
    client.create_topic("orders", partitions=1, configs={"durability": durability})
    client.wait_led("orders")
    for number in range(200):
        client.append("orders", f"number {number:04d} " + "x" * 8_000)
    first = min(replica_directory(client, 1, "orders").glob("*.sqlite"))
    flip(first, b"number 0003")
    answer = client.read("orders", offset=3, max_wait_ms=0).expect(500)
    assert answer.code == "RECORDS_LOST"
    assert not answer.document["retriable"]
    assert (answer.document["offset"], answer.document["next_offset"]) == (3, 4)
    assert client.read("orders", offset=4, max_records=1).document["records"][0]["offset"] == 4
    before = client.read("orders", offset=0, max_wait_ms=0).expect(200).document
    assert before["next_offset"] == 3
    [line] = logged(client, 1, "segment_damaged")
    assert first.name in line
    # Its end is lost too: no offset is given a second time.
    append_witnessed(client, 1, "orders", "lost")
    lose_write_ahead_log(client, 1, "orders")
    client.cluster.broker(1).start()
    client.cluster.broker(1).wait_ready()
    client.wait_led("orders")
    assert client.append("orders", "after the loss") == 201
    assert logged(client, 1, "log_lost_its_end")


def test_a_replica_without_its_first_file_does_not_take_that_from_the_others(start_cluster):
    client = start_cluster(settings={"OTTLA_SEGMENT_BYTES": "65536"})
    client.create_topic("orders", partitions=1, replication_factor=3)
    client.wait_led("orders")
    for number in range(40):
        client.append("orders", f"{number} " + "x" * 8_000)
    victim = client.others(client.leader("orders"))[0]
    append_witnessed(client, victim, "orders", "the last one")
    client.cluster.broker(victim).kill()
    min(replica_directory(client, victim, "orders").glob("*.sqlite")).unlink()
    client.cluster.broker(victim).start()
    client.cluster.broker(victim).wait_ready()
    client.wait_isr("orders", 3)
    eventually(lambda: client.metric(victim, "ottla_unfit_replicas") == 0)
    [line] = logged(client, victim, "log_lost_its_end")
    assert "are missing" in line
    found = client.wait_replicas_equal("orders")[0]
    assert len(found) == 41
