"""Where a partition's records of some time begin."""

from dataclasses import dataclass

from ottla_broker.drivers.partition import Partition
from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.damaged_reads import answer_to_damage
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import LeaderNotAvailableError
from ottla_protocol.models import Isolation


@dataclass(frozen=True, slots=True)
class FoundOffset:
    """An offset, with its record's timestamp where a record was looked for and found."""

    offset: int
    timestamp: int | None = None


async def find_by_timestamp(
    replica: Partition, timestamp: int, *, isolation: Isolation = "read_uncommitted"
) -> FoundOffset:
    """The first record at or after `timestamp`, in ms, that is below the high watermark.

    Timestamps need not rise with the offsets: what counts is the lowest offset. Where no record is
    as late, it is the high watermark, and the answer has no timestamp. With `read_committed` it is
    the last stable offset in its place, and the record may be one that was aborted: whoever reads
    from there on misses nothing.

    Raises:
        OffsetNotAvailableError: a new leader does not know its high watermark yet.
        RoutingError, UnavailableError: this broker does not lead the partition now.
        ReplicaNotAvailableError, RecordsLostError: it would have to look at damaged records.
        StorageError: what is on disk cannot be read.
    """
    leader = replica.leading()
    limit = replica.latest_offset()
    if isolation == "read_committed":
        limit = replica.last_stable_offset
    offset = replica.log.log_start_offset
    found = None
    while found is None:
        try:
            batch = await replica.log.find_timestamp(timestamp, offset=offset, limit=limit)
        except DamagedSegmentError as error:
            raise await answer_to_damage(replica, error, offset) from error
        if batch is None:
            break
        count = batch.last_offset - batch.base_offset + 1
        decoded = await decode_records(
            [batch.data], max(batch.base_offset, offset), max_records=count
        )
        found = next((record for record in decoded.records if record.timestamp >= timestamp), None)
        offset = batch.last_offset + 1
    # The disk took its time: what was read is worth nothing if the leadership went meanwhile.
    if replica.leading() is not leader:
        raise LeaderNotAvailableError(f"{replica.name} moved on to another leader epoch")
    return FoundOffset(limit) if found is None else FoundOffset(found.offset, found.timestamp)
