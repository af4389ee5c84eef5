"""The leader's rules: high watermark, maximal ISR, expansion, shrinking, proposals."""

import pytest

from ottla_cluster.replication.leader import (
    FOLLOWED_MS,
    NOTHING,
    PROPOSAL_RETRY_BACKOFF_MS,
    UNKNOWN_LOG_END_OFFSET,
    FollowerLag,
    IsrMember,
    IsrProposal,
    MissingReplica,
    PartitionLeader,
)
from ottla_protocol.errors import NotLeaderOrFollowerError, StaleBrokerEpochError

LAG_MS = 1000
EPOCHS = {1: 11, 2: 12, 3: 13}
"""The broker epochs of the three brokers, all unfenced."""


def lead(*, isr=(1, 2, 3), replicas=(1, 2, 3), start=10, end=10, high_watermark=5, min_isr=2):
    return PartitionLeader(
        local_id=1,
        leader_epoch=7,
        partition_epoch=20,
        replicas=replicas,
        isr=isr,
        epoch_start_offset=start,
        log_end_offset=end,
        high_watermark=high_watermark,
        min_insync_replicas=min_isr,
        replica_lag_time_max_ms=LAG_MS,
        now_ms=0,
    )


def fetch(leader, replica_id, offset, now_ms=0):
    return leader.follower_fetched(replica_id, EPOCHS[replica_id], offset, now_ms)


def test_who_has_fetched_when_a_leadership_began_need_not_follow_it():
    leader = lead()
    assert not leader.is_followed_by(2, 0), "it has never fetched"
    fetch(leader, 2, 10, FOLLOWED_MS - 1)
    assert not leader.is_followed_by(2, FOLLOWED_MS), "it may be about to cut its log"
    fetch(leader, 2, 10, FOLLOWED_MS)
    assert leader.is_followed_by(2, 2 * FOLLOWED_MS)
    assert not leader.is_followed_by(2, 2 * FOLLOWED_MS + 1), "it has ceased"
    leader.session_fetched(2, EPOCHS[2], 3 * FOLLOWED_MS)
    assert leader.is_followed_by(2, 3 * FOLLOWED_MS)
    assert not leader.is_followed_by(3, 3 * FOLLOWED_MS)
    assert not leader.is_followed_by(9, 3 * FOLLOWED_MS), "it is no replica"


def proposal(*replica_ids, partition_epoch=20):
    members = tuple(IsrMember(replica_id, EPOCHS[replica_id]) for replica_id in replica_ids)
    return IsrProposal(members, 7, partition_epoch)


def test_the_high_watermark_is_the_smallest_log_end_of_the_isr():
    leader = lead()
    assert leader.local_log_end_moved(15, 0) == NOTHING
    assert fetch(leader, 2, 12) == NOTHING
    assert fetch(leader, 3, 14).high_watermark == 12
    assert fetch(leader, 2, 15).high_watermark == 14


def test_before_its_first_fetch_of_this_epoch_a_follower_is_unknown():
    leader = lead(high_watermark=0)
    assert leader.follower_log_end_offset(3) == UNKNOWN_LOG_END_OFFSET
    assert fetch(leader, 2, 10).high_watermark is None
    assert fetch(leader, 3, 10).high_watermark == 10


def test_a_lone_replica_commits_what_is_durable_here():
    leader = lead(isr=(1,), replicas=(1,), min_isr=1)
    assert leader.local_log_end_moved(12, 0).high_watermark == 12


def test_the_high_watermark_never_falls():
    leader = lead()
    fetch(leader, 2, 10)
    fetch(leader, 3, 10)
    assert leader.high_watermark == 10
    assert fetch(leader, 3, 4) == NOTHING
    assert leader.high_watermark == 10


def test_it_stands_still_below_min_isr_and_moves_on_when_the_minimum_is_lowered():
    leader = lead(isr=(1,))
    assert leader.is_under_min_isr
    assert leader.local_log_end_moved(12, 0) == NOTHING
    assert leader.min_insync_replicas_changed(1, 0).high_watermark == 12
    assert not leader.is_under_min_isr


def test_how_far_followers_are_behind_is_told_in_offsets_and_time():
    leader = lead(start=10, end=12)
    fetch(leader, 2, 12, now_ms=500)
    assert list(leader.follower_lags(700)) == [FollowerLag(2, 0, 0), FollowerLag(3, None, 700)]
    leader.local_log_end_moved(20, 800)
    fetch(leader, 3, 11, now_ms=900)
    # What was there at 500 is all that broker 2 has; broker 3 has never had everything.
    assert list(leader.follower_lags(1_000)) == [FollowerLag(2, 8, 500), FollowerLag(3, 9, 1_000)]
    assert not FollowerLag(2, 0, 0).is_behind


def test_latest_is_unknown_until_the_high_watermark_reaches_the_epochs_start():
    leader = lead()
    fetch(leader, 2, 10)
    assert not leader.latest_offset_available
    fetch(leader, 3, 9)
    assert not leader.latest_offset_available
    fetch(leader, 3, 10)
    assert leader.latest_offset_available


def test_what_an_earlier_leader_may_have_acknowledged_is_known_by_the_epochs_start():
    leader = lead(high_watermark=5, start=10, end=12)
    assert [offset for offset in range(13) if leader.may_be_acknowledged(offset)] == [5, 6, 7, 8, 9]
    fetch(leader, 2, 12)
    fetch(leader, 3, 8)
    assert [offset for offset in range(13) if leader.may_be_acknowledged(offset)] == [8, 9]
    fetch(leader, 3, 11)
    assert not any(map(leader.may_be_acknowledged, range(13)))


def test_acks_are_satisfied_when_the_high_watermark_passes_the_last_offset():
    leader = lead(high_watermark=10)
    assert leader.acks_satisfied(9)
    assert not leader.acks_satisfied(10)


def test_an_unassigned_replica_and_an_older_incarnation_are_refused():
    leader = lead()
    with pytest.raises(NotLeaderOrFollowerError):
        leader.follower_fetched(4, 1, 0, 0)
    fetch(leader, 2, 10)
    with pytest.raises(StaleBrokerEpochError):
        leader.follower_fetched(2, EPOCHS[2] - 1, 10, 0)
    leader.follower_fetched(2, EPOCHS[2] + 1, 3, 0)
    assert leader.follower_log_end_offset(2) == 3


# --- shrinking ---------------------------------------------------------------------------------


def test_a_follower_that_lags_too_long_is_proposed_out():
    leader = lead()
    leader.local_log_end_moved(12, 0)
    fetch(leader, 2, 12, now_ms=LAG_MS)
    fetch(leader, 3, 11, now_ms=LAG_MS)
    assert leader.tick(LAG_MS, EPOCHS) == NOTHING
    assert leader.tick(LAG_MS + 1, EPOCHS).proposal == proposal(1, 2)


def test_having_all_that_the_previous_fetch_saw_counts_as_caught_up():
    leader = lead()
    fetch(leader, 2, 10, now_ms=0)
    leader.local_log_end_moved(100, 0)
    fetch(leader, 2, 50, now_ms=500)  # sees the end 100
    leader.local_log_end_moved(200, 600)
    fetch(leader, 2, 100, now_ms=1400)  # so it was caught up at 500
    leader.local_log_end_moved(300, 1400)
    assert 2 in isr_wanted(leader, 1500)
    assert 2 not in isr_wanted(lead_like(leader), 1501)


def isr_wanted(leader, now_ms):
    output = leader.tick(now_ms, EPOCHS)
    if output.proposal is None:
        return leader.isr
    return tuple(member.replica_id for member in output.proposal.isr)


def lead_like(leader):
    """The same leader with nothing in flight."""
    if leader._in_flight is not None:
        leader.proposal_failed(leader._in_flight, -PROPOSAL_RETRY_BACKOFF_MS, refused=True)
    return leader


def test_an_idle_follower_with_everything_stays():
    leader = lead()
    fetch(leader, 2, 10)
    fetch(leader, 3, 10)
    assert leader.tick(100 * LAG_MS, EPOCHS) == NOTHING


def test_a_shrink_lets_the_high_watermark_move_only_when_it_is_committed():
    leader = lead()
    leader.local_log_end_moved(12, 0)
    fetch(leader, 2, 12, now_ms=LAG_MS + 1)
    shrink = leader.tick(LAG_MS + 1, EPOCHS).proposal
    assert shrink == proposal(1, 2)
    assert leader.high_watermark == 5
    assert leader.proposal_accepted(shrink, 21, LAG_MS + 2).high_watermark == 12
    assert leader.isr == (1, 2)
    assert leader.partition_epoch == 21


# --- expanding ---------------------------------------------------------------------------------


def expanding(*, high_watermark=5, start=10, end=12):
    leader = lead(isr=(1, 2), high_watermark=high_watermark, start=start, end=end)
    leader.tick(0, EPOCHS)
    return leader


def test_a_follower_at_the_high_watermark_and_the_epochs_start_is_proposed_in():
    leader = expanding()
    assert fetch(leader, 3, 10).proposal == proposal(1, 2, 3)


def test_one_below_the_epochs_start_is_not():
    leader = expanding(high_watermark=5, start=10)
    assert fetch(leader, 3, 9) == NOTHING
    assert leader.tick(1, EPOCHS) == NOTHING


def test_one_below_the_high_watermark_is_not():
    leader = expanding(start=8)
    fetch(leader, 2, 11)
    assert leader.high_watermark == 11
    assert fetch(leader, 3, 10) == NOTHING


@pytest.mark.parametrize("eligible", [{1: 11, 2: 12}, {1: 11, 2: 12, 3: 14}])
def test_one_that_is_fenced_or_of_another_incarnation_is_not(eligible):
    leader = expanding()
    leader.tick(0, eligible)
    assert fetch(leader, 3, 12) == NOTHING


def test_one_that_is_draining_is_not_but_may_stay():
    leader = expanding()
    leader.tick(0, EPOCHS, draining=(2, 3))
    assert fetch(leader, 3, 12) == NOTHING
    assert leader.tick(0, EPOCHS, draining=(2,)).proposal == proposal(1, 2, 3)


def test_one_that_stopped_fetching_is_not():
    leader = lead(isr=(1, 2), end=12)
    fetch(leader, 3, 12, now_ms=0)
    fetch(leader, 2, 12, now_ms=LAG_MS + 1)
    assert leader.tick(LAG_MS + 1, EPOCHS) == NOTHING


def test_while_a_proposal_is_in_flight_its_members_bind_the_high_watermark():
    leader = expanding()
    assert fetch(leader, 3, 10).proposal is not None
    assert fetch(leader, 2, 12).high_watermark == 10
    assert fetch(leader, 3, 12).high_watermark == 12


def test_the_high_watermark_waits_for_a_caught_up_replica_that_is_about_to_join():
    leader = expanding(start=12, end=12)
    fetch(leader, 2, 12)
    assert leader.high_watermark == 12
    assert fetch(leader, 3, 12).proposal == proposal(1, 2, 3)
    leader.proposal_failed(proposal(1, 2, 3), 0, refused=True)
    leader.local_log_end_moved(15, 1)
    leader.partition_changed((1, 2), 21, (1, 2, 3), 1)
    assert fetch(leader, 2, 15, now_ms=2).high_watermark is None
    assert fetch(leader, 2, 15, now_ms=LAG_MS + 1).high_watermark == 15


# --- proposals ---------------------------------------------------------------------------------


def test_one_proposal_at_a_time():
    leader = expanding()
    assert fetch(leader, 3, 10).proposal is not None
    assert fetch(leader, 3, 11) == NOTHING
    assert leader.tick(50 * LAG_MS, EPOCHS) == NOTHING


def test_no_proposal_while_a_member_is_fenced():
    leader = expanding()
    leader.tick(0, {1: 11, 3: 13})
    assert fetch(leader, 3, 12) == NOTHING


def test_a_failed_proposal_is_repeated_after_the_back_off():
    leader = expanding()
    first = fetch(leader, 3, 10).proposal
    leader.proposal_failed(first, 100, refused=True)
    assert leader.tick(100 + PROPOSAL_RETRY_BACKOFF_MS - 1, EPOCHS) == NOTHING
    assert leader.tick(100 + PROPOSAL_RETRY_BACKOFF_MS, EPOCHS).proposal == first


def test_members_of_a_refused_proposal_bind_the_high_watermark_no_longer():
    leader = expanding()
    sent = fetch(leader, 3, 10).proposal
    assert fetch(leader, 2, 12).high_watermark == 10
    assert leader.proposal_failed(sent, 0, refused=True).high_watermark == 12


def test_members_of_an_unanswered_proposal_bind_the_high_watermark_until_the_epoch_moves():
    leader = expanding(start=10)
    leader.proposal_failed(fetch(leader, 3, 10).proposal, 0, refused=False)
    later = LAG_MS + PROPOSAL_RETRY_BACKOFF_MS + 1
    assert fetch(leader, 2, 12, now_ms=later).high_watermark == 10
    # Broker 3 is gone: the committed ISR itself is proposed, only to move the partition epoch.
    same = leader.tick(later, {1: 11, 2: 12}).proposal
    assert same == proposal(1, 2)
    assert leader.high_watermark == 10
    # A refusal of this attempt settles nothing about the one before.
    assert leader.proposal_failed(same, later, refused=True) == NOTHING
    later += PROPOSAL_RETRY_BACKOFF_MS
    assert leader.tick(later, {1: 11, 2: 12}).proposal == same
    assert leader.proposal_accepted(same, 20, later) == NOTHING  # nor does an unmoved epoch
    later += PROPOSAL_RETRY_BACKOFF_MS
    assert leader.tick(later, {1: 11, 2: 12}).proposal == same
    assert leader.proposal_accepted(same, 21, later).high_watermark == 12


def test_newer_metadata_settles_what_was_in_flight():
    leader = expanding()
    sent = fetch(leader, 3, 10).proposal
    fetch(leader, 2, 12)
    assert leader.high_watermark == 10
    assert leader.partition_changed((1, 2), 21, (1, 2, 3), 0).high_watermark == 12
    assert leader.isr == (1, 2)
    # The outcome of the old proposal comes late and holds up nothing.
    leader.proposal_failed(sent, 0, refused=False)
    assert fetch(leader, 3, 12).proposal == proposal(1, 2, 3, partition_epoch=21)


def test_old_metadata_changes_nothing():
    leader = expanding()
    assert leader.partition_changed((1,), 20, (1, 2, 3), 0) == NOTHING
    assert leader.partition_changed((1,), 19, (1, 2, 3), 0) == NOTHING
    assert leader.isr == (1, 2)


def test_a_new_member_has_the_full_lag_time():
    leader = expanding()
    sent = fetch(leader, 3, 10, now_ms=1).proposal
    fetch(leader, 2, 12, now_ms=LAG_MS)
    leader.proposal_accepted(sent, 21, LAG_MS)
    fetch(leader, 2, 12, now_ms=2 * LAG_MS)
    assert leader.tick(2 * LAG_MS, EPOCHS) == NOTHING
    assert leader.tick(2 * LAG_MS + 1, EPOCHS).proposal == proposal(1, 2, partition_epoch=21)


def test_a_reassignment_adds_and_drops_replicas():
    leader = lead(isr=(1, 2), replicas=(1, 2))
    leader.partition_changed((1, 2), 21, (1, 2, 3), 0)
    leader.tick(0, EPOCHS)
    assert fetch(leader, 3, 10).proposal == proposal(1, 2, 3, partition_epoch=21)
    leader.partition_changed((1, 3), 22, (1, 3), 0)
    assert leader.replicas == (1, 3)
    with pytest.raises(NotLeaderOrFollowerError):
        fetch(leader, 2, 10)


def test_replicas_outside_the_isr_are_told_with_how_far_they_lag():
    leader = lead(isr=(1, 2), end=10)
    assert leader.missing_replicas(300) == (MissingReplica(3, None, None, 300),)
    fetch(leader, 3, 4, 400)
    assert leader.missing_replicas(450) == (MissingReplica(3, 6, 50, 450),)
    leader.local_log_end_moved(25, 460)
    assert leader.missing_replicas(500) == (MissingReplica(3, 21, 100, 500),)


def test_a_replica_that_caught_up_and_fell_behind_lags_since_then():
    leader = lead(isr=(1, 2), end=10)
    fetch(leader, 3, 10, 700)
    leader.local_log_end_moved(25, 800)
    assert leader.missing_replicas(1_000) == (MissingReplica(3, 15, 300, 300),)


def test_who_is_in_the_isr_is_not_missing_however_far_behind():
    leader = lead()
    fetch(leader, 2, 3, 100)
    assert leader.missing_replicas(100_000) == ()
