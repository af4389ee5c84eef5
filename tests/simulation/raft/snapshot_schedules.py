"""Schedules in which a log is compacted and a follower needs the leader's snapshot (Raft §7)."""

from ottla_cluster.raft import AppendRequest, AppendResponse, InstallSnapshotRequest
from tests.simulation.raft.script import LONG_MS, Script

SMALL_CHUNK_BYTES = 50
"""A snapshot of the simulated machine has several parts of this size."""


def behind_the_compacted_log(host_class, **settings):
    """Node 3 is away while 1 and 2 commit and compact what it lacks; then it is back."""
    settings = {"retained_entries": 0, "max_snapshot_chunk_bytes": SMALL_CHUNK_BYTES} | settings
    script = Script(3, host_class, **settings)
    script.elect(1, 2, 3)
    script.settle()
    script.power_loss(3)
    for number in range(4):
        script[1].propose([b"while node 3 is away %d" % number])
        script.settle(1, 2)
    for node_id in (1, 2):
        script[node_id].compact()
    script.drop()
    assert script.node(1).snapshot_index == script.node(1).last_index == 5
    script.restart(3)
    return script


def needs_snapshot(script):
    """Let node 1 find that node 3 needs the snapshot; the first part is in flight."""
    script.wait(100)
    script.tick(1)
    script.deliver(AppendRequest, receiver=3)
    script.deliver(AppendResponse, sender=3)
    script.deliver(InstallSnapshotRequest, receiver=3)
    script.deliver(sender=3, receiver=1)
    (first,) = script.select(InstallSnapshotRequest, receiver=3)
    assert (first.index, first.offset, len(first.chunk)) == (5, 0, SMALL_CHUNK_BYTES)


def lagging_voter_gets_the_snapshot(host_class):
    """Part by part, and then entries again: it takes part in whatever comes next."""
    script = behind_the_compacted_log(host_class)
    needs_snapshot(script)
    script.settle()
    assert script[3].applied_index == 5
    assert script[3].state == script[1].state
    assert script.checker.installed_count == 1
    script[1].propose([b"an entry again"])
    script.settle()
    assert script.node(3).commit_index == 6
    # Node 3 counts: without node 2 a majority needs it, and then it leads.
    script.power_loss(2)
    script[1].propose([b"on one and three"])
    script.settle(1, 3)
    assert script.node(1).commit_index == 7
    script.power_loss(1)
    script.drop()
    script.restart(2)
    script.run(5 * LONG_MS, cut=((2, 1), (3, 1)))
    assert script.node(3).role == "leader"
    assert script[2].state == script[3].state


def parts_are_lost(host_class):
    """A heartbeat finds what was lost; repeated and late parts change nothing."""
    script = behind_the_compacted_log(host_class)
    needs_snapshot(script)
    (first,) = script.select(InstallSnapshotRequest, receiver=3)
    script.deliver(InstallSnapshotRequest, receiver=3)
    script.deliver(sender=3, receiver=1)
    # The second part is lost, and the first one comes again.
    script.drop(InstallSnapshotRequest, receiver=3)
    script[3].receive(first)
    script.drop(sender=3)
    script.settle()
    assert script[3].applied_index == 0
    script.run(1_000)
    assert script[3].state == script[1].state
    assert script.checker.installed_count == 1


def parts_of_two_leaders(host_class):
    """What was gathered from a leader that is gone does not count for the next one's snapshot."""
    script = behind_the_compacted_log(host_class)
    needs_snapshot(script)
    script.deliver(InstallSnapshotRequest, receiver=3)
    script.power_loss(1)
    script.drop()
    script.elect(2, 3)
    script.run(1_000, cut=((2, 1), (3, 1)))
    assert script.node(3).commit_index == script.node(2).commit_index
    assert script[3].state == script[2].state


def snapshot_then_power_loss(host_class):
    """A snapshot is acknowledged only from disk, or the leader never sends it again."""
    script = behind_the_compacted_log(host_class, max_snapshot_chunk_bytes=1 << 18)
    script.wait(100)
    script.tick(1)
    while not script.select(InstallSnapshotRequest, receiver=3):
        script.deliver(receiver=3)
        script.deliver(receiver=1)
    script.deliver(InstallSnapshotRequest, receiver=3)
    script.deliver(receiver=1)
    script.hold_disk(3)
    script.deliver(InstallSnapshotRequest, receiver=3)
    if not script.select(AppendResponse, sender=3):
        script.sync(3)
    script.deliver(AppendResponse, sender=3)
    script.power_loss(3)
    script.restart(3)
    script.run(LONG_MS)
    assert script[3].state == script[1].state


def snapshot_reaches_a_voter_that_is_further(host_class):
    """A leader whose probe of a voter begins anew offers its snapshot: it must not go back."""
    script = Script(3, host_class, retained_entries=0)
    script.elect(1, 2, 3)
    script[1].propose([b"in the snapshot"])
    script.settle()
    script[1].compact()
    script[1].propose([b"behind the snapshot"])
    script.settle()
    assert (script.node(1).snapshot_index, script.node(3).commit_index) == (2, 3)
    script.power_loss(1)
    script.restart(1)
    script.elect(1, 2)
    script.drop()
    script[1].refused(3)
    script.run(500)
    assert script.checker.installed_count == 0
    assert script[3].applied_index == script.node(1).commit_index


def snapshot_reaches_a_voter_that_holds_more(host_class):
    """What a voter holds behind the snapshot's last entry stays: others may count on it (§7)."""
    script = Script(3, host_class, retained_entries=0)
    script.elect(1, 2, 3)
    script.settle()
    # Node 3 holds both entries and hears of neither that it is committed.
    script[1].propose([b"in the snapshot"])
    script[1].propose([b"behind the snapshot"])
    script.drop(receiver=2)
    script.deliver(AppendRequest, receiver=3)
    first, second = script.select(AppendResponse, sender=3)
    script[1].receive(first)
    script[1].compact()
    script[1].receive(second)
    assert (script.node(1).snapshot_index, script.node(1).commit_index) == (2, 3)
    script.power_loss(3)
    script.restart(3)
    script.elect(1, 3)
    script.drop()
    script[1].refused(3)
    script.wait(100)
    script.tick(1)
    script.drop(receiver=2)
    while script.select(InstallSnapshotRequest, receiver=3):
        script.deliver(InstallSnapshotRequest, receiver=3)
        script.deliver(sender=3, receiver=1)
        for append in script.select(AppendRequest):
            script.in_flight.remove(append)
    script.power_loss(1)
    script.drop()
    script.run(5 * LONG_MS, cut=((2, 1), (3, 1)))
    assert script.node(3).role == "leader"
    assert script.node(3).commit_index > 3


def compacted_with_uncommitted_entries(host_class):
    """Only what was applied is compacted: what is not committed may still be replaced."""
    script = Script(3, host_class, retained_entries=0)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"replicated nowhere"])
    script[1].compact()
    assert script.node(1).snapshot_index == script[1].applied_index == 1
    script.drop()
    script.elect(2, 3)
    script.run(LONG_MS)
    assert script[1].state == script[2].state


def restarts_from_its_snapshot(host_class):
    """A restarted voter restores its snapshot and applies the entries behind it once."""
    script = Script(1, host_class, retained_entries=1)
    script.tick(1)
    script[1].propose([b"in the snapshot"] * 3)
    script[1].compact()
    script[1].propose([b"behind the snapshot"])
    state = script[1].state
    script.power_loss(1)
    assert script[1].disk.compaction.compacted_index == 3
    assert [entry.index for entry in script[1].disk.entries] == [4, 5]
    script.restart(1)
    script.wait(LONG_MS)
    script.tick(1)
    assert script[1].applied_index == 6
    assert script.checker.restored_count == 1
    assert script.checker.states[5] == state


SNAPSHOT_SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        lagging_voter_gets_the_snapshot,
        parts_are_lost,
        parts_of_two_leaders,
        snapshot_then_power_loss,
        snapshot_reaches_a_voter_that_is_further,
        snapshot_reaches_a_voter_that_holds_more,
        compacted_with_uncommitted_entries,
        restarts_from_its_snapshot,
    )
}
