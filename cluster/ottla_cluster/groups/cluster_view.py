"""What the coordinator needs to know of the cluster: which topics there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.topic_names import is_internal
from ottla_cluster.groups.limits import MAX_REMEMBERED_PATTERNS
from ottla_cluster.groups.pattern import Pattern


@dataclass(frozen=True, slots=True)
class TopicView:
    """One topic."""

    topic_id: str
    partitions: int
    """How many it has."""


class TopicIndex:
    """What is looked up in one state of the topics again and again.

    Which names a pattern matches is remembered: matching all names of a large cluster takes longer
    than a coordinator may be busy at a time. When topics change, only new names are matched.

    Args:
        topics: by name.
        former: the index of the topics before, if there was one.
    """

    def __init__(self, topics: Mapping[str, TopicView], former: "TopicIndex | None" = None) -> None:
        self.names = frozenset(topics)
        self.topic_ids = frozenset(topic.topic_id for topic in topics.values())
        self._matches: dict[str, tuple[str, ...]] = {}
        self._former_names = frozenset[str]() if former is None else former.names
        self._former_matches = {} if former is None else former.remembered()

    def remembered(self) -> dict[str, tuple[str, ...]]:
        """The names that are known to match, by pattern."""
        return dict(self._matches)

    def knows(self, pattern: str) -> bool:
        """Whether `matching` is quick: few names are left to match."""
        return pattern in self._matches or pattern in self._former_matches or not self.names

    def matching(self, pattern: str) -> tuple[str, ...]:
        """The names that the pattern matches, sorted.

        May be called on another thread meanwhile; the same is found twice then.

        Raises:
            InvalidPatternError: the pattern does not parse.
        """
        found = self._matches.get(pattern)
        if found is not None:
            return found
        former = self._former_matches.pop(pattern, None)
        unknown = self.names if former is None else self.names - self._former_names
        parsed = Pattern(pattern)
        matched = {name for name in unknown if parsed.matches(name)}
        if former is not None:
            matched |= self.names.intersection(former)
        found = tuple(sorted(matched))
        if len(self._matches) >= MAX_REMEMBERED_PATTERNS:
            self._matches.clear()
        self._matches[pattern] = found
        return found


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
    feature_level: int = field(default=0, compare=False)
    """The metadata's: what every process of the cluster understands."""
    index: TopicIndex = field(init=False, compare=False, repr=False)
    """Of `topics`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", TopicIndex(self.topics))

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
        is_same = topics == self.topics
        view = ClusterView(image.version, self.topics if is_same else topics, image.feature_level)
        index = self.index if is_same else TopicIndex(topics, self.index)
        object.__setattr__(view, "index", index)
        return view
