"""What the leader remembers of a session is what the follower wants, whatever was lost."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.replication import fetch_session
from ottla_cluster.replication.fetch_session import (
    FIRST_EPOCH,
    LAST_EPOCH,
    NO_SESSION,
    SESSION_IDLE_MS,
    FetchSessions,
    FollowerSession,
    LeaderSession,
    next_epoch,
)
from ottla_protocol.errors import (
    FetchSessionIdNotFoundError,
    InvalidFetchSessionEpochError,
    OttlaError,
    StaleBrokerEpochError,
)

FOLLOWER, BROKER_EPOCH = 2, 12
KEYS = range(4)

steps = st.one_of(
    st.tuples(st.just("want"), st.sampled_from(KEYS), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.sampled_from(KEYS)),
    st.tuples(
        st.just("fetch"),
        st.sampled_from(["well", "request lost", "answer lost", "sent twice", "refused"]),
        st.sets(st.sampled_from(KEYS)),
        # What is wanted while it is under way.
        st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3) | st.none()),
    ),
    st.tuples(st.just("leader restarts")),
    st.tuples(st.just("follower restarts")),
)


class Pair:
    """A follower and a leader; what is wanted is also kept in the plainest way."""

    def __init__(self):
        self.follower = FollowerSession()
        self.leader = FetchSessions(Random(1))
        self.wanted = {}
        self.broker_epoch = BROKER_EPOCH
        self.incrementals = 0

    def want(self, key, position):
        if position is None:
            self.follower.forget(key)
            self.wanted.pop(key, None)
        else:
            self.follower.want(key, position)
            self.wanted[key] = position

    def serve(self, fetch):
        """The leader's part; the session's view afterwards."""
        if fetch.session_id == NO_SESSION:
            session, _ = self.leader.begin(FOLLOWER, self.broker_epoch, 0)
        else:
            session = self.leader.resume(fetch.session_id, fetch.epoch, FOLLOWER, self.broker_epoch)
            self.incrementals += 1
        session.take(fetch.positions, fetch.forgotten)
        return session

    def fetch(self, fate, dropped, meanwhile):
        fetch = self.follower.next_fetch()
        as_sent = dict(self.wanted)
        if fate == "refused":
            for key, position in meanwhile.items():
                self.want(key, position)
            self.follower.refused()
            return
        try:
            session = None if fate == "request lost" else self.serve(fetch)
            if fate == "sent twice" and fetch.session_id != NO_SESSION:
                with pytest.raises(InvalidFetchSessionEpochError):
                    self.serve(fetch)
        except OttlaError:
            session = None
        if session is not None:
            assert session.positions == as_sent
            for key in dropped & set(session.positions):
                session.drop(key)
        for key, position in meanwhile.items():
            self.want(key, position)
        if session is None or fate == "answer lost":
            self.follower.lost()
            return
        for key, position in session.positions.items():
            assert self.follower.said(key) == position
        for key in dropped & set(as_sent):
            self.follower.dropped(key)
        self.follower.answered(session.session_id)

    def apply(self, step):
        match step:
            case ("want", key, position):
                self.want(key, position)
            case ("forget", key):
                self.want(key, None)
            case ("fetch", fate, dropped, meanwhile):
                self.fetch(fate, dropped, meanwhile)
            case ("leader restarts",):
                self.leader = FetchSessions(Random(self.leader._random.random()))
            case ("follower restarts",):
                self.follower = FollowerSession()
                self.broker_epoch += 1
                for key, position in self.wanted.items():
                    self.follower.want(key, position)


def run(program):
    pair = Pair()
    for step in program:
        pair.apply(step)
    # Within three sound fetches everything is as if each had been a full one.
    for _ in range(3):
        pair.fetch("well", set(), {})
    session = pair.leader.of(FOLLOWER)
    assert session is not None
    assert session.positions == pair.wanted
    assert pair.incrementals > 0
    assert pair.follower.next_fetch().positions == {}


@given(st.lists(steps, max_size=40))
def test_a_sessions_view_is_what_the_follower_wants(program):
    run(program)


def test_only_what_changed_is_said():
    pair = Pair()
    for key in KEYS:
        pair.want(key, 0)
    assert set(pair.follower.next_fetch().positions) == set(KEYS)
    pair.follower.lost()
    pair.fetch("well", set(), {})
    assert pair.follower.session_id != NO_SESSION
    pair.want(1, 0)
    pair.want(2, 5)
    pair.want(3, None)
    fetch = pair.follower.next_fetch()
    assert (fetch.positions, fetch.forgotten) == ({2: 5}, (3,))


def test_what_was_refused_is_said_again_in_the_same_session():
    pair = Pair()
    for key in KEYS:
        pair.want(key, 0)
    pair.fetch("well", set(), {})
    pair.want(1, 5)
    pair.want(2, None)
    pair.fetch("refused", set(), {3: 7})
    assert pair.follower.session_id != NO_SESSION
    fetch = pair.follower.next_fetch()
    assert (fetch.positions, fetch.forgotten) == ({1: 5, 3: 7}, (2,))


def test_a_leader_that_knows_no_sessions_gets_full_fetches():
    follower = FollowerSession()
    follower.want(1, 0)
    for _ in range(3):
        fetch = follower.next_fetch()
        assert (fetch.session_id, fetch.epoch, dict(fetch.positions)) == (0, FIRST_EPOCH, {1: 0})
        follower.answered(NO_SESSION)


def test_a_broker_has_one_session_and_its_former_incarnation_none():
    leader = FetchSessions(Random(1))
    first, ended = leader.begin(FOLLOWER, BROKER_EPOCH, 0)
    assert ended == ()
    second, ended = leader.begin(FOLLOWER, BROKER_EPOCH + 1, 0)
    assert ended == (first,)
    assert first.is_over
    assert not second.is_over
    with pytest.raises(FetchSessionIdNotFoundError):
        leader.resume(first.session_id, 1, FOLLOWER, BROKER_EPOCH)
    with pytest.raises(StaleBrokerEpochError):
        leader.begin(FOLLOWER, BROKER_EPOCH, 0)
    with pytest.raises(FetchSessionIdNotFoundError):
        leader.resume(second.session_id, 1, FOLLOWER, BROKER_EPOCH)
    with pytest.raises(FetchSessionIdNotFoundError):
        leader.resume(second.session_id, 1, 3, BROKER_EPOCH + 1)
    assert leader.resume(second.session_id, 1, FOLLOWER, BROKER_EPOCH + 1) is second


def test_sessions_are_bounded_and_those_in_use_stay():
    leader = FetchSessions(Random(1), limit=2)
    old, _ = leader.begin(2, 1, 0)
    leader.begin(3, 1, 1)
    assert leader.begin(4, 1, SESSION_IDLE_MS - 1) == (None, ())
    assert len(leader) == 2
    session, ended = leader.begin(4, 1, SESSION_IDLE_MS)
    assert session is not None
    assert ended == (old,)
    assert len(leader) == 2


def test_epochs_go_round_but_never_back_to_the_first():
    assert next_epoch(LAST_EPOCH) == FIRST_EPOCH + 1
    leader = FetchSessions(Random(1))
    session, _ = leader.begin(FOLLOWER, BROKER_EPOCH, 0)
    session.epoch = LAST_EPOCH
    leader.resume(session.session_id, LAST_EPOCH, FOLLOWER, BROKER_EPOCH)
    assert session.epoch == FIRST_EPOCH + 1


# --- planted bugs -------------------------------------------------------------------------------


def keep_the_session(self):
    """Planted: an unanswered fetch is taken for one that arrived."""


def forget_nothing(self, positions, forgotten):
    self.positions.update(positions)


def take_any_epoch(self, session_id, epoch, replica_id, broker_epoch):
    return self._by_replica[replica_id]


def say_nothing_again(self, key):
    """Planted: what the leader dropped is taken for known."""


@pytest.mark.parametrize(
    ("owner", "name", "bug"),
    [
        (FollowerSession, "lost", keep_the_session),
        (FollowerSession, "dropped", say_nothing_again),
        (FollowerSession, "refused", keep_the_session),
        (LeaderSession, "take", forget_nothing),
        (LeaderSession, "drop", lambda self, key: None),
        (FetchSessions, "resume", take_any_epoch),
        (fetch_session, "next_epoch", lambda epoch: epoch),
    ],
)
def test_planted_bugs_are_caught(monkeypatch, owner, name, bug):
    monkeypatch.setattr(owner, name, bug)
    random = Random(7)
    for _ in range(300):
        program = [planted_step(random) for _ in range(12)]
        try:
            run(program)
        except (AssertionError, KeyError, pytest.fail.Exception):
            return
    pytest.fail("nothing noticed it")


def planted_step(random):
    key = random.choice(KEYS)
    return random.choice(
        [
            ("want", key, random.randrange(4)),
            ("want", key, random.randrange(4)),
            ("forget", key),
            ("fetch", "well", {key} if random.random() < 0.3 else set(), {}),
            ("fetch", random.choice(["request lost", "answer lost", "sent twice"]), set(), {}),
            ("fetch", "refused", set(), {key: None} if random.random() < 0.5 else {}),
            ("leader restarts",),
        ]
    )
