"""Random lives of a controller: commands, slow commits, foreign entries, lost leaderships.

One run is one seed. Brokers act on images of any recent age, so that stale heartbeats and
proposals are common; proposed entries are committed late, and when leadership is lost any prefix of
what is in flight survives. A second image, replayed from the encoded payloads alone, stands for all
other brokers. After every commit the invariants of design.md's section 3 are checked on it.
"""

from dataclasses import dataclass
from random import Random

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    AddPartitions,
    AllocateProducerIds,
    AllocateProducerIdsResponse,
    AlterPartition,
    AlterReassignments,
    AlterTopicConfigs,
    CreateTopic,
    DeleteTopic,
    ElectPreferred,
    ElectUnclean,
    FenceBroker,
    Heartbeat,
    IsrMember,
    Reassignment,
    RegisterBroker,
    ReplicaEnd,
    UncleanElection,
)
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import decode_records
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.controller.topic_configs import UNCLEAN_LEADER_ELECTION_ENABLE
from ottla_protocol.errors import OttlaError
from tests.simulation.controller.handovers import Handovers
from tests.simulation.controller.metadata_checks import MetadataChecks

CLUSTER_ID = "simulated"
NODE_IDS = (1, 2, 3, 4)
TOPIC_NAMES = ("a.b", "a_b", "orders", "clicks")
REMEMBERED_IMAGES = 6
DIRECTORIES = (0, 1, 0, 2)
"""In which data directory one process after the other of a broker finds itself."""


@dataclass(frozen=True)
class Entry:
    """One entry of the log; without a payload it is one of Raft's own."""

    index: int
    payload: bytes
    command: object


class ControllerSimulation(MetadataChecks):
    """One seeded run; `run` raises AssertionError where an invariant breaks."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.config = ControllerConfig(CLUSTER_ID, preferred_election_interval_ms=2_000)
        self.now_ms = 0
        self.log: list[Entry] = []
        self.committed_index = 0
        self.replica = MetadataImage()
        self.images = [self.replica]
        self.leaderships = {}
        self.incarnations = dict.fromkeys(NODE_IDS, 0)
        self.waiting = {}
        self.producer_ids = set()
        self.counts = {"accepted": 0, "refused": 0, "leaderships": 0, "altered": 0, "elected": 0}
        self.counts |= {"reassigning": 0, "reassigned": 0, "called_off": 0, "grown": 0, "blocks": 0}
        self.counts |= {"unclean": 0, "awaited": 0, "returned": 0}
        self.handovers = Handovers(self.config.session_timeout_ms)
        self._lead()

    def run(self, steps):
        self._start_brokers()
        for _ in range(steps):
            self.random.choices(
                (self._submit, self._commit, self._pass_time, self._foreign_entry, self._depose),
                weights=(60, 28, 8, 3, 1),
            )[0]()
        self._commit_all()
        assert not self.waiting, "a request was never answered"
        assert decode_image(encode_image(self.replica)) == self.replica

    def _start_brokers(self):
        """All brokers register and catch up: most of a cluster's life begins like this."""
        self._pass_time()
        for node_id in NODE_IDS:
            self._give(
                RegisterBroker(
                    node_id,
                    "0",
                    f"http://here:{node_id}",
                    "",
                    CLUSTER_ID,
                    LATEST_FEATURE_LEVEL,
                    f"disk {node_id}/0",
                )
            )
        self._commit_all()
        for broker in self.replica.brokers.values():
            self._give(
                Heartbeat(broker.node_id, broker.broker_epoch, self.replica.version, draining=False)
            )
        self._commit_all()

    # --- the log ---

    def _lead(self):
        """A new leader: its own first entry is committed and applied before it serves."""
        self.log.append(Entry(len(self.log) + 1, b"", None))
        self._replicate(len(self.log))
        self.controller = ActiveController(self.replica, self.config, self.random, self.now_ms)
        self.counts["leaderships"] += 1

    def _depose(self):
        failed = [completed.request_id for completed in self.controller.lost_leadership()]
        assert failed == list(self.waiting), "each waiting request fails once, in order"
        self.waiting.clear()
        survivors = self.random.randint(self.committed_index, len(self.log))
        del self.log[survivors:]
        self._lead()

    def _foreign_entry(self):
        self.log.append(Entry(len(self.log) + 1, b"", None))

    def _commit(self):
        end = len(self.log)
        all_of_it = self.random.random() < 0.5
        self._commit_to(end if all_of_it else self.random.randint(self.committed_index, end))

    def _commit_all(self):
        self._commit_to(len(self.log))

    def _commit_to(self, index):
        for completed in self.controller.committed(index):
            needed = self.waiting.pop(completed.request_id)
            assert needed <= index, "answered before what it saw was committed"
            if isinstance(completed.outcome, AllocateProducerIdsResponse):
                self._note_producer_ids(completed.outcome)
        self._replicate(index)
        assert self.controller.committed_image == self.replica
        if not self.waiting:
            assert self.controller.speculative_image == self.replica

    def _replicate(self, index):
        for entry in self.log[self.committed_index : index]:
            before = self.replica
            records = decode_records(entry.payload)
            self.replica = replay(before, records, entry.index)
            self._check_entry(before, entry, records)
        self.committed_index = index
        self.images = [*self.images, self.replica][-REMEMBERED_IMAGES:]

    # --- commands ---

    def _pass_time(self):
        self.now_ms += self.random.randint(0, 500)
        waiting = self.handovers.waiting(self.controller, self.replica, self.now_ms)
        for command in self.controller.due(self.now_ms):
            self._give(command)
        self.handovers.check_ended(waiting, self.controller.speculative_image)

    def _submit(self):
        command = self.random.choices(
            (
                self._register,
                self._heartbeat,
                self._fence,
                self._alter_partition,
                self._create_topic,
                self._alter_configs,
                self._delete_topic,
                ElectPreferred,
                self._reassign,
                self._add_partitions,
                self._allocate_producer_ids,
                self._elect_unclean,
            ),
            weights=(2, 36, 2, 40, 10, 2, 1, 7, 7, 1, 1, 3),
        )[0]()
        if command is not None:
            self._give(command)

    def _give(self, command):
        before = self.controller.speculative_image
        try:
            submitted = self.controller.submit(command, self.now_ms)
        except OttlaError as error:
            self.counts["refused"] += 1
            self._check_refusal(command, error)
            return
        self.handovers.told(command)
        if submitted.payload is None:
            if submitted.response is None:
                self.waiting[submitted.request_id] = max(
                    entry.index for entry in self.log if entry.payload
                )
            return
        self.counts["accepted"] += 1
        self._check_accepted(before, command)
        self.log.append(Entry(len(self.log) + 1, submitted.payload, command))
        self.controller.appended(submitted.request_id, len(self.log))
        self.waiting[submitted.request_id] = len(self.log)
        self._check_image(self.controller.speculative_image)

    def _view(self):
        """What some broker knows: mostly the newest image, else one of some age."""
        return self.images[-1] if self.random.random() < 0.6 else self.random.choice(self.images)

    def _register(self):
        node_id = self.random.choice(NODE_IDS)
        if self.random.random() < 0.8:
            self.incarnations[node_id] += 1
        directory = DIRECTORIES[self.incarnations[node_id] % len(DIRECTORIES)]
        return RegisterBroker(
            node_id=node_id,
            incarnation_id=str(self.incarnations[node_id]),
            url=f"http://{self.random.choice(('here', 'here', 'there'))}:{node_id}",
            rack=f"rack{node_id % 2}",
            cluster_id=CLUSTER_ID,
            latest_feature_level=LATEST_FEATURE_LEVEL,
            directory_id=f"disk {node_id}/{directory}",
        )

    def _heartbeat(self):
        view = self._view()
        if not view.brokers:
            return None
        broker = view.brokers[self.random.choice(list(view.brokers))]
        return Heartbeat(
            node_id=broker.node_id,
            broker_epoch=broker.broker_epoch,
            applied_version=view.version,
            draining=self.random.random() < 0.03,
        )

    def _fence(self):
        view = self._view()
        if not view.brokers:
            return None
        broker = view.brokers[self.random.choice(list(view.brokers))]
        return FenceBroker(broker.node_id, broker.broker_epoch, "connection refused")

    def _alter_partition(self):
        view = self._view()
        led = [p for _, p in view.all_partitions() if p.leader is not None]
        if not led:
            return None
        partition = self.random.choice(led)
        others = [n for n in partition.replicas if n != partition.leader]
        members = [
            partition.leader,
            *self.random.sample(others, self.random.randint(0, len(others))),
        ]
        return AlterPartition(
            node_id=partition.leader,
            broker_epoch=view.brokers[partition.leader].broker_epoch,
            topic_id=partition.topic_id,
            partition=partition.partition,
            leader_epoch=partition.leader_epoch,
            partition_epoch=partition.partition_epoch,
            new_isr=tuple(IsrMember(n, view.brokers[n].broker_epoch) for n in members),
        )

    def _create_topic(self):
        return CreateTopic(
            name=self.random.choice(TOPIC_NAMES),
            partitions=self.random.randint(1, 3),
            replication_factor=self.random.choice((None, None, 1, 2, 3, 4)),
            configs=self.random.choice(
                (
                    {},
                    {"min.insync.replicas": 1, UNCLEAN_LEADER_ELECTION_ENABLE: True},
                    {"nonsense": 1},
                )
            ),
            validate_only=self.random.random() < 0.1,
        )

    def _alter_configs(self):
        return AlterTopicConfigs(
            self.random.choice(TOPIC_NAMES),
            self.random.choice(
                (
                    {"min.insync.replicas": self.random.choice((None, 1, 2, 3))},
                    {UNCLEAN_LEADER_ELECTION_ENABLE: self.random.choice((None, True, False))},
                )
            ),
        )

    def _elect_unclean(self):
        """An operator's wish: of a partition without a leader, or of any."""
        view = self._view()
        partitions = [partition for _, partition in view.all_partitions()]
        offline = [partition for partition in partitions if partition.leader is None]
        if not partitions:
            return None
        partition = self.random.choice(offline or partitions)
        told = self.random.sample(
            partition.replicas, self.random.randint(0, len(partition.replicas))
        )
        ends = tuple(
            ReplicaEnd(n, view.brokers[n].broker_epoch, 0, self.random.randint(0, 9)) for n in told
        )
        return ElectUnclean((UncleanElection(partition.topic, partition.partition, ends),))

    def _delete_topic(self):
        return DeleteTopic(self.random.choice(TOPIC_NAMES))

    def _reassign(self):
        view = self._view()
        partitions = [partition for _, partition in view.all_partitions()]
        if not partitions:
            return None
        chosen = self.random.sample(partitions, min(2, len(partitions)))
        return AlterReassignments(
            tuple(
                Reassignment(
                    partition.topic,
                    partition.partition,
                    None
                    if self.random.random() < 0.15
                    else tuple(self.random.sample(NODE_IDS, self.random.randint(1, 4))),
                )
                for partition in chosen
            )
        )

    def _add_partitions(self):
        return AddPartitions(self.random.choice(TOPIC_NAMES), self.random.randint(1, 5))

    def _allocate_producer_ids(self):
        view = self._view()
        if not view.brokers:
            return None
        broker = view.brokers[self.random.choice(list(view.brokers))]
        return AllocateProducerIds(broker.node_id, broker.broker_epoch)
