"""The metadata tree: the paths under which Kafka kept its metadata in ZooKeeper, with live values.

Values have the shape that a Kafka user knows, so that what parses one parses the other; members of
our own come on top. Where Ottla has no such thing the node is there all the same and its note says
what is in its place. Two members of Kafka's are missing or empty, because the metadata log does not
hold them: the `controller_epoch` of a partition's state, and the `timestamp` of a broker.

    /controller /controller_epoch              who controls, and under which term
    /brokers/ids/N /brokers/fenced/N           brokers that serve; registered ones that do not
    /brokers/topics/T/partitions/P/state       placement and leadership
    /config/topics/T ...                       what is set, and by whom
    /admin/...                                 changes under way
    /cluster/id /latest_producer_id_block
    /consumers/G/ids|owners|offsets            consumer groups (`consumers`)
    /quorum /features /snapshots               what is Ottla's alone
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ottla_cluster.controller.drain_planning import replicas_on
from ottla_cluster.controller.features import FEATURES, is_enabled
from ottla_cluster.controller.image import (
    BrokerRegistration,
    BrokerState,
    MetadataImage,
    Partition,
    Topic,
)
from ottla_cluster.controller.limits import PRODUCER_ID_BLOCK_SIZE
from ottla_cluster.metadata_tree.consumers import GroupsByName, consumers
from ottla_cluster.metadata_tree.nodes import TreeNode, folder, leaf, listing

MAX_LISTED_PARTITIONS = 1_000
"""Partitions in the value of one node of `/admin`; it says how many it leaves out."""

DEFAULT_BROKER = "<default>"
"""The name under which Kafka keeps the configs of all brokers."""

NO_LEADER = -1
"""How Kafka writes that a partition has none."""


@dataclass(frozen=True, slots=True)
class TreeView:
    """What the tree is made of: the image, and what the broker that shows it knows besides."""

    image: MetadataImage
    controller: int | None = None
    term: int = 0
    controller_since_ms: int | None = None
    """When this broker learnt of this controller, in ms since the epoch."""
    voters: Mapping[int, str | None] = field(default_factory=dict)
    """Base URLs by node id; None for one that is somewhere else than this broker knows."""
    learners: tuple[int, ...] = ()
    """Nodes that are on their way to become voters."""
    commit_index: int = 0
    snapshot_index: int = 0
    groups: GroupsByName | None = None
    """None in all when no names are loaded."""


def metadata_tree(view: TreeView) -> TreeNode:
    """The root, `/`."""
    image = view.image
    return folder(
        {
            "admin": lambda: _admin(image),
            "brokers": lambda: _brokers(image),
            "cluster": lambda: folder({"id": lambda: leaf(lambda: _cluster_id(image))}),
            "config": lambda: _config(image),
            "consumers": lambda: consumers(view.groups),
            "controller": lambda: _controller(view),
            "controller_epoch": lambda: leaf(
                lambda: view.term, "The term of the metadata quorum: it rises with each election."
            ),
            "features": lambda: _features(image),
            "isr_change_notification": lambda: leaf(
                note="Leaders propose ISR changes to the controller itself, so nothing is queued "
                "here; /v1/cluster/health tells whose ISR is not complete, and why."
            ),
            "latest_producer_id_block": lambda: _producer_ids(image),
            "log_dir_event_notification": lambda: _log_directories(image),
            "quorum": lambda: _quorum(view),
            "snapshots": lambda: _snapshots(view),
        },
        note="The metadata of the cluster, as this broker has applied it; all of it is read-only.",
    )


# --- the controller and the quorum --------------------------------------------------------------


def _controller(view: TreeView) -> TreeNode:
    if view.controller is None:
        return leaf(note="No controller is elected, as far as this broker knows.")
    return leaf(
        lambda: {
            "version": 1,
            "brokerid": view.controller,
            "timestamp": None
            if view.controller_since_ms is None
            else str(view.controller_since_ms),
        },
        "The timestamp is when the broker that answers learnt of this controller.",
    )


def _quorum(view: TreeView) -> TreeNode:
    voters = {str(node_id): url for node_id, url in view.voters.items()}
    return folder(
        {
            "voters": lambda: listing(
                lambda: tuple(voters),
                lambda name: leaf(lambda: {"url": voters[name]}) if name in voters else None,
            )
        },
        lambda: {
            "leader": view.controller,
            "term": view.term,
            "voters": sorted(view.voters),
            "learners": sorted(view.learners),
            "commit_index": view.commit_index,
            "applied_index": view.image.version,
        },
        "Ottla's own: the Raft quorum that holds this metadata, in place of ZooKeeper's ensemble. "
        "The indexes are those of the broker that answers.",
    )


def _snapshots(view: TreeView) -> TreeNode:
    return leaf(
        lambda: {"newest_index": view.snapshot_index or None, "applied_index": view.image.version},
        "Ottla's own: up to which entry the broker that answers has the metadata in a snapshot; "
        "a restart replays what follows.",
    )


def _features(image: MetadataImage) -> TreeNode:
    return leaf(
        lambda: {
            "version": 1,
            "feature_level": image.feature_level,
            "features": {feature.name: is_enabled(image, feature) for feature in FEATURES},
        },
        "Kafka's was /feature; `ottla cluster features` tells what each process supports.",
    )


def _cluster_id(image: MetadataImage) -> object:
    return None if image.cluster_id is None else {"version": "1", "id": image.cluster_id}


def _producer_ids(image: MetadataImage) -> TreeNode:
    note = "Which broker took the block is not kept."
    if image.next_producer_id == 0:
        return leaf(note="No broker has taken producer ids yet.")
    return leaf(
        lambda: {
            "version": 1,
            "broker": None,
            "block_start": str(image.next_producer_id - PRODUCER_ID_BLOCK_SIZE),
            "block_end": str(image.next_producer_id - 1),
        },
        note,
    )


# --- brokers and topics -------------------------------------------------------------------------


def _brokers(image: MetadataImage) -> TreeNode:
    return folder(
        {
            "fenced": lambda: _registrations(
                image,
                is_fenced=True,
                note="Ottla's own: brokers that are registered and do not serve. In ZooKeeper they "
                "were just absent from /brokers/ids.",
            ),
            "ids": lambda: _registrations(image, is_fenced=False, note=""),
            "seqid": lambda: leaf(note="Node ids are never made up here: OTTLA_NODE_ID is given."),
            "topics": lambda: listing(
                lambda: tuple(image.topic_ids),
                lambda name: _topic(image.topic(name)) if name in image.topic_ids else None,
            ),
        }
    )


def _registrations(image: MetadataImage, *, is_fenced: bool, note: str) -> TreeNode:
    brokers = {
        str(node_id): broker
        for node_id, broker in image.brokers.items()
        if (broker.state is BrokerState.FENCED) is is_fenced
    }
    return listing(
        lambda: tuple(brokers),
        lambda name: leaf(lambda: _broker(brokers[name])) if name in brokers else None,
        note=note,
    )


def _broker(broker: BrokerRegistration) -> object:
    address = urlsplit(broker.url)
    return {
        "version": 5,
        "host": address.hostname,
        "port": address.port,
        "endpoints": [broker.url],
        "rack": broker.rack or None,
        "jmx_port": -1,
        "timestamp": None,
        "features": {},
        "state": broker.state.value,
        "broker_epoch": broker.broker_epoch,
        "disk_full": broker.is_full,
    }


def _topic(topic: Topic) -> TreeNode:
    return folder(
        {
            "partitions": lambda: listing(
                lambda: tuple(str(each.partition) for each in topic.partitions),
                lambda name: _partition(topic, name),
            )
        },
        lambda: {
            "version": 3,
            "topic_id": topic.topic_id,
            "partitions": {str(each.partition): list(each.replicas) for each in topic.partitions},
            "adding_replicas": {
                str(each.partition): list(each.adding_replicas)
                for each in topic.partitions
                if each.adding_replicas
            },
            "removing_replicas": {
                str(each.partition): list(each.removing_replicas)
                for each in topic.partitions
                if each.removing_replicas
            },
        },
    )


def _partition(topic: Topic, name: str) -> TreeNode | None:
    """The node of a partition; None for what is not the number of one, plainly written."""
    if not (name.isascii() and name.isdigit() and len(name) <= len(str(len(topic.partitions)))):
        return None
    number = int(name)
    if name != str(number) or number >= len(topic.partitions):
        return None
    return folder({"state": lambda: leaf(lambda: _state(topic.partitions[number]))})


def _state(partition: Partition) -> object:
    state: dict[str, object] = {
        "version": 1,
        "leader": NO_LEADER if partition.leader is None else partition.leader,
        "leader_epoch": partition.leader_epoch,
        "isr": list(partition.isr),
        "partition_epoch": partition.partition_epoch,
    }
    if partition.unclean_leader_epoch is not None:
        state["unclean_leader_epoch"] = partition.unclean_leader_epoch
    return state


# --- configs ------------------------------------------------------------------------------------


def _config(image: MetadataImage) -> TreeNode:
    return folder(
        {
            "brokers": lambda: folder(
                {DEFAULT_BROKER: lambda: leaf(lambda: _cluster_config(image))},
                note="Brokers take their settings from OTTLA_... and flags when they start "
                "(`python -m ottla_broker --help`); what is changed at run time counts for all.",
            ),
            "changes": lambda: leaf(
                note="Brokers follow the metadata log, so changes are not queued here."
            ),
            "clients": lambda: leaf(note="There are no quotas of clients yet."),
            "ips": lambda: leaf(note="There are no quotas of addresses yet."),
            "topics": lambda: listing(
                lambda: tuple(image.topic_ids),
                lambda name: _topic_config(image.topic(name)) if name in image.topic_ids else None,
                note="Only what a topic sets itself; /v1/topics/{topic}/configs has the defaults.",
            ),
            "users": lambda: leaf(note="There are no users yet."),
        }
    )


def _cluster_config(image: MetadataImage) -> object:
    rate = image.replication_throttle_bytes_per_second
    throttle = {} if rate is None else {"replication.throttle.bytes.per.second": str(rate)}
    return {"version": 1, "config": throttle}


def _topic_config(topic: Topic) -> TreeNode:
    return leaf(
        lambda: {
            "version": 1,
            "config": {name: _config_text(value) for name, value in sorted(topic.configs.items())},
        }
    )


def _config_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- changes under way --------------------------------------------------------------------------


def _admin(image: MetadataImage) -> TreeNode:
    return folder(
        {
            "delete_topics": lambda: leaf(
                note="A topic is deleted by one record of the metadata log, so none waits here; "
                "brokers remove its files as they read that record."
            ),
            "drain_brokers": lambda: leaf(
                lambda: {
                    "version": 1,
                    "brokers": {
                        str(node_id): {
                            "partitions_at_start": count,
                            "partitions_left": replicas_on(image, node_id),
                        }
                        for node_id, count in sorted(image.drains.items())
                    },
                },
                "Ottla's own: brokers that are to have no replicas any more, as "
                "`ottla cluster drain` says.",
            ),
            "preferred_replica_election": lambda: leaf(
                lambda: _partitions(
                    [
                        {"topic": partition.topic, "partition": partition.partition}
                        for _, partition in image.all_partitions()
                        if partition.leader != partition.replicas[0]
                    ]
                ),
                "Partitions that their preferred replica does not lead: the controller elects it "
                "by itself when it is in sync, `ottla cluster elect` at once; not one that a "
                "reassignment takes away.",
            ),
            "reassign_partitions": lambda: leaf(
                lambda: _partitions(
                    [
                        {
                            "topic": partition.topic,
                            "partition": partition.partition,
                            "replicas": list(partition.target_replicas),
                        }
                        for _, partition in image.all_partitions()
                        if partition.is_reassigning
                    ]
                ),
                "Reassignments under way, with the replicas that they lead to.",
            ),
        }
    )


def _partitions(partitions: list[dict[str, object]]) -> object:
    value: dict[str, object] = {"version": 1, "partitions": partitions[:MAX_LISTED_PARTITIONS]}
    if len(partitions) > MAX_LISTED_PARTITIONS:
        value["omitted"] = len(partitions) - MAX_LISTED_PARTITIONS
    return value


def _log_directories(image: MetadataImage) -> TreeNode:
    return leaf(
        lambda: {
            "version": 1,
            "full": sorted(node_id for node_id, each in image.brokers.items() if each.is_full),
        },
        "Brokers whose disk has no room, as their heartbeats tell the controller; a broker whose "
        "disk fails stops. Nothing is queued here.",
    )
