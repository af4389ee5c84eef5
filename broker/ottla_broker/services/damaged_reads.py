"""What a reader is told that comes upon damaged records: never other data, and never the end.

Where the partition has other replicas the answer is retriable, for another one will lead, or refill
this one. The only replica has nobody: what it lost is lost, and the answer says where to go on.
"""

from ottla_broker.drivers.partition import Partition
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import (
    OttlaError,
    RecordsLostError,
    ReplicaNotAvailableError,
    StorageError,
)


async def answer_to_damage(
    partition: Partition, error: DamagedSegmentError, offset: int
) -> OttlaError:
    """The error for a read from `offset` on that came upon `error`."""
    if not partition.is_only_replica:
        return ReplicaNotAvailableError(
            f"this broker's records of {partition.name} at offset {offset} are damaged, "
            "and it will fetch them again from another replica"
        )
    try:
        next_offset = await partition.log.next_readable(offset)
    except StorageError:
        # The disk fails altogether.
        return error
    return RecordsLostError(
        f"records of {partition.name} from offset {offset} on are damaged, and there is no other "
        f"replica; what follows begins at offset {next_offset}",
        offset=offset,
        next_offset=next_offset,
    )
