"""What the coordinator needs to know of the cluster: which topics there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.topic_names import is_internal


@dataclass(frozen=True, slots=True)
class TopicView:
    """One topic."""

    topic_id: str
    partitions: int
    """How many it has."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The topics that a group may read, as of one metadata version. Never changed, only replaced.

    `topics` is the same object as long as nothing in it changes, so that comparing identities tells
    whether groups have to be looked at.
    """

    version: int = 0
    """The metadata image's."""
    topics: Mapping[str, TopicView] = field(default_factory=dict)
    """By name, sorted; without the internal ones."""

    def updated(self, image: MetadataImage) -> "ClusterView":
        """The view of a later image; itself where the version is the same."""
        assert image.version >= self.version, (image.version, self.version)
        if image.version == self.version:
            return self
        topics = {
            name: TopicView(topic_id, len(image.topics[topic_id].partitions))
            for name, topic_id in sorted(image.topic_ids.items())
            if not is_internal(name)
        }
        return ClusterView(image.version, self.topics if topics == self.topics else topics)
