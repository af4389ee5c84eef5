"""What no fault explains is found, what one does is not."""

import pytest

from tests.chaos.expected_codes import AFTER_NS, unexplained_errors
from tests.chaos.history import FAIL, OK, POLL, SEND, Operation

BEGUN_NS, ENDED_NS = 1_000, 2_000


def told(code, invoked_ns, completed_ns, function=POLL, outcome=FAIL):
    return Operation("a", function, outcome, invoked_ns, completed_ns, 0, codes=(code,))


def turn(fault):
    return {"fault": fault, "from_ns": BEGUN_NS, "to_ns": ENDED_NS, "what": "at 1"}


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("KAFKA_STORAGE_ERROR", "few descriptors"),
        ("KAFKA_STORAGE_ERROR", "failing disk"),
        ("INVALID_TIMESTAMP", "clock drift"),
    ],
)
@pytest.mark.parametrize("times", [(500, 1_500), (1_200, 1_300), (ENDED_NS + AFTER_NS, 10**12)])
def test_an_error_is_explained_by_its_fault(code, fault, times):
    assert list(unexplained_errors([told(code, *times)], [turn(fault)])) == []


@pytest.mark.parametrize("times", [(100, 900), (ENDED_NS + AFTER_NS + 1, 10**12)])
def test_an_error_long_before_or_after_its_fault_is_found(times):
    operation = told("KAFKA_STORAGE_ERROR", *times)
    assert len(list(unexplained_errors([operation], [turn("failing disk")]))) == 1


def test_damage_that_is_hidden_may_come_up_late():
    operation = told("KAFKA_STORAGE_ERROR", ENDED_NS + 2 * AFTER_NS, 10**12)
    assert list(unexplained_errors([operation], [turn("bit flips")])) == []


def test_an_error_that_another_fault_explains_is_found():
    """A disk that fails while only a leader is killed."""
    operations = [told("KAFKA_STORAGE_ERROR", 1_200, 1_300, SEND, OK)]
    turns = [turn("kill leader"), turn("clock jump")]
    assert list(unexplained_errors(operations, iter(turns))) == [
        "a was told KAFKA_STORAGE_ERROR by a send of partition 0, and none of few descriptors, "
        "failing disk, full disk, hung disk, bit flips was in effect"
    ]


def test_errors_that_may_be_retried_need_no_reason():
    assert list(unexplained_errors([told("NOT_LEADER_OR_FOLLOWER", 1, 2)], [])) == []
