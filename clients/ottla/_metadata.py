"""Who leads what: the producer's view of the cluster, and when to ask for a newer one.

Pure: time comes in as `now_ms`. `next_fetch` says whom to ask for which topics now, if anybody; the
driver asks and reports back with `on_answer` or `on_failure`. One question is out at a time.

A topic is asked for when it is new, when it is older than `max_age_ms`, and as long as one of its
partitions is suspect: a call to its leader failed, and no newer leader epoch is known. Brokers that
are known are asked in turn, then those of the bootstrap list; each failure moves on to the next.

A broker may know less than the one asked before. Leaders are therefore never taken from an older
leader epoch, as long as the topic's id is the same.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote

from ottla._partitioner import ClusterView
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, UnknownTopicOrPartitionError
from ottla_protocol.models import MetadataResponse, PartitionDescription, TopicDescription

MAX_TOPICS_PER_FETCH: Final = 100
"""Topics of one question: their names, of 248 characters at most, have to fit a request line."""


LONG_AGO_MS: Final = -(2**62)
"""Before every time."""


class Leader(NamedTuple):
    """A partition's leader, and under which epoch it leads."""

    node_id: int
    url: str
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class MetadataFetch:
    """One question to one broker: its URL, and the topics asked for."""

    url: str
    topics: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path with its query."""
        return f"{routes.METADATA}?topics={quote(','.join(self.topics), safe=',')}"


class Metadata:
    """The cached leaders of the topics that a producer uses.

    Args:
        bootstrap_servers: base URLs to begin with, and to come back to.
        max_age_ms: when a topic is asked for again although nothing failed.
        retry_backoff_ms: between two questions that follow from a failure.

    Attributes:
        cluster: what partitioners see.
        reasons: why each URL failed when it was last asked, until one answers.
    """

    def __init__(
        self, bootstrap_servers: Iterable[str], *, max_age_ms: int, retry_backoff_ms: int
    ) -> None:
        self._bootstrap = tuple(bootstrap_servers)
        self._max_age_ms = max_age_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._topics: dict[str, TopicDescription] = {}
        self._fetched_ms: dict[str, int] = {}
        self._urls: dict[int, str] = {}
        self._racks: dict[int, str] = {}
        self._watched: dict[str, None] = {}
        self._gone: dict[str, OttlaError] = {}
        self._suspects: dict[tuple[str, int], int] = {}
        # Groups of topics that are to be asked for before anything else.
        self._groups: deque[tuple[str, ...]] = deque()
        self._is_asking = False
        self._not_before_ms = 0
        self._turn = 0
        self.cluster = ClusterView(())
        self.reasons: dict[str, str] = {}

    # --- what is known ------------------------------------------------------------------------

    def topic(self, name: str) -> TopicDescription | None:
        """The topic as last heard of, None while it is unknown."""
        return self._topics.get(name)

    def gone(self, name: str) -> OttlaError | None:
        """The error that says that the topic does not exist, if that was the last answer."""
        return self._gone.get(name)

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The partition's leader, None while it has none or none is known."""
        description = self._topics.get(topic)
        if description is None or partition >= len(description.partitions):
            return None
        state = description.partitions[partition]
        url = None if state.leader is None else self._urls.get(state.leader)
        if state.leader is None or url is None:
            return None
        return Leader(state.leader, url, state.leader_epoch)

    def replica_in(self, rack: str, topic: str, partition: int) -> Leader | None:
        """Whom a reader of this rack reads from: an in-sync replica there, else the leader.

        What is returned tells the leader's epoch, whoever it is.
        """
        leader = self.leader(topic, partition)
        if leader is None or not rack or self._racks.get(leader.node_id) == rack:
            return leader
        for node_id in self._topics[topic].partitions[partition].isr:
            url = self._urls.get(node_id)
            if url is not None and self._racks.get(node_id) == rack:
                return Leader(node_id, url, leader.leader_epoch)
        return leader

    @property
    def broker_count(self) -> int:
        """How many brokers are known."""
        return len(self._urls)

    def age_ms(self, now_ms: int) -> int:
        """How long ago the topic that was heard of least recently was."""
        return max((now_ms - fetched for fetched in self._fetched_ms.values()), default=0)

    # --- what is wanted -----------------------------------------------------------------------

    def watch(self, topic: str) -> None:
        """Keep this topic's leaders up to date from now on; ask for it if it is unknown."""
        self._watched[topic] = None
        self._gone.pop(topic, None)

    def suspect(self, topic: str, partition: int, leader_epoch: int) -> None:
        """A call to the leader of this epoch failed: look for a newer one until there is one."""
        known = self._epoch(topic, partition)
        if known is None or known <= leader_epoch:
            self._suspects[topic, partition] = leader_epoch

    def expire(self, topic: str) -> None:
        """What is known of this topic seems to be wrong: ask again, once."""
        if topic in self._fetched_ms:
            self._fetched_ms[topic] = LONG_AGO_MS

    def trust(self, topic: str, partition: int) -> None:
        """A call to the leader succeeded."""
        self._suspects.pop((topic, partition), None)

    def hint(self, topic: str, partition: int, node_id: int, url: str, leader_epoch: int) -> bool:
        """What a broker that does not lead says of who does; True if that is news."""
        description = self._topics.get(topic)
        if description is None or partition >= len(description.partitions):
            return False
        state = description.partitions[partition]
        if leader_epoch <= state.leader_epoch:
            return False
        partitions = list(description.partitions)
        partitions[partition] = PartitionDescription(
            state.partition, node_id, leader_epoch, state.replicas, state.isr
        )
        self._urls[node_id] = url
        self._take(
            TopicDescription(
                description.name, description.topic_id, partitions, description.configs
            )
        )
        self.cluster = ClusterView(self._topics.values())
        return True

    # --- asking -------------------------------------------------------------------------------

    def any_url(self) -> str:
        """A broker to ask anything; another one each time."""
        urls = list(dict.fromkeys((*self._urls.values(), *self._bootstrap)))
        self._turn += 1
        return urls[self._turn % len(urls)]

    def next_fetch(self, now_ms: int) -> MetadataFetch | None:
        """What to ask now; the answer must be reported before the next question."""
        if self._is_asking or now_ms < self._not_before_ms:
            return None
        if not self._groups:
            self._groups.extend(_groups_of(self._wanted(now_ms)))
        if not self._groups:
            return None
        self._is_asking = True
        return MetadataFetch(self.any_url(), self._groups.popleft())

    def next_fetch_ms(self, now_ms: int) -> int | None:
        """When `next_fetch` should be asked again; None while an answer is awaited."""
        if self._is_asking:
            return None
        if self._groups or self._wanted(now_ms):
            return max(now_ms, self._not_before_ms)
        oldest_ms = min(self._fetched_ms.values(), default=None)
        return None if oldest_ms is None else oldest_ms + max(self._max_age_ms, 1)

    def on_answer(
        self, fetch: MetadataFetch, response: MetadataResponse, now_ms: int
    ) -> list[tuple[str, int]]:
        """Take in an answer.

        Returns:
            The partitions whose leader epoch is newer than before.
        """
        self._is_asking = False
        self.reasons = {}
        self._urls = {broker.id: broker.url for broker in response.brokers if broker.url}
        self._racks = {broker.id: broker.rack for broker in response.brokers}
        changed: list[tuple[str, int]] = []
        for topic in response.topics:
            changed += self._take(topic)
            self._fetched_ms[topic.name] = now_ms
            self._gone.pop(topic.name, None)
        answered = {topic.name for topic in response.topics}
        for name in fetch.topics:
            if name not in answered:
                self._forget(name, UnknownTopicOrPartitionError(f"there is no topic {name!r}"))
        self.cluster = ClusterView(self._topics.values())
        if self._suspects or self._max_age_ms == 0:
            self._not_before_ms = now_ms + self._retry_backoff_ms
        return changed

    def on_failure(self, fetch: MetadataFetch, error: OttlaError, now_ms: int) -> None:
        """Take in that a question failed."""
        self._is_asking = False
        if isinstance(error, UnknownTopicOrPartitionError):
            # The broker has answered, so it is up; one of the names is wrong.
            self.reasons = {}
            if len(fetch.topics) == 1:
                self._forget(fetch.topics[0], error)
                self.cluster = ClusterView(self._topics.values())
            else:
                self._groups.extend((name,) for name in fetch.topics)
            return
        detail = error.detail.removeprefix(f"{fetch.url}: ")
        self.reasons.pop(fetch.url, None)
        self.reasons[fetch.url] = detail
        self._groups.appendleft(fetch.topics)
        tried_all = len(self.reasons) >= len({*self._urls.values(), *self._bootstrap})
        if tried_all:
            self._not_before_ms = now_ms + self._retry_backoff_ms

    def _wanted(self, now_ms: int) -> list[str]:
        suspect = {topic for topic, _ in self._suspects}
        return [
            name
            for name in self._watched
            if name not in self._gone
            and (
                name in suspect
                or name not in self._topics
                or now_ms - self._fetched_ms[name] >= max(self._max_age_ms, 1)
            )
        ]

    def _epoch(self, topic: str, partition: int) -> int | None:
        description = self._topics.get(topic)
        if description is None or partition >= len(description.partitions):
            return None
        return description.partitions[partition].leader_epoch

    def _take(self, topic: TopicDescription) -> list[tuple[str, int]]:
        """Make this the topic's description, save where an older one knows a newer leader."""
        known = self._topics.get(topic.name)
        is_same = known is not None and known.topic_id == topic.topic_id
        older = known.partitions if known is not None and is_same else []
        partitions: list[PartitionDescription] = []
        changed: list[tuple[str, int]] = []
        for state in sorted(topic.partitions, key=lambda each: each.partition):
            before = older[state.partition] if state.partition < len(older) else None
            if before is not None and before.leader_epoch > state.leader_epoch:
                partitions.append(before)
                continue
            partitions.append(state)
            if before is None or before.leader_epoch < state.leader_epoch:
                changed.append((topic.name, state.partition))
        # A topic never loses partitions: a shorter list is an older one.
        partitions.extend(older[len(partitions) :])
        self._topics[topic.name] = TopicDescription(
            topic.name, topic.topic_id, partitions, topic.configs
        )
        for name, partition in changed:
            bad_epoch = self._suspects.get((name, partition))
            if bad_epoch is not None and (
                not is_same or partitions[partition].leader_epoch > bad_epoch
            ):
                del self._suspects[name, partition]
        return changed

    def _forget(self, name: str, error: OttlaError) -> None:
        self._topics.pop(name, None)
        self._fetched_ms.pop(name, None)
        self._watched.pop(name, None)
        self._gone[name] = error
        for key in [key for key in self._suspects if key[0] == name]:
            del self._suspects[key]


def _groups_of(topics: list[str]) -> list[tuple[str, ...]]:
    return [
        tuple(topics[start : start + MAX_TOPICS_PER_FETCH])
        for start in range(0, len(topics), MAX_TOPICS_PER_FETCH)
    ]
