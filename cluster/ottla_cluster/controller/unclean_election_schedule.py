"""When the controller elects a leader from outside the ISR by itself.

A member of the ISR that is merely restarting loses nothing, so it gets a session's time to come
back before a partition is given to a replica that may lack records. Volatile, as sessions are: a
new controller waits anew.
"""

from ottla_cluster.controller.commands import ElectUnclean, UncleanElection
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.limits import MAX_UNCLEAN_ELECTIONS
from ottla_cluster.controller.unclean_election_handlers import may_be_elected_uncleanly

CHECK_INTERVAL_MS = 500
"""How often all partitions are looked at."""


class UncleanElectionSchedule:
    """Watches partitions that have no leader, and whose topics allow any replica to lead.

    Args:
        patience_ms: how long a partition waits for a member of its ISR.
        now_ms: the start of the controller's leadership.
    """

    def __init__(self, patience_ms: int, now_ms: int) -> None:
        self._patience_ms = patience_ms
        self._next_check_ms = now_ms
        # Since when each is without a leader, with the leader epoch of that: at most as many as
        # there are partitions.
        self._since_ms: dict[tuple[str, int, int], int] = {}

    def due(self, image: MetadataImage, now_ms: int) -> ElectUnclean | None:
        """The elections whose time has come; again at each check until they are done."""
        if now_ms < self._next_check_ms:
            return None
        self._next_check_ms = now_ms + CHECK_INTERVAL_MS
        since_ms: dict[tuple[str, int, int], int] = {}
        elections: list[UncleanElection] = []
        for partition in may_be_elected_uncleanly(image):
            key = (partition.topic_id, partition.partition, partition.leader_epoch)
            since_ms[key] = self._since_ms.get(key, now_ms)
            if now_ms - since_ms[key] >= self._patience_ms:
                elections.append(UncleanElection(partition.topic, partition.partition))
        self._since_ms = since_ms
        if not elections:
            return None
        return ElectUnclean(tuple(elections[:MAX_UNCLEAN_ELECTIONS]), by_controller=True)
