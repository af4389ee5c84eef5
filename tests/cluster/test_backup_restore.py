"""Backup of topics that are in use and restore at the same offsets, against real brokers."""

import json
import subprocess
import sys
import threading

import pytest

from ottla_ops.backup.chunk_files import read_chunk
from ottla_ops.backup.verification import read_manifest
from ottla_protocol import routes
from ottla_protocol.record_codec import decode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.test_segment_tools import OTTLA, TIMEOUT_S, ottla
from tests.cluster.transactional_client import TransactionalClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(360)]

MEBIBYTE = 1 << 20
PATIENCE_S = 60
"""For what a busy machine does late: replicas that catch up, compaction, the first group."""


def bootstrap_of(client):
    return ",".join(client.url(node_id) for node_id in client.node_ids)


def refused(client, *arguments):
    """Runs the command, which fails: its exit code and what it says."""
    ran = subprocess.run(
        [sys.executable, "-c", OTTLA, "--bootstrap", bootstrap_of(client), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return ran.returncode, ran.stderr


def commit(client, group, topic, offset):
    path = routes.GROUP_OFFSETS.format(group=group)
    body = {"offsets": [{"topic": topic, "partition": 0, "offset": offset, "metadata": "note"}]}
    # The first one of a cluster makes the topic of groups, whose leaders may not serve it yet.
    eventually(lambda: client.http.post(client.any_url() + path, body).expect(200), PATIENCE_S)


def backed_up(directory, topic):
    """By partition: {offset: value} of what the backup has of the topic."""
    [found] = [each for each in read_manifest(directory).topics if each.name == topic]
    return [
        {
            record.offset: json.loads(record.value)
            for chunk in partition.chunks
            for batch, _ in read_chunk(directory, chunk)
            for record in decode_batch(batch, max_inflated_bytes=MEBIBYTE)
        }
        for partition in found.partitions
    ]


def records_of(client, topic, **query):
    """Every record of partition 0, with all that a reader gets, and the ends of the partition."""
    found, offset = [], "earliest"
    while True:
        answer = client.read(topic, offset=offset, max_wait_ms=0, **query).expect(200).document
        found += answer["records"]
        if answer["next_offset"] == offset:
            return found, answer["log_start_offset"], answer["high_watermark"]
        offset = answer["next_offset"]


def own_copy(client, topic, **query):
    return client.read(topic, max_wait_ms=0, **query).expect(200).document["records"]


def test_a_backup_has_all_that_was_committed_when_it_began(shared, topic, tmp_path):
    shared.append(topic, *range(100))
    group = f"group-of-{topic}"
    commit(shared, group, topic, 40)
    stop, written = threading.Event(), []

    def write():
        while not stop.is_set():
            written.append(shared.append(topic, *range(10)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        eventually(lambda: len(written) > 2, PATIENCE_S)
        [made] = ottla("--bootstrap", bootstrap_of(shared), "backup", tmp_path / "b", topic)
        count = len(written)
        eventually(lambda: len(written) > count, PATIENCE_S)
    finally:
        stop.set()
        writer.join()

    [found] = backed_up(tmp_path / "b", topic)
    [told] = made["topics"][0]["partitions"]
    assert list(found) == list(range(told["end_offset"]))
    assert 120 <= told["end_offset"] <= 100 + 10 * len(written)
    stored = shared.values(topic)
    assert found == {offset: stored[offset] for offset in found}
    [committed] = read_manifest(tmp_path / "b").groups
    assert committed.group == group
    [offset] = committed.offsets
    assert (offset.offset, offset.metadata) == (40, "note")

    # Under another name in the same cluster, whose records go on behind those of the backup.
    bootstrap = ("--bootstrap", bootstrap_of(shared))
    again = f"{topic}-again"
    code, told = refused(shared, "restore", tmp_path / "b")
    assert (code, "--rename" in told) == (4, True)
    [restored] = ottla(*bootstrap, "restore", tmp_path / "b", "--rename", f"{topic}={again}")
    assert restored["groups"] == [group]
    eventually(lambda: shared.offset(again).status == 200, PATIENCE_S)
    assert shared.values(again) == found
    assert shared.append(again, "next") == len(found)
    path = routes.GROUP_OFFSETS.format(group=group)
    answer = shared.http.get(shared.any_url() + path).expect(200).document
    assert [(each["topic"], each["offset"]) for each in answer["offsets"]] == [
        (topic, 40),
        (again, 40),
    ]


def is_refused(answer):
    # Asserted, so that a failure tells what came in its place.
    assert answer.code == "TOPIC_BEING_RESTORED", (answer.status, answer.body)
    return True


def test_of_transactions_a_backup_has_what_is_committed(shared, topic, tmp_path):
    teller = TransactionalClient(shared, f"teller-{topic}")
    shared.append(topic, "plain")
    teller.produce(topic, "committed").expect(200)
    teller.commit().expect(200)
    teller.produce(topic, "aborted").expect(200)
    teller.abort().expect(200)
    # Both have their markers once the next one may write there.
    teller.produce(topic, "open").expect(200)
    bootstrap = ("--bootstrap", bootstrap_of(shared))
    [made] = ottla(*bootstrap, "backup", tmp_path / "b", topic)
    teller.commit().expect(200)
    assert backed_up(tmp_path / "b", topic) == [{0: "plain", 1: "committed"}]
    assert made["topics"][0]["partitions"][0]["end_offset"] == 5

    again = f"{topic}-again"
    ottla(*bootstrap, "restore", tmp_path / "b", "--rename", f"{topic}={again}")
    eventually(lambda: shared.offset(again).status == 200, PATIENCE_S)
    assert shared.values(again) == {0: "plain", 1: "committed"}
    # It ends where the backup did: no offset of it is given a second time.
    assert shared.append(again, "next") == 5


def test_nobody_else_gets_at_a_topic_that_is_being_restored(shared, topic):
    name = f"{topic}-restored"
    url = shared.any_url() + routes.TOPIC_RESTORE.format(topic=name)
    wanted = {"restore_id": "monday", "first_offsets": [7]}
    shared.http.post(url, wanted).expect(201)
    assert shared.describe(name)["restore_id"] == "monday"
    # As soon as its leader serves it.
    for ask in (
        lambda: shared.read(name, offset="earliest"),
        lambda: shared.offset(name),
        lambda: shared.produce(name, [{"value": 1}], timeout_ms=1_000),
    ):
        eventually(lambda ask=ask: is_refused(ask()), PATIENCE_S)
    finish = shared.any_url() + routes.TOPIC_RESTORE_FINISH.format(topic=name)
    assert shared.http.post(finish, {"restore_id": "tuesday"}).code == "RESTORE_CONFLICT"
    shared.http.post(finish, {"restore_id": "monday"}).expect(200)
    eventually(lambda: shared.offset(name).status == 200, PATIENCE_S)
    assert shared.append(name, "first") == 7
    assert shared.http.post(url, wanted).code == "TOPIC_ALREADY_EXISTS"


def test_trimmed_and_compacted_topics_come_back_at_their_offsets(start_cluster, tmp_path):
    settings = {
        "OTTLA_COMPACTION_CHECK_INTERVAL_MS": "100",
        "OTTLA_RETENTION_CHECK_INTERVAL_MS": "100",
        "OTTLA_OFFSETS_PARTITIONS": "1",
    }
    source = start_cluster(brokers=1, settings=settings)
    compacted = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": 0.01,
        "max.compaction.lag.ms": 300,
        "segment.bytes": 4_096,
        "delete.retention.ms": 0,
    }
    trimmed = {"segment.bytes": 4_096, "retention.bytes": 8_192}
    for name, configs in (("compacted", compacted), ("trimmed", trimmed)):
        source.create_topic(name, partitions=1, configs=configs)
        source.wait_led(name)
        for number in range(24):
            record = {
                "key": f"k{number % 3}",
                "value": f"{number} " + "x" * 900,
                "headers": {"n": str(number)},
            }
            source.produce(name, [record], partition=0).expect(200)
    eventually(lambda: len(records_of(source, "compacted")[0]) < 12, PATIENCE_S)
    eventually(lambda: records_of(source, "trimmed")[1] > 0, PATIENCE_S)
    commit(source, "readers", "compacted", 22)
    # From here on nothing is taken away, so that both sides can be compared.
    for name in ("compacted", "trimmed"):
        configs = {"cleanup.policy": "delete", "retention.bytes": -1}
        path = routes.TOPIC_CONFIGS.format(topic=name)
        source.http.call("PATCH", source.any_url() + path, {"configs": configs}).expect(200)
    before = {}

    def settled():
        before.update({name: records_of(source, name) for name in ("compacted", "trimmed")})
        assert before == {name: records_of(source, name) for name in before}
        return True

    # A compaction that has begun would still take its records away.
    source.cluster.broker(1).restart()
    source.cluster.wait_ready()
    eventually(settled, PATIENCE_S)
    [made] = ottla("--bootstrap", bootstrap_of(source), "backup", tmp_path / "b")
    assert [topic["topic"] for topic in made["topics"]] == ["compacted", "trimmed"]

    target = start_cluster(settings={"OTTLA_OFFSETS_PARTITIONS": "1"})
    first = min((tmp_path / "b").rglob("*.batches"))
    sound = first.read_bytes()
    first.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    code, told = refused(target, "restore", tmp_path / "b", "--replication-factor", 3)
    assert (code, str(first) in told) == (1, True)
    assert target.http.get(target.any_url() + routes.TOPICS).document["topics"] == []
    first.write_bytes(sound)

    ottla("--bootstrap", bootstrap_of(target), "restore", tmp_path / "b", "--replication-factor", 3)
    for name, expected in before.items():
        target.wait_isr(name, 3)
        eventually(lambda name=name: target.offset(name).status == 200, PATIENCE_S)
        assert records_of(target, name) == expected
        end = expected[2]
        assert target.append(name, "next") == end
        # Every replica begins and ends there too.
        for node_id in target.node_ids:
            local = {"via": node_id, "replica": "local", "offset": expected[1]}
            eventually(
                lambda local=local, name=name, expected=expected: (
                    own_copy(target, name, **local)[: len(expected[0])] == expected[0]
                ),
                PATIENCE_S,
            )
    path = routes.GROUP_OFFSETS.format(group="readers")
    answer = target.http.get(target.any_url() + path).expect(200).document
    assert [(each["topic"], each["offset"]) for each in answer["offsets"]] == [("compacted", 22)]
