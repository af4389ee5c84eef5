"""Asks brokers where their replicas end, before an unclean election.

The controller knows who is in sync and nothing of how far the others are. Whoever does not answer
in time is not waited for: the partition is offline meanwhile.
"""

import asyncio

import msgspec
import structlog

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import LogEnds, PartitionName, encode
from ottla_cluster.controller.commands import ElectUnclean, ReplicaEnd, UncleanElection
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError

SURVEY_TIMEOUT_MS = 500

log = structlog.get_logger()


class LogEndSurvey:
    """Completes unclean elections by what the brokers say of their logs."""

    def __init__(self, metadata: MetadataCache, peers: PeerClient) -> None:
        self._metadata = metadata
        self._peers = peers

    async def complete(self, command: ElectUnclean) -> ElectUnclean:
        """The command with the log ends of all active replicas that tell them in time."""
        image = self._metadata.image
        named: dict[PartitionName, UncleanElection] = {}
        by_broker: dict[int, list[PartitionName]] = {}
        for election in command.partitions:
            try:
                partition = image.partition(election.topic, election.partition)
            except OttlaError:
                continue  # The controller's answer says so.
            name = PartitionName(partition.topic_id, partition.partition)
            named[name] = election
            for node_id in partition.replicas:
                if image.is_active(node_id):
                    by_broker.setdefault(node_id, []).append(name)
        answers = await asyncio.gather(
            *(
                self._ask(node_id, image.brokers[node_id].url, names)
                for node_id, names in by_broker.items()
            )
        )
        ends: dict[tuple[str, int], list[ReplicaEnd]] = {}
        for node_id, answer in zip(by_broker, answers, strict=True):
            if answer is None:
                continue
            for end in answer.log_ends:
                election_of = named.get(PartitionName(end.topic_id, end.partition))
                if election_of is not None:
                    ends.setdefault((election_of.topic, election_of.partition), []).append(
                        ReplicaEnd(node_id, answer.broker_epoch, end.last_epoch, end.log_end_offset)
                    )
        return msgspec.structs.replace(
            command,
            partitions=tuple(
                UncleanElection(
                    each.topic,
                    each.partition,
                    tuple(ends.get((each.topic, each.partition), ())),
                )
                for each in command.partitions
            ),
        )

    async def _ask(self, node_id: int, url: str, names: list[PartitionName]) -> LogEnds | None:
        try:
            return await self._peers.call(
                url,
                routes.INTERNAL_LOG_ENDS,
                encode(names),
                timeout_ms=SURVEY_TIMEOUT_MS,
                answer=LogEnds,
                purpose=Purpose.CLUSTER,
            )
        except OttlaError as error:
            log.warning("log_ends_not_told", broker=node_id, code=error.code, detail=error.detail)
            return None
