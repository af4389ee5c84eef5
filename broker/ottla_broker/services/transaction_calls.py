"""Finds the coordinator of a transactional id and has it decide, here or at another broker.

An id belongs to one partition of `__transaction_state`, chosen by murmur2 of its name; the leader
of that partition is its coordinator. The topic is created when the first producer takes an id;
until then nobody knows any.
"""

import asyncio

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import CoordinatorCall
from ottla_broker.drivers.transaction_coordinators import (
    TRANSACTION_STATE_TOPIC,
    TransactionCoordinators,
)
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.coordinator_routes import CoordinatorRoutes, CoordinatorTopic
from ottla_cluster.controller.features import TRANSACTIONS, require
from ottla_cluster.controller.image import Topic
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES
from ottla_cluster.state_machine.messages import encode_message
from ottla_cluster.transactions.commands import (
    ClientCommand,
    InitialiseProducer,
    ListTransactions,
    Response,
    decode_command,
    decode_response,
)
from ottla_cluster.transactions.known_ids import validate_transactional_id
from ottla_cluster.transactions.limits import MAX_DECISION_BYTES
from ottla_protocol import routes
from ottla_protocol.errors import (
    NotCoordinatorError,
    Outcome,
    TransactionalIdNotFoundError,
)
from ottla_protocol.partitioning import partition_for_key

CALL_TIMEOUT_MS = 10_000
"""How long a call may take, its coordinator's failover and the markers of the last transaction
included."""


class TransactionCalls:
    """The way to the coordinator of every transactional id.

    Args:
        node_id: this broker.
        partitions: how many `__transaction_state` is created with.
    """

    def __init__(
        self,
        *,
        node_id: int,
        partitions: int,
        metadata: MetadataCache,
        controller: ControllerClient,
        commands: ControllerCommands,
        coordinators: TransactionCoordinators,
        peers: PeerClient,
    ) -> None:
        self._metadata = metadata
        self._coordinators = coordinators
        self._routes = CoordinatorRoutes(
            node_id=node_id,
            topic=CoordinatorTopic(
                TRANSACTION_STATE_TOPIC,
                partitions,
                routes.INTERNAL_TRANSACTIONS,
                "transaction",
                configs={MAX_MESSAGE_BYTES: MAX_DECISION_BYTES},
            ),
            metadata=metadata,
            controller=controller,
            commands=commands,
            peers=peers,
        )

    async def decide(
        self, transactional_id: str, command: ClientCommand, *, repeatable: bool
    ) -> Response:
        """The coordinator's answer to a command about one transactional id.

        What was certainly not applied is sent again until CALL_TIMEOUT_MS have passed, so that a
        caller waits through a failover. The coordinator itself waits while the markers of the
        last transaction are being written, so `InitialiseProducerResponse.granted` is never None.

        Args:
            transactional_id: the one that the command names.
            command: what to decide.
            repeatable: deciding it twice does no harm, so a lost answer is asked for again too.

        Raises:
            UnsupportedFeatureLevelError: not all brokers know transactions.
            InvalidRequestError: the id breaks a rule.
            TransactionalIdNotFoundError: nobody has initialised any id.
            ConcurrentTransactionsError: the last transaction's markers were not written in time.
            OttlaError: the coordinator's refusal.
            UnavailableError: no coordinator decided in time.
        """
        require(self._metadata.image, TRANSACTIONS)
        validate_transactional_id(transactional_id)
        topic = await self._topic(command)
        if topic is None:
            raise TransactionalIdNotFoundError(
                f"The transactional id {transactional_id!r} is not known: nobody has initialised "
                "any in this cluster.",
                outcome=Outcome.NOT_APPLIED,
            )
        partition = _partition_of(transactional_id, topic)
        response, _ = await self._decide_at(
            topic.topic_id, partition, command, repeatable=repeatable
        )
        return response

    async def ask_all(self, command: ListTransactions) -> list[tuple[Response, int]]:
        """The answers of all coordinators to a question, each with its node id.

        There are none before there is a transactional id.

        Raises:
            UnavailableError: one of them did not answer in time.
        """
        topic = await self._routes.find_topic()
        if topic is None:
            return []
        return await asyncio.gather(
            *(
                self._decide_at(topic.topic_id, partition, command, repeatable=True)
                for partition in range(len(topic.partitions))
            )
        )

    def coordinator_of(self, transactional_id: str) -> int | None:
        """The node id of the id's coordinator, as this broker knows it; None where it has none."""
        topic = self._routes.known_topic()
        if topic is None:
            return None
        return topic.partitions[_partition_of(transactional_id, topic)].leader

    async def decide_here(self, call: CoordinatorCall) -> Response:
        """The answer of the coordinator that another broker takes this one for.

        Raises:
            NotCoordinatorError: this broker does not lead the partition, or the id belongs to
                another one.
            OttlaError: as `TransactionCoordinatorDriver.execute`.
        """
        command = decode_command(bytes(call.command))
        self._check_partition(call.partition, command)
        timeout_ms = max(1, min(call.timeout_ms, CALL_TIMEOUT_MS))
        return await self._coordinators.execute(
            call.partition, command, deadline_ms=monotonic_ms() + timeout_ms
        )

    def _check_partition(self, partition: int, command: ClientCommand) -> None:
        """Refuse what a broker sent that knows the topic otherwise than this one does.

        An id in two partitions would have two coordinators.
        """
        if isinstance(command, ListTransactions):
            return
        topic = self._routes.known_topic()
        if topic is None or partition != _partition_of(command.transactional_id, topic):
            raise NotCoordinatorError(
                f"the transactional id {command.transactional_id!r} does not belong to "
                f"{TRANSACTION_STATE_TOPIC}-{partition} here",
                outcome=Outcome.NOT_APPLIED,
            )

    async def _topic(self, command: ClientCommand) -> Topic | None:
        """`__transaction_state`, created if there is none yet and a producer takes an id."""
        if isinstance(command, InitialiseProducer) and command.identity is None:
            return await self._routes.make_topic()
        return await self._routes.find_topic()

    async def _decide_at(
        self, topic_id: str, partition: int, command: ClientCommand, *, repeatable: bool
    ) -> tuple[Response, int]:
        deadline_ms = monotonic_ms() + CALL_TIMEOUT_MS

        async def ask(leader: int) -> Response:
            coordinator = self._routes.other_broker(leader)
            if coordinator is None:
                return await self._coordinators.execute(partition, command, deadline_ms=deadline_ms)
            return decode_response(
                await self._routes.forward(
                    coordinator, partition, encode_message(command), deadline_ms
                )
            )

        return await self._routes.call(
            topic_id, partition, ask, deadline_ms=deadline_ms, repeatable=repeatable
        )


def _partition_of(transactional_id: str, topic: Topic) -> int:
    return partition_for_key(transactional_id.encode(), len(topic.partitions))
