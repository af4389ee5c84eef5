"""What a handler returns."""

from dataclasses import dataclass
from typing import Generic, TypeVar

RecordT = TypeVar("RecordT", covariant=True)
ResponseT = TypeVar("ResponseT", covariant=True)


@dataclass(frozen=True, slots=True)
class Result(Generic[RecordT, ResponseT]):
    """The records to append, and the response to give once they are committed.

    A handler changes nothing itself: its records do, when they are replayed.
    """

    records: tuple[RecordT, ...]
    response: ResponseT
