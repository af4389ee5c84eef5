"""Which partitions to fetch from which brokers now, and what every answer means for them. Pure.

`next_calls(now_ms)` returns requests, the driver sends each and reports back with `on_answer` or
`on_failure`. A partition has one fetch out at most. It is fetched as long as less than one fetch's
worth of it waits to be handed out, so that the next one is on its way while records are worked on;
all that waits and is on its way stays below MAX_BUFFERED_BYTES. Each request asks for its share of
that, and what was served least recently is asked for first, so that no partition and no broker has
to do without because of others. Paused partitions give back what they hold where others need it.

A fetch waits at the broker until one of its partitions has something. What begins to be wanted
meanwhile is asked for in a request of its own, because it must not wait for the others. So a broker
may have several requests, of different partitions, MAX_CALLS_PER_BROKER at most.

Reading goes on where it was whatever fails. A fetch names the leader epoch that it takes for the
current one, so that a broker that is behind, or ahead, is found out. Whether the log was cut behind
a position, as after an unclean election, is not told by a fetch: only an offset beyond the end is
noticed, as out of range.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ottla._consumer_config import MAX_FETCH_BYTES
from ottla._metadata import Leader, Metadata
from ottla._positions import BackoffOptions, PartitionState, Positions, Start, backoff_ms
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import (
    CorruptMessageError,
    OffsetOutOfRangeError,
    OttlaError,
    RoutingError,
    UnavailableError,
    UnknownTopicOrPartitionError,
    error_from_problem,
)
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import BinaryFetchRequest, FetchedPartition, PartitionToFetch
from ottla_protocol.record_batch import read_header

MAX_CALLS_PER_BROKER: Final = 4
"""Fetches that one broker may have at the same time, of different partitions."""

MAX_BUFFERED_BYTES: Final = 64 << 20
"""Fetched and not decoded yet, or on its way."""

MAX_PARTITIONS_PER_CALL: Final = 1_000
"""Partitions of one request; at some 60 bytes each, far below what brokers take."""

EMPTY_ANSWER_PAUSE_MS: Final = 10
"""How long a broker is left alone that has answered with nothing, and without waiting for it."""

LATE_AFTER_MS: Final = 2_000
"""How long beyond `fetch_max_wait_ms` a broker may take before others are asked who leads."""

SHUN_FOLLOWER_MS: Final = 5_000
"""How long a partition is read from its leader after a follower could not serve it."""


class FetchOptions(BackoffOptions, Protocol):
    """The options that matter here; `ConsumerConfig` has them."""

    @property
    def auto_offset_reset(self) -> str: ...
    @property
    def client_rack(self) -> str: ...
    @property
    def fetch_min_bytes(self) -> int: ...
    @property
    def fetch_max_wait_ms(self) -> int: ...
    @property
    def fetch_max_bytes(self) -> int: ...
    @property
    def max_partition_fetch_bytes(self) -> int: ...
    @property
    def isolation_level(self) -> str: ...
    @property
    def request_timeout_ms(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class PartitionFetch:
    """One partition of a fetch, and what it was asked for; not always of its leader."""

    state: PartitionState
    version: int
    offset: int
    leader_epoch: int
    of_leader: bool
    topic_id: str


@dataclass(frozen=True, slots=True, eq=False)
class FetchCall:
    """One request to one broker."""

    url: str
    partitions: tuple[PartitionFetch, ...]
    request: BinaryFetchRequest
    timeout_ms: int
    most_bytes: int
    """What its answer is expected to take at most."""
    sent_ms: int


class Fetcher:
    """Fetches what a consumer reads.

    Args:
        options: the consumer's.
        positions: its partitions.
        metadata: who leads them.

    Attributes:
        tells_unknown: a partition that does not exist is an error. Of those that a group assigns it
            is none: they were just deleted, and are taken away.
        fetched_bytes, fetched_batches, calls: counters.
    """

    def __init__(self, options: FetchOptions, positions: Positions, metadata: Metadata) -> None:
        self._options = options
        self._positions = positions
        self._metadata = metadata
        self._most_per_partition = max(1, options.max_partition_fetch_bytes)
        self._most_per_call = max(1, min(options.fetch_max_bytes, MAX_FETCH_BYTES))
        self._out: dict[str, list[FetchCall]] = {}
        self._not_before_ms: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._late: set[FetchCall] = set()
        self._shunned_until_ms: dict[tuple[str, int], int] = {}
        self._serves = 0
        self.tells_unknown = True
        self.fetched_bytes = self.fetched_batches = self.calls = 0

    # --- asking ---------------------------------------------------------------------------------

    def next_calls(self, now_ms: int) -> list[FetchCall]:
        """What to send now; each answer must be reported."""
        self._watch_topics(now_ms)
        self._look_for_late(now_ms)
        room = self._room_bytes()
        if room < self._most_per_partition and self._drop_paused(now_ms):
            room = self._room_bytes()
        self._positions.lacks_room = room <= 0
        if room <= 0:
            return []
        drafts: dict[str, list[PartitionFetch]] = {}
        for state in self._positions.states.values():
            if not self._wants(state) or state.retry_at_ms > now_ms:
                continue
            leader = self._metadata.leader(*state.name)
            topic = self._metadata.topic(state.name.topic)
            source = self._source(state, now_ms) if self._options.client_rack else leader
            if topic is not None and state.topic_id not in {None, topic.topic_id}:
                self._on_another_topic(state)
                continue
            if topic is None or leader is None or source is None:
                self._look_for_leader(state, now_ms)
                continue
            if self._not_before_ms.get(source.url, now_ms) > now_ms:
                continue
            if len(self._out.get(source.url, ())) >= MAX_CALLS_PER_BROKER:
                continue
            drafts.setdefault(source.url, []).append(
                PartitionFetch(
                    state,
                    state.version,
                    state.fetch_offset,
                    leader.leader_epoch,
                    source.node_id == leader.node_id,
                    topic.topic_id,
                )
            )
        for wanted in drafts.values():
            wanted.sort(key=_served)
        calls: list[FetchCall] = []
        for url, wanted in sorted(drafts.items(), key=lambda draft: _served(draft[1][0])):
            if room > 0:
                call = self._call(url, wanted[:MAX_PARTITIONS_PER_CALL], room, now_ms)
                room -= call.most_bytes
                calls.append(call)
            else:
                self._positions.lacks_room = True
        return calls

    def next_call_ms(self, now_ms: int) -> int | None:
        """When `next_calls` may have something although nothing happens; None is never."""
        times = [
            state.retry_at_ms
            for state in self._positions.states.values()
            if state.retry_at_ms > now_ms and self._wants(state)
        ]
        times += [at_ms for at_ms in self._not_before_ms.values() if at_ms > now_ms]
        times += [
            self._late_from_ms(call)
            for calls in self._out.values()
            for call in calls
            if call not in self._late
        ]
        return min(times, default=None)

    def _late_from_ms(self, call: FetchCall) -> int:
        return call.sent_ms + self._options.fetch_max_wait_ms + LATE_AFTER_MS

    def _look_for_late(self, now_ms: int) -> None:
        """A broker that keeps nobody waiting for so long may hang: others may lead by now."""
        for calls in self._out.values():
            for call in calls:
                if call in self._late or now_ms < self._late_from_ms(call):
                    continue
                self._late.add(call)
                for fetch in call.partitions:
                    if fetch.state.fetching is not fetch:
                        continue
                    name = fetch.state.name
                    if fetch.of_leader:
                        self._metadata.suspect(*name, fetch.leader_epoch)
                    else:
                        self._shunned_until_ms[name] = now_ms + SHUN_FOLLOWER_MS
                        fetch.state.fetching = None

    def _watch_topics(self, now_ms: int) -> None:
        for state in self._positions.states.values():
            topic = state.name.topic
            if self._metadata.gone(topic) is None:
                self._metadata.watch(topic)
            elif state.error is None and 0 < state.retry_at_ms <= now_ms:
                # It was told; now it is looked for once more.
                state.retry_at_ms = 0
                self._metadata.watch(topic)

    def _wants(self, state: PartitionState) -> bool:
        return (
            state.position is not None
            and (state.fetching is None or state.fetching.version != state.version)
            and state.buffered_bytes < self._most_per_partition
            and not state.is_paused
            and not state.is_held
            and state.error is None
        )

    def _source(self, state: PartitionState, now_ms: int) -> Leader | None:
        """Whom to read a partition from."""
        until_ms = self._shunned_until_ms.get(state.name)
        if until_ms is not None:
            if until_ms > now_ms:
                return self._metadata.leader(*state.name)
            del self._shunned_until_ms[state.name]
        return self._metadata.replica_in(self._options.client_rack, *state.name)

    def _room_bytes(self) -> int:
        buffered = sum(state.buffered_bytes for state in self._positions.states.values())
        coming = sum(call.most_bytes for calls in self._out.values() for call in calls)
        room = MAX_BUFFERED_BYTES - buffered - coming
        # What is larger than all the room is fetched alone.
        return room if buffered or coming else max(room, self._most_per_partition)

    def _drop_paused(self, now_ms: int) -> bool:
        """Where others want to fetch, make room of what nobody takes for now."""
        states = self._positions.states.values()
        if not any(self._wants(state) and state.retry_at_ms <= now_ms for state in states):
            return False
        idle = [
            state
            for state in states
            if state.is_paused and state.buffered_bytes and not self._positions.is_iterating(state)
        ]
        for state in idle:
            state.drop_batches()
            self._positions.refresh_ready(state)
        return bool(idle)

    def _share_bytes(self) -> int:
        """What one request may bring, so that there is room for all that may be out."""
        most_calls = MAX_CALLS_PER_BROKER * max(1, self._metadata.broker_count)
        return max(MAX_BUFFERED_BYTES // most_calls, self._most_per_partition)

    def _call(
        self, url: str, wanted: Sequence[PartitionFetch], room: int, now_ms: int
    ) -> FetchCall:
        options = self._options
        max_bytes = min(self._most_per_call, self._share_bytes(), room)
        request = BinaryFetchRequest(
            [
                PartitionToFetch(
                    fetch.state.name.topic,
                    fetch.state.name.partition,
                    fetch.offset,
                    self._most_per_partition,
                    fetch.leader_epoch,
                )
                for fetch in wanted
            ],
            max_wait_ms=options.fetch_max_wait_ms,
            min_bytes=options.fetch_min_bytes,
            max_bytes=max_bytes,
            isolation=(
                "read_committed"
                if options.isolation_level == "read_committed"
                else "read_uncommitted"
            ),
            replica="any" if options.client_rack else "leader",
        )
        call = FetchCall(
            url,
            tuple(wanted),
            request,
            options.fetch_max_wait_ms + options.request_timeout_ms,
            min(max_bytes, len(wanted) * self._most_per_partition),
            now_ms,
        )
        for fetch in wanted:
            fetch.state.fetching = fetch
        self._out.setdefault(url, []).append(call)
        self.calls += 1
        return call

    def _look_for_leader(self, state: PartitionState, now_ms: int) -> None:
        """Ask who leads a partition, or tell the application that there is none of that name."""
        topic, partition = state.name
        gone = self._metadata.gone(topic)
        described = self._metadata.topic(topic)
        if described is not None and partition >= len(described.partitions):
            self._metadata.expire(topic)
            gone = missing_partition(topic, partition, len(described.partitions))
        if gone is not None:
            # Asked for again after a while: it may be created yet.
            state.back_off(now_ms, self._options)
            if self.tells_unknown:
                self._fail(state, gone)
        elif described is not None:
            self._metadata.suspect(topic, partition, described.partitions[partition].leader_epoch)

    # --- answers --------------------------------------------------------------------------------

    def on_answer(self, call: FetchCall, results: Sequence[FetchedPartition], now_ms: int) -> None:
        """Take in the answer: one result for each partition of the call, in its order."""
        wanted = set(self._end(call))
        self._failures.pop(call.url, None)
        for fetch, result in zip(call.partitions, results, strict=True):
            if fetch not in wanted:
                continue
            if result.error is not None:
                self._on_error(fetch, error_from_problem(result.error), call, now_ms)
            elif result.topic_id not in {None, fetch.topic_id}:
                self._on_error(fetch, _of_another_topic(fetch), call, now_ms)
            else:
                self._take(fetch, result)
        is_empty = not any(
            result.batches or result.error or _told_end(result) > fetch.offset
            for fetch, result in zip(call.partitions, results, strict=True)
        )
        if is_empty and now_ms - call.sent_ms < EMPTY_ANSWER_PAUSE_MS:
            self._not_before_ms[call.url] = now_ms + EMPTY_ANSWER_PAUSE_MS

    def on_failure(self, call: FetchCall, error: OttlaError, now_ms: int) -> None:
        """Take in that the whole call failed."""
        wanted = self._end(call)
        if isinstance(error, BrokerUnreachableError):
            failures = self._failures[call.url] = self._failures.get(call.url, 0) + 1
            self._not_before_ms[call.url] = now_ms + backoff_ms(failures, self._options)
        for fetch in wanted:
            self._on_error(fetch, error, call, now_ms)

    def _end(self, call: FetchCall) -> list[PartitionFetch]:
        """The call is over; returns the parts of it whose answer still counts."""
        calls = self._out[call.url]
        calls.remove(call)
        if not calls:
            del self._out[call.url]
        self._not_before_ms.pop(call.url, None)
        self._late.discard(call)
        current = [fetch for fetch in call.partitions if fetch.state.fetching is fetch]
        for fetch in current:
            fetch.state.fetching = None
        return [fetch for fetch in current if fetch.state.version == fetch.version]

    def _take(self, fetch: PartitionFetch, result: FetchedPartition) -> None:
        state = fetch.state
        state.failures = 0
        state.topic_id = fetch.topic_id
        self._metadata.trust(state.name.topic, state.name.partition)
        end = result.last_stable_offset
        state.readable_end = result.high_watermark if end is None else end
        state.log_start_offset = result.log_start_offset
        try:
            batches_end = (
                read_header(result.batches[-1]).next_offset if result.batches else fetch.offset
            )
        except CorruptMessageError as error:
            self._fail(state, error)
            return
        next_offset = max(batches_end, _told_end(result))
        if next_offset <= fetch.offset:
            if not result.batches:
                return
            self._fail(
                state,
                CorruptMessageError(
                    f"what was fetched from offset {fetch.offset} ends at {next_offset}"
                ),
            )
            return
        self._serves += 1
        state.served = self._serves
        state.fetch_offset = next_offset
        state.buffered.extend(result.batches)
        if next_offset > batches_end:
            state.buffered.append(next_offset)
        size = sum(len(batch) for batch in result.batches)
        state.buffered_bytes += size
        self.fetched_bytes += size
        self.fetched_batches += len(result.batches)
        self._positions.refresh_ready(state)

    def _on_error(
        self, fetch: PartitionFetch, error: OttlaError, call: FetchCall, now_ms: int
    ) -> None:
        state = fetch.state
        topic, partition = state.name
        if not fetch.of_leader and not isinstance(error, OffsetOutOfRangeError):
            self._shunned_until_ms[state.name] = now_ms + SHUN_FOLLOWER_MS
            return
        state.back_off(now_ms, self._options)
        if isinstance(error, OffsetOutOfRangeError):
            self._on_out_of_range(state, error)
        elif isinstance(error, UnknownTopicOrPartitionError):
            # The broker may be behind, or the topic gone: the metadata tells.
            self._metadata.expire(topic)
        elif isinstance(error, BrokerUnreachableError):
            # The way to this broker is closed for a while; another leader is asked at once.
            state.retry_at_ms = 0
            self._metadata.suspect(topic, partition, fetch.leader_epoch)
        elif error.retriable:
            self._metadata.suspect(topic, partition, fetch.leader_epoch)
            if isinstance(error, RoutingError) and self._hinted(fetch, error, call):
                state.retry_at_ms = 0
        elif isinstance(error, UnavailableError):
            self._metadata.suspect(topic, partition, fetch.leader_epoch)
        else:
            self._fail(state, error)

    def _hinted(self, fetch: PartitionFetch, error: OttlaError, call: FetchCall) -> bool:
        """Whether the error names a leader that was not known; of a whole call it names but one."""
        members = error.members
        node_id, url, epoch = (
            members.get("leader"), members.get("leader_url"), members.get("leader_epoch"),
        )  # fmt: skip
        if not (isinstance(node_id, int) and isinstance(url, str) and isinstance(epoch, int)):
            return False
        is_meant = len(call.partitions) == 1 or fetch is call.partitions[0]
        topic, partition = fetch.state.name
        return is_meant and self._metadata.hint(topic, partition, node_id, url, epoch)

    def _on_out_of_range(self, state: PartitionState, error: OttlaError) -> None:
        if state.has_records or self._positions.is_iterating(state):
            return  # What is there is handed out first.
        reset = self._options.auto_offset_reset
        if reset == "none":
            self._fail(state, error)
        else:
            state.find(Start.EARLIEST if reset == "earliest" else Start.LATEST)

    def _on_another_topic(self, state: PartitionState) -> None:
        """The topic was deleted and its name given to another one, where offsets mean nothing."""
        if state.has_records or self._positions.is_iterating(state):
            return  # What is there is handed out first.
        state.find(Start.COMMITTED)

    def _fail(self, state: PartitionState, error: OttlaError) -> None:
        """Tell the application with the next poll; it is the end of reading until then."""
        state.error = error
        self._positions.refresh_ready(state)

    def on_new_leaders(self, changed: Iterable[tuple[str, int]]) -> None:
        """These have a newer leader: what waited for one need not wait any longer."""
        for topic, partition in changed:
            state = self._positions.states.get((topic, partition))  # type: ignore[call-overload]
            if state is None:
                continue
            state.retry_at_ms = 0
            leader = self._metadata.leader(topic, partition)
            fetching = state.fetching
            if leader and fetching and fetching.leader_epoch < leader.leader_epoch:
                # Whatever the former leader has to say, if it ever does, is not waited for.
                state.fetching = None


def _of_another_topic(fetch: PartitionFetch) -> OttlaError:
    topic, partition = fetch.state.name
    return UnknownTopicOrPartitionError(
        f"{topic}-{partition} was answered with records of another topic of that name"
    )


def _told_end(result: FetchedPartition) -> int:
    """Where the broker says to go on, if it does: behind what it left out."""
    return -1 if result.next_offset is None else result.next_offset


def _served(fetch: PartitionFetch) -> int:
    return fetch.state.served
