"""Old segments go from every broker, and who needs them is told."""

import json

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

LARGE = "x" * 2_000
SETTINGS = {"OTTLA_RETENTION_CHECK_INTERVAL_MS": "200"}


def alter(client, topic, **configs):
    url = client.any_url() + routes.TOPIC_CONFIGS.format(topic=topic)
    wanted = {name.replace("_", "."): value for name, value in configs.items()}
    client.http.call("PATCH", url, {"configs": wanted}).expect(200)


def first_offsets_on_disk(client, topic):
    """The base offset of the oldest segment on each running broker."""
    return [
        min(int(path.stem) for path in directory.glob("*.sqlite"))
        for directory in (
            client.cluster.broker(node).data_dir / f"{topic}-0" for node in client.live_node_ids
        )
    ]


def log_start(client, topic, *, via):
    answer = client.read(topic, via=via, offset=0, replica="local", max_wait_ms=0)
    # Both tell it; a broker without a leader that it knows of does not.
    assert answer.status in (200, 416), answer.text
    return answer.document["log_start_offset"]


def fill(client, topic, count):
    for number in range(count):
        client.append(topic, f"{number}{LARGE}")


def test_old_segments_go_from_every_broker_and_a_late_follower_comes_back(start_cluster):
    client = start_cluster(settings=SETTINGS)
    client.create_topic("t", partitions=1, configs={"segment.bytes": 8_192})
    client.wait_led("t")
    leader = client.leader("t")
    late = client.others(leader)[0]
    fill(client, "t", 5)
    client.wait_replicas_equal("t")
    client.cluster.broker(late).kill()
    client.wait_isr("t", 2)
    fill(client, "t", 20)
    alter(client, "t", retention_bytes=10_000)

    def gone():
        starts = {log_start(client, "t", via=node) for node in client.live_node_ids}
        assert len(starts) == 1
        (start,) = starts
        assert start >= 10
        assert all(0 < first <= start for first in first_offsets_on_disk(client, "t"))
        return start

    start = eventually(gone, 20)
    for via in client.live_node_ids:
        answer = client.read("t", via=via, offset=start - 1, max_wait_ms=0)
        assert (answer.status, answer.code) == (416, "OFFSET_OUT_OF_RANGE")
        assert answer.document["log_start_offset"] == start
        assert answer.document["high_watermark"] == 25
        earliest = client.offset("t", at="earliest", via=via).expect(200).document
        assert earliest["offset"] == start

    client.cluster.broker(late).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    client.append("t", "after")
    want = read_from(client, "t", start, via=leader)
    assert len(want) == 26 - start
    for node in client.node_ids:
        eventually(
            lambda node=node: read_from(client, "t", start, via=node, replica="local") == want
        )
    assert log_start(client, "t", via=late) == start
    client.cluster.broker(leader).kill()
    eventually(lambda: client.leader("t", via=late) != leader, 20)
    eventually(lambda: client.append("t", "with another leader", via=late) == 26, 20)
    # A log's start does not move back because another broker leads.
    assert client.offset("t", at="earliest", via=late).expect(200).document["offset"] >= start
    assert set(client.cluster.stop().values()) <= {0, -9}


def test_a_crash_of_all_brokers_while_segments_go_loses_nothing_that_is_young(start_cluster):
    client = start_cluster(settings=SETTINGS)
    client.create_topic("t", partitions=1, configs={"segment.bytes": 4_096})
    client.wait_led("t")
    alter(client, "t", retention_bytes=200_000)
    for crash in range(3):
        fill(client, "t", 12)
        end = (crash + 1) * 12
        alter(client, "t", retention_bytes=8_192)
        eventually(lambda: log_start(client, "t", via=1) > 0, 20)
        for broker in client.cluster.brokers:
            broker.kill()
        for broker in client.cluster.brokers:
            broker.start()
        client.cluster.wait_ready()
        client.wait_isr("t", 3)
        eventually(lambda end=end: client.offset("t").document.get("offset") == end, 20)
        # Removal goes on meanwhile: who is told of an offset too late asks for the start again.
        start, found = eventually(lambda: what_is_left(client, "t"), 20)
        assert [record["offset"] for record in found] == list(range(start, end))
        assert [record["value"] for record in found] == [
            f"{offset % 12}{LARGE}" for offset in range(start, end)
        ]
        assert end - start >= 2


def what_is_left(client, topic):
    """The log start and every record from there on."""
    start = client.offset(topic, at="earliest").expect(200).document["offset"]
    return start, [json.loads(record) for record in read_from(client, topic, start)]


def read_from(client, topic, offset, **arguments):
    found = []
    while True:
        document = (
            client.read(topic, offset=offset, max_wait_ms=0, **arguments).expect(200).document
        )
        found += [json.dumps(record, sort_keys=True) for record in document["records"]]
        if document["next_offset"] == offset:
            return found
        offset = document["next_offset"]


def test_an_idle_topic_ages_out_and_offsets_go_on(start_cluster):
    client = start_cluster(settings=SETTINGS | {"OTTLA_RETENTION_MS": "1000"})
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    client.append("t", *range(5))
    eventually(lambda: all(log_start(client, "t", via=node) == 5 for node in client.node_ids), 20)
    eventually(lambda: first_offsets_on_disk(client, "t") == [5, 5, 5])
    assert client.append("t", "young") == 5
    answer = client.read("t", offset=5, max_wait_ms=0).expect(200)
    assert [record["value"] for record in answer.document["records"]] == ["young"]


def test_what_groups_have_committed_outlives_the_records_of_its_time(start_cluster):
    """What the brokers write for themselves is never deleted by age, whatever the defaults are."""
    short = {"OTTLA_RETENTION_MS": "1", "OTTLA_SEGMENT_MS": "1"}
    client = start_cluster(settings=SETTINGS | short)
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    group_url = client.any_url() + routes.GROUP_OFFSETS.format(group="g")
    committed = {"offsets": [{"topic": "t", "partition": 0, "offset": 1}]}
    client.append("t", "x")
    eventually(lambda: client.http.post(group_url, committed).status == 200)
    eventually(lambda: log_start(client, "t", via=1) == 1, 20)
    before = client.metric(client.leader("t"), "ottla_removed_segments_total")
    client.append("t", "y")
    eventually(
        lambda: client.metric(client.leader("t"), "ottla_removed_segments_total") > before, 20
    )
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    client.cluster.start()
    client.cluster.wait_ready()

    def found():
        answer = client.http.get(group_url).expect(200).document["offsets"]
        return [(each["topic"], each["offset"]) for each in answer]

    assert eventually(found, 20) == [("t", 1)]
