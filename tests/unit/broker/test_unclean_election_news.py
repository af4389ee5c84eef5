"""Every unclean election is told and counted, whoever dies in between, and none of long ago."""

from dataclasses import replace
from random import Random
from types import SimpleNamespace

import structlog

from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.unclean_election_news import (
    MAX_LINES_AT_ONCE,
    elected_since,
    led_here_since,
    tell_partitions,
)
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.raft.messages import Entry

LOCAL, OTHER = 1, 2
TOPIC_ID = "a" * 32


def partition(number=0, **changes):
    replicas = (LOCAL, OTHER)
    return replace(
        Partition(TOPIC_ID, "orders", number, replicas, replicas, OTHER, 4, 7), **changes
    )


def image(*partitions, version=1):
    topics = {TOPIC_ID: Topic(TOPIC_ID, "orders", {}, partitions)} if partitions else {}
    return MetadataImage(version=version, topics=topics)


NOBODY = partition(leader=None, leader_epoch=5, isr=(OTHER,))
ELECTED = partition(leader=LOCAL, leader_epoch=6, unclean_leader_epoch=6, isr=(LOCAL,))


def here(former, latest, node_id=LOCAL):
    topics = latest.topics.values()
    wanted = {(TOPIC_ID, p.partition): (t, p) for t in topics for p in t.partitions}
    return led_here_since(node_id, former, wanted)


def counted():
    return METRICS.unclean_elections._value.get()


def test_an_election_is_new_to_its_leader_and_to_whoever_has_not_applied_it():
    before, after = image(NOBODY), image(ELECTED, version=2)
    assert elected_since(before, after) == [ELECTED]
    assert here(before, after) == [ELECTED]
    assert here(before, after, OTHER) == []
    # Found at the start: the registration has ended whatever the process before had led.
    assert here(None, after) == [ELECTED]
    assert elected_since(image(), after) == [ELECTED]


def test_an_election_that_is_known_is_no_news():
    wider = replace(ELECTED, isr=(LOCAL, OTHER), partition_epoch=9)
    for former, latest in ((ELECTED, ELECTED), (ELECTED, wider), (NOBODY, NOBODY)):
        assert elected_since(image(former), image(latest)) == []
        assert here(image(former), image(latest)) == []


def test_a_later_leadership_is_another_one():
    later = replace(ELECTED, leader_epoch=7)
    gone = replace(ELECTED, leader=None, leader_epoch=7)
    for latest in (later, gone):
        assert elected_since(image(NOBODY), image(latest)) == []
        assert here(None, image(latest)) == []


def test_of_thousands_some_have_a_line_and_all_are_counted():
    before = counted()
    states = [replace(ELECTED, partition=number) for number in range(MAX_LINES_AT_ONCE + 7)]
    with structlog.testing.capture_logs() as lines:
        tell_partitions(states)
    assert counted() - before == len(states)
    assert [line["event"] for line in lines].count("unclean_leader_elected") == MAX_LINES_AT_ONCE
    assert (lines[0]["partition"], lines[0]["leader"]) == ("orders-0", LOCAL)
    assert (lines[-1]["event"], lines[-1]["partitions"]) == ("more_unclean_leaders_elected", 7)


async def test_a_controller_tells_what_its_predecessor_decided_and_it_commits():
    metadata = MetadataCache(image(NOBODY))
    driver = ControllerDriver(
        config=ControllerConfig("test"),
        raft=SimpleNamespace(leader_id=1),
        metadata=metadata,
        random=Random(1),
        survey=None,
        on_failure=lambda _: None,
    )

    def applied(state, index, term):
        metadata.publish(image(state, version=index))
        driver.applied([Entry(index, term, b"")])

    before = counted()
    # As a follower it hears of nothing that its controller does not tell.
    applied(partition(1, leader_epoch=5), 2, 1)
    applied(NOBODY, 3, 1)
    driver.leadership_changed(2, 1, is_leader=True)
    with structlog.testing.capture_logs() as lines:
        applied(ELECTED, 4, 1)
        assert not driver.is_active
        # Raft says again that it leads.
        driver.leadership_changed(2, 1, is_leader=True)
        applied(ELECTED, 5, 2)
    assert driver.is_active
    assert [line["event"] for line in lines].count("unclean_leader_elected") == 1
    assert counted() - before == 1
    # The next leadership has nothing to tell of it.
    driver.leadership_changed(3, 2, is_leader=False)
    driver.leadership_changed(4, 1, is_leader=True)
    applied(ELECTED, 6, 4)
    assert driver.is_active
    assert counted() - before == 1
    driver.leadership_changed(5, 2, is_leader=False)
