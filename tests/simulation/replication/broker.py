"""A simulated broker: a log on a disk that forgets what was not synced, around the real machines.

It does what the driver of a real broker does, and in its order: reject by epoch and lease, ask the
pure machines, change the log, and tell the machines only what is durable. Methods are small so that
a mutant replaces one rule.
"""

from ottla_cluster.replication.follower import PartitionFollower, check_divergence
from ottla_cluster.replication.leader import LeaderOutput, PartitionLeader
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_cluster.replication.lease import BrokerLease
from ottla_protocol.errors import StaleBrokerEpochError

CONTROLLER = 0
"""The node id of the controller on the simulated network."""

SESSION_TIMEOUT_MS = 300
HEARTBEAT_INTERVAL_MS = 100
REPLICA_LAG_TIME_MAX_MS = 150
FETCH_TIMEOUT_MS = 90
PROPOSAL_TIMEOUT_MS = 150
MAX_FETCH_RECORDS = 3


class Broker:
    leader_class = PartitionLeader
    follower_class = PartitionFollower
    lease_class = BrokerLease
    check_divergence = staticmethod(check_divergence)

    def __init__(self, world, broker_id: int) -> None:
        self.world = world
        self.id = broker_id
        # The disk: (leader epoch, value) per record; all below `synced` survives a power loss.
        self.log: list[tuple[int, int]] = []
        self.epochs = LeaderEpochs.empty()
        self.synced = 0
        self.checkpointed_high_watermark = 0
        self.metadata_on_disk = None
        self.incarnation = 0
        self.alive = False
        self.paused_until_ms = 0
        self.start()

    # --- process --------------------------------------------------------------------------------

    def start(self) -> None:
        """A process starts on the disk as it is."""
        self.alive = True
        self.paused_until_ms = 0
        self.synced = len(self.log)
        self.high_watermark = min(self.checkpointed_high_watermark, len(self.log))
        self.broker_epoch: int | None = None
        self.metadata = None
        self.lease = self.lease_class(SESSION_TIMEOUT_MS)
        self.leader: PartitionLeader | None = None
        self.follower: PartitionFollower | None = None
        self.fetch_sent_ms: int | None = None
        self.proposal = None
        self.proposal_sent_ms = 0
        self.heartbeat_sent_ms = -HEARTBEAT_INTERVAL_MS
        # Offsets and the records that were appended there, acks=all.
        self.awaiting_ack: list[tuple[int, tuple[int, int]]] = []
        if self.metadata_on_disk is not None:
            self.on_metadata(self.id, self.metadata_on_disk)

    def stop(self, kept: int) -> None:
        """The process ends; of what was not synced, `kept` records happen to be on the disk."""
        self.alive = False
        self.truncate(self.synced + kept)
        self.synced = len(self.log)
        self.leader = self.follower = None
        self.incarnation += 1

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        assert not self.alive
        self.log = []
        self.epochs = LeaderEpochs.empty()
        self.synced = 0
        self.checkpointed_high_watermark = 0

    # --- disk -----------------------------------------------------------------------------------

    def append(self, record: tuple[int, int]) -> None:
        self.epochs = self.epochs.assign(record[0], len(self.log))
        self.log.append(record)

    def truncate(self, end: int) -> None:
        del self.log[end:]
        self.epochs = self.epochs.truncate_to(end)
        self.synced = min(self.synced, end)
        self.forget_acks_from(end)

    def forget_acks_from(self, end: int) -> None:
        """Whoever waits for what is cut is told that its outcome is unknown."""
        self.awaiting_ack = [waiting for waiting in self.awaiting_ack if waiting[0] < end]

    def sync(self) -> None:
        """Make the log durable, then tell the machines: never the other way round."""
        if self.synced == len(self.log):
            return
        self.synced = len(self.log)
        self.log_is_durable()

    def log_is_durable(self) -> None:
        if self.leader is not None:
            self.lead_on(self.leader.local_log_end_moved(self.synced, self.world.now_ms))
        elif self.follower is not None:
            self.follow_on(self.follower.log_changed(self.synced, self.epochs))
            self.send_fetch()

    # --- timers ---------------------------------------------------------------------------------

    def tick(self) -> None:
        now_ms = self.world.now_ms
        if self.broker_epoch is None:
            self.world.send("register", self.id, CONTROLLER, (self.incarnation,))
            return
        if now_ms - self.heartbeat_sent_ms >= HEARTBEAT_INTERVAL_MS:
            self.heartbeat_sent_ms = now_ms
            version = self.metadata.version if self.metadata is not None else 0
            self.world.send("heartbeat", self.id, CONTROLLER, (self.broker_epoch, version, now_ms))
        if self.leader is not None and self.may_act():
            if self.proposal is not None and (
                now_ms - self.proposal_sent_ms >= PROPOSAL_TIMEOUT_MS
            ):
                proposal, self.proposal = self.proposal, None
                self.lead_on(self.leader.proposal_failed(proposal, now_ms, refused=False))
            self.lead_on(self.leader.tick(now_ms, self.metadata.eligible))
        elif self.follower is not None and (
            self.fetch_sent_ms is None or now_ms - self.fetch_sent_ms >= FETCH_TIMEOUT_MS
        ):
            self.send_fetch()

    def may_act(self) -> bool:
        """Whether this broker may act on what it believes to lead."""
        return not self.world.options.enforce_lease or self.lease.valid(self.world.now_ms)

    # --- controller's answers -------------------------------------------------------------------

    def on_registered(self, _src: int, incarnation: int, broker_epoch: int) -> None:
        if incarnation == self.incarnation and self.broker_epoch is None:
            self.broker_epoch = broker_epoch

    def on_heartbeat_answer(self, _src, broker_epoch, sent_at_ms, unfenced, metadata) -> None:
        if broker_epoch != self.broker_epoch:
            return
        self.on_metadata(CONTROLLER, metadata)
        if unfenced:
            self.lease.confirmed(sent_at_ms)
        else:
            self.lease.revoked()

    def on_metadata(self, _src: int, metadata) -> None:
        """Take a newer image, but only one that knows this incarnation."""
        if metadata.broker_epochs[self.id] != self.broker_epoch:
            return
        if self.metadata is not None and metadata.version <= self.metadata.version:
            return
        self.metadata = self.metadata_on_disk = metadata
        if metadata.leader == self.id:
            if self.leader is not None and self.leader.leader_epoch == metadata.leader_epoch:
                output = self.leader.partition_changed(
                    metadata.isr, metadata.partition_epoch, self.world.replicas, self.world.now_ms
                )
                if metadata.partition_epoch > self.proposal_partition_epoch():
                    self.proposal = None
                self.lead_on(output)
            else:
                self.become_leader(metadata)
        elif metadata.leader is None:
            self.resign()
        elif self.follower is None or self.follower.leader_epoch != metadata.leader_epoch:
            self.become_follower(metadata)

    def proposal_partition_epoch(self) -> int:
        return self.proposal.partition_epoch if self.proposal is not None else -1

    def on_altered(self, _src: int, proposal, partition_epoch: int | None) -> None:
        if self.leader is None or proposal.leader_epoch != self.leader.leader_epoch:
            return
        if not self.may_act():
            return
        if proposal == self.proposal:
            self.proposal = None
        now_ms = self.world.now_ms
        if partition_epoch is None:
            self.lead_on(self.leader.proposal_failed(proposal, now_ms, refused=True))
        else:
            self.lead_on(self.leader.proposal_accepted(proposal, partition_epoch, now_ms))

    # --- roles ----------------------------------------------------------------------------------

    def resign(self) -> None:
        self.sync()
        self.leader = self.follower = None
        self.proposal = None
        self.fetch_sent_ms = None

    def become_leader(self, metadata) -> None:
        self.resign()
        self.epochs = self.epochs.assign(metadata.leader_epoch, len(self.log))
        self.world.leads(self, metadata.leader_epoch)
        self.leader = self.leader_class(
            local_id=self.id,
            leader_epoch=metadata.leader_epoch,
            partition_epoch=metadata.partition_epoch,
            replicas=self.world.replicas,
            isr=metadata.isr,
            epoch_start_offset=len(self.log),
            log_end_offset=len(self.log),
            high_watermark=self.high_watermark,
            min_insync_replicas=self.world.min_isr,
            replica_lag_time_max_ms=REPLICA_LAG_TIME_MAX_MS,
            now_ms=self.world.now_ms,
        )

    def become_follower(self, metadata) -> None:
        self.resign()
        self.follower = self.follower_class(
            leader_id=metadata.leader,
            leader_epoch=metadata.leader_epoch,
            epochs=self.epochs,
            log_end_offset=len(self.log),
            high_watermark=self.high_watermark,
        )

    # --- leading --------------------------------------------------------------------------------

    def produce(self, value: int, *, acks_all: bool) -> bool:
        """Append as the leader that this broker takes itself for; whether it was taken."""
        if self.leader is None or not self.may_act():
            return False
        if acks_all:
            if self.leader.is_under_min_isr:
                return False
            self.awaiting_ack.append((len(self.log), (self.leader.leader_epoch, value)))
        self.append((self.leader.leader_epoch, value))
        return True

    def lead_on(self, output: LeaderOutput) -> None:
        if output.high_watermark is not None:
            self.world.exposes(self, output.high_watermark)
            self.acknowledge_below(output.high_watermark)
        if output.proposal is not None:
            self.proposal = output.proposal
            self.proposal_sent_ms = self.world.now_ms
            self.world.send("alter", self.id, CONTROLLER, (self.broker_epoch, output.proposal))

    def acknowledge_below(self, high_watermark: int) -> None:
        """Also as a follower: what the next leader commits was appended here all the same."""
        while self.awaiting_ack and self.awaiting_ack[0][0] < high_watermark:
            offset, record = self.awaiting_ack.pop(0)
            if self.log[offset] != record:
                raise self.world.violated(f"offset {offset} was acknowledged for another record")
            self.world.acknowledges(self, offset)

    def on_fetch(self, src: int, broker_epoch: int, position) -> None:
        leader = self.leader
        if leader is None or position.leader_epoch != leader.leader_epoch or not self.may_act():
            return
        diverging = self.check_divergence(
            self.epochs, leader.log_end_offset, position.last_fetched_epoch, position.offset
        )
        records: list[tuple[int, int]] = []
        if diverging is None:
            try:
                output = leader.follower_fetched(
                    src, broker_epoch, position.offset, self.world.now_ms
                )
            except StaleBrokerEpochError:
                return
            self.lead_on(output)
            end = min(position.offset + MAX_FETCH_RECORDS, leader.log_end_offset)
            records = self.log[position.offset : end]
        self.world.send(
            "fetched", self.id, src, (position, diverging, records, leader.high_watermark)
        )

    # --- following ------------------------------------------------------------------------------

    def send_fetch(self) -> None:
        self.fetch_sent_ms = self.world.now_ms
        position = self.follower.fetch_position
        self.world.send("fetch", self.id, self.follower.leader_id, (self.broker_epoch, position))

    def on_fetched(self, _src: int, position, diverging, records, high_watermark: int) -> None:
        follower = self.follower
        if follower is None or self.synced < len(self.log):
            return
        if position != follower.fetch_position:
            return
        self.fetch_sent_ms = None
        output = follower.fetch_answered(
            position,
            diverging=diverging,
            leader_log_start_offset=0,
            leader_high_watermark=high_watermark,
        )
        if output.truncate_to is not None:
            self.world.truncates(self, output.truncate_to)
            self.truncate(output.truncate_to)
            self.follow_on(follower.log_changed(len(self.log), self.epochs))
            self.send_fetch()
            return
        self.follow_on(output)
        for record in records:
            self.append(record)

    def follow_on(self, output) -> None:
        if output.high_watermark is not None:
            self.world.exposes(self, output.high_watermark)
            self.acknowledge_below(output.high_watermark)
