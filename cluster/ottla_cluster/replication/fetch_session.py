"""Fetch sessions between a follower's broker and a leader's: only what changed is said (KIP-227).

A broker follows hundreds of partitions at another, and nothing happens to most of them. So both
sides remember what the follower wants of each. A fetch names the partitions of which it wants
something else than before, and those that it wants no more; the leader answers for those that it
has news of. A fetch that names nothing stands for all of them: it says that the follower still has
what it had, and still asks from there.

That is sound because both sides know how far the other is. Fetches of a session are numbered, one
is under way at a time, and each must have the number that the leader expects. Whatever breaks that
(a lost answer, a restart of either side, a fetch that was sent twice) ends the session, and the
follower begins another by a full fetch, which says everything again. Nothing has to be repaired.

What the leader answers with anything but records (an error, a divergence, a log that must begin
anew) leaves the session, since the follower has to change something first, and then says so.

A follower that knows no sessions says nothing of them, and every fetch of it is a full one; a
leader that knows none ignores what is said of them and answers without a session.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from ottla_protocol.errors import (
    FetchSessionIdNotFoundError,
    InvalidFetchSessionEpochError,
    StaleBrokerEpochError,
)

if TYPE_CHECKING:
    from random import Random

NO_SESSION = 0
"""The session id of whoever has none."""

NO_SESSION_EPOCH = -1
"""The epoch of a full fetch that does not ask for a session."""

FIRST_EPOCH = 0
"""The epoch of the full fetch that begins a session."""

LAST_EPOCH = (1 << 31) - 1
"""After this one the epochs go on with FIRST_EPOCH + 1."""

MAX_FETCH_SESSIONS = 256
"""How many brokers may have a session with one leader: each broker has one at a time."""

SESSION_IDLE_MS = 120_000
"""How long a session must not have been used before another may take its place."""

Key = TypeVar("Key", bound=Hashable)
Position = TypeVar("Position")


def next_epoch(epoch: int) -> int:
    """The number of the fetch after one."""
    return FIRST_EPOCH + 1 if epoch >= LAST_EPOCH else epoch + 1


@dataclass(frozen=True, slots=True)
class SessionFetch(Generic[Key, Position]):
    """What a follower says in one fetch."""

    session_id: int
    epoch: int
    positions: Mapping[Key, Position]
    """Full or changed positions."""
    forgotten: tuple[Key, ...]
    """Partitions to leave out from now on."""


class FollowerSession(Generic[Key, Position]):
    """The follower's side: what it wants of one leader, and what it has said of that.

    The driver changes what is wanted at any time, takes the next fetch with `next_fetch` when none
    is under way, and reports its end with `answered`, `refused` or `lost`.
    """

    def __init__(self) -> None:
        self._session_id = NO_SESSION
        self._epoch = FIRST_EPOCH
        self._wanted: dict[Key, Position] = {}
        # What the leader has been told, as far as it still counts.
        self._said: dict[Key, Position] = {}
        # Partitions of which the leader has to be told something; ordered as they changed.
        self._changed: dict[Key, None] = {}
        # Those that the fetch under way tells of, with what the leader was told before.
        self._telling: dict[Key, Position | None] = {}

    @property
    def session_id(self) -> int:
        """The present session, or NO_SESSION."""
        return self._session_id

    @property
    def is_empty(self) -> bool:
        """Whether nothing is wanted."""
        return not self._wanted

    def said(self, key: Key) -> Position | None:
        """The position that the leader's answers are for; None where it was told none."""
        return self._said.get(key)

    def want(self, key: Key, position: Position) -> None:
        """Ask for a partition from `position` on from now on."""
        self._wanted[key] = position
        if self._said.get(key) != position:
            self._changed[key] = None

    def forget(self, key: Key) -> None:
        """Ask for a partition no more."""
        if self._wanted.pop(key, None) is not None:
            self._changed[key] = None

    def dropped(self, key: Key) -> None:
        """The leader's answer took a partition out: say it again, if it is still wanted."""
        self._said.pop(key, None)
        if key in self._wanted:
            self._changed[key] = None

    def next_fetch(self) -> SessionFetch[Key, Position]:
        """What to send now."""
        if self._session_id == NO_SESSION:
            self._changed.clear()
            self._telling = {}
            self._said = dict(self._wanted)
            return SessionFetch(NO_SESSION, FIRST_EPOCH, self._said, ())
        positions = {key: self._wanted[key] for key in self._changed if key in self._wanted}
        forgotten = tuple(
            key for key in self._changed if key not in self._wanted and key in self._said
        )
        self._changed.clear()
        self._telling = {key: self._said.get(key) for key in (*positions, *forgotten)}
        self._said.update(positions)
        for key in forgotten:
            del self._said[key]
        return SessionFetch(self._session_id, self._epoch, positions, forgotten)

    def answered(self, session_id: int) -> None:
        """The leader has taken the fetch, and says under which session it remembers it."""
        if session_id == NO_SESSION or session_id != self._session_id:
            self._epoch = FIRST_EPOCH
        self._session_id = session_id
        self._epoch = next_epoch(self._epoch)

    def refused(self) -> None:
        """The leader certainly has not taken the fetch: the next one says all of it again."""
        for key, position in self._telling.items():
            if position is None:
                self._said.pop(key, None)
            else:
                self._said[key] = position
            self._changed[key] = None
        self._telling = {}

    def lost(self) -> None:
        """Nobody knows whether the leader has taken the fetch: the next one says everything."""
        self._session_id = NO_SESSION
        self._epoch = FIRST_EPOCH
        self._said.clear()
        self._telling = {}


@dataclass(slots=True)
class LeaderSession(Generic[Key, Position]):
    """The leader's side of one session: whose it is, and what is wanted in it."""

    session_id: int
    replica_id: int
    broker_epoch: int
    last_fetch_ms: int
    """When the follower used it last: it still had, and asked from, every position in here."""
    epoch: int = FIRST_EPOCH + 1
    """Of the next fetch."""
    is_over: bool = False
    positions: dict[Key, Position] = field(default_factory=dict)

    def take(self, positions: Mapping[Key, Position], forgotten: Iterable[Key]) -> None:
        """What a fetch says."""
        for key in forgotten:
            self.positions.pop(key, None)
        self.positions.update(positions)

    def drop(self, key: Key) -> None:
        """The partition was answered with something else than records."""
        self.positions.pop(key, None)


class FetchSessions(Generic[Key, Position]):
    """All sessions of one leader broker: at most one for each follower's broker.

    Args:
        random: for session ids, so that one of a former process means nothing here.
        limit: how many there may be.
    """

    def __init__(self, random: "Random", *, limit: int = MAX_FETCH_SESSIONS) -> None:
        self._random = random
        self._limit = limit
        self._by_replica: dict[int, LeaderSession[Key, Position]] = {}

    def __len__(self) -> int:
        return len(self._by_replica)

    def of(self, replica_id: int) -> LeaderSession[Key, Position] | None:
        """The session of a follower's broker, if it has one."""
        return self._by_replica.get(replica_id)

    def begin(
        self, replica_id: int, broker_epoch: int, now_ms: int
    ) -> tuple[LeaderSession[Key, Position] | None, tuple[LeaderSession[Key, Position], ...]]:
        """A full fetch asks for a session.

        Returns:
            The session, None where there is no room for one, and the sessions that it ends.

        Raises:
            StaleBrokerEpochError: a newer incarnation of the broker has a session.
        """
        ended = []
        former = self._by_replica.get(replica_id)
        if former is not None:
            if broker_epoch < former.broker_epoch:
                raise StaleBrokerEpochError(
                    f"broker {replica_id} fetched with broker epoch {broker_epoch},"
                    f" older than {former.broker_epoch}"
                )
            ended.append(self._end(former))
        elif len(self._by_replica) >= self._limit:
            oldest = min(self._by_replica.values(), key=lambda session: session.last_fetch_ms)
            if now_ms - oldest.last_fetch_ms < SESSION_IDLE_MS:
                return None, ()
            ended.append(self._end(oldest))
        session: LeaderSession[Key, Position] = LeaderSession(
            self._new_id(), replica_id, broker_epoch, now_ms
        )
        self._by_replica[replica_id] = session
        return session, tuple(ended)

    def resume(
        self, session_id: int, epoch: int, replica_id: int, broker_epoch: int
    ) -> LeaderSession[Key, Position]:
        """A fetch of a session: the next one of it, or it is refused and the session is of no use.

        Raises:
            FetchSessionIdNotFoundError: there is no such session of that broker's incarnation.
            InvalidFetchSessionEpochError: it is not the fetch that comes next.
        """
        session = self._by_replica.get(replica_id)
        if (
            session is None
            or session.session_id != session_id
            or session.broker_epoch != broker_epoch
        ):
            raise FetchSessionIdNotFoundError(
                f"broker {replica_id} has no fetch session {session_id} here"
            )
        if session.epoch != epoch:
            raise InvalidFetchSessionEpochError(
                f"fetch {epoch} of a session came where {session.epoch} was to come"
            )
        session.epoch = next_epoch(epoch)
        return session

    def _end(self, session: LeaderSession[Key, Position]) -> LeaderSession[Key, Position]:
        session.is_over = True
        del self._by_replica[session.replica_id]
        return session

    def _new_id(self) -> int:
        return self._random.getrandbits(62) + NO_SESSION + 1
