"""The one driver of a consumer's machines: it polls them, talks to brokers and reports back.

It lives on one event loop: that of the asyncio consumer's caller, or that of the synchronous
consumer's background thread. So fetches and heartbeats go on while the application works. The
machines are used under the monitor's lock, because records are handed out on the caller's thread.

What the group changes is told to the application within its polls (`Rebalance`); what may not be
read any more is taken away at once.

A defect in here must not leave anybody waiting: whatever ends the driver fails every call.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import msgspec

from ottla._broker_questions import (
    LOOKUP_TIMEOUT_MS,
    BrokerQuestions,
    BrokerReach,
    ConsumerTransport,
    decoded,
)
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._driver import Driver, monotonic_ms
from ottla._fetcher import FetchCall, Fetcher
from ottla._futures import Monitor
from ottla._group_calls import GroupCall, GroupCallKind
from ottla._group_member import GroupMember, MemberChange
from ottla._handout import Handout
from ottla._metadata import Metadata, MetadataFetch
from ottla._offset_commits import OffsetCommit, OffsetCommits
from ottla._position_lookups import Lookup, PositionLookups
from ottla._positions import Positions
from ottla._producer_io import METADATA_TIMEOUT_MS
from ottla._rebalance import Rebalance
from ottla._transport import BrokerUnreachableError, error_of
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError
from ottla_protocol.models import BinaryFetchResponse, MetadataResponse

_logger = logging.getLogger("ottla.consumer")
_encode = msgspec.msgpack.Encoder().encode
_decode_fetch = msgspec.msgpack.Decoder(BinaryFetchResponse).decode
_decode_metadata = msgspec.json.Decoder(MetadataResponse).decode


class ConsumerIO(Driver):
    """Positions, fetcher, membership and commits of one consumer, and what drives them.

    Args:
        config: the consumer's options.
        transport: the way to the brokers; the caller closes it.
        on_news: called, on the driver's loop, when a poll that waits should look again.
        wake: called, on any thread, when the driver should look again.
        random: for member ids and to spread retries.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        transport: ConsumerTransport,
        *,
        on_news: Callable[[], None],
        wake: Callable[[], None],
        random: Random,
    ) -> None:
        super().__init__("consumer")
        self._config = config
        self._transport = transport
        self._on_news = on_news
        self._random = random
        self.monitor = Monitor()
        self.positions = Positions()
        self.metadata = Metadata(
            config.bootstrap_servers,
            max_age_ms=config.metadata_max_age_ms,
            retry_backoff_ms=config.retry_backoff_ms,
        )
        self.fetcher = Fetcher(config, self.positions, self.metadata)
        self.lookups = PositionLookups(config, self.positions)
        self.handout = Handout(
            self.positions,
            self.monitor.lock,
            key_deserializer=config.key_deserializer,
            value_deserializer=config.value_deserializer,
            may_read=self.may_read,
            wake=wake,
            most_buffered_bytes=max(1, config.max_partition_fetch_bytes),
        )
        self.reach = BrokerReach(monotonic_ms())
        self.questions = BrokerQuestions(
            transport,
            self.metadata,
            self.monitor,
            self.reach,
            request_timeout_ms=config.request_timeout_ms,
            retry_backoff_ms=config.retry_backoff_ms,
            reads_committed=config.reads_committed,
        )
        self.member: GroupMember | None = None
        self.commits: OffsetCommits | None = None
        if config.group_id is not None:
            self.commits = OffsetCommits(
                config.group_id,
                request_timeout_ms=config.request_timeout_ms,
                retry_backoff_ms=config.retry_backoff_ms,
                random=random,
            )
        self.rebalance = Rebalance()
        self.last_poll_ms = monotonic_ms()
        self.is_polling = False
        self.is_evicted = False
        self.counters = {"commits": 0, "commits_failed": 0, "rebalances": 0, "heartbeats": 0}
        self._waiting: dict[OffsetCommit, Callable[[OffsetCommit], None]] = {}
        self._next_auto_commit_ms = self.last_poll_ms + config.auto_commit_interval_ms
        self._last_given: object = None
        self._group_url: str | None = None
        # Topics subscribed to by name that are not known to be there, and not told to be missing.
        self._unproven_topics: set[str] = set()
        self._left: asyncio.Future[None] | None = None

    def may_read(self, name: TopicPartition) -> bool:
        """Whether a partition is certainly nobody else's now; under the lock."""
        return self.member is None or self.member.may_own(name, monotonic_ms())

    # --- the loop -----------------------------------------------------------------------------

    def _fail_all(self, failure: OttlaError) -> None:
        self.abort_commits(failure)
        self._on_news()

    def _poll_once(self) -> int | None:
        now_ms = monotonic_ms()
        with self.monitor.lock:
            times_ms = [self._look_after_group(now_ms)]
            group_calls = self._group_calls(now_ms)
            fetches = self.fetcher.next_calls(now_ms)
            lookups = self.lookups.next_lookups(now_ms)
            metadata_fetch = self.metadata.next_fetch(now_ms)
            times_ms += [
                self.fetcher.next_call_ms(now_ms),
                self.lookups.next_lookup_ms(now_ms),
                self.metadata.next_fetch_ms(now_ms),
            ]
            if self.member is not None:
                times_ms.append(self.member.next_call_ms(now_ms))
            if self.commits is not None:
                times_ms.append(self.commits.next_call_ms())
            if self.positions.next_ready() is not None:
                # Errors come up here too, without an answer that would tell of them.
                self._on_news()
        if self._left is not None and self.member is not None and self.member.has_left:
            self._left.set_result(None)
            self._left = None
        for call in group_calls:
            self._start(self._ask_group(call))
        for fetch in fetches:
            self._start(self._fetch(fetch))
        for lookup in lookups:
            self._start(self._look_up(lookup))
        if metadata_fetch is not None:
            self._start(self._ask_metadata(metadata_fetch))
        return min((each for each in times_ms if each is not None), default=None)

    # --- the group ----------------------------------------------------------------------------

    def join(self, topics: tuple[str, ...] | None, pattern: str | None) -> None:
        """Be a member that reads these; under the lock."""
        config = self._config
        assert config.group_id is not None, "checked by the caller"
        self.rebalance.error = None
        self._unproven_topics = set(topics or ())
        for topic in self._unproven_topics:
            self.metadata.watch(topic)
        self.fetcher.tells_unknown = self.lookups.tells_unknown = False
        self.last_poll_ms = monotonic_ms()
        if self.member is not None:
            self.member.change_subscription(topics, pattern)
            return
        self.member = GroupMember(
            config.group_id,
            topics=topics,
            pattern=pattern,
            instance_id=config.group_instance_id,
            assignor=config.assignor,
            session_timeout_ms=config.session_timeout_ms,
            rebalance_timeout_ms=config.rebalance_limit_ms,
            retry_backoff_ms=config.retry_backoff_ms,
            random=self._random,
        )

    async def leave(self, timeout_ms: int, *, is_static_too: bool) -> None:
        """End the membership, and wait until the coordinator knows, for `timeout_ms` at most."""
        if self.member is None:
            return
        with self.monitor.lock:
            self.member.leave(monotonic_ms(), is_static_too=is_static_too)
            self.rebalance = Rebalance()
        self._left = left = asyncio.get_running_loop().create_future()
        self.wake()
        try:
            if self.defect is None:
                await asyncio.wait([left], timeout=timeout_ms / 1000)
        finally:
            self._left = self.member = None

    def begin_poll(self) -> None:
        """The application asks for records; under the lock."""
        self.is_polling = True
        self.last_poll_ms = monotonic_ms()
        if self.is_evicted and self.member is not None:
            self.is_evicted = False
            self.member.resume()

    def end_poll(self) -> None:
        """The application works on what it got."""
        self.is_polling = False
        self.last_poll_ms = monotonic_ms()

    def _look_after_group(self, now_ms: int) -> int | None:
        """Commit and give up what is due; returns when to look again; under the lock."""
        times_ms: list[int] = []
        if self.member is not None:
            self._adopt(self.member.expire(now_ms), now_ms)
            until_ms = self._poll_limit_ms(now_ms)
            if until_ms is not None:
                times_ms.append(until_ms)
                if now_ms >= until_ms:
                    self._evict(now_ms)
                    times_ms.clear()
        if self.commits is not None:
            self._settle(self.commits.expire(now_ms))
            if self._config.enable_auto_commit:
                if now_ms >= self._next_auto_commit_ms:
                    self._next_auto_commit_ms = now_ms + self._config.auto_commit_interval_ms
                    self.commit_finished()
                times_ms.append(self._next_auto_commit_ms)
        return min(times_ms, default=None)

    def _poll_limit_ms(self, now_ms: int) -> int | None:
        """When the next poll is too late; None while one is under way."""
        if self.is_evicted or self.member is None or self.member.has_left:
            return None
        given = self.positions.current
        if self.is_polling or given is not self._last_given:
            # Each record that an iteration gives out is as good as a poll.
            self._last_given = given
            self.last_poll_ms = now_ms
        return self.last_poll_ms + self._config.max_poll_interval_ms

    def _evict(self, now_ms: int) -> None:
        assert self.member is not None
        _logger.warning(
            "%s: no poll for max_poll_interval_ms (%d): the group %s gives the partitions to "
            "others; take fewer records at a time (max_poll_records) or raise the interval",
            self._config.client_id,
            self._config.max_poll_interval_ms,
            self._config.group_id,
        )
        self.is_evicted = True
        held = frozenset(self.positions.states)
        self._adopt(MemberChange(lost=held), now_ms)
        self.member.leave(now_ms, is_static_too=True)

    def _adopt(self, change: MemberChange, now_ms: int) -> None:
        """Take in what the group changed: first what must not be read any more."""
        if not change:
            return
        self.counters["rebalances"] += 1
        released = self.rebalance.adopt(change, self.positions)
        if self.member is not None:
            self.member.release(released)
        if change.lost and self.commits is not None:
            self._settle(self.commits.drop(change.lost, now_ms))
        self._on_news()

    def _group_calls(self, now_ms: int) -> list[GroupCall]:
        calls: list[GroupCall] = []
        if self.member is not None:
            while (call := self.member.next_call(now_ms)) is not None:
                calls.append(call)
                self.counters["heartbeats"] += call.kind is GroupCallKind.HEARTBEAT
        if self.commits is not None:
            membership = None if self.member is None else self.member.membership
            if (call := self.commits.next_call(now_ms, membership)) is not None:
                calls.append(call)
        return calls

    async def _ask_group(self, call: GroupCall) -> None:
        url = self._group_broker(call)
        try:
            response = await self._transport.request(
                call.method, url, call.path, call.body or None, timeout_ms=call.timeout_ms
            )
            if not 200 <= response.status < 300:
                raise error_of(response, url)
        except OttlaError as error:
            _logger.debug("%s at %s failed: %s", call.kind, url, error)
            self.reach.missed(url, error)
            self._group_failed(call, error)
        else:
            self._group_answered(call, response.body)

    def _group_broker(self, call: GroupCall) -> str:
        """One broker for all calls of the group, until one of them fails."""
        if self._group_url is None or call.wants_other_broker:
            with self.monitor.lock:
                self._group_url = self.metadata.any_url()
        return self._group_url

    def _group_answered(self, call: GroupCall, body: bytes) -> None:
        now_ms = monotonic_ms()
        self.reach.reached()
        with self.monitor.lock:
            if call.kind is GroupCallKind.COMMIT:
                assert self.commits is not None
                self._settle(self.commits.on_answer(call, body, now_ms))
            elif self.member is not None:
                self._adopt(self.member.on_answer(call, body, now_ms), now_ms)

    def _group_failed(self, call: GroupCall, error: OttlaError) -> None:
        now_ms = monotonic_ms()
        with self.monitor.lock:
            if call.kind is GroupCallKind.COMMIT:
                assert self.commits is not None
                self._settle(self.commits.on_failure(call, error, now_ms))
            elif self.member is not None:
                self._adopt(self.member.on_failure(call, error, now_ms), now_ms)

    # --- commits ------------------------------------------------------------------------------

    def commit(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata],
        timeout_ms: int,
        on_settled: Callable[[OffsetCommit], None],
    ) -> OffsetCommit:
        """Ask for a commit; under the lock. `on_settled` is called on the driver's loop."""
        assert self.commits is not None, "checked by the caller"
        commit = self.commits.commit(
            offsets, monotonic_ms(), timeout_ms=timeout_ms, is_member=self.member is not None
        )
        self._waiting[commit] = on_settled
        return commit

    async def commit_now(
        self, offsets: dict[TopicPartition, OffsetAndMetadata], timeout_ms: int
    ) -> None:
        """Commit, and wait for what became of it.

        Raises:
            OttlaError: nothing was committed, or not known in time whether it was.
        """
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_settled(_: OffsetCommit) -> None:
            if not settled.done():
                settled.set_result(None)

        assert self.commits is not None, "checked by the caller"
        with self.monitor.lock:
            commit = self.commit(offsets, timeout_ms, on_settled)
        self.wake()
        if self.defect is not None:
            self.abort_commits(self.failure())
        # Earlier commits may have more time, and are told of before.
        await asyncio.wait([settled], timeout=timeout_ms / 1000)
        if not commit.is_done:
            with self.monitor.lock:
                self._settle(self.commits.expire(max(monotonic_ms(), commit.deadline_ms)))
        if commit.error is not None:
            raise commit.error

    def commit_finished(self, names: Iterable[TopicPartition] | None = None) -> None:
        """Auto commit, of these partitions or of all; under the lock."""
        assert self.commits is not None, "auto commit needs a group"
        offsets = self.positions.finished(names, without=self.commits.asked)
        if offsets:
            self.commit(offsets, self._config.default_api_timeout_ms, self._auto_committed)

    def _auto_committed(self, commit: OffsetCommit) -> None:
        if commit.error is not None:
            _logger.warning("%s: auto commit: %s", self._config.client_id, commit.error)

    def _settle(self, commits: Iterable[OffsetCommit]) -> None:
        for commit in commits:
            self.counters["commits"] += 1
            if commit.error is None:
                self.positions.note_committed(commit.offsets)
            else:
                self.counters["commits_failed"] += 1
            on_settled = self._waiting.pop(commit, None)
            if on_settled is not None:
                on_settled(commit)

    def abort_commits(self, error: OttlaError) -> None:
        """Fail every commit that is not settled."""
        if self.commits is not None:
            with self.monitor.lock:
                self._settle(self.commits.abort(error))

    # --- fetches ------------------------------------------------------------------------------

    async def _fetch(self, call: FetchCall) -> None:
        try:
            response = await self._transport.post(
                call.url, routes.FETCH, _encode(call.request), timeout_ms=call.timeout_ms
            )
            if response.status not in (200, 207):
                raise error_of(response, call.url)
            results = decoded(_decode_fetch, response, call.url).partitions
            asked = [(each.topic, each.partition) for each in call.request.partitions]
            if [(each.topic, each.partition) for each in results] != asked:
                raise BrokerUnreachableError(f"{call.url}: the answer is not about what was asked")
        except OttlaError as error:
            _logger.debug("fetch from %s failed: %s", call.url, error)
            self.reach.missed(call.url, error)
            with self.monitor.lock:
                self.fetcher.on_failure(call, error, monotonic_ms())
        else:
            self.reach.reached()
            with self.monitor.lock:
                self.fetcher.on_answer(call, results, monotonic_ms())
        if self.positions.ready:
            self._on_news()

    # --- positions ----------------------------------------------------------------------------

    async def _look_up(self, lookup: Lookup) -> None:
        with self.monitor.lock:
            leader = None if lookup.partition is None else self.metadata.leader(*lookup.partition)
            url = self.metadata.any_url() if leader is None else leader.url
        try:
            response = await self._transport.get(
                url, lookup.path, timeout_ms=min(LOOKUP_TIMEOUT_MS, self._config.request_timeout_ms)
            )
            if response.status != 200:
                raise error_of(response, url)
            with self.monitor.lock:
                self.lookups.on_answer(lookup, response.body, monotonic_ms())
        except OttlaError as error:
            _logger.debug("%s from %s failed: %s", lookup.path, url, error)
            self.reach.missed(url, error)
            with self.monitor.lock:
                self.lookups.on_failure(lookup, error, monotonic_ms())
                if lookup.partition is not None and error.refresh_metadata:
                    self.metadata.expire(lookup.partition.topic)
        else:
            self.reach.reached()
        self._on_news()

    # --- metadata -----------------------------------------------------------------------------

    async def _ask_metadata(self, fetch: MetadataFetch) -> None:
        try:
            response = await self._transport.get(
                fetch.url,
                fetch.path,
                timeout_ms=min(METADATA_TIMEOUT_MS, self._config.request_timeout_ms),
            )
            if response.status != 200:
                raise error_of(response, fetch.url)
            described = decoded(_decode_metadata, response, fetch.url)
        except OttlaError as error:
            _logger.debug("metadata from %s failed: %s", fetch.url, error)
            self.reach.missed(fetch.url, error)
            with self.monitor.lock:
                self.metadata.on_failure(fetch, error, monotonic_ms())
        else:
            self.reach.reached()
            with self.monitor.lock:
                changed = self.metadata.on_answer(fetch, described, monotonic_ms())
                self.fetcher.on_new_leaders(changed)
        self._warn_of_missing_topics()
        self._on_news()

    def _warn_of_missing_topics(self) -> None:
        """Say once that a topic is not there: the group waits for it, and a wrong name for ever."""
        for topic in sorted(self._unproven_topics):
            if self.metadata.gone(topic) is not None:
                _logger.warning(
                    "%s: there is no topic %r yet; the group %s waits for it",
                    self._config.client_id,
                    topic,
                    self._config.group_id,
                )
            elif self.metadata.topic(topic) is None:
                continue
            self._unproven_topics.discard(topic)

    def forget_parent(self, lock: Any) -> None:
        """In a forked child: refuse every call; the lock may be held for ever, so take this one."""
        self.monitor.lock = lock
        self.monitor.is_forked = True
