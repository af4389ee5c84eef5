"""Admin calls without a network: what is sent, to whom, how often, and what is told in the end."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla import _admin_calls as calls
from ottla._admin_calls import CallAttempts
from ottla._config import AdminConfig
from ottla._errors import ClusterUnreachableError
from ottla._transport import BrokerUnreachableError, Response
from ottla_protocol import routes
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InvalidRequestError,
    InvalidTopicError,
    Outcome,
    PreferredLeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
)

SERVERS = ("http://a:1", "http://b:2", "http://c:3")
GOOD = Response(200, routes.JSON, b'{"topics": []}')
LISTED = calls.list_topics()
CREATED = calls.create_topic("flights", 3, None, None, validate_only=False)
TRIMMED = calls.delete_records(
    "flights", 2, before_offset=5, before_timestamp=None, before_end=False, dry_run=False
)


def config(**options):
    return AdminConfig.from_options({"bootstrap_servers": SERVERS, **options})


def attempts(call=LISTED, first=0, **options):
    return CallAttempts(call, config(**options), first=first, now_ms=0, random=Random(0))


def refused(error):
    document = error.problem()
    return Response(document["status"], routes.PROBLEM_JSON, json.dumps(document).encode())


def unavailable(outcome=None):
    return refused(ControllerNotAvailableError("no controller is known", outcome=outcome))


def fail(machine, now_ms=0, outcome=Outcome.NOT_APPLIED):
    attempt = machine.next_attempt(now_ms)
    machine.failed(attempt, BrokerUnreachableError(f"{attempt.url}: no luck", outcome=outcome))
    return attempt


class TestWhatIsSent:
    def test_create_topic(self):
        call = calls.create_topic("flights", 6, 3, {"retention.ms": 5}, validate_only=True)
        assert (call.method, call.path) == ("POST", "/v1/topics")
        assert json.loads(call.body) == {
            "name": "flights",
            "partitions": 6,
            "replication_factor": 3,
            "configs": {"retention.ms": 5},
            "validate_only": True,
        }
        assert call.is_repeatable
        assert not CREATED.is_repeatable

    @pytest.mark.parametrize(
        ("call", "method", "path", "body"),
        [
            (calls.list_topics(), "GET", "/v1/topics", None),
            (calls.describe_topic("a b"), "GET", "/v1/topics/a%20b", None),
            (calls.describe_topic("a/b?c#d%2f"), "GET", "/v1/topics/a%2Fb%3Fc%23d%252f", None),
            (calls.delete_topic("flights"), "DELETE", "/v1/topics/flights", None),
            (calls.add_partitions("flights", 9), "PATCH", "/v1/topics/flights", {"partitions": 9}),
            (calls.describe_configs("a b"), "GET", "/v1/topics/a%20b/configs", None),
            (
                calls.alter_configs("flights", {"a": 1, "b": None}),
                "PATCH",
                "/v1/topics/flights/configs",
                {"configs": {"a": 1, "b": None}},
            ),
            (
                calls.elect_leaders([("flights", 1)], "preferred"),
                "POST",
                "/v1/elections",
                {"type": "preferred", "partitions": [{"topic": "flights", "partition": 1}]},
            ),
            (
                calls.elect_leaders(None, "preferred"),
                "POST",
                "/v1/elections",
                {"type": "preferred", "partitions": None},
            ),
            (
                calls.reassign_partitions({("flights", 1): (2, 3), ("flights", 2): None}),
                "POST",
                "/v1/reassignments",
                {
                    "reassignments": [
                        {"topic": "flights", "partition": 1, "replicas": [2, 3]},
                        {"topic": "flights", "partition": 2, "replicas": None},
                    ]
                },
            ),
            (calls.list_reassignments(), "GET", "/v1/reassignments", None),
            (
                calls.alter_reassignment_throttle(20_000_000),
                "POST",
                "/v1/reassignments",
                {"reassignments": [], "throttle_bytes_per_second": 20_000_000},
            ),
            (
                calls.alter_reassignment_throttle(None),
                "POST",
                "/v1/reassignments",
                {"reassignments": [], "throttle_bytes_per_second": None},
            ),
            (calls.describe_reassignment_throttle(), "GET", "/v1/reassignments", None),
            (calls.cluster(), "GET", "/v1/cluster", None),
            (calls.brokers(), "GET", "/v1/brokers", None),
            (
                calls.offsets("flights", 2, "earliest"),
                "GET",
                "/v1/topics/flights/partitions/2/offsets?at=earliest",
                None,
            ),
            (
                calls.delete_records(
                    "flights",
                    2,
                    before_offset=17,
                    before_timestamp=None,
                    before_end=False,
                    dry_run=True,
                ),
                "POST",
                "/v1/topics/flights/partitions/2/trim",
                {
                    "before_offset": 17,
                    "before_timestamp": None,
                    "before_end": False,
                    "dry_run": True,
                },
            ),
        ],
    )
    def test_each_call(self, call, method, path, body):
        assert (call.method, call.path) == (method, path)
        assert (None if call.body is None else json.loads(call.body)) == body

    @pytest.mark.parametrize("name", ["", ".", "..", 5, None])
    def test_a_name_that_would_change_the_path_is_refused(self, name):
        with pytest.raises(InvalidTopicError):
            calls.describe_topic(name)

    def test_what_has_no_json_is_refused(self):
        with pytest.raises(InvalidRequestError, match="JSON"):
            calls.create_topic("flights", object(), None, None, validate_only=False)


class TestAnswers:
    def test_a_good_answer_is_the_result(self):
        machine = attempts()
        assert machine.answered(machine.next_attempt(0), GOOD).result == []

    def test_an_answer_of_nothing_is_a_result_too(self):
        machine = attempts(calls.delete_topic("flights"))
        answer = machine.answered(machine.next_attempt(0), Response(204, "", b""))
        assert answer is not None
        assert answer.result is None

    def test_the_brokers_error_is_raised_as_its_class(self):
        machine = attempts(CREATED)
        with pytest.raises(TopicAlreadyExistsError, match="taken"):
            machine.answered(
                machine.next_attempt(0), refused(TopicAlreadyExistsError("the name is taken"))
            )

    def test_an_election_that_cannot_be_won_now_is_told_at_once(self):
        machine = attempts(calls.elect_leaders(None, "preferred"))
        error = PreferredLeaderNotAvailableError("it is down", outcome=Outcome.NOT_APPLIED)
        assert error.retriable
        with pytest.raises(PreferredLeaderNotAvailableError):
            machine.answered(machine.next_attempt(0), refused(error))

    @pytest.mark.parametrize("call", [calls.delete_topic("flights"), TRIMMED])
    def test_what_destroys_does_not_go_on_to_another_topic_of_the_name(self, call):
        machine = attempts(call)
        error = UnknownTopicIdError("another one has its name", outcome=Outcome.NOT_APPLIED)
        assert error.retriable
        with pytest.raises(UnknownTopicIdError):
            machine.answered(machine.next_attempt(0), refused(error))

    def test_an_answer_of_something_else_is_an_error_of_its_own(self):
        machine = attempts()
        with pytest.raises(BrokerUnreachableError, match="TopicList"):
            machine.answered(machine.next_attempt(0), Response(200, "text/html", b"<html>"))


class TestWhoIsAsked:
    def test_each_broker_in_turn_from_the_first(self):
        machine = attempts(first=1)
        assert [fail(machine).url for _ in SERVERS] == ["http://b:2", "http://c:3", "http://a:1"]

    def test_a_round_without_any_answer_names_all_of_them(self):
        machine = attempts()
        for _ in SERVERS:
            fail(machine)
        with pytest.raises(ClusterUnreachableError) as caught:
            machine.next_attempt(7)
        assert caught.value.reasons == dict.fromkeys(SERVERS, "no luck")
        assert "within" not in caught.value.detail, "a refused connection is no time-out"
        assert caught.value.outcome is None

    def test_what_may_pass_is_asked_again_at_the_next_broker_and_after_a_pause(self):
        machine = attempts(retry_backoff_ms=100, retry_backoff_max_ms=150)
        pauses = []
        for _ in range(3):
            for index in range(3):
                attempt = machine.next_attempt(0)
                assert attempt.index == index
                assert machine.answered(attempt, unavailable()) is None
                pauses.append(attempt.pause_ms)
        assert [pauses[index] for index in (1, 2, 4, 5, 7, 8)] == [0] * 6
        assert pauses[0] == 0
        assert 100 <= pauses[3] <= 120
        assert 150 <= pauses[6] <= 180

    def test_one_live_broker_is_enough_to_go_on(self):
        machine = attempts()
        for _ in range(5):
            fail(machine)
            fail(machine)
            assert machine.answered(machine.next_attempt(0), unavailable()) is None

    def test_retries_are_counted_in_rounds(self):
        machine = attempts(retries=1)
        for _ in range(6):
            assert machine.answered(machine.next_attempt(0), unavailable()) is None
        with pytest.raises(ControllerNotAvailableError):
            machine.next_attempt(0)


class TestTime:
    def test_an_attempt_never_outlives_the_call(self):
        machine = attempts(request_timeout_ms=30, default_api_timeout_ms=50)
        assert machine.next_attempt(0).timeout_ms == 30
        assert machine.next_attempt(40).timeout_ms == 10

    def test_when_time_is_up_the_last_answer_is_told(self):
        machine = attempts(default_api_timeout_ms=50)
        machine.answered(machine.next_attempt(0), unavailable())
        with pytest.raises(ControllerNotAvailableError):
            machine.next_attempt(50)

    def test_without_any_answer_it_is_the_cluster_that_is_unreachable(self):
        machine = attempts(default_api_timeout_ms=50)
        fail(machine)
        with pytest.raises(ClusterUnreachableError, match="http://a:1: no luck"):
            machine.next_attempt(51)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60))
    def test_every_call_ends(self, steps):
        machine = attempts(default_api_timeout_ms=100, request_timeout_ms=30)
        now_ms = 0
        for is_answered, took_ms in steps:
            try:
                attempt = machine.next_attempt(now_ms)
            except (ClusterUnreachableError, ControllerNotAvailableError):
                return
            assert now_ms + attempt.pause_ms + attempt.timeout_ms <= 100
            now_ms += attempt.pause_ms + min(took_ms, attempt.timeout_ms)
            if is_answered:
                machine.answered(attempt, unavailable())
            else:
                machine.failed(attempt, BrokerUnreachableError("no luck"))


class TestOutcome:
    def test_a_write_that_may_have_happened_is_not_repeated(self):
        machine = attempts(CREATED)
        with pytest.raises(BrokerUnreachableError) as caught:
            fail(machine, outcome=Outcome.UNKNOWN)
        assert caught.value.outcome is Outcome.UNKNOWN

    def test_nor_after_an_answer_that_does_not_say(self):
        machine = attempts(CREATED)
        with pytest.raises(ControllerNotAvailableError):
            machine.answered(machine.next_attempt(0), unavailable())

    @pytest.mark.parametrize(
        ("named", "is_repeated"),
        [
            ({"before_end": True}, False),
            ({"before_timestamp": 5}, False),
            ({"before_offset": 5}, True),
            ({"before_end": True, "dry_run": True}, True),
        ],
    )
    def test_a_trim_is_repeated_where_it_names_what_does_not_move(self, named, is_repeated):
        unnamed = {
            "before_offset": None,
            "before_timestamp": None,
            "before_end": False,
            "dry_run": False,
        }
        machine = attempts(calls.delete_records("flights", 2, **{**unnamed, **named}))
        if is_repeated:
            fail(machine, outcome=Outcome.UNKNOWN)
            machine.next_attempt(0)
            return
        with pytest.raises(BrokerUnreachableError) as caught:
            fail(machine, outcome=Outcome.UNKNOWN)
        assert caught.value.outcome is Outcome.UNKNOWN

    def test_one_that_did_not_happen_is_repeated(self):
        machine = attempts(CREATED)
        fail(machine)
        answer = machine.answered(machine.next_attempt(0), unavailable(Outcome.NOT_APPLIED))
        assert answer is None
        fail(machine)
        machine.next_attempt(0)

    def test_a_write_that_reached_nobody_was_not_applied(self):
        machine = attempts(CREATED)
        for _ in SERVERS:
            fail(machine)
        with pytest.raises(ClusterUnreachableError) as caught:
            machine.next_attempt(0)
        assert caught.value.outcome is Outcome.NOT_APPLIED

    def test_the_last_attempt_does_not_vouch_for_those_before_it(self):
        repeatable = calls.create_topic("flights", 1, 1, None, validate_only=True)
        machine = attempts(repeatable)
        fail(machine, outcome=Outcome.UNKNOWN)
        refusal = refused(InvalidRequestError("no", outcome=Outcome.NOT_APPLIED))
        with pytest.raises(InvalidRequestError) as caught:
            machine.answered(machine.next_attempt(0), refusal)
        assert caught.value.outcome is Outcome.UNKNOWN
