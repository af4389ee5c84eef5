"""One marker to the leader of one partition, for an operator who ends a hanging transaction.

Coordinators have their own writer. This is for what no coordinator knows (any more).
"""

from ottla_broker.drivers.marker_appends import MarkerAppends
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import (
    MarkersWritten,
    PartitionMarkers,
    TransactionMarker,
    WriteMarkers,
    encode,
)
from ottla_cluster.controller.image import BrokerState
from ottla_protocol import routes
from ottla_protocol.errors import LeaderNotAvailableError, Outcome, error_from_problem

MARKER_TIMEOUT_MS = 5_000
"""How long the leader may take to have it committed."""

FORWARD_GRACE_MS = 500
"""How much longer its answer may take."""


class TransactionMarkerService:
    """Writes single markers.

    Args:
        node_id: this broker.
        metadata: who leads what.
        peers: the way to the others.
        appends: takes markers for partitions that are led here.
    """

    def __init__(
        self, *, node_id: int, metadata: MetadataCache, peers: PeerClient, appends: MarkerAppends
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._peers = peers
        self._appends = appends

    async def write_here(self, call: WriteMarkers) -> MarkersWritten:
        """Markers of another broker's coordinators, for partitions that are led here."""
        return await self._appends.write(call)

    async def write_one(self, topic_id: str, partition: int, marker: TransactionMarker) -> bool:
        """Have a marker in a partition; returns once it is committed, or the log is past it.

        Returns:
            Whether it was this marker that ended the transaction there, and no earlier one: not
            even that of an earlier call, which had not heard in time that it is committed.

        Raises:
            UnknownTopicIdError, UnknownTopicOrPartitionError: there is no such partition.
            LeaderNotAvailableError: nobody leads it now.
            OttlaError: the leader's refusal, or it did not answer.
        """
        state = self._metadata.image.partition_by_id(topic_id, partition)
        call = WriteMarkers(MARKER_TIMEOUT_MS, (PartitionMarkers(topic_id, partition, (marker,)),))
        if state.leader == self._node_id:
            answer = await self._appends.write(call)
        else:
            broker = self._metadata.image.brokers.get(-1 if state.leader is None else state.leader)
            if broker is None or broker.state is BrokerState.FENCED:
                raise LeaderNotAvailableError(
                    f"{state.topic}-{partition} has no leader at this moment",
                    outcome=Outcome.NOT_APPLIED,
                )
            answer = await self._peers.call(
                broker.url,
                routes.INTERNAL_MARKERS,
                encode(call),
                timeout_ms=MARKER_TIMEOUT_MS + FORWARD_GRACE_MS,
                answer=MarkersWritten,
                purpose=Purpose.CLIENT,
            )
        for codes in answer.error_codes:
            for code in codes:
                if code is not None:
                    raise error_from_problem(
                        {
                            "code": code,
                            "detail": f"The leader of {state.topic}-{partition} did not take the "
                            "marker.",
                        }
                    )
        # A broker of an older version does not tell.
        return all(is_appended for each in answer.appended for is_appended in each)
