"""Replication and commitment: Raft §5.3, §5.4.2; what a Ready asks to persist, send and apply."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    Entry,
    HardState,
    NotLeaderError,
    Proposed,
    RaftInvariantError,
    RaftMessageRefusedError,
    RaftStateCorruptError,
    Role,
)
from ottla_protocol.errors import MessageTooLargeError, Outcome, OverloadedError
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    accepted,
    append,
    make_leader,
    make_node,
    sent,
    vote,
)


def refused(node, sender, index, hint_index, hint_term):
    return AppendResponse(node.term, sender, 1, False, index, hint_index, hint_term, 0)


# --- following ------------------------------------------------------------------------------------


def test_entries_are_persisted_before_they_are_acknowledged():
    ready = make_node().step(append(3, terms=(3, 3)), START_MS)
    assert ready.hard_state == HardState(3, None, 0)
    assert [(e.index, e.term) for e in ready.entries] == [(1, 3), (2, 3)]
    assert ready.truncate_from is None
    assert sent(ready, AppendResponse) == [AppendResponse(3, 1, 2, True, 2, 0, 0, 0)]


def test_an_append_without_its_predecessor_is_refused_with_a_hint():
    """§5.3: the consistency check."""
    node = make_node(terms=(1, 1, 4))
    missing = node.step(append(5, 9, 5), START_MS)
    assert sent(missing, AppendResponse) == [AppendResponse(5, 1, 2, False, 9, 3, 4, 0)]
    conflicting = node.step(append(5, 3, 2), START_MS)
    assert sent(conflicting, AppendResponse) == [AppendResponse(5, 1, 2, False, 3, 2, 1, 0)]
    assert node.last_index == 3


def test_a_conflicting_tail_is_replaced_in_one_transaction():
    """§5.3"""
    ready = make_node(terms=(1, 2, 2, 2)).step(append(3, 1, 1, (3,)), START_MS)
    assert ready.truncate_from == 2
    assert [(e.index, e.term) for e in ready.entries] == [(2, 3)]
    assert ready.hard_state == HardState(3, None, 0)


def test_a_repeated_append_persists_nothing_and_is_acknowledged_again():
    node = make_node()
    node.step(append(3, terms=(3, 3, 3)), START_MS)
    ready = node.step(append(3, terms=(3,)), START_MS)
    assert not ready.must_persist
    assert [message.index for message in sent(ready, AppendResponse)] == [1]
    assert node.last_index == 3


def test_a_follower_commits_no_further_than_the_append_proves():
    """§5.3: min(leaderCommit, index of last new entry)."""
    node = make_node(terms=(1, 1, 1))
    ready = node.step(append(2, 1, 1, commit_index=3), START_MS)
    assert [entry.index for entry in ready.committed] == [1]
    assert ready.commit_index == 1


def test_a_commit_alone_persists_nothing():
    node = make_node(terms=(1, 1), term=1)
    ready = node.step(append(1, 2, 1, commit_index=2), START_MS)
    assert ready.commit_index == 2
    assert not ready.must_persist


def test_a_leader_that_contradicts_a_committed_entry_stops_the_process():
    node = make_node(terms=(1, 1), commit_index=2)
    with pytest.raises(RaftInvariantError, match="committed"):
        node.step(append(3, 1, 1, (3,)), START_MS)


def test_an_old_leader_is_told_the_newer_term_and_not_followed():
    """§5.1"""
    node = make_node(term=5)
    ready = node.step(append(4, terms=(4,)), START_MS)
    assert [(m.term, m.accepted) for m in sent(ready, AppendResponse)] == [(5, False)]
    assert (node.leader_id, node.last_index) == (None, 0)


def test_a_restarted_voter_hands_out_what_it_knows_to_be_committed():
    node = make_node(terms=(1, 1, 2), commit_index=2)
    assert [entry.index for entry in node.tick(START_MS).committed] == [1, 2]
    assert node.tick(START_MS).committed == ()


def test_a_term_behind_the_log_is_corrupt():
    with pytest.raises(RaftStateCorruptError, match="term"):
        make_node(terms=(1, 4), term=3)


@pytest.mark.parametrize(
    "message",
    [
        append(1, sender=1),
        AppendRequest(1, 2, 3, 0, 0, (), 0, 0),
        AppendRequest(1, 2, 1, 0, 0, (Entry(2, 1, b"x"),), 0, 0),
        append(3, 1, 2, (1,)),
        append(1, terms=(2,)),
    ],
    ids=["itself", "other receiver", "gap", "term falls", "term of the future"],
)
def test_a_message_that_no_peer_sends_is_refused_and_changes_nothing(message):
    node = make_node(terms=(1,), term=1)
    with pytest.raises(RaftMessageRefusedError):
        node.step(message, START_MS)
    assert (node.term, node.leader_id, node.last_index) == (1, None, 1)


# --- leading --------------------------------------------------------------------------------------


def test_a_proposal_says_where_it_went_and_leaves_at_once():
    node, _ = make_leader()
    ready = node.propose([b"a", b"b"], EXPIRED_MS)
    assert ready.proposed == Proposed(2, 3, 1)
    assert [entry.payload for entry in ready.entries] == [b"a", b"b"]
    to_second = [m for m in sent(ready, AppendRequest) if m.receiver == 2]
    assert [(m.prev_index, len(m.entries)) for m in to_second] == [(1, 2)]
    assert ready.committed == ()


def test_a_majority_commits_and_the_followers_hear_of_it_at_once():
    """§5.3"""
    node, _ = make_leader()
    node.step(accepted(node, 3), EXPIRED_MS)
    node.propose([b"a"], EXPIRED_MS)
    ready = node.step(accepted(node, 2, 2), EXPIRED_MS)
    assert [entry.payload for entry in ready.committed] == [b"a"]
    assert [(m.receiver, m.commit_index) for m in sent(ready, AppendRequest)] == [(2, 2)]
    other = node.step(accepted(node, 3, 2), EXPIRED_MS)
    assert [(m.receiver, m.commit_index) for m in sent(other, AppendRequest)] == [(3, 2)]
    assert sent(node.step(accepted(node, 2, 2), EXPIRED_MS), AppendRequest) == []


def test_a_leader_of_five_needs_three_copies():
    node, _ = make_leader(voters=5)
    node.propose([b"a"], EXPIRED_MS)
    assert node.step(accepted(node, 2, 2), EXPIRED_MS).committed == ()
    assert len(node.step(accepted(node, 4, 2), EXPIRED_MS).committed) == 1


def test_an_old_term_is_committed_only_with_an_entry_of_the_own_term():
    """§5.4.2 and figure 8"""
    node, _ = make_leader(terms=(1, 2), commits=False, max_append_entries=1)
    assert node.step(accepted(node, 2, 2), EXPIRED_MS).committed == ()
    ready = node.step(accepted(node, 2, 3), EXPIRED_MS)
    assert [entry.index for entry in ready.committed] == [1, 2, 3]


def test_a_refusal_steps_back_over_a_whole_term():
    """§5.3, last paragraphs: one round for each term that conflicts."""
    node, _ = make_leader(terms=(1, 1, 1, 5, 5, 5), commits=False)
    ready = node.step(refused(node, 2, 6, 6, 4), EXPIRED_MS)
    (retry,) = sent(ready, AppendRequest)
    assert (retry.prev_index, retry.prev_term, len(retry.entries)) == (3, 1, 4)


def test_appends_keep_the_window_and_the_batch_limits():
    node, _ = make_leader(max_append_entries=2, max_inflight_appends=2)
    ready = node.propose([b"x"] * 9, EXPIRED_MS)
    to_second = [m for m in sent(ready, AppendRequest) if m.receiver == 2]
    assert [len(m.entries) for m in to_second] == [2, 2]
    following = node.step(accepted(node, 2, 3), EXPIRED_MS)
    assert [len(m.entries) for m in sent(following, AppendRequest)] == [2]


def test_an_append_over_the_byte_limit_carries_one_entry():
    node, _ = make_leader(max_append_bytes=10)
    ready = node.propose([b"x" * 30, b"y" * 6, b"z" * 6], EXPIRED_MS)
    to_second = [m for m in sent(ready, AppendRequest) if m.receiver == 2]
    assert [[e.index for e in m.entries] for m in to_second] == [[2], [3], [4]]


def test_a_lost_append_shows_at_the_next_heartbeat():
    node, _ = make_leader()
    node.propose([b"lost"], EXPIRED_MS)
    beat = node.tick(EXPIRED_MS + 100)
    (to_second,) = [m for m in sent(beat, AppendRequest) if m.receiver == 2]
    assert (to_second.prev_index, to_second.entries) == (2, ())
    retry = node.step(refused(node, 2, 2, 1, 1), EXPIRED_MS + 100)
    assert [[e.payload for e in m.entries] for m in sent(retry, AppendRequest)] == [[b"lost"]]


def test_a_heartbeat_leaves_once_per_interval():
    node, _ = make_leader()
    assert node.next_deadline_ms() == EXPIRED_MS + 100
    assert node.tick(EXPIRED_MS + 99).messages == ()
    assert len(node.tick(EXPIRED_MS + 100).messages) == 2
    assert node.tick(EXPIRED_MS + 101).messages == ()
    assert node.next_deadline_ms() == EXPIRED_MS + 200


def test_a_follower_whose_process_went_is_probed_from_its_known_match():
    node, _ = make_leader()
    node.propose([b"a"], EXPIRED_MS)
    node.peer_refused(2, EXPIRED_MS)
    beat = node.tick(EXPIRED_MS + 100)
    assert [m.prev_index for m in sent(beat, AppendRequest) if m.receiver == 2] == [1]


def test_an_acknowledgement_of_what_was_never_sent_stops_the_process():
    node, _ = make_leader()
    with pytest.raises(RaftInvariantError, match="acknowledges index 9"):
        node.step(accepted(node, 2, 9), EXPIRED_MS)


def test_an_answer_of_an_older_term_is_ignored():
    node, _ = make_leader(terms=(4,))
    node.propose([b"a"], EXPIRED_MS)
    ready = node.step(AppendResponse(4, 2, 1, True, 3, 0, 0, 0), EXPIRED_MS)
    assert ready.committed == ()


# --- refusals -------------------------------------------------------------------------------------


def test_a_follower_names_its_leader_to_a_proposer():
    node = make_node()
    with pytest.raises(NotLeaderError) as unknown:
        node.propose([b"a"], START_MS)
    assert unknown.value.leader_id is None
    node.step(append(1, sender=3), START_MS)
    with pytest.raises(NotLeaderError) as known:
        node.propose([b"a"], START_MS)
    assert (known.value.leader_id, known.value.outcome) == (3, Outcome.NOT_APPLIED)


def test_a_leader_that_slept_refuses_a_proposal():
    node, _ = make_leader()
    with pytest.raises(NotLeaderError):
        node.propose([b"a"], EXPIRED_MS + 1_000)
    assert (node.role, node.last_index) == (Role.FOLLOWER, 1)


def test_a_payload_over_its_limit_is_refused():
    node, _ = make_leader(max_entry_bytes=4)
    with pytest.raises(MessageTooLargeError):
        node.propose([b"12345"], EXPIRED_MS)
    assert node.last_index == 1


def test_uncommitted_bytes_are_bounded_until_they_commit():
    node, _ = make_leader(max_uncommitted_bytes=10)
    node.propose([b"123456"], EXPIRED_MS)
    with pytest.raises(OverloadedError) as refusal:
        node.propose([b"12345"], EXPIRED_MS)
    assert refusal.value.outcome is Outcome.NOT_APPLIED
    node.step(accepted(node, 2), EXPIRED_MS)
    assert node.propose([b"12345"], EXPIRED_MS).proposed == Proposed(3, 3, 1)


def test_what_an_earlier_term_left_counts_as_uncommitted():
    node, _ = make_leader(terms=(1, 1, 1), commits=False, max_uncommitted_bytes=10)
    with pytest.raises(OverloadedError):
        node.propose([b"12"], EXPIRED_MS)


def test_an_empty_proposal_is_a_programmer_error():
    node, _ = make_leader()
    with pytest.raises(AssertionError):
        node.propose([], EXPIRED_MS)
    with pytest.raises(AssertionError):
        node.propose([b""], EXPIRED_MS)


def test_a_vote_is_persisted_with_the_newest_commit_index():
    node, _ = make_leader()
    node.tick(EXPIRED_MS + 1_000)
    ready = node.step(vote(9, 9, 9), EXPIRED_MS + 1_000)
    assert ready.hard_state == HardState(9, 2, 1)
