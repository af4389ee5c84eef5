"""What the calls of a consumer are made of: the steps, and how arguments are named.

Every call that may wait is written once, as a generator of `Step`s, and each shell carries the
steps out in its own way: `Wait` until there is news, `Run` a coroutine on the driver's loop, `Tell`
the application something. What a step gives, or raises, comes back at its `yield`.
"""

from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from ottla._consumer_record import ConsumerRecord
from ottla._consumer_types import OffsetAndMetadata, TopicPartition, partition_of
from ottla_protocol.errors import InvalidRequestError, OttlaError

T = TypeVar("T")

TopicsOption: TypeAlias = str | Iterable[str]
PartitionsOption: TypeAlias = Iterable[TopicPartition | tuple[str, int]]
CommitOption: TypeAlias = ConsumerRecord | Mapping[TopicPartition, int | OffsetAndMetadata] | None
"""What commit takes: one record, the next offset of partitions, or None for all positions."""

CommitCallback: TypeAlias = Callable[
    [OttlaError | None, dict[TopicPartition, OffsetAndMetadata]], object
]
"""What `commit_async` takes: called with (error, offsets) or (None, offsets)."""

Records: TypeAlias = dict[TopicPartition, list[ConsumerRecord]]


class RebalanceListener:
    """What a consumer's group tells the application; override what is of interest.

    All are called within poll() or an iteration, in that thread, and with asyncio they may be
    coroutines. They may use the consumer, save for polling.
    """

    def on_partitions_assigned(self, partitions: set[TopicPartition]) -> Any:
        """These are read from now on, from the committed offsets unless you seek()."""

    def on_partitions_revoked(self, partitions: set[TopicPartition]) -> Any:
        """These go to another consumer when this returns: finish with them, and commit()."""

    def on_partitions_lost(self, partitions: set[TopicPartition]) -> Any:
        """These are gone, perhaps read by another consumer already; commits are refused."""


class Wait(NamedTuple):
    """Wait for news, until a time by `time.monotonic`."""

    deadline_s: float


class Run(NamedTuple):
    """Run a coroutine on the driver's loop and give its result."""

    work: Callable[[], Coroutine[Any, Any, Any]]


class Tell(NamedTuple):
    """Call the application."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Step: TypeAlias = Wait | Run | Tell
Steps: TypeAlias = Generator[Step, Any, T]


class News(Protocol):
    """What a waiting poll is woken by: an event of threads or of asyncio."""

    def set(self) -> None: ...
    def clear(self) -> None: ...


def check_offset(offset: object) -> None:
    if type(offset) is not int or not 0 <= offset < 2**63:
        raise InvalidRequestError(f"an offset is an int of at least 0, not {offset!r}")


def offsets_in(given: object, rule: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """Next offsets by partition, as callers name both.

    Raises:
        InvalidRequestError: it is no mapping (`rule` says what it must be), or one of them is none.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequestError(f"{rule}, not {type(given).__qualname__}")
    offsets: dict[TopicPartition, OffsetAndMetadata] = {}
    for each, next_offset in given.items():
        offset = (
            next_offset
            if isinstance(next_offset, OffsetAndMetadata)
            else OffsetAndMetadata(next_offset)
        )
        check_offset(offset.offset)
        offsets[partition_of(each)] = offset
    return offsets
