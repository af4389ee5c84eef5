"""Readers that have read what an unclean election took away: they are told, and where to go on."""

from collections.abc import Mapping

from ottla_broker.services.leader_reads import Results
from ottla_broker.services.topic_positions import Epochs, Positions, ReadScope
from ottla_protocol.cursors import Cursor, encode_cursor
from ottla_protocol.errors import LogTruncatedError, OttlaError
from ottla_protocol.models import FetchedPartition


def refuse_truncated(
    results: Results, scope: ReadScope, positions: Positions, epochs: Epochs
) -> None:
    """Refuse to read on where records were read that are gone.

    Raises:
        LogTruncatedError: with the cursor that goes on, in all such partitions at once.
    """
    truncated = {
        partition: result
        for (_, partition), result in results.items()
        if isinstance(result, LogTruncatedError)
    }
    if truncated:
        raise going_on(truncated, scope, positions, epochs)


def going_on(
    truncated: Mapping[int, LogTruncatedError],
    scope: ReadScope,
    positions: Positions,
    epochs: Epochs,
) -> LogTruncatedError:
    """What a reader at `positions` is told: the first such partition, and its cursor from there.

    The cursor keeps the epochs: up to the divergent offsets they are right.
    """
    offsets = list(positions)
    for partition, error in truncated.items():
        index = partition - scope.first_partition
        divergent_offset = error.members["divergent_offset"]
        assert isinstance(divergent_offset, int)
        offsets[index] = min(offsets[index], divergent_offset)
    cursor = Cursor(scope.topic_id, scope.first_partition, tuple(offsets), epochs)
    first = truncated[min(truncated)]
    return LogTruncatedError(first.detail, **first.members | {"cursor": encode_cursor(cursor)})


def with_news(epochs: Epochs, index: int, result: FetchedPartition | OttlaError) -> Epochs:
    """The epochs after one partition was read."""
    if isinstance(result, OttlaError) or result.leader_epoch in (None, epochs[index]):
        return epochs
    assert result.leader_epoch is not None
    return (*epochs[:index], result.leader_epoch, *epochs[index + 1 :])
