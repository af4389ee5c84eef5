"""Changes of the voters at one node: dissertation §4.1 to §4.2; directories as in KIP-853."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    Configuration,
    Entry,
    EntryKind,
    Origin,
    PreVoteResponse,
    RaftDirectoryRolledBackError,
    RaftStateCorruptError,
    StartRefused,
    TimeoutNow,
    Voter,
    encode_configuration,
)
from ottla_protocol.errors import (
    DuplicateVoterError,
    InvalidVoterChangeError,
    QuorumAtRiskError,
    VoterChangeInProgressError,
    VoterNotFoundError,
)
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    accepted,
    append,
    make_leader,
    make_node,
    sent,
)

URL = "http://127.0.0.1:7104"


def voters_of(node):
    return node.configuration.voter_ids


def test_a_new_voter_gets_the_log_and_votes_once_it_has_caught_up():
    """§4.2.1"""
    node, _ = make_leader()
    ready = node.add_voter(4, URL, EXPIRED_MS)
    assert [entry.kind for entry in ready.entries] == [EntryKind.CONFIGURATION]
    assert 4 in [append.receiver for append in sent(ready, AppendRequest)]
    assert voters_of(node) == (1, 2, 3)
    node.step(accepted(node, 2), EXPIRED_MS)
    ready = node.step(accepted(node, 4), EXPIRED_MS)
    assert voters_of(node) == (1, 2, 3, 4)
    assert ready.entries[-1].payload == encode_configuration(node.configuration)
    # It counts from its append: three of four commit it.
    assert node.step(accepted(node, 2), EXPIRED_MS).commit_index == 2
    assert node.step(accepted(node, 3), EXPIRED_MS).commit_index == 3


def test_a_learner_counts_for_nothing():
    node, _ = make_leader(5)
    node.add_voter(6, URL, EXPIRED_MS)
    node.step(accepted(node, 2), EXPIRED_MS)
    assert node.step(accepted(node, 6), EXPIRED_MS).commit_index == 1


def test_changes_go_one_at_a_time():
    """§4.1"""
    node, _ = make_leader(5)
    node.remove_voter(5, EXPIRED_MS, force=True)
    assert voters_of(node) == (1, 2, 3, 4)
    with pytest.raises(VoterChangeInProgressError):
        node.remove_voter(4, EXPIRED_MS, force=True)
    for peer in (2, 3):
        node.step(accepted(node, peer), EXPIRED_MS)
    node.remove_voter(4, EXPIRED_MS)
    assert voters_of(node) == (1, 2, 3)


def test_a_voter_stays_while_too_few_others_answer():
    node, _ = make_leader()
    # The second one is heard from all the time, the third one falls silent.
    later_ms = EXPIRED_MS + 400
    for now_ms in (later_ms, later_ms + 400, later_ms + 800):
        node.step(accepted(node, 2), now_ms)
    with pytest.raises(QuorumAtRiskError, match="voters 1, 3 that would be left, 1 answer"):
        node.remove_voter(2, later_ms + 800)
    assert (voters_of(node), node.last_index) == ((1, 2, 3), 1)
    node.remove_voter(3, later_ms + 800)
    assert voters_of(node) == (1, 2)


def test_a_voter_is_removed_all_the_same_by_force():
    node, _ = make_leader()
    later_ms = EXPIRED_MS + 400
    for now_ms in (later_ms, later_ms + 400, later_ms + 800):
        node.step(accepted(node, 2), now_ms)
    node.remove_voter(2, later_ms + 800, force=True)
    assert voters_of(node) == (1, 3)


def test_no_change_before_an_entry_of_the_own_term_is_committed():
    """§4.1, as corrected in July 2015."""
    node, _ = make_leader(commits=False)
    with pytest.raises(VoterChangeInProgressError):
        node.remove_voter(3, EXPIRED_MS)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda node: node.add_voter(2, URL, EXPIRED_MS), DuplicateVoterError),
        (lambda node: node.remove_voter(9, EXPIRED_MS), VoterNotFoundError),
    ],
)
def test_a_change_that_changes_nothing_is_refused(change, error):
    node, _ = make_leader()
    with pytest.raises(error):
        change(node)
    assert node.last_index == 1


def test_the_last_voter_stays():
    node = make_node(1)
    node.tick(START_MS)
    with pytest.raises(InvalidVoterChangeError):
        node.remove_voter(1, START_MS)


def test_a_single_voter_gets_a_second_one():
    node = make_node(1)
    node.tick(START_MS)
    node.add_voter(2, URL, START_MS)
    assert node.next_deadline_ms() <= START_MS + 100
    node.step(accepted(node, 2), START_MS)
    assert voters_of(node) == (1, 2)
    assert (node.commit_index, node.last_index) == (2, 3)
    node.step(accepted(node, 2), START_MS)
    assert node.commit_index == 3


def test_a_leader_that_removes_itself_leads_until_that_is_committed_without_counting_itself():
    """§4.2.2"""
    node, _ = make_leader()
    node.remove_voter(1, EXPIRED_MS, force=True)
    assert node.step(accepted(node, 2), EXPIRED_MS).role == "leader"
    ready = node.step(accepted(node, 3), EXPIRED_MS)
    assert (ready.role, ready.commit_index) == ("follower", 2)
    # The others hear that it is committed.
    assert {m.commit_index for m in sent(ready, AppendRequest)} == {2}
    later = node.tick(EXPIRED_MS + 10_000)
    assert (later.role, node.is_voter) == ("follower", False)


def test_a_voter_whose_removal_is_not_committed_still_campaigns_and_has_no_vote_of_its_own():
    """§4.2.2: the others may not know of it, and not be able to elect one of them."""
    node = make_node(2, term=1)
    without_itself = Entry(
        1, 1, encode_configuration(Configuration((Voter(2),))), EntryKind.CONFIGURATION
    )
    node.step(AppendRequest(1, 2, 1, 0, 0, (without_itself,), 0, 0), START_MS)
    assert node.tick(START_MS + 5_000).role == "pre_candidate"
    assert node.step(PreVoteResponse(1, 2, 1, 1, True), START_MS + 5_000).role == "candidate"


def test_a_cut_off_change_counts_no_longer():
    node = make_node(3, term=1)
    added = Configuration(tuple(Voter(n) for n in (1, 2, 3, 4)))
    change = Entry(1, 1, encode_configuration(added), EntryKind.CONFIGURATION)
    node.step(AppendRequest(1, 2, 1, 0, 0, (change,), 0, 0), START_MS)
    assert voters_of(node) == (1, 2, 3, 4)
    node.step(append(2, terms=(2,), sender=3), START_MS)
    assert voters_of(node) == (1, 2, 3)


def answer(node, sender, directory_id):
    response = accepted(node, sender)
    return AppendResponse(
        *(getattr(response, name) for name in response.__struct_fields__[:-1]),
        Origin(directory_id, 1, "x"),
    )


def test_the_directories_are_named_once_all_voters_have_told_them():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    node.step(answer(node, 2, "two"), EXPIRED_MS)
    assert node.configuration.voter(2) == Voter(2)
    node.step(answer(node, 3, "three"), EXPIRED_MS)
    assert [voter.directory_id for voter in node.configuration.voters] == ["one", "two", "three"]


def test_another_directory_of_a_voter_neither_commits_nor_votes():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    for peer in (2, 3):
        node.step(answer(node, peer, f"of {peer}"), EXPIRED_MS)
    node.step(answer(node, 2, "of 2"), EXPIRED_MS)
    committed = node.commit_index
    node.propose([b"new"], EXPIRED_MS)
    assert node.step(answer(node, 3, "another"), EXPIRED_MS).commit_index == committed
    assert node.step(answer(node, 2, "of 2"), EXPIRED_MS).commit_index == committed + 1


def test_a_voter_with_another_directory_is_removed_and_added_again():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    for peer in (2, 3, 2):
        node.step(answer(node, peer, f"of {peer}"), EXPIRED_MS)
    for now_ms in range(EXPIRED_MS, EXPIRED_MS + 1_100, 100):
        node.step(answer(node, 3, "another"), now_ms)
        assert voters_of(node) == (1, 2, 3) or now_ms >= EXPIRED_MS + 1_000
        node.step(answer(node, 2, "of 2"), now_ms)
    # The removal is committed by the two others, and the next answer shows that it has caught up.
    assert voters_of(node) == (1, 2)
    assert node.configuration.learner(3) == Voter(3, "another")
    node.step(answer(node, 3, "another"), now_ms)
    assert node.configuration.voter(3) == Voter(3, "another")


def test_as_many_become_voters_as_a_quorum_has():
    node, _ = make_leader(7)
    with pytest.raises(InvalidVoterChangeError):
        node.add_voter(8, URL, EXPIRED_MS)


# --- beside an older version, which tells no directory --------------------------------------------


def test_a_voter_that_was_taken_back_to_an_older_version_counts_as_before():
    node, _ = make_leader(origin=Origin("one", 1, "x"), commits=False)
    node.allow_configurations(allowed=False)
    node.step(answer(node, 3, "three"), EXPIRED_MS)
    committed = node.commit_index
    node.propose([b"new"], EXPIRED_MS)
    assert node.step(accepted(node, 3), EXPIRED_MS).commit_index == committed + 1


def test_once_the_log_names_its_directory_a_voter_has_to_tell_it():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    for peer in (2, 3, 2):
        node.step(answer(node, peer, f"of {peer}"), EXPIRED_MS)
    committed = node.commit_index
    node.propose([b"new"], EXPIRED_MS)
    assert node.step(accepted(node, 3), EXPIRED_MS).commit_index == committed


def test_leadership_goes_to_nobody_of_an_older_version():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    with pytest.raises(InvalidVoterChangeError):
        node.transfer_leadership(None, EXPIRED_MS)
    node.step(answer(node, 3, "three"), EXPIRED_MS)
    ready = node.transfer_leadership(None, EXPIRED_MS)
    assert [told.receiver for told in sent(ready, TimeoutNow)] == [3]


def test_to_hand_over_to_the_leader_is_done_already():
    node, _ = make_leader()
    node.transfer_leadership(1, EXPIRED_MS)
    assert not node.is_handing_over
    node.transfer_leadership(2, EXPIRED_MS)
    assert node.is_handing_over


# --- directories that were put back ---------------------------------------------------------------


def started(node, sender, index, *, start_count, accepts=True):
    return AppendResponse(
        node.term, sender, 1, accepts, node.last_index if not accepts else index, index, node.term,
        0, Origin(f"of {sender}", start_count, f"of {start_count}"),
    )  # fmt: skip


def test_a_late_answer_to_less_does_not_hide_what_a_later_start_has_lost():
    node, _ = make_leader(origin=Origin("one", 1, "x"))
    node.propose([b"second"], EXPIRED_MS)
    node.step(started(node, 2, 2, start_count=1), EXPIRED_MS)
    # The next start, from an older copy, accepts an append of the time before.
    node.step(started(node, 2, 1, start_count=2), EXPIRED_MS)
    ready = node.step(started(node, 2, 1, start_count=2, accepts=False), EXPIRED_MS)
    assert [refusal.receiver for refusal in sent(ready, StartRefused)] == [2]


@pytest.mark.parametrize(
    ("voters", "error"), [(1, RaftStateCorruptError), (3, RaftDirectoryRolledBackError)]
)
@pytest.mark.parametrize("echoed", [("w",), ()], ids=["whole", "by a version without former ones"])
def test_an_only_voter_that_was_put_back_keeps_its_state_and_stops(voters, error, echoed):
    """Nobody could give it another one."""
    node = make_node(voters, origin=Origin("one", 2, "x", ("w",)))
    node.tick(START_MS)
    with pytest.raises(error):
        node.step(StartRefused(node.term, 4, 1, Origin("one", 2, "x", echoed)), START_MS)


@pytest.mark.parametrize("refused", [Origin("other", 2, "x"), Origin("one", 1, "x")])
def test_the_refusal_of_another_start_is_nothing_to_this_one(refused):
    node = make_node(3, origin=Origin("one", 2, "x"))
    node.tick(START_MS)
    assert node.step(StartRefused(node.term, 4, 1, refused), START_MS).messages == ()
