"""The log's lines about leaders and ISRs: one for each change, as this broker learns of it.

Of its own replicas only: every change is in the log of each broker that it concerns. A broker that
dies changes thousands of partitions at once, so an image tells a number of them one by one and
counts the others; what a broker finds when it starts is no change, and is counted alone. That it
leads by an unclean election is told apart from these, and counted (`unclean_election_news`).
"""

from collections.abc import Mapping
from typing import Any

import structlog

from ottla_broker.drivers.replica_changes import ReplicaKey
from ottla_broker.drivers.unclean_election_news import led_here_since, tell_partitions
from ottla_cluster.controller.image import MetadataImage, Partition, Topic

MAX_LINES_PER_IMAGE = 100
"""Changes of one image that have a line each."""

log = structlog.get_logger()


def tell_changes(
    node_id: int,
    former: MetadataImage | None,
    wanted: Mapping[ReplicaKey, tuple[Topic, Partition]],
) -> None:
    """Log what an image changes.

    Args:
        node_id: this broker.
        former: the image before; None where there was none, at the start.
        wanted: replicas of this broker that are new or changed (`ReplicaChanges.wanted`).
    """
    tell_partitions(led_here_since(node_id, former, wanted))
    if former is None:
        _tell_found(node_id, [state for _, state in wanted.values()])
        return
    changed = 0
    new: list[Partition] = []
    untold: list[Partition] = []
    for _, state in wanted.values():
        before = _state_in(former, state)
        if before is None or node_id not in before.replicas:
            new.append(state)
        elif before.leader_epoch != state.leader_epoch or before.isr != state.isr:
            changed += 1
            if changed <= MAX_LINES_PER_IMAGE:
                _tell(before, state)
            else:
                untold.append(state)
    if new:
        log.info("replicas_assigned", **_counts(node_id, new))
    if untold:
        log.info("more_partitions_changed", **_counts(node_id, untold))


def _tell_found(node_id: int, states: list[Partition]) -> None:
    if states:
        log.info("replicas_found", **_counts(node_id, states))


def _tell(before: Partition, state: Partition) -> None:
    told: dict[str, Any] = {
        "partition": f"{state.topic}-{state.partition}",
        "leader": state.leader,
        "leader_epoch": state.leader_epoch,
        "isr": list(state.isr),
    }
    if before.isr != state.isr:
        told["former_isr"] = list(before.isr)
    if before.leader_epoch == state.leader_epoch:
        log.info("isr_changed", **told)
        return
    told["former_leader"] = before.leader
    if state.unclean_leader_epoch == state.leader_epoch:
        told["unclean"] = True
    if state.leader is None:
        log.warning("leader_changed", **told)
    else:
        log.info("leader_changed", **told)


def _counts(node_id: int, states: list[Partition]) -> dict[str, int]:
    return {
        "partitions": len(states),
        "led_here": sum(state.leader == node_id for state in states),
        "without_leader": sum(state.leader is None for state in states),
        "under_replicated": sum(len(state.isr) < len(state.replicas) for state in states),
    }


def _state_in(image: MetadataImage, state: Partition) -> Partition | None:
    topic = image.topics.get(state.topic_id)
    if topic is None or state.partition >= len(topic.partitions):
        return None
    return topic.partitions[state.partition]
