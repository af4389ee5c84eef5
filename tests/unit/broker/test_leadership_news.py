"""The log tells every change of leader and ISR once, and of thousands a few and a number."""

from dataclasses import replace

import structlog

from ottla_broker.drivers.leadership_news import MAX_LINES_PER_IMAGE, tell_changes
from ottla_broker.drivers.replica_changes import changes_for
from ottla_cluster.controller.image import MetadataImage, Partition, Topic

LOCAL, OTHER, THIRD = 1, 2, 3
TOPIC_ID = "a" * 32


def image(*partitions, version=1):
    return MetadataImage(
        version=version, topics={TOPIC_ID: Topic(TOPIC_ID, "orders", {}, partitions)}
    )


def partition(number=0, **changes):
    replicas = (LOCAL, OTHER, THIRD)
    return replace(
        Partition(TOPIC_ID, "orders", number, replicas, replicas, OTHER, 4, 7), **changes
    )


def told(former, latest, node_id=LOCAL):
    changes = changes_for(node_id, former, latest)
    with structlog.testing.capture_logs() as lines:
        tell_changes(node_id, former, changes.wanted)
    return lines


def test_a_leader_that_changes_has_one_line_with_what_was_before():
    now = partition(leader=LOCAL, leader_epoch=5, partition_epoch=8, isr=(LOCAL, THIRD))
    assert told(image(partition()), image(now)) == [
        {
            "event": "leader_changed",
            "log_level": "info",
            "partition": "orders-0",
            "leader": LOCAL,
            "leader_epoch": 5,
            "isr": [LOCAL, THIRD],
            "former_leader": OTHER,
            "former_isr": [LOCAL, OTHER, THIRD],
        }
    ]


def test_a_partition_that_loses_its_leader_is_a_warning_and_an_unclean_election_is_told():
    nobody = partition(leader=None, leader_epoch=5, isr=(OTHER,))
    unclean = partition(leader=LOCAL, leader_epoch=6, unclean_leader_epoch=6, isr=(LOCAL,))
    [lost] = told(image(partition()), image(nobody))
    assert (lost["event"], lost["log_level"], lost["leader"]) == ("leader_changed", "warning", None)
    apart, elected = told(image(nobody), image(unclean))
    assert apart["event"] == "unclean_leader_elected"
    assert (elected["unclean"], elected["former_leader"]) == (True, None)


def test_an_isr_that_changes_has_one_line():
    [line] = told(image(partition()), image(partition(isr=(OTHER, THIRD), partition_epoch=8)))
    assert (line["event"], line["isr"], line["former_isr"]) == (
        "isr_changed",
        [OTHER, THIRD],
        [LOCAL, OTHER, THIRD],
    )


def test_what_changes_neither_has_no_line():
    moving = partition(partition_epoch=8, target_replicas=(LOCAL, OTHER))
    assert told(image(partition()), image(moving)) == []
    topic = Topic(TOPIC_ID, "orders", {"retention.ms": 1}, (partition(),))
    assert told(image(partition()), MetadataImage(version=2, topics={TOPIC_ID: topic})) == []


def test_others_partitions_are_told_by_others():
    before = partition(replicas=(OTHER, THIRD), isr=(OTHER, THIRD))
    now = replace(before, leader=THIRD, leader_epoch=5)
    assert told(image(before), image(now)) == []
    assert [line["event"] for line in told(image(before), image(now), OTHER)] == ["leader_changed"]


def test_a_start_with_thousands_of_partitions_is_one_line():
    led = [partition(number, leader=LOCAL) for number in range(3_000)]
    lost = [partition(number, leader=None, isr=(OTHER,)) for number in range(3_000, 5_000)]
    assert told(None, image(*led, *lost)) == [
        {
            "event": "replicas_found",
            "log_level": "info",
            "partitions": 5_000,
            "led_here": 3_000,
            "without_leader": 2_000,
            "under_replicated": 2_000,
        }
    ]
    assert told(None, MetadataImage(version=1)) == []


def test_of_thousands_of_changes_some_are_told_and_all_are_counted():
    count = 5 * MAX_LINES_PER_IMAGE
    before = image(*map(partition, range(count)))
    after = image(*(partition(number, leader=LOCAL, leader_epoch=5) for number in range(count)))
    *lines, rest = told(before, after)
    assert [line["event"] for line in lines] == ["leader_changed"] * MAX_LINES_PER_IMAGE
    assert (rest["event"], rest["partitions"], rest["led_here"]) == (
        "more_partitions_changed",
        count - MAX_LINES_PER_IMAGE,
        count - MAX_LINES_PER_IMAGE,
    )


def test_replicas_that_a_broker_gets_are_counted():
    former = image(partition(), partition(1, replicas=(OTHER, THIRD), isr=(OTHER, THIRD)))
    added = image(partition(), partition(1, replicas=(OTHER, THIRD, LOCAL), isr=(OTHER, THIRD)))
    more = image(partition(), former.topics[TOPIC_ID].partitions[1], partition(2), partition(3))
    [line] = told(former, added)
    assert (line["event"], line["partitions"], line["under_replicated"]) == (
        "replicas_assigned",
        1,
        1,
    )
    [line] = told(former, more)
    assert (line["event"], line["partitions"]) == ("replicas_assigned", 2)
    [line] = told(MetadataImage(version=1), former)
    assert (line["event"], line["partitions"]) == ("replicas_assigned", 1)
