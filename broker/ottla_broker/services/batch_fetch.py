"""The binary fetch: whole record batches of many partitions that this broker leads or follows."""

from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.consumer_reads import (
    ConsumerRead,
    FollowerRead,
    LeaderRead,
    LocalRead,
)
from ottla_broker.services.reading import poll
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    OttlaError,
    UnknownLeaderEpochError,
)
from ottla_protocol.models import (
    MAX_WAIT_MS,
    BinaryFetchRequest,
    FetchedPartition,
    Isolation,
    PartitionToFetch,
)

MAX_FETCH_BYTES = 64 << 20


class BatchFetchService:
    """Serves `POST /v1/fetch`."""

    def __init__(self, replicas: ReplicaManager, purgatory: Purgatory) -> None:
        self._replicas = replicas
        self._purgatory = purgatory

    async def fetch(self, request: BinaryFetchRequest) -> list[FetchedPartition | OttlaError]:
        """Answer each partition in the order of the request.

        Raises:
            OverloadedError: the purgatory is full.
        """
        reads = [
            self._begin(wanted, request.replica, request.isolation) for wanted in request.partitions
        ]
        failed = any(isinstance(read, OttlaError) for read in reads)
        await poll(
            [read for read in reads if isinstance(read, ConsumerRead)],
            min_bytes=request.min_bytes,
            max_bytes=min(request.max_bytes, MAX_FETCH_BYTES),
            max_wait_ms=0 if failed else min(request.max_wait_ms, MAX_WAIT_MS),
            purgatory=self._purgatory,
        )
        return [_result(read) for read in reads]

    def _begin(
        self, wanted: PartitionToFetch, replica: str, isolation: Isolation
    ) -> ConsumerRead | OttlaError:
        try:
            partition = self._replicas.hosted(wanted.topic, wanted.partition)
            leader_epoch = partition.state.leader_epoch
            if wanted.leader_epoch is not None and wanted.leader_epoch != leader_epoch:
                error = (
                    FencedLeaderEpochError
                    if wanted.leader_epoch < leader_epoch
                    else UnknownLeaderEpochError
                )
                raise error(
                    f"{partition.name} is in leader epoch {leader_epoch}, "
                    f"not {wanted.leader_epoch}",
                    leader_epoch=leader_epoch,
                )
            if replica == "local":
                return LocalRead(partition, wanted.offset, wanted.max_bytes, isolation=isolation)
            if replica == "leader" or partition.follower is None:
                partition.leading()
                return LeaderRead(
                    partition,
                    wanted.offset,
                    wanted.max_bytes,
                    wanted.last_fetched_epoch,
                    isolation=isolation,
                )
            partition.require_in_sync()
            return FollowerRead(partition, wanted.offset, wanted.max_bytes, isolation=isolation)
        except OttlaError as error:
            return error


def _result(read: ConsumerRead | OttlaError) -> FetchedPartition | OttlaError:
    if isinstance(read, OttlaError):
        return read
    if read.error is not None:
        return read.error
    return FetchedPartition(
        topic=read.partition.state.topic,
        partition=read.partition.state.partition,
        batches=[memoryview(batch.data) for batch in read.batches],
        high_watermark=read.partition.high_watermark,
        log_start_offset=read.partition.log.log_start_offset,
        topic_id=read.partition.key[0],
        leader_epoch=read.leader_epoch if isinstance(read, LeaderRead) else None,
        next_offset=read.next_offset,
        last_stable_offset=read.partition.last_stable_offset if read.is_committed else None,
    )
