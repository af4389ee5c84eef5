"""The client's own errors: codes, hints, and that they survive pickling."""

import pickle

import pytest

import ottla._errors as client_errors
from ottla._errors import ClientError, ClusterUnreachableError, ConfigError, DeliveryTimeoutError
from ottla_protocol.errors import ERRORS_BY_CODE, OttlaError, Outcome

ERRORS = [
    error
    for error in vars(client_errors).values()
    if isinstance(error, type) and issubclass(error, ClientError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_each_has_a_code_of_its_own(error):
    assert issubclass(error, OttlaError)
    assert error.code == error.code.upper()
    taken = [other for other in ERRORS if other is not error] + [
        other for other in ERRORS_BY_CODE.values() if other not in ERRORS
    ]
    assert error.code not in {other.code for other in taken}
    assert isinstance(error.retriable, bool)


@pytest.mark.parametrize("error", ERRORS)
def test_a_hint_stands_below_the_message(error):
    raised = error("what happened", hint="do this")
    assert str(raised) == "what happened"
    assert raised.__notes__ == ["hint: do this"]


@pytest.mark.parametrize("error", ERRORS)
def test_it_survives_pickling_with_one_hint(error):
    back = pickle.loads(pickle.dumps(error("what happened", hint="do this")))
    assert (type(back), back.detail, back.__notes__) == (error, "what happened", ["hint: do this"])


def test_an_unreachable_cluster_names_every_url_and_its_reason():
    reasons = {"http://a:1": "connection refused", "http://b:2": "no answer within 5 ms"}
    error = ClusterUnreachableError.after(1234.5, reasons, outcome=Outcome.NOT_APPLIED)
    assert error.reasons == reasons
    assert error.outcome is Outcome.NOT_APPLIED
    for part in ("1234 ms", "http://a:1: connection refused", "http://b:2: no answer within 5 ms"):
        assert part in error.detail


def test_a_delivery_timeout_says_what_became_of_the_write():
    assert DeliveryTimeoutError("late", outcome=Outcome.UNKNOWN).outcome is Outcome.UNKNOWN


def test_a_config_error_is_a_value_error_with_its_option():
    error = ConfigError("acks must be all", option="acks")
    assert isinstance(error, ValueError)
    assert error.option == "acks"
