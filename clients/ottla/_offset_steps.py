"""What a consumer tells of offsets: where it is, what is committed, where partitions begin."""

from collections.abc import Callable, Mapping
from copy import copy
from time import monotonic
from urllib.parse import quote

import msgspec

from ottla._consumer_base import ConsumerBase
from ottla._consumer_steps import (
    PartitionsOption,
    Run,
    Steps,
    T,
    Wait,
    check_offset,
)
from ottla._consumer_types import (
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
    partition_of,
    partitions_of,
)
from ottla._futures import WaitTimedOutError
from ottla._group_calls import committed_call, committed_in
from ottla._partitioner import PartitionInfo
from ottla._positions import Start
from ottla._transport import BrokerUnreachableError
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.models import MetadataResponse, OffsetResponse
from ottla_protocol.topic_names import validate_topic_name

_decode_metadata = msgspec.json.Decoder(MetadataResponse).decode


class OffsetSteps(ConsumerBase):
    """Offsets; arguments as those of `ConsumerBase`."""

    def seek(self, partition: TopicPartition | tuple[str, int], offset: int) -> None:
        """See `Consumer.seek`."""
        check_offset(offset)
        with self.lock:
            self.positions.settle_iteration()
            self.positions.seek(partition_of(partition), offset)
        self._wake()

    def seek_to(self, partitions: PartitionsOption, start: Start) -> None:
        """See `Consumer.seek_to_beginning` and `Consumer.seek_to_end`."""
        names = partitions_of(partitions)
        with self.lock:
            self.positions.settle_iteration()
            for name in names or list(self.positions.states):
                self.positions.seek_to(name, start)
        self._wake()

    def position_steps(
        self, partition: TopicPartition | tuple[str, int], timeout_s: float | None
    ) -> Steps[int]:
        """See `Consumer.position`."""
        name = partition_of(partition)
        wait_s = self._timeout_s(timeout_s)
        deadline_s = monotonic() + wait_s
        self._wake()
        try:
            while (position := self._known_position(name)) is None:
                if monotonic() >= deadline_s:
                    self._check_reached(wait_s)
                    raise WaitTimedOutError(
                        f"the position of {name.topic}-{name.partition} was not found in time"
                    )
                yield Wait(deadline_s)
        finally:
            # A poll whose listener has asked has to look at what came meanwhile.
            self._news.set()
        return position

    def _known_position(self, name: TopicPartition) -> int | None:
        self._news.clear()
        self.check_usable()
        with self.lock:
            state = self.positions.states.get(name)
            if state is None:
                state = self.positions.state(name)
            position = self.positions.position(state)
            if position is None and state.error is not None:
                raise copy(state.error)
            return position

    def committed_steps(
        self, partitions: PartitionsOption, timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetAndMetadata | None]]:
        """See `Consumer.committed`."""
        self.check_usable()
        self._check_group("committed")
        names = partitions_of(partitions)
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        call = committed_call(
            self.config.group_id or "",
            timeout_ms=timeout_ms,
            requires_stable=self.config.reads_committed,
        )
        found = yield Run(lambda: self.io.questions.ask(call.path, committed_in, timeout_ms))
        return {name: found.get(name) for name in names}

    def offsets_steps(
        self, at: Mapping[TopicPartition, str | int], timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetResponse]]:
        """Where partitions begin or end, or their first record of a time."""
        self.check_usable()
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        found: dict[TopicPartition, OffsetResponse] = yield Run(
            lambda: self.io.questions.offsets_at(at, timeout_ms)
        )
        return found

    def ends_steps(
        self, partitions: PartitionsOption, at: str, timeout_s: float | None
    ) -> Steps[dict[TopicPartition, int]]:
        """See `Consumer.beginning_offsets` and `Consumer.end_offsets`."""
        wanted: dict[TopicPartition, str | int] = dict.fromkeys(partitions_of(partitions), at)
        found = yield from self.offsets_steps(wanted, timeout_s)
        return {name: answer.offset for name, answer in found.items()}

    def times_steps(
        self, timestamps: Mapping[TopicPartition, int], timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetAndTimestamp | None]]:
        """See `Consumer.offsets_for_times`."""
        wanted: dict[TopicPartition, str | int] = {}
        if not isinstance(timestamps, Mapping):
            raise InvalidRequestError(
                f"timestamps must be a mapping of partitions to times, not {timestamps!r}",
                field="timestamps",
            )
        for each, timestamp in timestamps.items():
            if type(timestamp) is not int or timestamp < 0:
                raise InvalidRequestError(
                    f"timestamps are ints of ms since the epoch, not {timestamp!r}",
                    field="timestamps",
                )
            wanted[partition_of(each)] = timestamp
        found = yield from self.offsets_steps(wanted, timeout_s)
        return {
            name: None
            if answer.timestamp is None
            else OffsetAndTimestamp(answer.offset, answer.timestamp, answer.leader_epoch)
            for name, answer in found.items()
        }

    def partitions_steps(
        self, topic: str, timeout_s: float | None
    ) -> Steps[tuple[PartitionInfo, ...]]:
        """See `Consumer.partitions_for`."""
        self.check_usable()
        validate_topic_name(topic, field="topic")
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        path = f"{routes.METADATA}?topics={quote(topic, safe='')}"
        answer: MetadataResponse = yield Run(
            lambda: self.io.questions.ask(path, _checked_metadata, timeout_ms)
        )
        return tuple(
            PartitionInfo(topic, each.partition, each.leader, tuple(each.replicas), tuple(each.isr))
            for described in answer.topics
            for each in described.partitions
        )

    def current_lag(self, partition: TopicPartition | tuple[str, int]) -> int | None:
        """See `Consumer.current_lag`."""
        with self.lock:
            state = self.positions.state(partition_of(partition))
            position = self.positions.position(state)
            if position is None or state.readable_end is None:
                return None
            return max(0, state.readable_end - position)


def _checked_metadata(body: bytes) -> MetadataResponse:
    return _decoded(body, _decode_metadata)


def _decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(body)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(f"not an answer of a broker: {error}") from error
