"""What a metadata image changes for the replicas of one broker.

What an image does not change it shares with the one before, so parts are compared by identity: a
change of one partition costs its topic a walk over its partitions, and other topics nothing.
"""

from dataclasses import dataclass

from ottla_cluster.controller.image import MetadataImage, Partition, Topic

ReplicaKey = tuple[str, int]
"""Topic id and partition."""


@dataclass(frozen=True, slots=True)
class ReplicaChanges:
    """Replicas of one broker that an image made, changed, or has no more."""

    wanted: dict[ReplicaKey, tuple[Topic, Partition]]
    """New or changed ones; of a topic whose configs changed, all."""
    unwanted: list[ReplicaKey]
    """Partitions of which the broker is to have no replica; it may never have had one."""


def changes_for(node_id: int, former: MetadataImage | None, image: MetadataImage) -> ReplicaChanges:
    """What is to be done on broker `node_id` once `image` follows `former`, None at the start."""
    changes = ReplicaChanges({}, [])
    known = {} if former is None else former.topics
    if image.topics is known:
        return changes
    for topic_id, topic in image.topics.items():
        before = known.get(topic_id)
        if before is not topic:
            _compare(node_id, before, topic, changes)
    for topic_id, topic in known.items():
        if topic_id not in image.topics:
            changes.unwanted.extend((topic_id, state.partition) for state in topic.partitions)
    return changes


def _compare(node_id: int, before: Topic | None, topic: Topic, changes: ReplicaChanges) -> None:
    is_all_new = before is None or before.configs != topic.configs
    known = () if before is None else before.partitions
    for number, state in enumerate(topic.partitions):
        if not is_all_new and number < len(known) and known[number] is state:
            continue
        key = (topic.topic_id, number)
        if node_id in state.replicas:
            changes.wanted[key] = (topic, state)
        else:
            changes.unwanted.append(key)
    changes.unwanted.extend(
        (topic.topic_id, state.partition) for state in known[len(topic.partitions) :]
    )
