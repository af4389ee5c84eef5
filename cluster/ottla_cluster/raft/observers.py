"""Nodes that follow the log without a vote: whom a leader keeps, and when an observer looks for it.

An observer announces itself to every voter that it knows, until a leader sends to it. Voters that
do not lead pass over it; the leader keeps its progress as that of a follower and sends it entries,
heartbeats and snapshots like to any other. Nothing that an observer answers counts: not for a
commit, nor for a read, nor for check-quorum (KIP-595 and KIP-853 keep observers in the same way;
Raft's dissertation calls them non-voting members, §4.2.1).

Only announcements make an observer known, so a leader forgets one that is silent or whose process
is gone, and a new leader starts with none. An observer notices within a few heartbeats that nobody
sends to it, and announces itself again. It need not wait as long as a voter: an announcement that
is not needed disturbs nobody.
"""

from typing import TYPE_CHECKING, Final

from ottla_cluster.raft.errors import RaftMessageRefusedError
from ottla_cluster.raft.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ottla_cluster.raft.config import RaftConfig

MISSED_HEARTBEATS: Final = 3
"""An observer that missed this many of its leader's heartbeats announces itself again."""


class Observers:
    """The observers of one leadership.

    Args:
        config: the node's settings.
    """

    __slots__ = ("_config", "_progress")

    def __init__(self, config: "RaftConfig") -> None:
        self._config = config
        self._progress: dict[int, Progress] = {}

    def __len__(self) -> int:
        return len(self._progress)

    @property
    def ids(self) -> tuple[int, ...]:
        """Every observer that is kept, ascending."""
        return tuple(sorted(self._progress))

    def all(self) -> "Iterable[Progress]":
        """The progress of each, in the order in which they came."""
        return self._progress.values()

    def get(self, observer_id: int) -> Progress | None:
        """The observer's progress; None for one that is not kept."""
        return self._progress.get(observer_id)

    def admit(self, observer_id: int, *, next_index: int, now_ms: int) -> Progress:
        """Keep an observer that announced itself, with nothing known of its log.

        One that is kept begins anew, for it may have lost its log: it announces itself only when it
        has heard of no leader for a while.

        Raises:
            RaftMessageRefusedError: there are `max_observers` others.
        """
        limit = self._config.max_observers
        if observer_id not in self._progress and len(self._progress) >= limit:
            raise RaftMessageRefusedError(
                f"node {observer_id} cannot observe: max_observers is {limit}, and that many do"
            )
        progress = Progress(
            observer_id,
            next_index=next_index,
            now_ms=now_ms,
            max_inflight_appends=self._config.max_inflight_appends,
        )
        self._progress[observer_id] = progress
        return progress

    def forget(self, observer_id: int) -> None:
        """Keep an observer no longer; no-op for one that is not kept."""
        self._progress.pop(observer_id, None)

    def expire(self, now_ms: int) -> None:
        """Forget every observer that was silent for `observer_timeout_ms`."""
        timeout_ms = self._config.observer_timeout_ms
        for progress in list(self._progress.values()):
            if now_ms - progress.last_contact_ms >= timeout_ms:
                self.forget(progress.follower_id)


class ObserverTimer:
    """When an observer announces itself next; in the place of a voter's `ElectionTimer`.

    Args:
        config: the node's settings.
        now_ms: the node's start: it announces itself at once.
    """

    __slots__ = ("_config", "_leader_contact_ms", "deadline_ms")

    def __init__(self, config: "RaftConfig", now_ms: int) -> None:
        self._config = config
        self._leader_contact_ms = now_ms
        self.deadline_ms = now_ms

    def restart(self, now_ms: int) -> None:
        """An announcement left: its answer has one heartbeat's time."""
        self.deadline_ms = now_ms + self._config.heartbeat_interval_ms

    def hasten(self, now_ms: int) -> None:
        """The leader's process is gone: look for the next one now."""
        self.deadline_ms = now_ms

    def heard_from_leader(self, now_ms: int) -> None:
        """The leader lives and knows this observer."""
        self._leader_contact_ms = now_ms
        self.deadline_ms = now_ms + MISSED_HEARTBEATS * self._config.heartbeat_interval_ms

    def is_leader_live(self, now_ms: int) -> bool:
        """Whether the leader was heard from within the shortest election timeout."""
        return now_ms - self._leader_contact_ms < self._config.election_timeout_min_ms
