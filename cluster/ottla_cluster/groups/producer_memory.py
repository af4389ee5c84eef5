"""Which producers' last markers a coordinator may forget.

A marker is remembered for as long as something of its transaction may be on its way, counted by the
monotonic clock from when this coordinator first saw it. A new coordinator counts anew, so a wall
clock that jumps, or a failover, forgets nothing too early.
"""

from ottla_cluster.groups.image import GroupsImage
from ottla_cluster.groups.limits import ENDED_PRODUCER_MEMORY_MS, MAX_PRODUCERS_PER_COMMAND
from ottla_cluster.groups.records import ProducerEnded
from ottla_cluster.groups.transaction_commands import ForgetProducers

LOOK_INTERVAL_MS = 60_000
"""How often the markers are looked through."""


class ProducerMemory:
    """The ages of the markers that one coordinator remembers.

    Args:
        now_ms: the monotonic clock.
    """

    def __init__(self, now_ms: int) -> None:
        self._next_look_ms = now_ms
        # The markers as they were seen last, and since when.
        self._seen: dict[int, tuple[ProducerEnded, int]] = {}

    def due(self, image: GroupsImage, now_ms: int) -> tuple[ForgetProducers, ...]:
        """The command that forgets the oldest of them; none while none is old enough."""
        if now_ms < self._next_look_ms:
            return ()
        self._next_look_ms = now_ms + LOOK_INTERVAL_MS
        former = self._seen
        self._seen = {
            producer_id: known
            if (known := former.get(producer_id)) is not None and known[0] == ended
            else (ended, now_ms)
            for producer_id, ended in image.ended.items()
        }
        old = [
            (producer_id, ended.producer_epoch)
            for producer_id, (ended, since_ms) in self._seen.items()
            if now_ms - since_ms >= ENDED_PRODUCER_MEMORY_MS
        ]
        if not old:
            return ()
        if len(old) > MAX_PRODUCERS_PER_COMMAND:
            self._next_look_ms = now_ms  # The rest comes with the next call.
        return (ForgetProducers(tuple(old[:MAX_PRODUCERS_PER_COMMAND])),)
