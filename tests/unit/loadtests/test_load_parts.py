"""The pure parts of the load run: keys, stages, what settles a request, what a group was given."""

import ast
import json
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.deliveries import Deliveries, GroupDeliveries, follows
from loadtests.event_stream_reader import EventStreamReader, StreamEvent
from loadtests.load_stages import stages, users_at
from loadtests.locust_process import LOCUST_FILE, ROOT
from loadtests.scenarios import USER_CLASSES, WRITING
from loadtests.settlement import BACKOFF_MAX_S, RETRY_AFTER_MAX_S, Judgement, backoff_s, judge
from loadtests.zipf import ZipfChoice


def test_zipf_chooses_ranks_in_proportion_to_one_over_rank():
    choice = ZipfChoice(100, random.Random(1))
    chosen = Counter(choice.next() for _ in range(100_000))
    harmonic = sum(1 / rank for rank in range(1, 101))
    for rank in (0, 1, 4, 9):
        assert chosen[rank] == pytest.approx(100_000 / harmonic / (rank + 1), rel=0.1)
    assert min(chosen) == 0
    assert max(chosen) == 99


def test_an_exponent_of_zero_chooses_all_alike():
    choice = ZipfChoice(4, random.Random(1), exponent=0)
    chosen = Counter(choice.next() for _ in range(10_000))
    assert all(chosen[rank] == pytest.approx(2_500, rel=0.1) for rank in range(4))


@given(count=st.integers(1, 50), seed=st.integers(0, 1_000), exponent=st.floats(0, 5))
def test_every_chosen_rank_is_one_of_those(count, seed, exponent):
    choice = ZipfChoice(count, random.Random(seed), exponent)
    assert all(0 <= choice.next() < count for _ in range(20))


def test_a_choice_that_draws_just_below_one_stays_in_range():
    class Highest(random.Random):
        def random(self):
            return 1 - 2**-53

    assert ZipfChoice(7, Highest()).next() == 6


def test_the_stages_climb_stay_over_half_time_and_come_down():
    plan = stages(32, 120)
    assert [users_at(plan, at_s) for at_s in (0, 20, 60, 90, 110)] == [8, 16, 32, 32, 16]
    assert users_at(plan, 120) is None


@given(users=st.integers(1, 1_000), seconds=st.floats(1, 10_000))
def test_stages_have_users_until_the_end_and_all_of_them_at_half_time(users, seconds):
    plan = stages(users, seconds)
    assert users_at(plan, seconds / 2) == users
    assert all(1 <= stage.users <= users for stage in plan)
    assert users_at(plan, seconds * 0.999) is not None
    assert users_at(plan, seconds * 1.001) is None


def problem(**members):
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    ("status", "body", "judged"),
    [
        (200, b"{}", Judgement("settled")),
        (0, b"ConnectionRefusedError", Judgement("again", "ConnectionRefusedError")),
        (207, b"{}", Judgement("again", "PARTLY_FAILED")),
        (
            421,
            problem(code="NOT_LEADER_OR_FOLLOWER", retriable=True),
            Judgement("again", "NOT_LEADER_OR_FOLLOWER"),
        ),
        (
            503,
            problem(code="LEADER_NOT_AVAILABLE", retriable=True),
            Judgement("again", "LEADER_NOT_AVAILABLE"),
        ),
        (
            422,
            problem(code="IDEMPOTENCY_KEY_REUSED", detail="another body", retriable=False),
            Judgement("failed", "422 IDEMPOTENCY_KEY_REUSED: another body"),
        ),
        (500, b"a page", Judgement("failed", "500 none: a page")),
        (503, b"[]", Judgement("failed", "503 none: []")),
        (
            416,
            problem(code="OFFSET_OUT_OF_RANGE"),
            Judgement("failed", "416 OFFSET_OUT_OF_RANGE: "),
        ),
    ],
)
def test_what_an_answer_means(status, body, judged):
    assert judge(status, body) == judged


def test_a_request_may_be_settled_by_other_statuses():
    fenced = problem(code="FENCED", retriable=False)
    assert judge(409, fenced).step == "failed"
    assert judge(409, fenced, settles=(200, 409)).step == "settled"


def test_waits_grow_are_bounded_and_heed_the_broker():
    waits = [backoff_s(attempt) for attempt in range(20)]
    assert waits == sorted(waits)
    assert waits[0] == 0.01
    assert waits[-1] == BACKOFF_MAX_S
    assert backoff_s(0, "1") == 1.0
    assert backoff_s(0, "3600") == RETRY_AFTER_MAX_S
    assert backoff_s(0, "Sun, 06 Nov 1994 08:49:37 GMT") == 0.01
    assert backoff_s(10**6) == BACKOFF_MAX_S


def test_a_group_may_be_given_records_again_and_must_not_skip_any():
    given_to = Deliveries()
    given_to.deliver(0, range(10))
    given_to.deliver(0, [8, 9, 10])
    given_to.deliver(1, [0])
    assert given_to.counts() == GroupDeliveries(14, 2, 0)
    given_to.deliver(0, [13])
    assert given_to.counts() == GroupDeliveries(15, 2, 2)
    given_to.deliver(0, [11, 12])
    assert given_to.counts() == GroupDeliveries(17, 2, 0)


def test_a_group_that_was_given_no_first_record_has_skipped_it():
    given_to = Deliveries()
    given_to.deliver(0, [1])
    assert given_to.counts().skipped == 1


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [([], True), ([7], True), ([7, 8, 9], True), ([7, 9], False), ([7, 7], False), ([8, 7], False)],
)
def test_offsets_that_follow_one_another(offsets, expected):
    assert follows(offsets) is expected


def events_of(reader, stream):
    return [event for line in stream.splitlines() if (event := reader.feed(line)) is not None]


def test_an_event_stream_is_read_and_resumed_behind_its_last_event():
    reader = EventStreamReader()
    stream = b"retry: 1000\nid: a\n\n: quiet\n\nid: b\ndata: {}\n\nid: c\ndata: lost"
    assert events_of(reader, stream) == [StreamEvent("message", b"{}")]
    assert reader.last_event_id == "b"
    reader.begin()
    assert events_of(reader, b"event: error\ndata:1\ndata: 2\n\n") == [
        StreamEvent("error", b"1\n2")
    ]
    assert reader.last_event_id == "b"


def test_every_scenario_has_a_class_in_the_locustfile():
    assert set(USER_CLASSES) > WRITING
    # Parsed, not imported: gevent would patch this process.
    body = ast.parse(LOCUST_FILE.read_text()).body
    names = next(
        ast.literal_eval(statement.value)
        for statement in body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
    )
    assert sorted(USER_CLASSES.values()) == names


def test_whoever_starts_a_run_has_no_gevent():
    program = "import loadtests.load, sys; print('gevent' in sys.modules, 'locust' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["False", "False"]
