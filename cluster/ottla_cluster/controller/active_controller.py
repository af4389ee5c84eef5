"""The controller while this node leads the metadata quorum.

It joins the speculative runtime, which decides commands, with what only the active controller
knows: when it last heard of each broker, and when preferred leaders are due. One is made at the
start of each leadership, from the committed image, and thrown away at its end.

The driver's part: submit commands one after another (its own `due` ones too), propose each payload,
report `appended` and `committed`, and give each answer to whoever asked.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from ottla_cluster.controller.commands import (
    AdvanceDrains,
    Command,
    ElectPreferred,
    FormCluster,
    Heartbeat,
    HeartbeatResponse,
    RegisterBroker,
    Response,
    TopicPartition,
)
from ottla_cluster.controller.drain_handlers import moves_are_due
from ottla_cluster.controller.handlers import handle
from ottla_cluster.controller.image import BrokerState, MetadataImage
from ottla_cluster.controller.limits import MAX_WAITING_REQUESTS
from ottla_cluster.controller.partition_handlers import elect_preferred
from ottla_cluster.controller.reassignment_schedule import ReassignmentSchedule
from ottla_cluster.controller.records import MetadataRecord, PartitionChanged, encode_records
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.sessions import BrokerSessions
from ottla_cluster.controller.unclean_election_schedule import UncleanElectionSchedule
from ottla_cluster.state_machine.result import Result
from ottla_cluster.state_machine.runtime import Completed, SpeculativeRuntime, Submitted
from ottla_protocol.errors import (
    DuplicateBrokerRegistrationError,
    NotControllerError,
    OttlaError,
    Outcome,
)

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.controller.config import ControllerConfig


DRAIN_INTERVAL_MS = 500
"""How often the next moves of a drain are looked for."""


class ControllerMachine:
    """The metadata state machine as the runtime wants it."""

    def __init__(self, config: "ControllerConfig", random: "Random") -> None:
        self._config = config
        self._random = random

    def handle(
        self, state: MetadataImage, command: Command, now_ms: int
    ) -> Result[MetadataRecord, Response]:
        """See `handlers.handle`."""
        return handle(state, command, now_ms, self._random, self._config)

    def replay(
        self, state: MetadataImage, records: Sequence[MetadataRecord], version: int
    ) -> MetadataImage:
        """See `replay.replay`."""
        return replay(state, records, version)

    def encode(self, records: Sequence[MetadataRecord]) -> bytes:
        """See `records.encode_records`."""
        return encode_records(records)


class ActiveController:
    """One leadership of the metadata quorum.

    Args:
        image: the committed image once this leader's own first entry is applied.
        config: the controller's settings.
        random: for topic ids and ties in placement.
        now_ms: the start of leadership on the clock that all later calls use.
    """

    def __init__(
        self, image: MetadataImage, config: "ControllerConfig", random: "Random", now_ms: int
    ) -> None:
        self._config = config
        self._sessions = BrokerSessions(image, config.session_timeout_ms, now_ms)
        self._preferred_election_due_ms = now_ms + config.preferred_election_interval_ms
        # Elections that could have been held at the last look.
        self._preferred_elections_seen: set[tuple[str, int, int]] = set()
        self._drains_due_ms = now_ms
        self._unclean_elections = UncleanElectionSchedule(config.session_timeout_ms, now_ms)
        self._reassignments = ReassignmentSchedule(config.session_timeout_ms)
        self._runtime: SpeculativeRuntime[MetadataImage, Command, MetadataRecord, Response]
        self._runtime = SpeculativeRuntime(
            ControllerMachine(config, random),
            image,
            image.version,
            lost_leadership_error=NotControllerError,
            max_waiting=MAX_WAITING_REQUESTS,
        )

    @property
    def committed_image(self) -> MetadataImage:
        """What is certain."""
        return self._runtime.committed_state

    @property
    def speculative_image(self) -> MetadataImage:
        """What the next command is decided on."""
        return self._runtime.speculative_state

    def due(self, now_ms: int) -> tuple[Command, ...]:
        """The controller's own commands at this time, for the driver to submit.

        Forming a new cluster, fencing brokers whose session is over, the election of preferred
        leaders, and of any replica where the topic allows it and nobody in sync can lead, the next
        moves away from drained brokers, the ends of reassignments. What is still true at the next
        call is due again, so a refused command needs no care.
        """
        image = self.speculative_image
        if image.cluster_id is None:
            return (FormCluster(self._config.cluster_id, self._config.initial_feature_level),)
        commands: list[Command] = list(self._sessions.expired(image, now_ms))
        if now_ms >= self._preferred_election_due_ms:
            self._preferred_election_due_ms = now_ms + self._config.preferred_election_interval_ms
            commands.extend(self._preferred_elections(image))
        if image.drains and now_ms >= self._drains_due_ms:
            self._drains_due_ms = now_ms + DRAIN_INTERVAL_MS
            if moves_are_due(image):
                commands.append(AdvanceDrains())
        finished = self._reassignments.due(self.committed_image, now_ms)
        if finished is not None:
            commands.append(finished)
        unclean = self._unclean_elections.due(image, now_ms)
        if unclean is not None:
            commands.append(unclean)
        return tuple(commands)

    def _preferred_elections(self, image: MetadataImage) -> tuple[Command, ...]:
        """The election of preferred leaders, for partitions that have waited for an interval.

        Their leaders do it first, with less left behind, where they can.
        """
        due = {
            (record.topic_id, record.partition, record.leader_epoch)
            for record in elect_preferred(image).records
            if isinstance(record, PartitionChanged)
        }
        waited = sorted(due & self._preferred_elections_seen)
        self._preferred_elections_seen = due
        if not waited:
            return ()
        names = (
            TopicPartition(image.topics[topic_id].name, partition)
            for topic_id, partition, _ in waited
        )
        return (ElectPreferred(tuple(names)),)

    def submit(self, command: Command, now_ms: int) -> Submitted[Response]:
        """Decides a command; see `SpeculativeRuntime.submit`.

        Raises:
            DuplicateBrokerRegistrationError: another live process holds the node id.
            OttlaError: the refusals of the runtime and of the command's handler.
        """
        if isinstance(command, RegisterBroker):
            self._refuse_namesake(command, now_ms)
        submitted = self._runtime.submit(command, now_ms)
        if isinstance(command, Heartbeat):
            self._touch(command, now_ms)
        return submitted

    def appended(self, request_id: int, index: int) -> None:
        """See `SpeculativeRuntime.appended`."""
        self._runtime.appended(request_id, index)

    def append_failed(self, request_id: int, error: OttlaError) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.append_failed`."""
        return self._runtime.append_failed(request_id, error)

    def committed(self, index: int) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.committed`."""
        return tuple(_with_what_it_changed(done) for done in self._runtime.committed(index))

    def lost_leadership(self) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.lost_leadership`."""
        return self._runtime.lost_leadership()

    def restart_sessions(self, now_ms: int) -> None:
        """Give every unfenced broker a full session from now.

        For a controller that finds that it stood still: the silence may have been its own.
        """
        self._sessions = BrokerSessions(
            self.speculative_image, self._config.session_timeout_ms, now_ms
        )

    def _refuse_namesake(self, command: RegisterBroker, now_ms: int) -> None:
        """Refuses a second process under a live broker's node id.

        A restart comes from the same URL; another URL means another machine or port, and taking the
        id from a broker that still heartbeats would make the two fence each other for ever.
        """
        holder = self.speculative_image.brokers.get(command.node_id)
        if (
            holder is not None
            and holder.state is not BrokerState.FENCED
            and holder.url != command.url
            and self._sessions.is_alive(holder.node_id, holder.broker_epoch, now_ms)
        ):
            raise DuplicateBrokerRegistrationError(
                f"Node id {command.node_id} belongs to a live broker at {holder.url}.",
                outcome=Outcome.NOT_APPLIED,
            )

    def _touch(self, heartbeat: Heartbeat, now_ms: int) -> None:
        """Prolongs the session, unless the heartbeat came from a former incarnation."""
        broker = self.speculative_image.brokers.get(heartbeat.node_id)
        if broker is not None and broker.broker_epoch == heartbeat.broker_epoch:
            self._sessions.touched(broker.node_id, broker.broker_epoch, now_ms)
            self._reassignments.heard(heartbeat)


def _with_what_it_changed(done: Completed[Response]) -> Completed[Response]:
    """A heartbeat's answer names the version that has what the heartbeat itself changed."""
    if not isinstance(done.outcome, HeartbeatResponse) or done.version is None:
        return done
    return replace(done, outcome=msgspec.structs.replace(done.outcome, version=done.version))
