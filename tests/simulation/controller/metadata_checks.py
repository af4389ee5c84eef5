"""What must hold of a controller's decisions: looked at with every command and every entry."""

from ottla_cluster.controller.commands import (
    AddPartitions,
    AlterPartition,
    AlterReassignments,
    Heartbeat,
    RegisterBroker,
)
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.controller.reassignment_handlers import is_handed_over
from ottla_cluster.controller.records import (
    PartitionChanged,
    PartitionDirectoryAwaited,
    PartitionReassigned,
    UncleanLeaderElected,
)
from ottla_cluster.controller.topic_configs import (
    UNCLEAN_LEADER_ELECTION_ENABLE,
    boolean_config,
)
from ottla_protocol.errors import TopicAlreadyExistsError

CHANGES = PartitionChanged | PartitionReassigned | UncleanLeaderElected | PartitionDirectoryAwaited
"""What raises a partition's epoch."""


class MetadataChecks:
    """The part of a simulation that asserts; see `controller_simulation`."""

    def _check_refusal(self, command, error):
        """A refusal that does not wait must be true of what is committed."""
        if isinstance(error, TopicAlreadyExistsError):
            twin = command.name.replace("_", ".")
            names = {name.replace("_", ".") for name in self.controller.committed_image.topic_ids}
            assert twin in names, "refused because of a topic that may never exist"

    def _check_accepted(self, before, command):
        if isinstance(command, AlterPartition):
            self.counts["altered"] += 1
            now = before.partition_by_id(command.topic_id, command.partition)
            assert command.node_id == now.leader
            assert command.leader_epoch == now.leader_epoch
            assert command.partition_epoch == now.partition_epoch, "compare-and-set lost a change"
            for member in command.new_isr:
                broker = before.brokers[member.node_id]
                assert broker.broker_epoch == member.broker_epoch
                assert broker.state is not BrokerState.FENCED
                if member.node_id not in now.isr:
                    assert broker.state is BrokerState.ACTIVE
        self.handovers.check(before, command, self.now_ms)
        if isinstance(command, Heartbeat):
            broker = before.brokers[command.node_id]
            if broker.state is BrokerState.FENCED:
                assert command.applied_version >= broker.fenced_version

    def _check_image(self, image):
        for topic, partition in image.all_partitions():
            assert partition.topic == topic.name
            assert partition.isr
            if partition.leader is not None:
                assert partition.leader in partition.isr
                assert image.brokers[partition.leader].state is not BrokerState.FENCED
                for member in partition.isr:
                    assert image.brokers[member].state is not BrokerState.FENCED
            else:
                is_awaited = partition.awaited_directory_id is not None
                is_there = any(image.is_active(n) for n in partition.isr)
                assert is_awaited or not is_there, "it could be led"
            self._check_reassignment(image, partition)
        names = [topic.name.replace("_", ".") for topic in image.topics.values()]
        assert len(set(names)) == len(names)
        assert {t.name: t.topic_id for t in image.topics.values()} == dict(image.topic_ids)
        epochs = [broker.broker_epoch for broker in image.brokers.values()]
        assert len(set(epochs)) == len(epochs)
        assert image.next_broker_epoch > max(epochs, default=0)

    def _check_reassignment(self, image, partition):
        if not partition.is_reassigning:
            assert not partition.adding_replicas
            return
        assert set(partition.replicas) == {*partition.former_replicas, *partition.target_replicas}
        if is_handed_over(partition):
            assert not set(partition.isr) <= set(partition.target_replicas), "it could have ended"
        elif set(partition.target_replicas) <= set(partition.isr) and partition.leader is not None:
            heirs = [n for n in partition.target_replicas if image.is_active(n)]
            assert not heirs, "it could have handed over"

    def _check_entry(self, before, entry, records):
        after = self.replica
        self.before_entry = before
        self._check_image(after)
        for node_id, broker in before.brokers.items():
            assert after.brokers[node_id].broker_epoch >= broker.broker_epoch
        for topic_id in set(after.topics) - set(before.topics):
            assert topic_id not in {key[0] for key in self.leaderships}, "a topic id came back"
        for topic_id, topic in after.topics.items():
            former = before.topics.get(topic_id)
            known = () if former is None else former.partitions
            assert len(topic.partitions) >= len(known)
            if 0 < len(known) < len(topic.partitions):
                assert isinstance(entry.command, AddPartitions)
                assert topic.former_partition_counts[-1] == len(known)
                self.counts["grown"] += 1
            for partition in topic.partitions:
                self._note_leadership(after, partition)
            for old, now in zip(known, topic.partitions, strict=False):
                self._check_awaited(old, now, entry)
                if old != now:
                    self._check_change(old, now, entry, records)

    def _note_leadership(self, image, partition):
        """One incarnation of one broker leads in one leader epoch, over all of history."""
        key = (partition.topic_id, partition.partition, partition.leader_epoch)
        leader = partition.leader
        self.handovers.led(key, image.version, self.now_ms)
        holder = (leader, None if leader is None else image.brokers[leader].broker_epoch)
        assert self.leaderships.setdefault(key, holder) == holder, "two leaders in one epoch"

    def _note_producer_ids(self, block):
        """No id is ever given twice, whoever leads."""
        ids = set(range(block.first_producer_id, block.first_producer_id + block.count))
        assert ids
        assert not self.producer_ids & ids, "a producer id came back"
        self.producer_ids |= ids
        self.counts["blocks"] += 1

    def _check_change(self, former, now, entry, records):
        key = (now.topic_id, now.partition)
        changes = [
            record
            for record in records
            if isinstance(record, CHANGES) and (record.topic_id, record.partition) == key
        ]
        assert now.partition_epoch == former.partition_epoch + len(changes)
        in_sync = set(former.isr)
        if isinstance(entry.command, AlterPartition):
            in_sync |= {member.node_id for member in entry.command.new_isr}
        for record in changes:
            if isinstance(record, UncleanLeaderElected):
                self._check_unclean_election(former, record)
                in_sync = {record.leader}
        assert set(now.isr) <= in_sync, "only a leader knows who is in sync"
        assert now.leader_epoch >= former.leader_epoch
        if now.leader != former.leader:
            assert now.leader_epoch > former.leader_epoch
            assert now.leader is None or now.leader in in_sync, "an unclean election"
            self.counts["elected"] += 1
        self._check_replicas(former, now, entry, in_sync)
        self.handovers.check_entry(former, changes, entry.command)

    def _check_unclean_election(self, former, record):
        """Where the topic allows it, and nobody who is in sync leads or could."""
        topic = self.before_entry.topics[former.topic_id]
        allowed = boolean_config(topic.configs, UNCLEAN_LEADER_ELECTION_ENABLE)
        assert allowed, "an unclean election that the topic forbids"
        assert former.leader is None, "an unclean election beside a leader"
        is_there = any(self.before_entry.is_active(n) for n in former.isr)
        assert former.awaited_directory_id is not None or not is_there, "needless"
        assert record.leader in former.replicas
        assert self.before_entry.is_active(record.leader), "elected who is not there"
        self.counts["unclean"] += 1

    def _check_awaited(self, former, now, entry):
        """Nobody leads without the log of the last member, until it is back or given up."""
        command = entry.command
        is_told = isinstance(command, RegisterBroker) and former.isr == (command.node_id,)
        before, after = former.awaited_directory_id, now.awaited_directory_id
        if is_told and after is None and len(now.replicas) > 1:
            known = self.before_entry.brokers[command.node_id].directory_id
            assert command.directory_id == (before or known), "its log is elsewhere"
        if is_told and before == command.directory_id:
            assert after is None, "its log is back"
        if before == after:
            return
        if after is None and now.unclean_leader_epoch != former.unclean_leader_epoch:
            return
        assert is_told
        if after is None:
            assert command.directory_id == before
            self.counts["returned"] += 1
        else:
            assert before is None, "another directory has what counts"
            assert after == self.before_entry.brokers[command.node_id].directory_id
            self.counts["awaited"] += 1

    def _check_replicas(self, former, now, entry, in_sync):
        """Replicas are added and removed by reassignments alone, and removed at their end alone."""
        asked = isinstance(entry.command, AlterReassignments)
        if now.is_reassigning:
            assert asked or now.target_replicas == former.target_replicas
            assert set(now.replicas) == {*former.former_replicas, *now.target_replicas}
            self.counts["reassigning"] += now.target_replicas != former.target_replicas
        elif now.replicas != former.replicas or former.is_reassigning:
            wanted = former.target_replicas
            if asked:
                wanted = next(
                    each.replicas
                    for each in entry.command.reassignments
                    if (each.topic, each.partition) == (now.topic, now.partition)
                )
            if now.replicas == former.former_replicas and wanted in {None, now.replicas}:
                self.counts["called_off"] += 1
                return
            assert now.replicas == wanted
            assert set(wanted) <= in_sync, "switched to a replica that is not in sync"
            assert set(now.isr) == set(wanted)
            self.counts["reassigned"] += 1
        else:
            assert now.replicas == former.replicas
