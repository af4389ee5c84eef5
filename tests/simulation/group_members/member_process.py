"""A process of the groups simulation that keeps its membership with the SDK's own machines."""

from dataclasses import dataclass

import msgspec

from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._group_calls import GroupCallKind
from ottla._group_member import GroupMember
from ottla._offset_commits import OffsetCommits
from ottla._transport import BrokerUnreachableError
from ottla_cluster.groups.commands import (
    CommitOffsets,
    FetchOffsets,
    Heartbeat,
    Join,
    Leave,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_protocol.errors import FencedInstanceIdError, OttlaError
from ottla_protocol.models_groups import (
    AssignedPartitions,
    CommitOffsetsRequest,
    CommitOffsetsResponse,
    GroupHeartbeatRequest,
    JoinGroupRequest,
    MembershipResponse,
)
from tests.simulation.groups.process import (
    REBALANCE_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    WORK_MS,
    Process,
)

RETRY_BACKOFF_MS = 50
REQUEST_TIMEOUT_MS = 700
COMMIT_TIMEOUT_MS = 2_000


@dataclass
class Work:
    """One partition in a process's hands."""

    tenure: int
    position: int | None = None
    """Where it goes on; None until the committed offset is fetched."""
    giving_up: bool = False


class MemberProcess(Process):
    """A process whose heartbeats, commits and ends of session are the SDK's.

    What stands here is a consumer's driver and application at their simplest.
    """

    member_type = GroupMember
    commits_type = OffsetCommits

    def __init__(self, simulation, group, name, *, is_static):
        super().__init__(simulation, group, name, is_static=is_static)
        self.member = None
        self.commits = None
        self.is_leaving = False

    def successor(self):
        other = type(self)(self.simulation, self.group, self.name, is_static=True)
        other.incarnation = 100 * (len(self.simulation.processes) + 1)
        other.pattern = self.pattern
        return other

    # --- what the simulation asks ---

    @property
    def member_id(self):
        membership = None if self.member is None else self.member.membership
        return None if membership is None else membership.member_id

    @member_id.setter
    def member_id(self, value):
        assert value is None

    @property
    def generation(self):
        return self.member.membership.generation

    def owns(self, key, now_ms):
        """Whether it may work on the partition at this moment, for all that it knows."""
        return (
            self.is_alive
            and key in self.working
            and self.member.may_own(TopicPartition(*key), now_ms)
        )

    # --- life ---

    def start(self):
        if self.is_alive:
            if self.is_leaving:
                self.simulation.after(100, self.start)
            return
        self.is_leaving = False
        self.is_alive = True
        self.incarnation += 1
        self.paused_until_ms = 0
        self.working = {}
        self.tenures = {}
        self.member = self.member_type(
            self.group,
            topics=("orders",) if self.pattern is None else None,
            pattern=self.pattern,
            instance_id=self.name if self.is_static else None,
            assignor=None,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            random=self.random,
        )
        self.commits = self.commits_type(
            self.group,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            random=self.random,
        )
        life = self.incarnation
        self.alarm_ms = None
        self._drive(life)
        self._work(life)

    def kill(self):
        self.is_alive = False
        self.working = {}

    def leave(self):
        """Leaves and goes on driving until the leave is answered or given up."""
        self.working = {}
        self.is_leaving = True
        self.member.leave(self.simulation.now_ms, is_static_too=True)
        life = self.incarnation
        self._drive(life)
        self._leave_off(life)

    def _leave_off(self, life):
        if self.member.has_left:
            self.is_alive = False
        else:
            self._later(life, 100, lambda: self._leave_off(life))

    # --- the driver ---

    def _drive(self, life):
        now_ms = self.simulation.now_ms
        while (call := self.member.next_call(now_ms)) is not None:
            self._send(life, call, self.member)
        while (call := self.commits.next_call(now_ms, self.member.membership)) is not None:
            self._send(life, call, self.commits)
        self._changed(life, self.member.expire(now_ms))
        self.commits.expire(now_ms)
        times_ms = (self.member.next_call_ms(now_ms), self.commits.next_call_ms())
        next_ms = min((each for each in times_ms if each is not None), default=None)
        if next_ms is not None and (self.alarm_ms is None or next_ms < self.alarm_ms):
            self.alarm_ms = max(next_ms, now_ms + 1)
            self._later(life, self.alarm_ms - now_ms, lambda: self._alarm(life))

    def _alarm(self, life):
        self.alarm_ms = None
        self._drive(life)

    def _send(self, life, call, machine):
        ended = []

        def end(outcome):
            if ended:
                return
            ended.append(True)
            now_ms = self.simulation.now_ms
            if isinstance(outcome, OttlaError):
                told = machine.on_failure(call, outcome, now_ms)
            else:
                told = machine.on_answer(call, _body(outcome), now_ms)
            if machine is self.member:
                self._changed(life, told)
            if self.is_alive:
                self._drive(life)

        command = _command(self.group, call)
        tenures = None
        if isinstance(command, CommitOffsets):
            tenures = {
                (entry.topic, entry.partition): self.tenures[entry.topic, entry.partition]
                for entry in command.offsets
            }
        self.simulation.call(
            command, lambda outcome: self._later(life, 0, lambda: end(outcome)), tenures=tenures
        )
        lost = BrokerUnreachableError("no answer in time")
        self._later(life, call.timeout_ms, lambda: end(lost))

    def _changed(self, life, change):
        now_ms = self.simulation.now_ms
        for key in change.lost:
            self.simulation.counts["lost"] += 1
            self.working.pop(tuple(key), None)
        self.commits.drop(change.lost, now_ms)
        for key in sorted(change.revoked):
            self.simulation.counts["revoked"] += 1
            work = self.working[tuple(key)]
            work.giving_up = True
            slowest_ms = 3 * REBALANCE_TIMEOUT_MS if self.is_slow else 500
            delay_ms = self.random.randint(0, slowest_ms if self.simulation.faulty else 500)
            self._later(life, delay_ms, lambda key=key, work=work: self._give_up(life, key, work))
        for key in sorted(change.assigned):
            assert tuple(key) not in self.working, f"{key} is assigned twice"
            self.working[tuple(key)] = Work(self.simulation.adopted(self, tuple(key)))
        if change.error is not None:
            assert isinstance(change.error, FencedInstanceIdError), change.error
            self.kill()

    def _give_up(self, life, key, work):
        """Commits, waits for the answer, and only then lets go."""
        if self.working.get(tuple(key)) is not work:
            return
        commit = self._commit(tuple(key), work)

        def release():
            if self.working.get(tuple(key)) is not work:
                return
            if commit is not None and not commit.is_done:
                self._later(life, 50, release)
                return
            del self.working[tuple(key)]
            self.member.release([key])
            self._drive(life)

        release()

    # --- work ---

    def _work(self, life):
        delay_ms = WORK_MS if self.simulation.faulty else 10 * WORK_MS
        self._later(life, delay_ms, lambda: self._work(life))
        self._changed(life, self.member.expire(self.simulation.now_ms))
        for key, work in sorted(self.working.items()):
            assert self.owns(key, self.simulation.now_ms), "it works on what it knows to be lost"
            if work.position is None:
                self._fetch(life, key, work)
            elif not work.giving_up:
                work.position += self.random.randint(0, 3)
                seen = self.simulation.processed
                seen[self.group, *key] = max(seen[self.group, *key], work.position)
                if self.random.random() < 0.5:
                    self._commit(key, work)
        self._drive(life)

    def _commit(self, key, work):
        if work.position is None:
            return None
        self.tenures[key] = work.tenure
        return self.commits.commit(
            {TopicPartition(*key): OffsetAndMetadata(work.position)},
            self.simulation.now_ms,
            timeout_ms=COMMIT_TIMEOUT_MS,
            is_member=True,
        )

    def _fetch(self, life, key, work):
        def fetched(outcome):
            if hasattr(outcome, "offsets"):
                (found,) = outcome.offsets
                self._later(life, 0, lambda: self._found(key, work, found))

        topic, partition = key
        self.simulation.call(FetchOffsets(self.group, (OwnedTopic(topic, (partition,)),)), fetched)


def _command(group, call):
    """The command that a broker makes of a call."""
    member_id = call.path.split("/")[5] if call.path.count("/") > 4 else None
    match call.kind:
        case GroupCallKind.JOIN:
            request = msgspec.json.decode(call.body, type=JoinGroupRequest)
            return Join(
                group,
                topics=None if request.topics is None else tuple(request.topics),
                pattern=request.pattern,
                member_id=request.member_id,
                instance_id=request.instance_id,
                assignor=request.assignor,
                session_timeout_ms=request.session_timeout_ms,
                rebalance_timeout_ms=request.rebalance_timeout_ms,
            )
        case GroupCallKind.HEARTBEAT:
            request = msgspec.json.decode(call.body, type=GroupHeartbeatRequest)
            owned = tuple(OwnedTopic(each.topic, tuple(each.partitions)) for each in request.owned)
            return Heartbeat(group, member_id, request.generation, owned, request.max_wait_ms)
        case GroupCallKind.LEAVE:
            return Leave(group, member_id)
        case GroupCallKind.COMMIT:
            request = msgspec.json.decode(call.body, type=CommitOffsetsRequest)
            offsets = tuple(
                OffsetToCommit(each.topic, each.partition, each.offset) for each in request.offsets
            )
            return CommitOffsets(group, offsets, request.member_id, request.generation)
    raise AssertionError(call)


def _body(outcome):
    """A response as a broker's answer has it."""
    match type(outcome).__name__:
        case "JoinResponse" | "HeartbeatResponse":
            assignment = outcome.assignment and [
                AssignedPartitions(each.topic, list(each.partitions)) for each in outcome.assignment
            ]
            if outcome.assignment is not None:
                assignment = assignment or []
            return msgspec.json.encode(
                MembershipResponse(
                    outcome.member_id,
                    outcome.generation,
                    assignment,
                    outcome.session_timeout_ms,
                    outcome.heartbeat_interval_ms,
                )
            )
        case "CommitOffsetsResponse":
            return msgspec.json.encode(CommitOffsetsResponse([]))
        case "LeaveResponse":
            return b""
    raise AssertionError(outcome)
