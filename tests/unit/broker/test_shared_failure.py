"""When one error may speak for all parts of a request."""

import pytest

from ottla_broker.services.shared_failure import shared_failure
from ottla_protocol.errors import (
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    Outcome,
    RequestTimedOutError,
)


def not_leader(leader, leader_epoch):
    return NotLeaderOrFollowerError(
        "elsewhere", outcome=Outcome.NOT_APPLIED, leader=leader, leader_epoch=leader_epoch
    )


def test_parts_that_failed_alike_share_the_first_one_s_error():
    first, second = not_leader(2, 6), not_leader(2, 6)
    assert shared_failure([first, second]) is first
    assert shared_failure([first]) is first


@pytest.mark.parametrize(
    "other",
    [
        object(),
        not_leader(3, 6),
        not_leader(2, 5),
        NotEnoughReplicasError("few", outcome=Outcome.NOT_APPLIED),
    ],
    ids=["success", "another leader", "another epoch", "another code"],
)
def test_parts_that_did_not_are_told_each_by_itself(other):
    assert shared_failure([not_leader(2, 6), other]) is None


def test_neither_are_those_with_different_outcomes_nor_none():
    late = [RequestTimedOutError("late", outcome=outcome) for outcome in Outcome]
    assert shared_failure(late) is None
    assert shared_failure([]) is None
