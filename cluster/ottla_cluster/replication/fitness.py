"""Whether a replica still holds what it has acknowledged, and when it does again.

The rule that everything here serves: a replica that lost records neither leads nor counts as in
sync before a leader has seen it hold all that is committed. The leader's own rule for the ISR is
that proof: it lets nobody in whose log does not reach the high watermark and the start of its epoch
(`replication.leader`). So a replica is whole again when it is in the ISR, provided that it was let
in after the leader knew how short its log had become. For that there is an order:

    damage_found    some of the log cannot be read; its end is whole, so it may lead until
                    another member of the ISR does
    cut             the log ends before the damage now
    leader_knows    the leader answered a fetch from the new end. A new process is new to every
                    leader, so one that comes back short begins here
    left_isr        the controller has it out of the ISR as of a partition epoch, and refuses what
                    was proposed before it
    observed        in the ISR, at a later partition epoch: refilled

The only replica of a partition has nobody to be refilled from: it is fit whatever it lost. So is
one that leads by an unclean election: that made its log the partition's.
"""

from collections.abc import Collection


class ReplicaFitness:
    """One replica, from when its log was opened."""

    def __init__(self, node_id: int, *, lost_tail: bool) -> None:
        """Begin with a log as it was opened.

        Args:
            node_id: the replica's broker.
            lost_tail: the log ends below where it is known to have ended.
        """
        self._node_id = node_id
        self._lost_tail = lost_tail
        self._damaged = False
        self._leader_knows = lost_tail
        self.losses = 0
        """How often the log was cut, so that an answer to what was told before is known by that."""
        # The partition epoch at which the controller took it out of the ISR, once it has.
        self._out_at_epoch: int | None = None
        # What the metadata showed last: it may come before the controller's answer.
        self._seen_isr: frozenset[int] = frozenset()
        self._seen_epoch = -1

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self._lost_tail and not self._damaged

    @property
    def lost_tail(self) -> bool:
        """Whether the log ends below where it ended: as leader it would have others cut theirs."""
        return self._lost_tail

    @property
    def is_damaged(self) -> bool:
        """Whether some of the log cannot be read, so that a follower has to cut it there."""
        return self._damaged

    def must_report(self, isr: Collection[int], leader: int | None) -> bool:
        """Whether the controller has to be told, again if it was told in vain.

        A leader with damage gives its leadership up when there is another member; as a follower it
        cuts its log first, so that its leader knows what it has before it leaves the ISR. One that
        lacks its end and is made the leader says so each time: nobody leads while it stands aside.
        """
        if self._lost_tail:
            if leader == self._node_id:
                return self._out_at_epoch is None or self._seen_epoch > self._out_at_epoch
            return self._leader_knows and self._out_at_epoch is None
        return self._damaged and leader == self._node_id and len(isr) > 1

    def damage_found(self) -> bool:
        """Some of the log cannot be read; False when that was known."""
        known, self._damaged = self._damaged, True
        return not known

    def cut(self) -> None:
        """The log was cut before the damage."""
        self.losses += 1
        self._damaged = False
        self._lost_tail = True
        self._leader_knows = False
        self._out_at_epoch = None

    def leader_answered(self) -> None:
        """The leader took a fetch from the end of the log as it is.

        An answer that the logs diverge is none: the leader has not taken that end for anything.
        """
        self._leader_knows = True

    def left_isr(self, partition_epoch: int, losses: int) -> bool:
        """The controller has the replica out of the ISR as of this epoch.

        Args:
            partition_epoch: of the partition without the replica.
            losses: as they were when the controller was told.

        Returns:
            True when the replica is whole again: the metadata showed it in the ISR at a later
            epoch before this answer was heard.
        """
        told_all = losses == self.losses and not self._damaged
        if self._lost_tail and self._leader_knows and told_all:
            self._out_at_epoch = partition_epoch
        return self._is_refilled()

    def observe(self, isr: Collection[int], partition_epoch: int) -> bool:
        """The metadata shows this ISR; True when that makes the replica whole again."""
        self._seen_isr, self._seen_epoch = frozenset(isr), partition_epoch
        return self._is_refilled()

    def accepted_as_it_is(self) -> None:
        """An unclean election made this replica the leader: what it lost is given up.

        From here on its log is what the partition is, so nothing is missing from it. Damage within
        the log stays damage.
        """
        self._lost_tail = False
        self._leader_knows = False
        self._out_at_epoch = None

    def _is_refilled(self) -> bool:
        if (
            self._lost_tail
            and not self._damaged
            and self._out_at_epoch is not None
            and self._seen_epoch > self._out_at_epoch
            and self._node_id in self._seen_isr
        ):
            self._lost_tail = False
            self._out_at_epoch = None
            return True
        return False
