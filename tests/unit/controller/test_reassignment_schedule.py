"""When the controller ends a reassignment: whose word it waits for, and how long at most."""

import pytest

from ottla_cluster.controller.commands import Heartbeat
from ottla_cluster.controller.reassignment_schedule import ReassignmentSchedule
from tests.unit.controller.test_reassignments import Reassigned

SESSION_MS = 3_000


class Scheduled(Reassigned):
    """A partition whose leader is to go, and has handed over to the one target replica."""

    def __init__(self):
        super().__init__()
        self.hears_late = True
        self.schedule = ReassignmentSchedule(SESSION_MS)
        self.heir = self.former[1]

    def due(self, now_ms):
        return self.schedule.due(self.image, now_ms)

    def tell(self, *node_ids, version=None):
        for node_id in node_ids:
            applied = self.image.version if version is None else version
            self.schedule.heard(Heartbeat(node_id, self.epoch(node_id), applied, draining=False))


@pytest.fixture
def scheduled():
    made = Scheduled()
    made.reassign(made.heir)
    assert made.partition().leader == made.heir
    return made


def test_a_reassignment_ends_when_all_who_leave_have_heard(scheduled):
    a, _, c = scheduled.former
    assert scheduled.due(0) is None
    version = scheduled.image.version
    scheduled.tell(a, version=version - 1)
    scheduled.tell(c, version=version)
    assert scheduled.due(100) is None
    scheduled.tell(a, version=version)
    command = scheduled.due(200)
    # Again, until it is done.
    assert scheduled.due(300) == command
    assert scheduled.apply(command).finished == 1
    assert scheduled.partition().replicas == (scheduled.heir,)
    assert scheduled.due(400) is None


def test_what_was_heard_before_anybody_looked_may_be_older(scheduled):
    """The metadata is known as of a look at it; who had told something newer need not again."""
    scheduled.tell(*scheduled.former)
    assert scheduled.due(0) is not None


def test_nobody_waits_longer_than_a_lease_lasts(scheduled):
    assert scheduled.due(10) is None
    assert scheduled.due(10 + SESSION_MS - 1) is None
    assert scheduled.due(10 + SESSION_MS) is not None


def test_another_leadership_is_waited_for_anew(scheduled):
    a, heir, c = scheduled.former
    scheduled.due(0)
    scheduled.fence(heir)
    scheduled.heartbeat(heir)
    scheduled.joins(heir)
    assert scheduled.partition().leader == heir
    assert scheduled.due(SESSION_MS) is None
    scheduled.tell(a, c)
    assert scheduled.due(SESSION_MS) is not None


def test_what_a_former_process_knew_counts_for_nothing(scheduled):
    a, _, c = scheduled.former
    scheduled.due(0)
    scheduled.tell(a, c)
    scheduled.restart(a, "second")
    scheduled.joins(a)
    assert scheduled.due(100) is None
    scheduled.tell(a)
    assert scheduled.due(200) is not None


def test_whoever_is_out_of_the_isr_is_not_asked(scheduled):
    a, heir, c = scheduled.former
    scheduled.due(0)
    scheduled.set_isr([heir, c])
    scheduled.tell(c)
    assert scheduled.due(100) is not None
    assert a in scheduled.partition().replicas


def test_what_is_being_copied_does_not_end(scheduled):
    scheduled.tell(*scheduled.former)
    scheduled.apply(scheduled.due(0))
    scheduled.reassign(scheduled.heir, scheduled.others[0])
    scheduled.tell(*scheduled.former, *scheduled.others)
    assert scheduled.due(100) is None
    assert scheduled.due(100 + SESSION_MS) is None


def test_a_target_that_gets_room_leads_though_nothing_changes_in_the_partition():
    scheduled = Scheduled()
    a, b, _ = scheduled.former
    scheduled.set_isr([a, b])
    scheduled.heartbeat(b, is_full=True)
    scheduled.reassign(b)
    assert scheduled.partition().leader == a
    assert scheduled.due(0) is None
    scheduled.heartbeat(b)
    command = scheduled.due(100)
    assert scheduled.due(200) == command, "until it is done"
    scheduled.apply(command)
    assert (scheduled.partition().leader, scheduled.partition().isr) == (b, (a, b))
    assert scheduled.due(300) is None
    scheduled.tell(a, b)
    scheduled.apply(scheduled.due(400))
    assert scheduled.partition().replicas == (b,)


def test_a_target_that_lost_its_room_again_is_handed_nothing():
    scheduled = Scheduled()
    a, b, _ = scheduled.former
    scheduled.set_isr([a, b])
    scheduled.heartbeat(b, is_full=True)
    scheduled.reassign(b)
    scheduled.heartbeat(b)
    command = scheduled.due(0)
    scheduled.heartbeat(b, is_full=True)
    scheduled.apply(command)
    assert scheduled.last_records == ()
    assert (scheduled.partition().leader, scheduled.partition().is_reassigning) == (a, True)
