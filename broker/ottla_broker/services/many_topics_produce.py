"""Produce to many topics in one call: each topic's records are a produce of their own.

What one topic refuses says nothing about the others, so each succeeds or fails for itself. A retry
under the same Idempotency-Key meets in each topic what it left there.
"""

import asyncio
from collections.abc import Sequence

from ottla_broker.services.produce import NO_OFFSET
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RecordProduceService, record_failure
from ottla_broker.services.shared_failure import shared_failure
from ottla_protocol.errors import MessageTooLargeError, OttlaError, Outcome
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import (
    ManyTopicsProduceResponse,
    ProduceResponse,
    TopicProduceResult,
    TopicRecordPosition,
)

MAX_TOPICS_PER_REQUEST = 1_000
TOPICS_AT_ONCE = 64
"""How many topics of a request are written at a time."""

NO_PARTITION = -1


class ManyTopicsProduceService:
    """Serves `POST /v1/records`."""

    def __init__(self, record_produce: RecordProduceService) -> None:
        self._record_produce = record_produce

    async def produce(
        self,
        records: Sequence[tuple[str, ParsedRecord]],
        options: ProduceOptions,
        *,
        idempotency_key: str | None = None,
        body: bytes = b"",
    ) -> ManyTopicsProduceResponse:
        """Append records and answer for each partition of each topic, and each record.

        Args:
            records: with their topics, in the order of the request; not empty.
            options: acks and deadline.
            idempotency_key: makes a retry with the same body harmless.
            body: the request's body, for the key's digest.

        Raises:
            MessageTooLargeError: more than MAX_TOPICS_PER_REQUEST topics.
            OttlaError: every topic failed with it.
        """
        by_topic: dict[str, list[int]] = {}
        for index, (topic, _) in enumerate(records):
            by_topic.setdefault(topic, []).append(index)
        if len(by_topic) > MAX_TOPICS_PER_REQUEST:
            raise MessageTooLargeError(
                f"{len(by_topic)} topics, at most {MAX_TOPICS_PER_REQUEST} are taken at once",
                max_topics=MAX_TOPICS_PER_REQUEST,
            )
        at_once = asyncio.Semaphore(TOPICS_AT_ONCE)

        async def produce_to(topic: str, numbers: list[int]) -> ProduceResponse | OttlaError:
            async with at_once:
                try:
                    return await self._record_produce.produce(
                        topic,
                        [records[number][1] for number in numbers],
                        options,
                        idempotency_key=idempotency_key,
                        body=body,
                        numbers=numbers,
                    )
                except OttlaError as error:
                    return error.with_outcome(Outcome.NOT_APPLIED)

        answers = await asyncio.gather(
            *(produce_to(topic, numbers) for topic, numbers in by_topic.items())
        )
        failure = shared_failure(answers)
        if failure is not None:
            raise failure
        return _response(len(records), by_topic, answers)


def _response(
    count: int,
    by_topic: dict[str, list[int]],
    answers: Sequence[ProduceResponse | OttlaError],
) -> ManyTopicsProduceResponse:
    positions: list[TopicRecordPosition | None] = [None] * count
    results: list[TopicProduceResult] = []
    for (topic, numbers), answer in zip(by_topic.items(), answers, strict=True):
        if isinstance(answer, OttlaError):
            results.append(
                TopicProduceResult(
                    topic, NO_PARTITION, NO_OFFSET, len(numbers), NO_OFFSET, error=answer.problem()
                )
            )
            for number in numbers:
                failure = record_failure(answer, number)
                positions[number] = TopicRecordPosition(topic, NO_PARTITION, NO_OFFSET, failure)
            continue
        results += [
            TopicProduceResult(
                topic,
                result.partition,
                result.base_offset,
                result.count,
                result.timestamp,
                result.duplicate,
                result.error,
            )
            for result in answer.results
        ]
        for number, position in zip(numbers, answer.records, strict=True):
            positions[number] = TopicRecordPosition(
                topic, position.partition, position.offset, position.error
            )
    return ManyTopicsProduceResponse(
        results, [position for position in positions if position is not None]
    )
