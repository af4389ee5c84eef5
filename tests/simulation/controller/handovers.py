"""What the simulation knows of those whom a reassignment takes out of an ISR.

They may be led, or lead, as before until they have heard; so nobody goes before that, or before all
leases of that time are over, and nobody is waited for longer.
"""

from ottla_cluster.controller.commands import FinishReassignments, Heartbeat
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.controller.reassignment_handlers import is_handed_over
from ottla_cluster.controller.records import PartitionReassigned, UncleanLeaderElected


class Handovers:
    """Watches one history, whoever is the controller.

    Args:
        session_timeout_ms: how long a lease lasts.
    """

    def __init__(self, session_timeout_ms):
        self._session_timeout_ms = session_timeout_ms
        self._told = {}  # node id -> (broker epoch, version), the newest
        self._led = {}  # (topic id, partition, leader epoch) -> (index, since when)
        self._waiting_since_ms = {}  # (controller, topic id, partition, leader epoch) -> since when

    def told(self, command):
        """A command was accepted."""
        if isinstance(command, Heartbeat):
            known = self._told.get(command.node_id, (0, 0))
            heard = command.broker_epoch, command.applied_version
            self._told[command.node_id] = max(known, heard)

    def led(self, key, index, now_ms):
        """A leadership is committed."""
        self._led.setdefault(key, (index, now_ms))

    def check(self, image, command, now_ms):
        """Nobody leaves an ISR before it has heard who leads."""
        if not isinstance(command, FinishReassignments):
            return
        for each in command.partitions:
            topic = image.topics.get(each.topic_id)
            partition = None if topic is None else topic.partitions[each.partition]
            is_meant = partition is not None and partition.partition_epoch == each.partition_epoch
            if is_meant and is_handed_over(partition):
                self._check_leaving(image, partition, now_ms)

    def _check_leaving(self, image, partition, now_ms):
        key = partition.topic_id, partition.partition, partition.leader_epoch
        assert key in self._led, "ended under a leadership that may never be"
        index, since_ms = self._led[key]
        if now_ms - since_ms >= self._session_timeout_ms:
            return
        for node_id in partition.isr:
            broker = image.brokers[node_id]
            if node_id in partition.target_replicas or broker.state is BrokerState.FENCED:
                continue
            heard = self._told.get(node_id, (0, 0)) >= (broker.broker_epoch, index)
            assert heard, "out of the ISR before it has heard"

    def check_entry(self, former, changes, command):
        """Who leaves an ISR with the end of a reassignment leaves it by the command for that.

        Args:
            former: the partition before.
            changes: the records about it, in order.
            command: what they were decided on.
        """
        if isinstance(command, FinishReassignments):
            return
        isr, target = former.isr, former.target_replicas
        for record in changes:
            if isinstance(record, PartitionReassigned):
                if target and record.replicas == target and not record.target_replicas:
                    assert set(isr) <= set(record.isr), "out of the ISR before it has heard"
                target = record.target_replicas
            if isinstance(record, UncleanLeaderElected):
                # All others are given up, and with them what they know.
                isr = (record.leader,)
            isr = getattr(record, "isr", isr)

    def waiting(self, controller, image, now_ms):
        """Partitions whose reassignment this controller may not hold up any longer.

        One with a change on its way waits for that: the end names what is committed.
        """
        waiting = []
        for _, partition in image.all_partitions():
            if is_handed_over(partition):
                key = partition.topic_id, partition.partition, partition.leader_epoch
                since_ms = self._waiting_since_ms.setdefault((controller, *key), now_ms)
                topic = controller.speculative_image.topics.get(partition.topic_id)
                is_changing = topic is None or topic.partitions[partition.partition] != partition
                if now_ms - since_ms >= self._session_timeout_ms and not is_changing:
                    waiting.append(key)
        return waiting

    def check_ended(self, waiting, image):
        """They have ended, or are led by another by now."""
        for topic_id, number, leader_epoch in waiting:
            topic = image.topics.get(topic_id)
            partition = None if topic is None else topic.partitions[number]
            if partition is not None and partition.leader_epoch == leader_epoch:
                assert not is_handed_over(partition), "it waits for nobody"
