"""A record as callers give it: what `send` takes, checked and brought into the codec's form."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ottla._batch import Batch, Headers
from ottla._errors import InvalidRecordError
from ottla._futures import RecordMetadata, metadata_of

MAX_TIMESTAMP_MS: Final = 2**62
HeadersOption: TypeAlias = (
    "Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]] | None"
)
"""What `headers` takes: a mapping or pairs; text becomes UTF-8."""

DeliveryCallback: TypeAlias = Callable[[Exception | None, RecordMetadata | None], object]
"""What `on_delivery` takes: called with (error, None) or (None, metadata)."""

NO_HEADERS: Final[Headers] = []


@dataclass(slots=True)
class ProducerRecord:
    """A record as interceptors see it, before it is serialized.

    They may change it or return another.

    Attributes:
        topic, value, key, partition, headers, timestamp, on_delivery: as given to `send`.
    """

    topic: str
    value: Any = None
    key: Any = None
    partition: int | None = None
    headers: HeadersOption = None
    timestamp: int | None = None
    on_delivery: DeliveryCallback | None = None


def header_pairs(headers: HeadersOption) -> Headers:
    """Headers as the codec takes them.

    Raises:
        InvalidRecordError: a name is no text, or a value neither bytes nor text nor None.
    """
    if headers is None:
        return NO_HEADERS
    pairs: Headers = []
    for item in headers.items() if isinstance(headers, Mapping) else headers:
        try:
            name, value = item
        except (TypeError, ValueError) as error:
            raise InvalidRecordError(
                f"headers must be a mapping or pairs of a name and a value, not {headers!r}"
            ) from error
        content = value.encode() if isinstance(value, str) else value
        if not isinstance(name, str) or not (content is None or isinstance(content, bytes)):
            raise InvalidRecordError(
                f"header {name!r} has a value of type {type(value).__qualname__}: names are str, "
                "values bytes, str or None"
            )
        pairs.append((name, content))
    return pairs


def check_partition(partition: int, topic: str, partitions: int) -> None:
    """Refuse a partition that the topic, of `partitions` many, does not have."""
    if type(partition) is not int or not 0 <= partition < partitions:
        raise InvalidRecordError(
            f"partition {partition!r} is none of topic {topic!r}, which has partitions 0 to "
            f"{partitions - 1}"
        )


def check_timestamp(timestamp: int) -> None:
    """Refuse a timestamp that no record can have."""
    if type(timestamp) is not int or not 0 <= timestamp <= MAX_TIMESTAMP_MS:
        raise InvalidRecordError(
            f"timestamp must be an int of ms from 0 to {MAX_TIMESTAMP_MS}, not {timestamp!r}"
        )


def delivering(callback: DeliveryCallback) -> Callable[[Batch, int, int], None]:
    """A batch's callback that calls an `on_delivery`."""

    def delivered(batch: Batch, index: int, timestamp: int) -> None:
        if batch.error is not None:
            callback(batch.error, None)
        else:
            callback(None, metadata_of(batch, index, timestamp))

    return delivered


def acknowledging(
    interceptor: Callable[[RecordMetadata | None, Exception | None], object],
) -> Callable[[Batch, int, int], None]:
    """A batch's callback that calls an interceptor's `on_acknowledgement`."""

    def acknowledged(batch: Batch, index: int, timestamp: int) -> None:
        if batch.error is not None:
            # Kafka gives the place even so, as far as it is known.
            interceptor(
                RecordMetadata(batch.queue.topic, batch.queue.partition, -1, timestamp), batch.error
            )
        else:
            interceptor(metadata_of(batch, index, timestamp), None)

    return acknowledged
