"""A coordinator's log in memory: applies commands one by one, each committed at once."""

from random import Random

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    FetchOffsets,
    Heartbeat,
    Join,
    Leave,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.handlers import handle
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.records import decode_record, encode_record


class GroupsUnderTest:
    """Keeps the newest image; every command's records go through their encoding."""

    def __init__(self, *, seed=1, topics=None, **config):
        self.config = GroupConfig(**config)
        self.random = Random(seed)
        self.image = GroupsImage()
        self.timestamp_ms = 1_000_000
        self.view = ClusterView()
        self.set_topics(**(topics or {"orders": 3}))
        self.last_records = ()
        self.all_records = []

    def set_topics(self, **partition_counts):
        """The topics from now on; one keeps its id while it keeps its name."""
        version = self.view.version + 1
        topics = {}
        for name, partitions in sorted(partition_counts.items()):
            known = self.view.topics.get(name)
            topic_id = known.topic_id if known else f"{name}@{version}"
            topics[name] = TopicView(topic_id, partitions)
        self.view = ClusterView(version, topics, LATEST_FEATURE_LEVEL)

    def apply(self, command):
        context = GroupContext(self.config, self.view, self.timestamp_ms, self.random)
        before = self.image
        result = handle(before, command, context)
        self.last_records = tuple(decode_record(*encode_record(r)) for r in result.records)
        assert self.last_records == result.records
        self.all_records.extend(self.last_records)
        if result.records:
            self.image = replay(before, self.last_records, before.version + len(result.records))
        return result.response

    def group(self, group="g"):
        return self.image.groups[group]

    def join(self, member_id, topics=("orders",), **fields):
        fields.setdefault("group", "g")
        return self.apply(Join(topics=topics, member_id=member_id, **fields))

    def beat(self, member_id, *owned, generation=None, group="g"):
        """A heartbeat that says what the member holds, as "orders-0"."""
        if generation is None:
            generation = self.group(group).currents[member_id].generation
        topics = tuple(
            OwnedTopic(name, (int(partition),))
            for name, _, partition in (text.rpartition("-") for text in owned)
        )
        return self.apply(Heartbeat(group, member_id, generation, topics))

    def leave(self, member_id):
        return self.apply(Leave("g", member_id))

    def commit(self, partition, offset, member_id=None, generation=None, topic="orders"):
        if member_id is not None and generation is None:
            generation = self.group().currents[member_id].generation
        entries = (OffsetToCommit(topic, partition, offset),)
        return self.apply(CommitOffsets("g", entries, member_id, generation))

    def committed(self, partition, topic="orders"):
        (found,) = self.apply(FetchOffsets("g", (OwnedTopic(topic, (partition,)),))).offsets
        return found.offset

    def owned(self, member_id, group="g"):
        """What the member owns, as ["orders-0"]."""
        current = self.group(group).currents[member_id]
        return [f"{topic}-{partition}" for topic, partition in sorted(current.owned)]

    def settle(self, group="g"):
        """All members heartbeat and do as they are told until nothing moves."""
        while True:
            before = self.image
            for member_id in sorted(self.group(group).members):
                self.beat(member_id, *self.owned(member_id, group), group=group)
            if self.image is before:
                return {m: self.owned(m, group) for m in sorted(self.group(group).members)}


def names(assignment):
    """An assignment as ["orders-0"]."""
    return [f"{topic.topic}-{number}" for topic in assignment for number in topic.partitions]
