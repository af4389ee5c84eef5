"""Has the controller decide a client's command, through an election if one is under way."""

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerBusyError, Purpose
from ottla_cluster.controller.commands import Command, Response
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    FencedLeaderEpochError,
    OttlaError,
    Outcome,
    UnknownTopicIdError,
)

DECISION_TIMEOUT_MS = 10_000
"""How long a change of metadata may take, a controller's election included."""

CATCH_UP_PATIENCE_MS = 2_000
"""How long a question about the present state waits through an election of the controller. With the
last attempt it is over before a client has given up (5 s in the CLI)."""

RETRY_INTERVAL_MS = 100


class ControllerCommands:
    """The services' way to the active controller."""

    def __init__(self, *, metadata: MetadataCache, controller: ControllerClient) -> None:
        self._metadata = metadata
        self._controller = controller

    async def decide(self, command: Command, *, repeatable: bool = False) -> Response:
        """The controller's answer to `command`.

        What was certainly not applied is sent again: a creation whose answer was lost must not come
        back as 'already exists'.

        Args:
            command: what to decide.
            repeatable: deciding it twice does no harm, so a lost answer is asked for again too.

        Raises:
            OttlaError: the controller's refusal.
            PeerBusyError: too many commands of clients wait there; told at once.
            FencedLeaderEpochError: it names another leader epoch than there is; told at once.
            UnknownTopicIdError: it names a topic that is gone; told at once.
            UnavailableError: no controller decided within DECISION_TIMEOUT_MS.
        """
        deadline_ms = monotonic_ms() + DECISION_TIMEOUT_MS
        is_unknown = False
        while True:
            remaining_ms = max(1, deadline_ms - monotonic_ms())
            try:
                return await self._controller.execute(
                    command, timeout_ms=remaining_ms, purpose=Purpose.CLIENT
                )
            except OttlaError as error:
                # The same command would be refused again: its sender is to look at what changed.
                is_final = isinstance(
                    error, PeerBusyError | FencedLeaderEpochError | UnknownTopicIdError
                )
                again = error.retriable and (repeatable or error.outcome is Outcome.NOT_APPLIED)
                if is_unknown:
                    # Of all attempts together: a later refusal says nothing of an earlier one.
                    error.outcome = Outcome.UNKNOWN
                if is_final or not again or monotonic_ms() >= deadline_ms:
                    raise
                is_unknown = error.outcome is Outcome.UNKNOWN
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)

    async def change(self, command: Command, *, repeatable: bool = False) -> Response:
        """As `decide`; afterwards this broker shows what it has answered, as far as it can."""
        response = await self.decide(command, repeatable=repeatable)
        await self._controller.catch_up()
        return response

    async def catch_up(
        self, *, outcome: Outcome | None = None, patience_ms: int = CATCH_UP_PATIENCE_MS
    ) -> None:
        """Have this broker know all that was decided before this call, or say that it cannot.

        For answers that are wrong where they are old: 'nothing is under way' ends somebody's wait.

        Args:
            outcome: what became of the write that the answer is about, if it is about one.
            patience_ms: how long a controller may take.

        Raises:
            ControllerNotAvailableError: no controller confirmed in time what is known here.
        """
        deadline_ms = monotonic_ms() + patience_ms
        while not await self._controller.catch_up():
            if monotonic_ms() >= deadline_ms:
                raise ControllerNotAvailableError(
                    "no controller confirms what this broker knows, which may be old: ask again, "
                    "or another broker",
                    outcome=outcome,
                )
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)
