"""The coordinator while this broker leads one partition of the offsets topic.

It joins the speculative runtime, which decides commands, with what only the active coordinator
knows: when it last heard of each member, and which topics it has compared the groups with. One is
made at the start of each leadership, from the image of the whole partition, and thrown away at its
end.

The runtime's index is here the partition's log end offset after a batch: `appended` is told the
offset that follows the decision's last record, and `committed` the high watermark.

The driver's part: submit commands one after another (its own `due` ones too), append each payload
as one record batch, report `appended` and `committed`, and give each answer to whoever asked.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ottla_cluster.groups.census import Census, GroupCounts
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import (
    Command,
    CommitOffsets,
    ExpireMembers,
    Heartbeat,
    Join,
    Response,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.handlers import handle
from ottla_cluster.groups.housekeeping import Housekeeping
from ottla_cluster.groups.image import Group, GroupsImage, replay
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    DescribeInstance,
    ExpireInstances,
    MoveInstance,
    OfferRecords,
    PollInstance,
    SettleDelivery,
    SubscribeInstance,
)
from ottla_cluster.groups.instance_sessions import InstanceSessions
from ottla_cluster.groups.limits import MAX_WAITING_REQUESTS
from ottla_cluster.groups.producer_memory import ProducerMemory
from ottla_cluster.groups.reconcile import reconcile
from ottla_cluster.groups.records import GroupRecord, encode_records
from ottla_cluster.groups.sessions import MemberSessions
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.groups.transaction_handlers import (
    commit_transaction_offsets,
    is_in_transaction,
)
from ottla_cluster.state_machine.result import Result
from ottla_cluster.state_machine.runtime import Completed, SpeculativeRuntime, Submitted
from ottla_protocol.errors import NotCoordinatorError, OttlaError

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.groups.config import GroupConfig


MEMBER_COMMANDS = (
    Join,
    Heartbeat,
    CommitOffsets,
    CommitTransactionOffsets,
    AssignInstance,
    CommitInstance,
    DescribeInstance,
    MoveInstance,
    OfferRecords,
    PollInstance,
    SettleDelivery,
    SubscribeInstance,
)
"""What shows that the member, or the consumer instance, that it names lives."""

STEPS = (Join, Heartbeat, PollInstance)
"""What has a member take its next step towards what it is to own."""


class GroupMachine:
    """The groups' state machine as the runtime wants it."""

    def __init__(
        self, context: GroupContext, sessions: MemberSessions, instances: InstanceSessions
    ) -> None:
        self.context = context
        """Of the next decision."""
        self.sessions = sessions
        self.instances = instances

    def handle(
        self, state: GroupsImage, command: Command, now_ms: int
    ) -> Result[GroupRecord, Response]:
        """See `handlers.handle`; a member that was heard of in time after all is not expired."""
        if isinstance(command, ExpireMembers | ExpireInstances):
            group = state.groups.get(command.group)
            if group is not None:
                command = self._still_due(group, command, now_ms)
        return handle(state, command, self.context)

    def _still_due(
        self, group: Group, command: ExpireMembers | ExpireInstances, now_ms: int
    ) -> ExpireMembers | ExpireInstances:
        if isinstance(command, ExpireMembers):
            named = [each.member_id for each in command.members if each.member_id in group.members]
            overdue = self.sessions.all_overdue(group, named, now_ms)
            return ExpireMembers(command.group, overdue)
        known = [each for each in command.instance_ids if each in group.instances]
        return ExpireInstances(command.group, self.instances.all_idle(group, known, now_ms))

    def replay(
        self, state: GroupsImage, records: Sequence[GroupRecord], version: int
    ) -> GroupsImage:
        """See `image.replay`."""
        return replay(state, records, version)

    def encode(self, records: Sequence[GroupRecord]) -> bytes:
        """See `records.encode_records`; the driver takes it apart with `decode_pairs`."""
        return encode_records(records)


class ActiveCoordinator:
    """One leadership of one partition of the offsets topic.

    Args:
        image: the image of the whole partition, up to the start of this leadership.
        config: the coordinator's settings.
        random: for member ids.
        now_ms: the start of leadership on the monotonic clock that all later calls use.
    """

    def __init__(
        self, image: GroupsImage, config: "GroupConfig", random: "Random", now_ms: int
    ) -> None:
        self._config = config
        self._random = random
        self._housekeeping = Housekeeping(config, now_ms)
        self._producer_memory = ProducerMemory(now_ms)
        self._census = Census()
        self._machine = GroupMachine(
            self._context(0, ClusterView()),
            MemberSessions(image, now_ms),
            InstanceSessions(image, now_ms),
        )
        self._runtime: SpeculativeRuntime[GroupsImage, Command, GroupRecord, Response]
        self._runtime = SpeculativeRuntime(
            self._machine,
            image,
            image.version,
            lost_leadership_error=NotCoordinatorError,
            max_waiting=MAX_WAITING_REQUESTS,
        )

    @property
    def committed_image(self) -> GroupsImage:
        """What is certain."""
        return self._runtime.committed_state

    @property
    def speculative_image(self) -> GroupsImage:
        """What the next command is decided on."""
        return self._runtime.speculative_state

    def due(self, now_ms: int, timestamp_ms: int, view: ClusterView) -> tuple[Command, ...]:
        """The coordinator's own commands at this time, for the driver to submit.

        Expiring overdue members, new targets where topics have changed, removing old offsets and
        what is remembered of producers; a few groups at each call. What is still true at a later
        call is due again, so a refused command needs no care.

        Args:
            now_ms: the monotonic clock.
            timestamp_ms: the wall clock.
            view: the topics as this broker knows them.
        """
        image = self.speculative_image
        expired: tuple[Command, ...] = (
            *self._machine.instances.expired(image, now_ms),
            *self._machine.sessions.expired(image, now_ms),
            *self._producer_memory.due(image, now_ms),
        )
        return expired + self._housekeeping.due(image, now_ms, self._context(timestamp_ms, view))

    def is_in_transaction(
        self, command: CommitTransactionOffsets, timestamp_ms: int, view: ClusterView
    ) -> bool:
        """Whether the transaction has something pending here, so that its marker is sure to come.

        Otherwise the caller sees to that before it submits the command.

        Raises:
            OttlaError: the command would be refused.
        """
        image = self.speculative_image
        commit_transaction_offsets(image, command, self._context(timestamp_ms, view))
        return is_in_transaction(image, command.producer_id, command.producer_epoch)

    def submit(
        self, command: Command, now_ms: int, timestamp_ms: int, view: ClusterView
    ) -> Submitted[Response]:
        """Decides a command; see `SpeculativeRuntime.submit`. The times and the view as in `due`.

        Raises:
            OttlaError: the refusals of the runtime and of the command's handler.
        """
        # Before the command: one that is refused since too many wait has still been heard.
        self._touch(command, now_ms)
        self._machine.context = self._context(timestamp_ms, view)
        submitted = self._runtime.submit(command, now_ms)
        self._touch(command, now_ms)
        return submitted

    def appended(self, request_id: int, log_end_offset: int) -> None:
        """The request's batch is in the log, which ends at that offset; see the runtime."""
        self._runtime.appended(request_id, log_end_offset)

    def append_failed(self, request_id: int, error: OttlaError) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.append_failed`."""
        return self._runtime.append_failed(request_id, error)

    def committed(self, high_watermark: int) -> tuple[Completed[Response], ...]:
        """Everything below the high watermark is certain; see `SpeculativeRuntime.committed`."""
        return self._runtime.committed(high_watermark)

    def lost_leadership(self) -> tuple[Completed[Response], ...]:
        """See `SpeculativeRuntime.lost_leadership`."""
        return self._runtime.lost_leadership()

    def restart_sessions(self, now_ms: int) -> None:
        """Give every member a full session from now.

        For a coordinator that finds that it stood still: the silence may have been its own.
        """
        self._machine.sessions.restart(self.speculative_image, now_ms)
        self._machine.instances.restart(self.speculative_image, now_ms)

    def arrived(self, command: Command) -> None:
        """A command of a member is here; until `answered` is called the member is not silent."""
        if isinstance(command, MEMBER_COMMANDS) and command.member_id is not None:
            self._machine.sessions.arrived(command.group, command.member_id)
            self._machine.instances.arrived(command.group, command.member_id)

    def answered(self, command: Command, now_ms: int) -> None:
        """A command that has `arrived` is answered, or nobody waits for its answer any more."""
        if isinstance(command, MEMBER_COMMANDS) and command.member_id is not None:
            self._machine.sessions.answered(command.group, command.member_id, now_ms)
            self._machine.instances.answered(command.group, command.member_id, now_ms)

    def may_have_news(self, command: Command, before: GroupsImage) -> Collection[str]:
        """The members whose parked heartbeats a decision may have news for.

        A new target may concern everybody; a step towards it only those who are to have what was
        given up, and the member itself. `wants_heartbeat` tells which of them have to be answered.

        Args:
            command: what was decided.
            before: the speculative image before it.
        """
        group_id = getattr(command, "group", None)
        former = before.groups.get(group_id) if group_id is not None else None
        group = self.speculative_image.groups.get(group_id) if group_id is not None else None
        if former is None or group is former:
            return ()
        if group is None or group.targets is not former.targets or _are_others(group, former):
            return former.members.keys()
        if not isinstance(command, STEPS) or command.member_id is None:
            return ()
        held = former.currents.get(command.member_id)
        holds = group.currents.get(command.member_id)
        if held is None or holds is None:
            return ()
        freed = {key for key in (*held.owned, *held.revoking) if holds.held(key) is None}
        if not freed:
            return ()
        return [name for name, target in group.targets.items() if not freed.isdisjoint(target)]

    def is_rebalance(self, command: Command, before: GroupsImage) -> bool:
        """Whether a decision gave its group a new target; the arguments as in `may_have_news`."""
        group_id = getattr(command, "group", None)
        if group_id is None:
            return False
        former = before.groups.get(group_id)
        group = self.speculative_image.groups.get(group_id)
        targets = None if group is None else group.targets
        return bool(targets) and (former is None or former.targets is not targets)

    def counts(self) -> GroupCounts:
        """How many groups and members there are."""
        return self._census.count(self.committed_image)

    def wants_heartbeat(self, group_id: str, member_id: str) -> bool:
        """Whether a parked heartbeat of the member should be handled again now.

        Its assignment would change, or it is no member any more.
        """
        group = self.speculative_image.groups.get(group_id)
        if group is None or member_id not in group.members:
            return True
        return reconcile(group, member_id, None).changed

    def _touch(self, command: Command, now_ms: int) -> None:
        """Prolongs the session of the member that sent the command."""
        if not isinstance(command, MEMBER_COMMANDS) or command.member_id is None:
            return
        group = self.speculative_image.groups.get(command.group)
        if group is not None and command.member_id in group.members:
            self._machine.sessions.touched(command.group, command.member_id, now_ms)
        if group is not None and command.member_id in group.instances:
            self._machine.instances.touched(command.group, command.member_id, now_ms)

    def _context(self, timestamp_ms: int, view: ClusterView) -> GroupContext:
        return GroupContext(self._config, view, timestamp_ms, self._random)


def _are_others(group: Group, former: Group) -> bool:
    """Whether a topic that the group reads has made way for another one of its name."""
    return group.topics is not former.topics and any(
        former.topics[name].topic_id != topic.topic_id
        for name, topic in group.topics.items()
        if name in former.topics
    )
