"""Verifies segment files, whoever uses them: a stopped broker's, or copies of a running one's.

The checks are the broker's own (`ottla_broker.storage.segment_verification`), and SQLite's
integrity check, which sees the pages that no batch's CRC covers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.segment_verification import (
    SegmentVerification,
    check_aborted,
    check_batches,
    check_description,
    check_end,
    check_pages,
    check_succession,
)
from ottla_ops.segments.found_segments import FoundReplica
from ottla_ops.segments.segment_snapshot import OpenedSegment, open_segment

INFLATED_BYTES_MAX: Final = 256 << 20
"""What the records of one batch may take uncompressed, where they are decoded."""


def verify_replica(replica: FoundReplica, *, decode: bool = False) -> Iterator[SegmentVerification]:
    """Verify a replica's segments, oldest first, and that they follow one another.

    A segment that retention removes meanwhile is left out.

    Args:
        replica: what to read.
        decode: decode every record too: a batch with a good CRC may hold what its producer got
            wrong, since brokers do not look inside.

    Raises:
        SegmentBusyError: a running broker writes too much for the active segment to be copied.
    """
    identity = SegmentIdentity(replica.topic, replica.topic_id, replica.partition)
    previous: SegmentVerification | None = None
    for path in replica.segments:
        try:
            current = verify_segment(path, identity, decode=decode)
        except FileNotFoundError:
            continue
        if previous is not None and previous.is_complete:
            check_succession(previous, current)
        yield current
        previous = current


def verify_segment(
    path: Path, identity: SegmentIdentity, *, decode: bool = False
) -> SegmentVerification:
    """Verify one file; see `verify_replica`.

    Raises:
        FileNotFoundError: it is gone.
        SegmentBusyError: it cannot be copied.
    """
    base_offset = segments.required_base_offset(path)
    result = SegmentVerification(path, segments.is_sealed(path), base_offset, base_offset)
    try:
        with open_segment(path) as opened:
            result.sealed = opened.sealed
            _verify_opened(opened, identity, result, decode=decode)
    except sqlite.DriverError as error:
        if not sqlite.is_damage(error):
            raise sqlite.storage_error(path, "read", error) from error
        result.find_unreadable(error)
    return result


def _verify_opened(
    opened: OpenedSegment, identity: SegmentIdentity, result: SegmentVerification, *, decode: bool
) -> None:
    if opened.wal.lost:
        result.find(None, "synced transactions in the write-ahead log are damaged")
    result.suspect_tail = opened.wal.suspect_tail
    check_description(opened.connection, identity, result)
    if not result.is_complete:
        return
    check_batches(
        opened.connection, result, decoded_bytes_max=INFLATED_BYTES_MAX if decode else None
    )
    if not result.is_complete:
        return
    check_end(opened.connection, result)
    if not result.findings:
        # Else it is no news that the batches do not tell what was aborted.
        check_aborted(opened.connection, result)
    check_pages(opened.connection, result)
