"""A compacted topic on real brokers: every reader on every broker, restarts, late followers."""

import pytest

from ottla import Consumer, TopicPartition
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.polling_client import PollingClient
from tests.cluster.test_consumer_groups import urls
from tests.cluster.test_segment_tools import ottla

pytestmark = pytest.mark.cluster

SETTINGS = {"OTTLA_COMPACTION_CHECK_INTERVAL_MS": "100", "OTTLA_OFFSETS_PARTITIONS": "1"}
CONFIGS = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": 0.01,
    "max.compaction.lag.ms": 300,
    "segment.bytes": 4_096,
    "delete.retention.ms": 0,
}
FILLING = "x" * 900
KEYS = 5
PARTITION = TopicPartition("t", 0)


def write(client, numbers):
    """Records of a few keys, and in between one of a key of its own that is deleted again."""
    for number in numbers:
        records = [{"key": f"k{number % KEYS}", "value": f"{number} {FILLING}"}]
        if number % 4 == 0:
            records += [{"key": f"gone{number}", "value": value} for value in (FILLING, None)]
        client.produce("t", records, partition=0).expect(200)


def own_copy(client, node):
    """(offset, key, value) of what that broker's own copy shows."""
    found, offset = [], 0
    while True:
        query = {"offset": offset, "replica": "local", "max_wait_ms": 0}
        document = client.read("t", via=node, **query).expect(200).document
        found += [
            (record["offset"], record["key"], record["value"]) for record in document["records"]
        ]
        if document["next_offset"] == offset:
            return found
        offset = document["next_offset"]


def wait_compacted(client, count):
    """Wait until each live broker's own copy is the newest record of each key; returns it."""
    last = {number % KEYS: number for number in range(count)}
    want = {f"k{key}": f"{number} {FILLING}" for key, number in last.items()}

    def agreed():
        found = [own_copy(client, node) for node in client.live_node_ids]
        assert [len(copy) for copy in found] == [KEYS] * len(found)
        assert all(copy == found[0] for copy in found)
        assert {key: value for _, key, value in found[0]} == want
        return found[0]

    return eventually(agreed, 40)


def test_every_reader_on_every_broker_sees_the_newest_of_each_key(start_cluster):
    client = start_cluster(settings=SETTINGS)
    client.create_topic("t", partitions=1, configs=CONFIGS)
    client.wait_led("t")
    leader = client.leader("t")
    late = client.others(leader)[0]
    refused = client.produce("t", [{"key": "a", "value": 1}, {"value": 2}], partition=0)
    assert (refused.status, refused.code) == (422, "INVALID_RECORD")
    write(client, range(8))
    client.cluster.broker(late).kill()
    client.wait_isr("t", 2)
    write(client, range(8, 24))
    wait_compacted(client, 24)
    end = client.offset("t").expect(200).document["offset"]

    # A follower that was away fetches what is left, gaps and empty batches included.
    client.cluster.broker(late).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3, timeout_s=30)
    kept = wait_compacted(client, 24)
    read_everywhere(client, kept, end)

    # Another leader shows the same, and goes on from there.
    client.cluster.broker(leader).kill()
    eventually(lambda: client.leader("t", via=late) != leader, 20)
    eventually(lambda: client.offset("t", via=late).document.get("offset") == end, 20)
    assert wait_compacted(client, 24) == kept
    client.cluster.broker(leader).start()
    client.cluster.wait_ready()
    write(client, range(24, 29))
    kept = wait_compacted(client, 29)
    assert client.metric(late, "ottla_compactions_total") > 0
    assert set(client.cluster.stop().values()) <= {0, -9}
    for node in client.node_ids:
        arguments = (client.cluster.broker(node).data_dir, "--topic", "t")
        [verified] = ottla("segment", "verify", *arguments)
        assert verified["damaged_segments"] == 0
        sql = 'select count(*) as n, max("offset") as last from t'
        assert ottla("query", sql, "--data-dir", arguments[0]) == [{"n": KEYS, "last": kept[-1][0]}]


def read_everywhere(client, kept, end):
    """From every offset, those in gaps too, each read gets on until the end."""
    for node in client.node_ids:
        for start in (0, 1, end // 3, end // 2, kept[0][0] + 1, end - 2):
            offset, seen = start, []
            while offset < end:
                query = {"offset": offset, "max_wait_ms": 5_000, "max_bytes": 1}
                document = client.read("t", via=node, **query).expect(200).document
                assert document["next_offset"] > offset
                offset = document["next_offset"]
                seen += [record["offset"] for record in document["records"]]
            assert seen == [offset for offset, _, _ in kept if offset >= start]
    with Consumer(bootstrap_servers=urls(client), auto_offset_reset="earliest") as consumer:
        consumer.assign([PARTITION])
        found = []
        while consumer.position(PARTITION) < end:
            found += [record.offset for record in consumer.poll(5.0).get(PARTITION, ())]
    assert found == [offset for offset, _, _ in kept]
    polling = PollingClient(client, "g", ["t"], auto_offset_reset="earliest", max_wait_ms=500)
    eventually(lambda: polling.poll() is not None and len(polling.values) == KEYS, 20)
    polling.poll()
    offsets = client.any_url() + routes.GROUP_OFFSETS.format(group="g")
    committed = client.http.get(offsets).expect(200).document["offsets"]
    assert [each["offset"] for each in committed] == [end]
    configs = routes.TOPIC_CONFIGS.format(topic="__consumer_offsets")
    answer = client.http.get(client.any_url() + configs).expect(200).document
    assert answer["configs"]["cleanup.policy"]["value"] == "compact"
