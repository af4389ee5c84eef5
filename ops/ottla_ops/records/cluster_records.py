"""Records of a cluster, read through the SDK's consumer, without a group and so without a trace."""

from collections.abc import Iterator
from time import monotonic
from typing import Any, Final

from ottla import Consumer, ConsumerRecord, TopicPartition, UnknownTopicOrPartitionError
from ottla_ops.records.record_source import TopicRead, selected
from ottla_ops.records.selection import Selection
from ottla_protocol.errors import RequestTimedOutError
from ottla_protocol.models import Isolation

PARTITION_FETCH_BYTES: Final = 4 << 20
"""Of one partition in one answer: larger than the default, since all of it is wanted."""

POLL_RECORDS_MAX: Final = 20_000
POLL_TIMEOUT_S: Final = 1.0


class ClusterRecords:
    """The topics of a cluster. Close it after use.

    Args:
        bootstrap: URLs of brokers.
        timeout_s: how long reading may stand still before it fails.
        isolation: with `read_committed`, only records of transactions that are committed, up to the
            last stable offset.
        transport: takes the place of the network, for tests.
    """

    def __init__(
        self,
        bootstrap: tuple[str, ...],
        *,
        timeout_s: float,
        isolation: Isolation = "read_uncommitted",
        transport: Any = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._consumer = Consumer(
            bootstrap_servers=bootstrap,
            transport=transport,
            # What retention removes while it is being read is stepped over.
            auto_offset_reset="earliest",
            isolation_level=isolation,
            client_id="ottla-cli",
            max_poll_records=POLL_RECORDS_MAX,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            default_api_timeout_ms=max(1, int(timeout_s * 1000)),
        )

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close(0)

    def has_topic(self, topic: str) -> bool:
        """See `RecordSource.has_topic`."""
        try:
            self._consumer.partitions_for(topic)
        except UnknownTopicOrPartitionError:
            return False
        return True

    def read(self, topic: str, selection: Selection) -> TopicRead:
        """See `RecordSource.read`; only what is below the high watermark, or what is stable.

        Raises:
            OttlaError: there is no such topic, or the cluster does not answer.
        """
        numbers = sorted(info.partition for info in self._consumer.partitions_for(topic))
        names = [
            TopicPartition(topic, number) for number in numbers if number in selection.partition
        ]
        if not names or selection.is_empty:
            return TopicRead((), 0, iter(()))
        starts = self._starts(names, selection)
        ends = self._ends(names, selection)
        wanted = {name: (starts[name], ends[name]) for name in names}
        return TopicRead(
            tuple(name.partition for name in names),
            sum(max(0, end - start) for start, end in wanted.values()),
            self._records(wanted, selection),
        )

    def _starts(
        self, names: list[TopicPartition], selection: Selection
    ) -> dict[TopicPartition, int]:
        starts = self._consumer.beginning_offsets(names)
        since = selection.timestamp.least
        if since is not None and since > 0:
            # Everything in front of the first record that is new enough is too old, whatever the
            # order of timestamps.
            found = self._consumer.offsets_for_times(dict.fromkeys(names, since))
            ends = self._consumer.end_offsets(names)
            for name in names:
                place = found[name]
                starts[name] = max(starts[name], ends[name] if place is None else place.offset)
        least = selection.offset.least
        return starts if least is None else {n: max(start, least) for n, start in starts.items()}

    def _ends(self, names: list[TopicPartition], selection: Selection) -> dict[TopicPartition, int]:
        ends = self._consumer.end_offsets(names)
        last = selection.offset.greatest
        return ends if last is None else {name: min(end, last + 1) for name, end in ends.items()}

    def _records(
        self, wanted: dict[TopicPartition, tuple[int, int]], selection: Selection
    ) -> Iterator[list[ConsumerRecord]]:
        consumer = self._consumer
        # By partition: the next offset that is wanted, and where to stop.
        remaining = {name: range_ for name, range_ in wanted.items() if range_[0] < range_[1]}
        consumer.assign(remaining)
        for name, (start, _) in remaining.items():
            consumer.seek(name, start)
        progressed_s = monotonic()
        while remaining:
            polled = consumer.poll(POLL_TIMEOUT_S)
            for name, records in polled.items():
                if name not in remaining:
                    continue
                start, end = remaining[name]
                if records[0].offset < start or records[-1].offset >= end:
                    records = [each for each in records if start <= each.offset < end]  # noqa: PLW2901
                yield selected(records, selection)
            for name, (start, end) in tuple(remaining.items()):
                position = consumer.position(name)
                if position > start:
                    progressed_s = monotonic()
                    remaining[name] = (position, end)
                if position >= end:
                    del remaining[name]
                    consumer.pause(name)
            if monotonic() - progressed_s > self._timeout_s:
                raise RequestTimedOutError(self._stuck(remaining))

    def _stuck(self, remaining: dict[TopicPartition, tuple[int, int]]) -> str:
        name, (position, end) = next(iter(remaining.items()))
        return (
            f"partition {name.partition} of {name.topic} is stuck at offset {position} of {end} "
            f"since {self._timeout_s:g} s"
        )
