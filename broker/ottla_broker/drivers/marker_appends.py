"""Markers, at the leaders of the partitions that they are for.

A marker ends a transaction in one partition. In a log it is a control batch; in a partition of
`__consumer_offsets` the group coordinator carries it out, whose state tells what it has pending.
Either way it counts once it is committed, and is taken once only, however often it comes.
"""

import asyncio
from typing import NamedTuple

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC, GroupCoordinators
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import (
    MarkersWritten,
    PartitionMarkers,
    TransactionMarker,
    WriteMarkers,
)
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_cluster.groups.commands import DoneResponse
from ottla_cluster.groups.transaction_commands import EndTransactionOffsets
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import InvalidProducerEpochError, NotLeaderOrFollowerError, OttlaError

MAX_MARKERS_TIMEOUT_MS = 10_000
"""The longest that a call waits for its markers to be committed."""


class _Fate(NamedTuple):
    """What became of one marker."""

    code: str | None = None
    """Of its refusal; None where it is committed, or the log is past it."""
    is_appended: bool = False
    """Whether this call appended it; false, too, where it was not committed in time."""


class MarkerAppends:
    """Takes markers for partitions that are led here.

    Args:
        replicas: the hosted partitions.
        groups: the coordinators of pending offsets.
    """

    def __init__(self, *, replicas: ReplicaManager, groups: GroupCoordinators) -> None:
        self._replicas = replicas
        self._groups = groups

    async def write(self, call: WriteMarkers) -> MarkersWritten:
        """Have the markers in their partitions; returns once each is committed, or refused."""
        deadline_ms = monotonic_ms() + max(1, min(call.timeout_ms, MAX_MARKERS_TIMEOUT_MS))
        fates = await asyncio.gather(
            *(self._write_to(each, deadline_ms) for each in call.partitions)
        )
        return MarkersWritten(
            tuple(tuple(each.code for each in of_partition) for of_partition in fates),
            tuple(tuple(each.is_appended for each in of_partition) for of_partition in fates),
        )

    async def _write_to(self, wanted: PartitionMarkers, deadline_ms: int) -> tuple[_Fate, ...]:
        hosted = self._replicas.partitions.get((wanted.topic_id, wanted.partition))
        if hosted is None:
            return (_Fate(NotLeaderOrFollowerError.code),) * len(wanted.markers)
        if hosted.state.topic == OFFSETS_TOPIC:
            return tuple(
                await asyncio.gather(
                    *(self._end_offsets(hosted, each, deadline_ms) for each in wanted.markers)
                )
            )
        return await self._append(hosted, wanted.markers, deadline_ms)

    async def _append(
        self, hosted: Partition, markers: tuple[TransactionMarker, ...], deadline_ms: int
    ) -> tuple[_Fate, ...]:
        fates: list[_Fate] = []
        appended = []
        now_ms = wall_clock_ms()
        for marker in markers:
            try:
                found = hosted.append_marker(
                    EndMarker(marker.is_commit, marker.coordinator_epoch),
                    producer_id=marker.producer_id,
                    producer_epoch=marker.producer_epoch,
                    now_ms=now_ms,
                )
            except InvalidProducerEpochError:
                # The log is past it: that transaction was ended here long ago.
                fates.append(_Fate())
            except OttlaError as error:
                fates.append(_Fate(error.code))
            else:
                appended.append(found)
                fates.append(_Fate(is_appended=not found.info.duplicate))
        if not appended:
            return tuple(fates)
        try:
            # With the last of them all are committed.
            last = max(appended, key=lambda each: each.info.next_offset)
            await hosted.committed(last, deadline_ms=deadline_ms)
        except OttlaError as error:
            # All are in the log, and some may be committed: sent again they are found to be there,
            # and nobody is told any more that it was he who appended them.
            return (_Fate(error.code),) * len(markers)
        return tuple(fates)

    async def _end_offsets(
        self, hosted: Partition, marker: TransactionMarker, deadline_ms: int
    ) -> _Fate:
        command = EndTransactionOffsets(
            marker.producer_id, marker.producer_epoch, marker.is_commit, marker.coordinator_epoch
        )
        try:
            done = await self._groups.execute(
                hosted.state.partition, command, deadline_ms=deadline_ms
            )
        except OttlaError as error:
            return _Fate(error.code)
        assert isinstance(done, DoneResponse), done
        return _Fate(is_appended=done.has_changed)
