"""The commits of a consumer: by the application, by itself, and what is told of them."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ottla._broker_questions import ConsumerTransport
from ottla._consumer_base import ConsumerBase, interceptors_of
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_record import ConsumerRecord
from ottla._consumer_steps import (
    CommitCallback,
    CommitOption,
    News,
    Run,
    Steps,
    Tell,
    offsets_in,
)
from ottla._consumer_types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from ottla._driver import monotonic_ms
from ottla._errors import CommitQueueFullError
from ottla._group_member import Membership
from ottla._offset_commits import CommitFailedError, OffsetCommit
from ottla_protocol.errors import OttlaError

MAX_COMMITS_TO_TELL: Final = 10_000
"""Asynchronous commits that the application has not been told of yet."""

_logger = logging.getLogger("ottla.consumer")


class CommitSteps(ConsumerBase):
    """Commits; arguments as those of `ConsumerBase`."""

    def __init__(
        self,
        config: ConsumerConfig,
        transport: ConsumerTransport,
        *,
        news: News,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(config, transport, news=news, wake=wake)
        self._on_commit = interceptors_of(config.interceptors, "on_commit")
        # The driver appends, and who polls takes away.
        self._told: deque[tuple[OffsetCommit, CommitCallback | None]] = deque()
        # Invariant: at least as many as are in `_told`; the others are not settled.
        self._commits_to_tell = 0
        self.read_as: Membership | None = None
        """The membership under which the latest poll looked for records. One that began since then
        may hold the same partitions, which others may have read on meanwhile."""

    def commit_steps(self, what: CommitOption, timeout_s: float | None) -> Steps[None]:
        """See `Consumer.commit`."""
        offsets = self._offsets_to_commit(what)
        timeout_ms = max(1, round(self._timeout_s(timeout_s) * 1000))
        try:
            if offsets:
                yield Run(lambda: self.io.commit_now(offsets, timeout_ms))
        finally:
            yield from self._tell_commits()
        for on_commit in self._on_commit:
            yield Tell(on_commit, (offsets,))

    def commit_async(self, what: CommitOption, callback: CommitCallback | None) -> None:
        """See `Consumer.commit_async`."""
        offsets = self._offsets_to_commit(what)
        if self._commits_to_tell >= MAX_COMMITS_TO_TELL:
            raise CommitQueueFullError(f"{MAX_COMMITS_TO_TELL} commits wait to be told of")

        def on_settled(commit: OffsetCommit) -> None:
            self._told.append((commit, callback))
            self._news.set()

        with self.lock:
            self.io.commit(offsets, self.config.default_api_timeout_ms, on_settled)
        self._commits_to_tell += 1
        self._wake()

    def group_metadata(self) -> ConsumerGroupMetadata:
        """See `Consumer.consumer_group_metadata`."""
        self.check_usable()
        self._check_group("consumer_group_metadata")
        group_id = self.config.group_id or ""
        if self.io.member is None:
            return ConsumerGroupMetadata(group_id)
        membership = self.read_as
        if membership is None:
            raise CommitFailedError("the consumer is no member of the group at this moment")
        return ConsumerGroupMetadata(group_id, membership.member_id, membership.generation)

    def _tell_commits(self) -> Steps[None]:
        """Call the callbacks of asynchronous commits that are settled, in their order."""
        left = len(self._told)
        while left and self._told:
            left -= 1
            commit, callback = self._told.popleft()
            self._commits_to_tell -= 1
            if callback is not None:
                yield Tell(callback, (commit.error, commit.offsets))
            elif commit.error is not None:
                _logger.warning("%s: commit_async: %s", self.config.client_id, commit.error)
            for on_commit in self._on_commit if commit.error is None else ():
                yield Tell(on_commit, (commit.offsets,))

    def _offsets_to_commit(self, what: CommitOption) -> dict[TopicPartition, OffsetAndMetadata]:
        self.check_usable()
        self._check_group("commit")
        if what is None:
            with self.lock:
                return self.positions.consumed()
        if isinstance(what, ConsumerRecord):
            name = TopicPartition(what.topic, what.partition)
            epoch = what.leader_epoch if what.leader_epoch >= 0 else None
            return {name: OffsetAndMetadata(what.offset + 1, "", epoch)}
        return offsets_in(
            what, "commit takes a record, or a mapping of partitions to the next offset"
        )

    def _commit_finished_steps(
        self, names: Iterable[TopicPartition], timeout_ms: int
    ) -> Steps[None]:
        """Auto commit, now; what fails is logged, and read again by whoever is next.

        Commits on their way are waited for before: they may be of more, and are not to be undone.
        """
        deadline_ms = monotonic_ms() + timeout_ms
        yield from self._settle_steps(timeout_ms)
        if not self.config.enable_auto_commit:
            return
        timeout_ms = max(1, deadline_ms - monotonic_ms())
        with self.lock:
            assert self.io.commits is not None, "auto commit needs a group"
            offsets = self.positions.finished(names, without=self.io.commits.asked)
        if not offsets:
            return
        try:
            yield Run(lambda: self.io.commit_now(offsets, timeout_ms))
        except OttlaError as error:
            _logger.warning("%s: auto commit: %s", self.config.client_id, error)

    def _settle_steps(self, timeout_ms: int) -> Steps[None]:
        """Wait until the commits that were asked for are settled, while there is time."""
        if self.io.commits is not None and not self.io.commits.is_idle:
            # One of nothing is settled when its turn comes.
            yield Run(lambda: self.io.commit_now({}, timeout_ms))
