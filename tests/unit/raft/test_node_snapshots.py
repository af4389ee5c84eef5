"""Snapshots of one node: compacting, restarting, sending and taking them (Raft §7)."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    Compaction,
    Entry,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    RaftConfig,
    RaftInvariantError,
    RaftMessageRefusedError,
    RaftNode,
    Snapshot,
    SnapshotSchedule,
)
from ottla_protocol.errors import MessageTooLargeError
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    Random,
    accepted,
    append,
    make_leader,
    make_node,
    sent,
)

DATA = b"the state machine"
DATA_BYTES = len(DATA)


def part(term, index=5, snapshot_term=2, offset=0, chunk=DATA, *, size=DATA_BYTES, sender=2):
    return InstallSnapshotRequest(term, sender, 1, index, snapshot_term, size, offset, chunk, 7)


def compacted_leader(**settings):
    """Node 1 as leader of three, its whole log in a snapshot; node 2 has all of it."""
    node, _ = make_leader(terms=(1, 1, 1), retained_entries=0, **settings)
    node.compact(node.last_index, DATA, EXPIRED_MS)
    return node


def test_a_snapshot_is_persisted_in_place_of_the_entries():
    node, _ = make_leader(terms=(1, 1), retained_entries=1)
    ready = node.compact(3, DATA, EXPIRED_MS)
    assert ready.compaction == Compaction(Snapshot(3, 2, DATA), 2, 1)
    assert ready.hard_state == HardState(2, 1, 3)
    assert (ready.snapshot, ready.committed, ready.entries, ready.truncate_from) == (
        None,
        (),
        (),
        None,
    )
    assert (node.snapshot_index, node.applied_index) == (3, 3)
    assert not node.compact(2, b"late", EXPIRED_MS).must_persist


def test_a_snapshot_has_a_limit():
    node, _ = make_leader(max_snapshot_bytes=4)
    with pytest.raises(MessageTooLargeError, match="max_snapshot_bytes"):
        node.compact(1, b"12345", EXPIRED_MS)


def test_a_restarted_node_restores_its_snapshot_before_it_applies():
    node = RaftNode(
        RaftConfig(1, (1, 2, 3)),
        hard_state=HardState(3, None, 5),
        entries=[Entry(4, 2, b"four"), Entry(5, 3, b"five"), Entry(6, 3, b"six")],
        compaction=Compaction(Snapshot(4, 2, DATA), 3, 2),
        random=Random(1),
        now_ms=START_MS,
    )
    ready = node.tick(START_MS)
    assert ready.snapshot == Snapshot(4, 2, DATA)
    assert [entry.index for entry in ready.committed] == [5]
    assert not ready.must_persist
    assert node.tick(START_MS).snapshot is None


# --- taking a leader's snapshot -------------------------------------------------------------------


def test_a_snapshot_is_on_disk_before_it_is_acknowledged():
    node = make_node(terms=(1, 1))
    ready = node.step(part(3), START_MS)
    assert ready.compaction == Compaction(Snapshot(5, 2, DATA), 5, 2)
    assert ready.hard_state == HardState(3, None, 5)
    assert ready.snapshot == Snapshot(5, 2, DATA)
    assert (ready.committed, ready.truncate_from, ready.entries) == ((), None, ())
    assert ready.messages == (AppendResponse(3, 1, 2, True, 5, 0, 0, 7),)
    # The next append follows the snapshot's last entry.
    following = node.step(append(3, 5, 2, (3,)), START_MS)
    assert [entry.index for entry in following.entries] == [6]


def test_parts_gather_in_order_and_nothing_is_persisted_before_the_last():
    node = make_node(term=3)
    for offset, chunk, lacks_from in (
        (0, b"", 0),
        (0, DATA[:4], 4),
        (9, DATA[9:], 4),
        (0, DATA[:4], 4),
    ):
        ready = node.step(part(3, offset=offset, chunk=chunk), START_MS)
        assert ready.messages == (InstallSnapshotResponse(3, 1, 2, 5, lacks_from, 7),)
        assert not ready.must_persist
    ready = node.step(part(3, offset=4, chunk=DATA[4:]), START_MS)
    assert ready.snapshot == Snapshot(5, 2, DATA)


def test_a_newer_snapshot_begins_anew_and_a_late_part_of_the_older_one_does_nothing():
    node = make_node(term=3)
    node.step(part(3, chunk=DATA[:4]), START_MS)
    newer = node.step(part(3, 8, 3, chunk=DATA[:6]), START_MS)
    assert newer.messages == (InstallSnapshotResponse(3, 1, 2, 8, 6, 7),)
    late = node.step(part(3, offset=4, chunk=DATA[4:]), START_MS)
    assert late.messages == (InstallSnapshotResponse(3, 1, 2, 5, 0, 7),)
    ready = node.step(part(3, 8, 3, offset=6, chunk=DATA[6:]), START_MS)
    assert ready.snapshot == Snapshot(8, 3, DATA)


def test_parts_of_another_leader_do_not_count():
    node = make_node(term=3)
    node.step(part(3, chunk=DATA[:4]), START_MS)
    ready = node.step(part(4, offset=4, chunk=DATA[4:], sender=3), START_MS)
    assert sent(ready, InstallSnapshotResponse)[0].next_offset == 0


def test_a_snapshot_of_an_older_term_changes_nothing():
    node = make_node(terms=(1,), term=4)
    ready = node.step(part(3), START_MS)
    # It answers no read round of term 4.
    assert ready.messages == (InstallSnapshotResponse(4, 1, 2, 5, 0, 0),)
    assert not ready.must_persist
    assert (ready.snapshot, node.leader_id, node.last_index) == (None, None, 1)


def test_a_snapshot_of_what_is_committed_here_changes_nothing():
    node = make_node(terms=(1, 2, 2, 2, 2, 2), commit_index=6)
    node.tick(START_MS)
    ready = node.step(part(2, 5, 2, chunk=b""), START_MS)
    assert ready.messages == (AppendResponse(2, 1, 2, True, 6, 0, 0, 7),)
    assert (ready.snapshot, ready.must_persist, node.last_index) == (None, False, 6)


def test_entries_behind_a_snapshot_that_the_log_agrees_with_stay():
    """§7: the log holds the snapshot's last entry, so what follows it is still good."""
    node = make_node(terms=(1, 1, 2, 2, 2, 2))
    ready = node.step(part(2, 4, 2, chunk=b""), START_MS)
    assert ready.messages == (AppendResponse(2, 1, 2, True, 4, 0, 0, 7),)
    assert [entry.index for entry in ready.committed] == [1, 2, 3, 4]
    assert (ready.snapshot, ready.must_persist, node.last_index) == (None, False, 6)


def test_entries_that_contradict_the_snapshot_go():
    node = make_node(terms=(1, 1, 1, 1, 1, 1, 1), term=3)
    ready = node.step(part(3), START_MS)
    assert (ready.truncate_from, ready.entries) == (6, ())
    assert node.last_index == 5


@pytest.mark.parametrize(
    "request_",
    [
        part(3, size=3),
        part(3, size=0, chunk=b""),
        part(3, offset=1),
        part(3, size=99, chunk=b""),
        part(3, 0),
        part(3, snapshot_term=0),
        part(3, snapshot_term=4),
    ],
    ids=["too short", "empty", "past the end", "too long", "no index", "no term", "future term"],
)
def test_a_malformed_part_is_refused(request_):
    node = make_node(max_snapshot_bytes=50)
    with pytest.raises(RaftMessageRefusedError):
        node.step(request_, START_MS)


def test_a_delayed_append_from_below_the_cut_is_agreed_with():
    node = make_node(terms=(1, 1))
    node.step(part(3), START_MS)
    ready = node.step(append(3, 1, 1, (1, 1), commit_index=3), START_MS)
    assert sent(ready, AppendResponse) == [AppendResponse(3, 1, 2, True, 5, 0, 0, 0)]
    assert (node.last_index, node.commit_index) == (5, 5)


# --- sending a snapshot ---------------------------------------------------------------------------


def refusal(node, index=0):
    return AppendResponse(node.term, 3, 1, False, node.last_index - 1, index, 1, 0)


def lacks(node, next_offset, index=4):
    return InstallSnapshotResponse(node.term, 3, 1, index, next_offset, 0)


def to_node_3(ready):
    return [message for message in ready.messages if message.receiver == 3]


def test_a_follower_that_needs_compacted_entries_gets_the_snapshot_part_by_part():
    node = compacted_leader(max_snapshot_chunk_bytes=10)
    (question,) = to_node_3(node.step(refusal(node), EXPIRED_MS))
    assert (question.index, question.snapshot_term, question.size_bytes) == (4, 2, len(DATA))
    assert question.chunk == b""
    (first,) = to_node_3(node.step(lacks(node, 0), EXPIRED_MS))
    assert (first.offset, first.chunk) == (0, DATA[:10])
    # One at a time: an answer that comes again sends nothing.
    assert to_node_3(node.step(lacks(node, 0), EXPIRED_MS)) == []
    (second,) = to_node_3(node.step(lacks(node, 10), EXPIRED_MS))
    assert (second.offset, second.chunk) == (10, DATA[10:])
    # No entries leave meanwhile, and then they do.
    assert to_node_3(node.propose([b"new"], EXPIRED_MS)) == []
    (following,) = to_node_3(node.step(accepted(node, 3, 4), EXPIRED_MS))
    assert isinstance(following, AppendRequest)
    assert (following.prev_index, [entry.index for entry in following.entries]) == (4, [5])


def test_a_heartbeat_finds_a_lost_part():
    node = compacted_leader(max_snapshot_chunk_bytes=10)
    node.step(refusal(node), EXPIRED_MS)
    node.step(lacks(node, 0), EXPIRED_MS)
    now_ms = EXPIRED_MS + 100
    (question,) = to_node_3(node.tick(now_ms))
    assert (question.offset, question.chunk) == (0, b"")
    (again,) = to_node_3(node.step(lacks(node, 0), now_ms))
    assert again.chunk == DATA[:10]
    node.step(lacks(node, 10), now_ms)
    # A follower that restarted has nothing of it any more.
    node.tick(now_ms + 100)
    (from_the_start,) = to_node_3(node.step(lacks(node, 0), now_ms + 100))
    assert (from_the_start.offset, from_the_start.chunk) == (0, DATA[:10])


def test_a_follower_that_was_silent_gets_the_newest_snapshot():
    node = compacted_leader(max_snapshot_chunk_bytes=10)
    node.step(refusal(node), EXPIRED_MS)
    node.tick(EXPIRED_MS + 100)
    for message in (b"one", b"two"):
        node.propose([message], EXPIRED_MS + 100)
        node.step(accepted(node, 2), EXPIRED_MS + 100)
    node.compact(6, b"a newer state", EXPIRED_MS + 100)
    (question,) = to_node_3(node.tick(EXPIRED_MS + 200))
    assert (question.index, question.chunk) == (6, b"")
    # Once it has begun to answer, it gets that one to the end.
    node.step(lacks(node, 0, index=6), EXPIRED_MS + 200)
    node.propose([b"three"], EXPIRED_MS + 200)
    node.step(accepted(node, 2), EXPIRED_MS + 200)
    node.compact(7, b"the newest state", EXPIRED_MS + 200)
    (question,) = to_node_3(node.tick(EXPIRED_MS + 300))
    assert question.index == 6


def test_a_follower_a_little_behind_gets_entries():
    node, _ = make_leader(terms=(1, 1, 1), retained_entries=2)
    node.compact(node.last_index, DATA, EXPIRED_MS)
    (entries,) = to_node_3(node.step(refusal(node, 2), EXPIRED_MS))
    assert (entries.prev_index, [entry.index for entry in entries.entries]) == (2, [3, 4])


def test_a_late_answer_may_spare_the_snapshot():
    node = compacted_leader()
    node.step(refusal(node), EXPIRED_MS)
    node.propose([b"new"], EXPIRED_MS)
    (entries,) = to_node_3(node.step(accepted(node, 3, 4), EXPIRED_MS))
    assert [entry.index for entry in entries.entries] == [5]


def test_an_answer_about_another_snapshot_is_passed_over():
    node = compacted_leader()
    node.step(refusal(node), EXPIRED_MS)
    assert to_node_3(node.step(lacks(node, 0, index=3), EXPIRED_MS)) == []


def test_a_follower_cannot_claim_more_than_there_is():
    node = compacted_leader()
    node.step(refusal(node), EXPIRED_MS)
    with pytest.raises(RaftInvariantError):
        node.step(lacks(node, len(DATA)), EXPIRED_MS)


def test_reads_are_confirmed_by_a_follower_that_is_being_sent_the_snapshot():
    node = compacted_leader()
    node.step(refusal(node), EXPIRED_MS)
    (question,) = to_node_3(node.request_read(9, EXPIRED_MS))
    assert isinstance(question, InstallSnapshotRequest)
    answer = InstallSnapshotResponse(node.term, 3, 1, 4, 0, question.read_sequence)
    ready = node.step(answer, EXPIRED_MS)
    assert [read.token for read in ready.confirmed_reads] == [9]


def test_a_leader_that_hears_a_newer_term_in_an_answer_steps_down():
    node = compacted_leader()
    node.step(refusal(node), EXPIRED_MS)
    node.step(InstallSnapshotResponse(node.term + 1, 3, 1, 4, 0, 0), EXPIRED_MS)
    assert node.role == "follower"


# --- when -----------------------------------------------------------------------------------------


def test_a_snapshot_is_due_by_entries_or_by_bytes():
    schedule = SnapshotSchedule(max_entries=3, max_bytes=100)
    schedule.applied([Entry(1, 1, b""), Entry(2, 1, b"x")])
    assert not schedule.is_due
    schedule.applied([Entry(3, 1, b"")])
    assert schedule.is_due
    schedule.snapshot_taken(10)
    assert not schedule.is_due
    schedule.applied([Entry(4, 1, b"x" * 100)])
    assert schedule.is_due


def test_a_large_state_is_not_written_for_a_few_large_entries():
    schedule = SnapshotSchedule(max_entries=10, max_bytes=100)
    schedule.snapshot_taken(1_000)
    schedule.applied([Entry(1, 1, b"x" * 999)])
    assert not schedule.is_due
    schedule.applied([Entry(2, 1, b"x")])
    assert schedule.is_due
