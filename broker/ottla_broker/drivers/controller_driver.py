"""The active controller: runs the pure handlers while this node leads the Raft quorum.

A leadership begins once an entry of its own term is applied: only then does the committed image
hold everything that former controllers decided. From there commands are handled one after another
on the speculative image; each answer leaves when what it saw is committed. An answer that proposed
nothing is confirmed by a read round instead, so that a controller that was deposed without knowing
it renews no broker's lease.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from urllib.parse import urlsplit

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.log_end_survey import LogEndSurvey
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.pending_answers import PendingAnswers
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.drivers.unclean_election_news import elected_since, tell, tell_partitions
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    Command,
    ElectUnclean,
    ElectUncleanResponse,
    FenceBroker,
    Response,
    UnregisterBroker,
)
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.raft.messages import Entry
from ottla_cluster.raft.ready import Proposed
from ottla_cluster.state_machine.runtime import Submitted
from ottla_protocol.errors import ConflictError, NotControllerError, OttlaError, Outcome

TICK_INTERVAL_MS = 100
PROBE_TIMEOUT_MS = 500

log = structlog.get_logger()


class ControllerDriver:
    """This node's controller: idle while another node leads.

    Args:
        config: defaults and intervals.
        raft: the quorum that makes decisions durable.
        metadata: the committed image, kept up to date by the caller of `applied`.
        random: for topic ids and placement.
        survey: tells how far replicas are, for unclean elections.
        on_failure: a defect ended the controller's clock; the process must stop.
    """

    def __init__(
        self,
        *,
        config: ControllerConfig,
        raft: RaftDriver,
        metadata: MetadataCache,
        random: Random,
        survey: LogEndSurvey,
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._config = config
        self._survey = survey
        self._random = random
        self._raft = raft
        self._on_failure = on_failure
        self._metadata = metadata
        # Set, with its ticker, exactly while this node is the active controller.
        self._active: ActiveController | None = None
        self._ticker: CriticalTask | None = None
        # The term of the leadership that has begun, or is about to once its no-op is applied.
        self._leading_term: int | None = None
        # What was applied when it was won: what follows was decided by others.
        self._image_at_election = metadata.image
        # Held from a decision until its records have a place in the log: what Raft refuses must not
        # be followed by a proposal that was decided as if it were there.
        self._appending = asyncio.Lock()
        self._answers: PendingAnswers[Response] = PendingAnswers()
        # Strong references: the event loop keeps only weak ones to its tasks.
        self._deciding: set[asyncio.Task[Response]] = set()
        self._probes: dict[int, asyncio.Task[None]] = {}

    @property
    def is_active(self) -> bool:
        """Whether this node is the active controller, as far as it knows."""
        return self._active is not None

    # --- leadership -------------------------------------------------------------------------

    def leadership_changed(self, term: int, leader_id: int | None, is_leader: bool) -> None:  # noqa: FBT001  the Raft driver's callback
        """Raft elected or deposed somebody."""
        if self._leading_term is not None and not (is_leader and term == self._leading_term):
            self._resign(leader_id)
        if is_leader:
            if term != self._leading_term:
                self._image_at_election = self._metadata.image
            self._leading_term = term

    def applied(self, entries: Sequence[Entry]) -> None:
        """Entries were replayed into the metadata image."""
        if self._active is not None:
            self._answers.give(self._active.committed(entries[-1].index))
        elif self._leading_term is not None and entries[-1].term == self._leading_term:
            self._begin(self._leading_term)

    async def stop(self) -> None:
        """Let no more time pass for the controller; another one takes over when it is missed."""
        if self._ticker is not None:
            await self._ticker.stop()

    def _begin(self, term: int) -> None:
        image = self._metadata.image
        self._active = ActiveController(image, self._config, self._random, monotonic_ms())
        self._ticker = CriticalTask(
            self._tick(self._active), name="controller-ticker", on_failure=self._on_failure
        )
        METRICS.is_controller.set(1)
        log.info("controller_active", term=term, version=image.version)
        # Whoever decided these was deposed before they were committed, and has told nobody.
        tell_partitions(elected_since(self._image_at_election, image))

    def _resign(self, successor: int | None) -> None:
        active, self._active = self._active, None
        self._leading_term = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for probe in self._probes.values():
            probe.cancel()
        METRICS.is_controller.set(0)
        if active is not None:
            self._answers.give(active.lost_leadership())
            log.info("controller_resigned", successor=successor)

    # --- commands ---------------------------------------------------------------------------

    async def execute(self, command: Command) -> Response:
        """Decide a command; returns once the decision is committed.

        Raises:
            NotControllerError: this node is not the active controller, or was deposed meanwhile.
            OttlaError: the controller refuses the command.
        """
        # In a task of its own, which a caller that gives up does not cancel: what was decided must
        # find its place in the log before the next decision is made.
        deciding = asyncio.create_task(self._execute(command))
        self._deciding.add(deciding)
        deciding.add_done_callback(self._decided)
        return await asyncio.shield(deciding)

    def _decided(self, deciding: "asyncio.Task[Response]") -> None:
        self._deciding.discard(deciding)
        if not deciding.cancelled():
            deciding.exception()  # Retrieved, for the case that nobody waits any more.

    async def _execute(self, command: Command) -> Response:
        active = self._active_controller()
        with METRICS.controller_event_seconds.labels(type(command).__name__).time():
            if isinstance(command, ElectUnclean):
                command = await self._survey.complete(command)
            response = await self._decide(active, command)
        if isinstance(response, ElectUncleanResponse):
            tell(
                (f"{each.topic}-{each.partition}", each.leader)
                for each in response.results
                if each.elected
            )
        return response

    async def _decide(self, active: ActiveController, command: Command) -> Response:
        try:
            self._check_reachable(command)
            async with self._appending:
                submitted = active.submit(command, monotonic_ms())
                waiting = self._wait_for(submitted)
                if submitted.payload is not None:
                    await self._append(active, submitted.request_id, submitted.payload)
        except OttlaError as error:
            METRICS.controller_refusals.labels(error.code).inc()
            # A refusal is an answer too: it must not come from a controller that was deposed.
            await self._confirm_leadership()
            raise
        if waiting is not None:
            return await waiting
        await self._confirm_leadership()
        assert submitted.response is not None
        return submitted.response

    async def _confirm_leadership(self) -> None:
        try:
            await self._raft.read_index()
        except OttlaError as error:
            # Nothing was proposed, so nothing can have been applied.
            raise error.with_outcome(Outcome.NOT_APPLIED) from error

    def _check_reachable(self, command: Command) -> None:
        """The image knows who may be forgotten as a broker, and not who votes.

        Raises:
            ConflictError: nobody could reach a voter any more.
        """
        if isinstance(command, UnregisterBroker) and self._raft.needs_registration(command.node_id):
            raise ConflictError(
                f"Broker {command.node_id} votes in the metadata quorum, and nothing but its "
                "registration tells the others where it is: it must lose its vote before it is "
                "unregistered (`ottla cluster quorum remove-voter`)."
            )

    def _wait_for(self, submitted: Submitted[Response]) -> asyncio.Future[Response] | None:
        """Where the answer will come, if it does not stand already."""
        if submitted.response is not None:
            return None
        return self._answers.expect(submitted.request_id)

    async def _append(self, active: ActiveController, request_id: int, payload: bytes) -> None:
        """Propose, and return once the proposal has its place or is refused; never raises."""
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def appended(result: Proposed | OttlaError) -> None:
            if active is self._active:
                if isinstance(result, OttlaError):
                    self._answers.give(active.append_failed(request_id, result))
                else:
                    active.appended(request_id, result.last_index)
            if not placed.done():
                placed.set_result(None)

        try:
            self._raft.propose(payload, appended)
        except OttlaError as error:
            appended(error)
        await placed

    def _active_controller(self) -> ActiveController:
        if self._active is None:
            raise NotControllerError(
                "this node is not the active controller",
                outcome=Outcome.NOT_APPLIED,
                controller=self._raft.leader_id,
            )
        return self._active

    async def commit_version(self) -> int:
        """A version that covers every change acknowledged before this call.

        Raises:
            NotControllerError: this node is not the active controller.
        """
        self._active_controller()
        return await self._raft.read_index()

    # --- brokers that are gone --------------------------------------------------------------

    def report_unreachable(self, node_id: int, broker_epoch: int) -> None:
        """A peer's connection to that broker was refused: try for ourselves, then fence it.

        Raises:
            NotControllerError: this node is not the active controller.
        """
        self._active_controller()
        broker = self._metadata.image.brokers.get(node_id)
        if (
            broker is None
            or broker.broker_epoch != broker_epoch
            or broker.state is BrokerState.FENCED
            or node_id in self._probes
        ):
            return
        probe = asyncio.create_task(self._probe(node_id, broker_epoch, broker.url))
        self._probes[node_id] = probe
        probe.add_done_callback(lambda _: self._probes.pop(node_id, None))

    async def _probe(self, node_id: int, broker_epoch: int, url: str) -> None:
        address = urlsplit(url)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_MS / 1000):
                _, writer = await asyncio.open_connection(address.hostname, address.port)
        except ConnectionRefusedError:
            await self._try(FenceBroker(node_id, broker_epoch, "connection refused"))
        except (OSError, TimeoutError):
            # Not a proof: the session decides.
            return
        else:
            writer.close()

    async def _try(self, command: Command) -> None:
        """Execute a command of the controller's own; a refusal is asked again at the next tick."""
        try:
            await self.execute(command)
        except OttlaError as error:
            log.info("controller_command_refused", command=type(command).__name__, code=error.code)
        else:
            if isinstance(command, FenceBroker):
                log.warning("broker_fenced", fenced_broker=command.node_id, reason=command.reason)

    # --- time -------------------------------------------------------------------------------

    async def _tick(self, active: ActiveController) -> None:
        last_tick_ms = monotonic_ms()
        while True:
            now_ms = monotonic_ms()
            if now_ms - last_tick_ms > self._config.session_timeout_ms // 2:
                # This process itself stood still, so the silence may have been its own.
                active.restart_sessions(now_ms)
            last_tick_ms = now_ms
            for command in active.due(now_ms):
                await self._try(command)
            await asyncio.sleep(TICK_INTERVAL_MS / 1000)
