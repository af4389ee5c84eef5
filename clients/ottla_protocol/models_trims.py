"""Requests and responses of trims; the rules are those of `models`."""

from ottla_protocol.errors import InvalidRequestError, Outcome
from ottla_protocol.models import Request, Response
from ottla_protocol.models_groups import Offset


class TrimPartitionRequest(Request, frozen=True):
    """`POST …/partitions/{partition}/trim`: have a partition begin further up.

    What is before `before_offset` goes, or before the first record at or after `before_timestamp`,
    in ms since the epoch, or with `before_end` all that is committed; one of the three. With
    `dry_run` nothing goes.
    """

    before_offset: Offset | None = None
    before_timestamp: Offset | None = None
    before_end: bool = False
    dry_run: bool = False


def require_one_end(request: TrimPartitionRequest) -> None:
    """Refuses a trim that does not tell where, or tells it twice.

    Raises:
        InvalidRequestError: not one of the three ends is named; its `field` is the one too many.
    """
    ends = {
        "before_offset": request.before_offset is not None,
        "before_timestamp": request.before_timestamp is not None,
        "before_end": request.before_end,
    }
    named = [name for name, is_named in ends.items() if is_named]
    if len(named) == 1:
        return
    which = f"; this names {', '.join(named)}" if named else ""
    raise InvalidRequestError(
        f"one of {', '.join(ends)} must be named, and no two{which}",
        outcome=Outcome.NOT_APPLIED,
        field=named[-1] if named else "before_offset",
    )


class TrimmedPartition(Response, frozen=True):
    """Where the partition begins now, or with `dry_run` would begin.

    `records` are the offsets that went: records, markers of transactions, and what compaction had
    taken before. Files go whole: `segments` of them, with `size_bytes`, lie below the beginning and
    are removed soon; what else went of a file goes with the rest of it.
    """

    topic: str
    partition: int
    former_log_start_offset: int
    log_start_offset: int
    records: int
    segments: int
    size_bytes: int
    dry_run: bool
