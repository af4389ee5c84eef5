"""Has the controller decide a client's command, through an election if one is under way."""

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerBusyError, Purpose
from ottla_cluster.controller.commands import Command, Response
from ottla_protocol.errors import FencedLeaderEpochError, OttlaError, Outcome

DECISION_TIMEOUT_MS = 10_000
"""How long a change of metadata may take, a controller's election included."""

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
                is_final = isinstance(error, PeerBusyError | FencedLeaderEpochError)
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
