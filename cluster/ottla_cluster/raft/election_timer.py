"""When a voter that hears of no leader campaigns, and how long it stays true to the last one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.raft.config import RaftConfig

HASTENED_TIMEOUT_DIVISOR = 4
"""When a voter is known to be gone, campaigns begin within this part of the shortest timeout."""


class ElectionTimer:
    """One voter's timer; every deadline is drawn anew, so that voters seldom campaign together.

    Args:
        config: the node's settings.
        random: draws the timeouts.
        now_ms: the node's start.
        is_alone: whether this node is the only voter, and need not look for a leader first.
    """

    __slots__ = ("_config", "_leader_contact_ms", "_random", "deadline_ms")

    def __init__(
        self, config: "RaftConfig", random: "Random", now_ms: int, *, is_alone: bool
    ) -> None:
        self._config = config
        self._random = random
        self._leader_contact_ms = now_ms
        self.deadline_ms = now_ms
        if not is_alone:
            self._start(now_ms)

    def _start(self, now_ms: int) -> None:
        """Wait less than usual for a leader after a start: long enough to hear a living one.

        Voters of a new cluster start together and need not wait out a timeout that is meant for
        noticing a leader's death. Where a leader lives, the others refuse the pre-vote.
        """
        self.deadline_ms = now_ms + self._random.randint(
            2 * self._config.heartbeat_interval_ms,
            max(2 * self._config.heartbeat_interval_ms, self._config.election_timeout_min_ms),
        )

    def restart(self, now_ms: int) -> None:
        """Wait a whole timeout from now."""
        self.deadline_ms = now_ms + self._random.randint(
            self._config.election_timeout_min_ms, self._config.election_timeout_max_ms
        )

    def hasten(self, now_ms: int) -> None:
        """A voter is known to be gone: campaign soon."""
        longest_ms = self._config.election_timeout_min_ms // HASTENED_TIMEOUT_DIVISOR
        self.deadline_ms = now_ms + self._random.randint(0, longest_ms)

    def heard_from_leader(self, now_ms: int) -> None:
        """The leader lives: wait a whole timeout from now."""
        self._leader_contact_ms = now_ms
        self.restart(now_ms)

    def is_leader_live(self, now_ms: int) -> bool:
        """Whether the leader was heard from within the shortest timeout."""
        return now_ms - self._leader_contact_ms < self._config.election_timeout_min_ms
