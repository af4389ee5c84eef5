"""A metadata log in memory: applies commands one by one, each committed at once."""

from dataclasses import replace
from random import Random

from ottla_cluster.controller.commands import (
    AlterPartition,
    CreateTopic,
    FenceBroker,
    FinishReassignments,
    FormCluster,
    HandedOverPartition,
    Heartbeat,
    IsrMember,
    RegisterBroker,
)
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.handlers import handle
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.reassignment_handlers import is_handed_over
from ottla_cluster.controller.records import decode_records, encode_records
from ottla_cluster.controller.replay import replay

CLUSTER_ID = "test"


class MetadataUnderTest:
    """Keeps the newest image; every command's records go through their encoding.

    Every broker hears at once who leads what is being reassigned, unless `hears_late`.
    """

    hears_late = False

    def __init__(self, broker_count=3, *, racks=None, seed=1, **config):
        self.config = ControllerConfig(cluster_id=CLUSTER_ID, **config)
        self.random = Random(seed)
        self.image = MetadataImage()
        self.last_records = ()
        self.apply(FormCluster(CLUSTER_ID))
        for node_id in range(1, broker_count + 1):
            self.register(node_id, rack=(racks or {}).get(node_id, ""))
            self.heartbeat(node_id)

    def apply(self, command):
        response = self.commit(command)
        if not self.hears_late:
            self.finish_reassignments()
        return response

    def commit(self, command):
        """One entry of the log."""
        result = handle(self.image, command, 0, self.random, self.config)
        self.last_records = decode_records(encode_records(result.records))
        self.image = replay(self.image, self.last_records, self.image.version + 1)
        return result.response

    def finish_reassignments(self):
        """Everybody has heard who leads."""
        handed_over = tuple(
            HandedOverPartition(each.topic_id, each.partition, each.partition_epoch)
            for _, each in self.image.all_partitions()
            if is_handed_over(each)
        )
        if handed_over:
            before = self.last_records
            self.commit(FinishReassignments(handed_over))
            self.last_records = (*before, *self.last_records)

    def be_at_level(self, feature_level):
        """As a cluster of an older version: its brokers tell no directories."""
        brokers = {
            node_id: replace(broker, directory_id="")
            for node_id, broker in self.image.brokers.items()
        }
        self.image = replace(self.image, feature_level=feature_level, brokers=brokers)

    def epoch(self, node_id):
        return self.image.brokers[node_id].broker_epoch

    def state(self, node_id):
        return self.image.brokers[node_id].state

    def register(
        self,
        node_id,
        incarnation_id="first",
        *,
        rack="",
        url=None,
        cluster_id=CLUSTER_ID,
        directory_id="disk",
    ):
        return self.apply(
            RegisterBroker(
                node_id=node_id,
                incarnation_id=incarnation_id,
                url=url or f"http://broker{node_id}:7101",
                rack=rack,
                cluster_id=cluster_id,
                latest_feature_level=LATEST_FEATURE_LEVEL,
                directory_id=directory_id,
            )
        )

    def heartbeat(
        self, node_id, *, applied_version=None, draining=False, broker_epoch=None, is_full=False
    ):
        return self.apply(
            Heartbeat(
                node_id=node_id,
                broker_epoch=self.epoch(node_id) if broker_epoch is None else broker_epoch,
                applied_version=(
                    self.image.version if applied_version is None else applied_version
                ),
                draining=draining,
                is_full=is_full,
            )
        )

    def restart(self, node_id, incarnation_id, *, directory_id="disk"):
        """A new process registers and catches up."""
        self.register(node_id, incarnation_id, directory_id=directory_id)
        self.heartbeat(node_id)

    def fence(self, node_id):
        return self.apply(FenceBroker(node_id, self.epoch(node_id), "test"))

    def create(self, name="orders", *, partitions=1, replication_factor=3, **configs):
        self.apply(
            CreateTopic(
                name=name,
                partitions=partitions,
                replication_factor=replication_factor,
                configs={key.replace("_", "."): value for key, value in configs.items()},
            )
        )
        return self.image.topic(name)

    def partition(self, name="orders", partition=0):
        return self.image.partition(name, partition)

    def proposal(self, isr, *, name="orders", partition=0, **overrides):
        """What the partition's leader would send to make `isr` its ISR."""
        now = self.image.partition(name, partition)
        fields = {
            "node_id": now.leader,
            "broker_epoch": self.epoch(now.leader),
            "topic_id": now.topic_id,
            "partition": partition,
            "leader_epoch": now.leader_epoch,
            "partition_epoch": now.partition_epoch,
            "new_isr": tuple(IsrMember(node_id, self.epoch(node_id)) for node_id in isr),
        }
        return AlterPartition(**(fields | overrides))

    def set_isr(self, isr, *, name="orders", partition=0):
        return self.apply(self.proposal(isr, name=name, partition=partition))
