"""What was trimmed is gone for every reader, whoever leads next and however a broker comes back."""

import shutil
import uuid

import pytest

from ottla_cluster.controller.features import TRIMS
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.test_backup_restore import bootstrap_of
from tests.cluster.test_retention import log_start, read_from
from tests.cluster.test_segment_tools import ottla

pytestmark = pytest.mark.cluster

PER_BATCH = 5
BATCHES = 4
END = PER_BATCH * BATCHES
START = 7
"""Amid the second batch."""


def trim(client, topic, *, via=None, **wanted):
    url = client.url(via) if via is not None else client.any_url()
    return client.http.post(url + routes.PARTITION_TRIM.format(topic=topic, partition=0), wanted)


def fill(client, topic, batches=BATCHES):
    """Batches of PER_BATCH records, whose values are their offsets."""
    end = client.offset(topic).expect(200).document["offset"]
    for base_offset in range(end, end + batches * PER_BATCH, PER_BATCH):
        client.append(topic, *range(base_offset, base_offset + PER_BATCH))


def filled(client, topic="t", **fields):
    client.create_topic(topic, partitions=1, **fields)
    client.wait_led(topic)
    fill(client, topic)
    return client


def require_begun_at(client, topic, start, end, *, nodes, **query):
    """That these brokers read every record from `start` to `end`, and nothing below."""
    for via in nodes:
        below = client.read(topic, via=via, offset=start - 1, max_wait_ms=0, **query)
        assert (below.status, below.code) == (416, "OFFSET_OUT_OF_RANGE"), via
        assert below.document["log_start_offset"] == start
        found = read_from(client, topic, start, via=via, **query)
        assert len(found) == end - start, via


def test_no_later_leader_serves_what_was_trimmed(start_cluster):
    client = filled(start_cluster())
    client.wait_isr("t", 3)
    leader = client.leader("t")
    other = client.others(leader)[0]
    answer = trim(client, "t", via=other, before_offset=START).expect(200).document
    client.cluster.broker(leader).kill()
    assert (answer["former_log_start_offset"], answer["log_start_offset"]) == (0, START)
    eventually(lambda: client.leader("t", via=other) not in (None, leader), 20)
    eventually(lambda: client.offset("t", via=other).expect(200).document["offset"] == END, 20)
    require_begun_at(client, "t", START, END, nodes=client.live_node_ids)

    client.cluster.broker(leader).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    local = {"replica": "local"}
    eventually(lambda: require_begun_at(client, "t", START, END, nodes=client.node_ids, **local))
    for broker in client.cluster.brokers:
        broker.kill()
    for broker in client.cluster.brokers:
        broker.start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
    eventually(lambda: client.offset("t").expect(200).document["offset"] == END, 20)
    require_begun_at(client, "t", START, END, nodes=client.node_ids)
    assert trim(client, "t", before_offset=2).expect(200).document["log_start_offset"] == START


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_broker_that_was_away_comes_back_to_what_is_left(start_cluster, is_empty):
    """With what it had, which goes; or without its log, and then that begins amid a batch."""
    client = filled(start_cluster())
    client.wait_isr("t", 3)
    leader = client.leader("t")
    away = client.others(leader)[0]
    client.cluster.broker(away).kill()
    client.wait_isr("t", 2)
    fill(client, "t", 1)
    end = END + PER_BATCH
    trim(client, "t", before_offset=START).expect(200)
    if is_empty:
        shutil.rmtree(client.cluster.broker(away).data_dir / "t-0")
    client.cluster.broker(away).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3, timeout_s=30)
    # Its own copy is not shown before it has heard that it is in sync again.
    eventually(lambda: require_begun_at(client, "t", START, end, nodes=[away], replica="local"))
    client.cluster.broker(leader).kill()
    eventually(lambda: client.append("t", "after", via=away) == end, 20)
    require_begun_at(client, "t", START, end + 1, nodes=client.live_node_ids)


def test_files_below_go_from_every_broker(start_cluster):
    client = filled(start_cluster(), configs={"segment.bytes": 4_096})
    for _ in range(4):
        client.append("t", "x" * 4_000)
    client.wait_isr("t", 3)
    told = trim(client, "t", before_end=True, dry_run=True).expect(200).document
    assert told["segments"] >= 4
    assert told["size_bytes"] > 16_000
    assert log_start(client, "t", via=1) == 0
    assert trim(client, "t", before_end=True).expect(200).document == told | {"dry_run": False}

    def only_empty_files():
        for broker in client.cluster.brokers:
            assert [int(path.stem) for path in broker.data_dir.glob("t-0/*.sqlite")] == [END + 4]
        return True

    eventually(only_empty_files, 20)
    assert client.append("t", "after") == END + 4
    require_begun_at(client, "t", END + 4, END + 5, nodes=client.node_ids)


def test_an_older_level_has_no_trims(start_cluster):
    settings = {"OTTLA_INITIAL_FEATURE_LEVEL": str(TRIMS.level - 1)}
    client = filled(start_cluster(settings=settings))
    refused = trim(client, "t", before_offset=START).expect(409)
    assert refused.code == "UNSUPPORTED_FEATURE_LEVEL"
    assert log_start(client, "t", via=1) == 0
    client.http.post(client.any_url() + routes.CLUSTER_FEATURES, {}).expect(200)
    eventually(lambda: trim(client, "t", before_offset=START).expect(200))


class TestShared:
    @pytest.fixture
    def topic(self, shared):
        topic = f"trimmed-{uuid.uuid4().hex[:8]}"
        filled(shared, topic)
        return topic

    def test_any_broker_trims_up_to_a_time(self, shared, topic):
        records = shared.read(topic, offset=0, max_wait_ms=0).expect(200).document["records"]
        timestamp = records[2 * PER_BATCH]["timestamp"]
        wanted = next(each["offset"] for each in records if each["timestamp"] >= timestamp)
        for via in shared.node_ids:
            told = trim(shared, topic, via=via, before_timestamp=timestamp).expect(200).document
            assert told["log_start_offset"] == wanted
            assert shared.offset(topic, at="earliest", via=via).document["offset"] == wanted
        # Times are looked for from the start on: the batch that it is in is not left out.
        trim(shared, topic, before_offset=wanted + 1).expect(200)
        found = shared.offset(topic, at=str(timestamp)).expect(200).document["offset"]
        assert found == wanted + 1

    def test_what_is_not_trimmed_is_refused_by_a_rule_that_is_named(self, shared, topic):
        beyond = trim(shared, topic, before_offset=END + 1).expect(416)
        assert beyond.code == "OFFSET_OUT_OF_RANGE"
        assert beyond.document["high_watermark"] == END
        both = trim(shared, topic, before_offset=1, before_end=True).expect(422)
        assert "before_offset" in both.document["detail"]
        assert trim(shared, topic, before_offset=-1).expect(422)
        assert trim(shared, "nowhere", before_end=True).expect(404)
        table = f"{topic}-table"
        filled_table = {"cleanup.policy": "compact"}
        shared.create_topic(table, partitions=1, configs=filled_table)
        refused = trim(shared, table, before_end=True).expect(409)
        assert refused.code == "POLICY_VIOLATION"
        assert "cleanup.policy=compact" in refused.document["detail"]
        assert log_start(shared, topic, via=1) == 0

    def test_a_restored_topic_begins_where_its_backup_was_trimmed_to(self, shared, topic, tmp_path):
        trim(shared, topic, before_offset=START).expect(200)
        bootstrap = ("--bootstrap", bootstrap_of(shared))
        ottla(*bootstrap, "backup", tmp_path / "b", topic)
        again = f"{topic}-again"
        ottla(*bootstrap, "restore", tmp_path / "b", "--rename", f"{topic}={again}")
        shared.wait_isr(again, 3)
        require_begun_at(shared, again, START, END, nodes=shared.node_ids)
        eventually(
            lambda: require_begun_at(
                shared, again, START, END, nodes=shared.node_ids, replica="local"
            )
        )

    def test_the_command_trims_what_it_has_shown(self, shared, topic):
        command = ("--bootstrap", bootstrap_of(shared), "topic", "trim", topic)
        [told] = ottla(*command, "--all-partitions", "--before", "end", "--dry-run")
        assert [each["records"] for each in told["partitions"]] == [END]
        [done] = ottla(*command, "--partition", 0, "--before-offset", START, "--yes")
        assert done["partitions"][0]["log_start_offset"] == START
        require_begun_at(shared, topic, START, END, nodes=shared.node_ids)
