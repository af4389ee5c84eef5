"""Produce where each record is told its own fate.

Records of one partition still become one batch, which is appended whole or not at all. So one
record that its topic does not take (without a key where it compacts, too large, too far in the
future) would take its neighbours along. Where a batch is refused for what is in it, and certainly
was not applied, its halves are sent one after the other, until what is refused stands alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.topic_configs import (
    COMPACT,
    MESSAGE_TIMESTAMP_TYPE,
    cleanup_policies,
)
from ottla_cluster.controller.topic_names import is_internal
from ottla_protocol.errors import (
    InvalidTimestampError,
    MessageTooLargeError,
    OttlaError,
    Outcome,
    RecordWithoutKeyError,
    error_from_problem,
)
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.missing_partitions import missing_partition


@dataclass(frozen=True, slots=True)
class AppendedRecord:
    """Where one record went; `timestamp` is what it carries, in ms since the epoch."""

    partition: int
    offset: int
    timestamp: int


Fate = AppendedRecord | OttlaError


class RecordAppendService:
    """Appends records, each of which succeeds or fails for itself."""

    def __init__(self, *, topics: TopicService, produce: RecordProduceService) -> None:
        self._topics = topics
        self._produce = produce

    async def append(
        self, topic_name: str, records: Sequence[ParsedRecord], options: ProduceOptions
    ) -> list[Fate]:
        """The fate of each record, in their order; errors say what became of it.

        Records of one partition are appended in the order in which they stand.
        """
        fates: list[Fate | None] = [None] * len(records)
        try:
            topic = await self._topics.find(topic_name)
        except OttlaError as error:
            return [error.with_outcome(Outcome.NOT_APPLIED)] * len(records)
        count = len(topic.partitions)
        # Known here, so that many of them cost no search at the leader for each.
        needs_key = not is_internal(topic.name) and COMPACT in cleanup_policies(topic.configs)
        todo = []
        for index, record in enumerate(records):
            if record.partition is not None and record.partition >= count:
                fates[index] = missing_partition(
                    topic.name, record.partition, count, outcome=Outcome.NOT_APPLIED
                )
            elif needs_key and record.key is None:
                fates[index] = RecordWithoutKeyError(
                    f"the record has no key, which every record of the compacted topic "
                    f"{topic.name!r} needs",
                    outcome=Outcome.NOT_APPLIED,
                )
            else:
                todo.append(index)
        if todo:
            has_leaders_time = topic.configs.get(MESSAGE_TIMESTAMP_TYPE) == "LogAppendTime"
            await self._append(
                topic_name, records, todo, options, fates, keeps_times=not has_leaders_time
            )
        assert None not in fates
        return [fate for fate in fates if fate is not None]

    async def _append(
        self,
        topic_name: str,
        records: Sequence[ParsedRecord],
        indexes: Sequence[int],
        options: ProduceOptions,
        fates: list[Fate | None],
        *,
        keeps_times: bool,
    ) -> None:
        """Fill in the fates of the records at `indexes`."""
        try:
            response = await self._produce.produce(
                topic_name, [records[index] for index in indexes], options
            )
        except OttlaError as error:
            if refuses_some_record(error) and len(indexes) > 1:
                for half in halves(indexes):
                    await self._append(
                        topic_name, records, half, options, fates, keeps_times=keeps_times
                    )
                return
            for index in indexes:
                fates[index] = error.with_outcome(Outcome.NOT_APPLIED)
            return
        results = {result.partition: result for result in response.results}
        refused: dict[int, list[int]] = {}
        for index, position in zip(indexes, response.records, strict=True):
            result = results[position.partition]
            if result.error is not None:
                refused.setdefault(position.partition, []).append(index)
                continue
            own = records[index].timestamp if keeps_times else None
            fates[index] = AppendedRecord(
                position.partition, position.offset, result.timestamp if own is None else own
            )
        for partition, group in refused.items():
            problem = results[partition].error
            assert problem is not None
            refusal = error_from_problem(problem)
            if refuses_some_record(refusal) and len(group) > 1:
                for half in halves(group):
                    await self._append(
                        topic_name, records, half, options, fates, keeps_times=keeps_times
                    )
            else:
                for index in group:
                    fates[index] = refusal


def refuses_some_record(error: OttlaError) -> bool:
    """Whether a batch was refused for what is in it, which may be one record of many."""
    of_a_record = isinstance(
        error, InvalidTimestampError | MessageTooLargeError | RecordWithoutKeyError
    )
    return of_a_record and error.outcome is Outcome.NOT_APPLIED


def halves(indexes: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Those before the middle, and those behind it."""
    middle = len(indexes) // 2
    return indexes[:middle], indexes[middle:]
