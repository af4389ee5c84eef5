"""This broker's way to the active controller, whether that is another node or this one."""

import asyncio
from collections.abc import Awaitable

import msgspec

from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import CommitVersion, UnreachableBroker, encode
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_cluster.controller.commands import Command, Response, decode_response
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol import routes
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    RoutingError,
    UnavailableError,
)

CATCH_UP_TIMEOUT_MS = 1_000
"""How long a broker looks for news before it answers 'unknown topic'."""


class ControllerClient:
    """Sends commands to whichever node leads the quorum."""

    def __init__(
        self,
        *,
        node_id: int,
        raft: RaftDriver,
        controller: ControllerDriver,
        metadata: MetadataCache,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._raft = raft
        self._controller = controller
        self._metadata = metadata
        self._peers = peers
        # The question that is on its way, and the one that is asked after it.
        self._catching_up: asyncio.Task[bool] | None = None
        self._next_catch_up: asyncio.Task[bool] | None = None
        self._reports: dict[int, asyncio.Task[None]] = {}
        # By the leader that was asked; bounded by the voters.
        self._replacements: dict[int, asyncio.Future[None]] = {}

    async def execute(
        self, command: Command, *, timeout_ms: int, purpose: Purpose = Purpose.CLUSTER
    ) -> Response:
        """Have the active controller decide a command, the cluster's own or a client's.

        Raises:
            ControllerNotAvailableError: none is known; nothing was applied.
            PeerUnavailableError, RequestTimedOutError: it did not answer.
            PeerBusyError: too many commands of clients wait there.
            OttlaError: the controller's refusal.
        """
        leader_id = self._known_leader()
        if leader_id == self._node_id:
            return await _within(timeout_ms, self._controller.execute(command))
        body = await self._post(
            leader_id, routes.INTERNAL_CONTROLLER, encode_message(command), timeout_ms, purpose
        )
        return decode_response(body)

    async def execute_elsewhere(self, command: Command, *, timeout_ms: int) -> Response:
        """As `execute`, but at another node, whoever this one takes for the controller.

        For a node that may be the controller itself and cannot be, or cannot hear who is: every
        other voter is asked in turn.

        Raises:
            ControllerNotAvailableError: none of them is the controller, or answered.
            OttlaError: the controller's refusal.
        """
        urls = self._raft.voter_urls
        others = [node_id for node_id in urls if node_id != self._node_id]
        # Who is known to lead is asked first.
        for node_id in sorted(others, key=lambda each: (each != self._raft.leader_id, each)):
            try:
                body = await self._peers.post(
                    urls[node_id],
                    routes.INTERNAL_CONTROLLER,
                    encode_message(command),
                    timeout_ms=timeout_ms,
                    purpose=Purpose.CLUSTER,
                )
            except (UnavailableError, RoutingError):
                continue
            return decode_response(body)
        raise ControllerNotAvailableError(
            f"none of the voters {others} is the active controller", outcome=Outcome.UNKNOWN
        )

    async def catch_up(self) -> bool:
        """Apply everything that the controller had committed at this call, within a second or two.

        Callers at the same time share one question, but never one that was asked before they came:
        its answer may be older than what they must see.

        Returns:
            Whether that was achieved; if not, this broker's metadata may be as old as it likes, and
            what is missing there may exist.
        """
        if self._next_catch_up is None:
            self._next_catch_up = asyncio.create_task(self._catch_up(), name="metadata-catch-up")
        return await asyncio.shield(self._next_catch_up)

    async def _catch_up(self) -> bool:
        if self._catching_up is not None:
            await asyncio.wait({self._catching_up})
        self._catching_up, self._next_catch_up = self._next_catch_up, None
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
                version = await self._commit_version()
                while self._metadata.image.version < version:
                    await self._metadata.wait_for_change(timeout_ms=CATCH_UP_TIMEOUT_MS)
        except (TimeoutError, OttlaError):
            return False
        return True

    async def _commit_version(self) -> int:
        leader_id = self._known_leader()
        if leader_id == self._node_id:
            return await self._controller.commit_version()
        body = await self._post(leader_id, routes.INTERNAL_COMMIT_VERSION, b"", CATCH_UP_TIMEOUT_MS)
        return msgspec.msgpack.decode(body, type=CommitVersion).version

    def leadership_changed(self) -> None:
        """The quorum has another leader, or none: calls to a replaced one need no more patience."""
        for leader_id in [key for key in self._replacements if self._is_replaced(key)]:
            self._replacements.pop(leader_id).set_result(None)

    def _is_replaced(self, leader_id: int) -> bool:
        return self._raft.leader_id not in (None, leader_id)

    def _replacement_of(self, leader_id: int) -> "asyncio.Future[None]":
        """Done once the quorum has another leader; shared by all calls to this one."""
        replacement = self._replacements.get(leader_id)
        if replacement is None:
            replacement = asyncio.get_running_loop().create_future()
            if self._is_replaced(leader_id):
                replacement.set_result(None)
            else:
                self._replacements[leader_id] = replacement
        return replacement

    def peer_refused(self, node_id: int) -> None:
        """A connection to that broker was refused: tell Raft, and the controller once at a time."""
        self._raft.peer_refused(node_id)
        broker = self._metadata.image.brokers.get(node_id)
        if broker is None or broker.state is BrokerState.FENCED or node_id in self._reports:
            return
        report = asyncio.create_task(self._report(node_id, broker.broker_epoch))
        self._reports[node_id] = report
        report.add_done_callback(lambda _: self._reports.pop(node_id, None))

    async def _report(self, node_id: int, broker_epoch: int) -> None:
        try:
            leader_id = self._known_leader()
            if leader_id == self._node_id:
                self._controller.report_unreachable(node_id, broker_epoch)
            elif leader_id != node_id:
                await self._post(
                    leader_id,
                    routes.INTERNAL_UNREACHABLE,
                    encode(UnreachableBroker(node_id, broker_epoch)),
                    CATCH_UP_TIMEOUT_MS,
                )
        except OttlaError:
            # Whoever is refused again reports again.
            return

    def _known_leader(self) -> int:
        leader_id = self._raft.leader_id
        if leader_id is None:
            raise ControllerNotAvailableError(
                "no controller is elected at this moment", outcome=Outcome.NOT_APPLIED
            )
        return leader_id

    def _url_of(self, leader_id: int) -> str:
        url = self._raft.url_of(leader_id)
        if url is None:
            raise ControllerNotAvailableError(
                f"node {leader_id} is the controller, and its URL is not known here yet",
                outcome=Outcome.NOT_APPLIED,
            )
        return url

    async def _post(
        self,
        leader_id: int,
        path: str,
        body: bytes,
        timeout_ms: int,
        purpose: Purpose = Purpose.CLUSTER,
    ) -> bytes | bytearray:
        try:
            with Unless(
                self._replacement_of(leader_id),
                PeerUnavailableError(
                    f"controller {leader_id} was replaced before it answered",
                    refused=False,
                    outcome=Outcome.UNKNOWN,
                ),
            ):
                return await self._peers.post(
                    self._url_of(leader_id), path, body, timeout_ms=timeout_ms, purpose=purpose
                )
        except PeerUnavailableError as error:
            if error.refused:
                self.peer_refused(leader_id)
            raise


async def _within(timeout_ms: int, work: Awaitable[Response]) -> Response:
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            return await work
    except TimeoutError:
        raise RequestTimedOutError(
            "the controller did not decide in time", outcome=Outcome.UNKNOWN
        ) from None
