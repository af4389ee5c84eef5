"""One round of votes."""

from ottla_cluster.raft.campaign import Campaign
from ottla_cluster.raft.quorum import VoteResult


def campaign(voter_count=3):
    round_of_votes = Campaign(tuple(range(1, voter_count + 1)))
    round_of_votes.record(1, granted=True)
    return round_of_votes


def test_the_first_answer_of_a_voter_counts():
    votes = campaign()
    votes.record(2, granted=False)
    votes.record(2, granted=True)
    assert votes.result is VoteResult.PENDING


def test_a_voter_that_is_gone_refuses():
    votes = campaign()
    votes.record_unreachable(3)
    assert votes.result is VoteResult.PENDING
    votes.record(2, granted=False)
    assert votes.result is VoteResult.LOST
    assert votes.is_worth_hurrying


def test_a_vote_given_before_its_voter_went_counts():
    votes = campaign()
    votes.record(2, granted=True)
    votes.record_unreachable(2)
    assert votes.result is VoteResult.WON


def test_a_round_that_was_lost_without_a_crash_is_not_hurried():
    votes = campaign()
    votes.record(2, granted=False)
    votes.record(3, granted=False)
    assert not votes.is_worth_hurrying


def test_a_last_survivor_does_not_hurry():
    votes = campaign()
    votes.record_unreachable(2)
    votes.record_unreachable(3)
    assert votes.result is VoteResult.LOST
    assert not votes.is_worth_hurrying
