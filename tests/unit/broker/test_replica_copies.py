"""What a leader counts of the answers that it makes to replicas that are being added."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.replica_copies import ReplicaCopies
from ottla_cluster.controller.image import Partition

RATE = 100_000


class Copies:
    """A leader with one partition that replica 4 is being added to."""

    def __init__(self):
        self.now_ms = 10_000
        self.image = SimpleNamespace(replication_throttle_bytes_per_second=RATE)
        state = Partition(
            "id", "t", 0, replicas=(1, 2, 4), isr=(1, 2), leader=1, leader_epoch=1,
            partition_epoch=1, adding_replicas=(4,), target_replicas=(1, 4),
        )  # fmt: skip
        log = SimpleNamespace(log_start_offset=0, next_offset=100, size_bytes=1_000_000)
        self.partition = SimpleNamespace(state=state, key=("id", 0), leader=object(), log=log)
        self.hosted = SimpleNamespace(partitions={("id", 0): self.partition})
        self.copies = ReplicaCopies(
            SimpleNamespace(image=self.image), self.hosted, clock_ms=lambda: self.now_ms
        )

    def begin(self, replica=4, offset=0):
        return self.copies.begin(self.partition, replica, offset)


@pytest.fixture
def leader():
    return Copies()


def test_whoever_is_not_being_added_is_not_counted(leader):
    assert leader.begin(replica=2) is None
    assert list(leader.copies.progress()) == []


def test_an_answer_that_is_looked_for_again_is_paid_for_once(leader):
    leader.begin()
    leader.now_ms += 1_000
    copy = leader.begin()
    assert copy.allowance_bytes() == RATE
    copy.charge(60_000)
    assert copy.allowance_bytes() == RATE
    copy.charge(90_000)
    copy.sent(90_000)
    assert leader.begin(offset=9).allowance_bytes() == 10_000
    ((_, replica, progress),) = leader.copies.progress()
    assert (replica, progress.copied_bytes, progress.copied_offsets) == (4, 90_000, 9)


def test_the_same_answer_sent_again_is_paid_for_again(leader):
    leader.begin()
    leader.now_ms += 1_000
    copy = leader.begin()
    copy.charge(50_000)
    copy.sent(50_000)
    copy.charge(50_000)
    copy.sent(50_000)
    assert leader.begin().allowance_bytes() == 0


def test_the_throttle_is_the_metadatas(leader):
    copy = leader.begin()
    copy.charge(1_000_000)
    copy.sent(1_000_000)
    assert leader.begin().allowance_bytes() == 0
    leader.image.replication_throttle_bytes_per_second = None
    assert leader.begin().allowance_bytes() is None


@pytest.mark.parametrize(("rate", "allowance_bytes"), [(None, None), (100 * RATE, 99 * RATE)])
def test_another_rate_counts_for_a_replica_that_waits_where_it_is(leader, rate, allowance_bytes):
    """In a session it names its position once, and again only when it got something."""
    copy = leader.begin()
    copy.charge(100 * RATE)
    copy.sent(100 * RATE)
    waiting = leader.begin(offset=9)
    leader.now_ms += 1_000
    assert waiting.allowance_bytes() == 0
    leader.image.replication_throttle_bytes_per_second = rate
    assert waiting.allowance_bytes() == (None if rate is None else 0)
    leader.now_ms += 1_980
    assert waiting.allowance_bytes() == allowance_bytes


def test_a_copy_that_has_ended_is_forgotten(leader):
    leader.begin()
    leader.partition.leader = None
    assert list(leader.copies.progress()) == []
    leader.partition.leader = object()
    assert list(leader.copies.progress()) == []
