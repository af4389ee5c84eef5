"""Every error crosses the wire as itself."""

import pytest

from ottla_protocol.errors import (
    ERRORS_BY_CODE,
    LeaderNotAvailableError,
    OttlaError,
    Outcome,
    RoutingError,
    UnavailableError,
    error_from_problem,
)


def concrete_errors():
    return sorted(ERRORS_BY_CODE.items())


@pytest.mark.parametrize(("code", "cls"), concrete_errors())
def test_an_error_survives_its_problem_document(code, cls):
    error = cls("what happened", outcome=Outcome.UNKNOWN, leader=3)
    document = error.problem()
    back = error_from_problem(document)
    assert type(back) is cls
    assert (back.detail, back.outcome, back.members) == (
        "what happened",
        Outcome.UNKNOWN,
        {"leader": 3},
    )
    assert document["code"] == code
    assert document["status"] == cls.status
    assert 400 <= cls.status < 600


@pytest.mark.parametrize(("code", "cls"), concrete_errors())
def test_a_code_looks_like_one_and_a_title_like_a_title(code, cls):
    assert code.isascii()
    assert code == code.upper()
    assert cls.title[0].isupper()
    assert not cls.title.endswith(".")


def test_no_two_classes_share_a_code():
    seen = {}
    pending = [OttlaError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if cls.__module__ == "ottla_protocol.errors" and "code" in vars(cls):
            assert cls.code not in seen, (cls, seen[cls.code])
            seen[cls.code] = cls


def test_an_unknown_code_is_still_an_error():
    error = error_from_problem({"code": "FROM_A_NEWER_BROKER", "detail": "?", "outcome": "odd"})
    assert type(error) is OttlaError
    assert error.outcome is None


def test_an_outcome_that_is_known_is_not_overwritten():
    error = LeaderNotAvailableError("x", outcome=Outcome.UNKNOWN)
    assert error.with_outcome(Outcome.NOT_APPLIED).outcome is Outcome.UNKNOWN
    assert LeaderNotAvailableError("x").with_outcome(Outcome.UNKNOWN).outcome is Outcome.UNKNOWN


def test_what_reached_the_wrong_broker_or_a_busy_one_may_be_tried_again():
    for _, cls in concrete_errors():
        if issubclass(cls, RoutingError | UnavailableError):
            assert cls.retriable, cls
