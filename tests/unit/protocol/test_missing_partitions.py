"""The refusal of a partition that a topic does not have."""

import pytest

from ottla_protocol.errors import Outcome, error_from_problem
from ottla_protocol.missing_partitions import missing_partition


@pytest.mark.parametrize(
    ("count", "having"),
    [(1, "partition 0 only"), (2, "partitions 0 to 1"), (3, "partitions 0 to 2")],
)
def test_it_tells_which_there_are(count, having):
    error = missing_partition("orders", 7, count)
    assert error.detail == f"topic 'orders' has {having}, not 7"
    assert error.members == {"partitions": count}


def test_it_keeps_what_else_is_told_and_crosses_the_wire():
    error = missing_partition(
        "orders", 7, 3, where="line 4: ", index=4, outcome=Outcome.NOT_APPLIED
    )
    assert error.detail.startswith("line 4: topic 'orders'")
    again = error_from_problem(error.problem())
    assert (type(again), again.detail, again.outcome) == (type(error), error.detail, error.outcome)
    assert again.members == {"partitions": 3, "index": 4}
