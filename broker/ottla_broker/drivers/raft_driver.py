"""Runs the pure Raft node: persist, then send, then apply, in this one place.

Inputs (messages, proposals, reads, refusals, the clock) wait in one bounded queue and are taken one
at a time. Each Ready is persisted and fsynced before its messages leave and before its committed
entries are applied; only then comes the next input. The node relies on exactly that order: a leader
counts its own entry as matched because by the next input it is on disk.

Messages that find a queue full are dropped: Raft repeats them. Proposals and reads that do are
refused with an error.

When enough has been applied, the state machine's snapshot goes in as an input of its own, between
two others: at that moment the state is that of the last applied entry.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import structlog
from msgspec.structs import replace

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import KnownLeader
from ottla_broker.drivers.raft_administration import RaftAdministration, RaftRequest
from ottla_broker.drivers.raft_outboxes import MAX_QUEUED_MESSAGES_PER_PEER, RaftOutboxes
from ottla_broker.drivers.raft_store import RaftStore
from ottla_broker.drivers.snapshot_telemetry import tell_made, tell_restored, tell_sent
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.telemetry import METRICS
from ottla_cluster.raft.config import RaftConfig
from ottla_cluster.raft.configuration import Configuration
from ottla_cluster.raft.errors import (
    NotLeaderError,
    RaftDirectoryRolledBackError,
    RaftMessageRefusedError,
)
from ottla_cluster.raft.messages import (
    Entry,
    InstallSnapshotRequest,
    Message,
    ObserveRequest,
    Origin,
    Snapshot,
)
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.ready import Proposed, Ready, Role
from ottla_cluster.raft.snapshot_schedule import SnapshotSchedule
from ottla_protocol.errors import (
    MessageTooLargeError,
    NotControllerError,
    OttlaError,
    Outcome,
    OverloadedError,
)

MAX_QUEUED_INPUTS = 4_096
RETRY_FULL_DISK_MS = 250
"""How often what found no room on the disk is persisted again."""

log = structlog.get_logger()


Appended = Callable[[Proposed | OttlaError], None]
"""Told where a proposal stands, before it can be applied, or why nothing was appended."""


@dataclass(slots=True)
class _Proposal:
    payload: bytes
    appended: Appended


@dataclass(slots=True)
class _Read:
    done: asyncio.Future[int]


@dataclass(slots=True)
class _Refusal:
    peer_id: int


@dataclass(slots=True)
class _StandAside:
    stands_aside: bool


_Input = Message | _Proposal | _Read | _Refusal | _StandAside | RaftRequest


class SnapshotStateMachine(Protocol):
    """What the log is compacted into."""

    def snapshot(self) -> bytes:
        """The state as of the last applied entry: the same bytes on every voter."""

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the state; raises an OttlaError when the snapshot cannot be read."""


class RaftDriver:
    """This process's voter, or its observer.

    Args:
        state_machine: what `on_committed` applies entries to.
        snapshot_schedule: when its snapshots are taken.
        on_committed: applies entries, in order, exactly once per process.
        on_leadership: told (term, leader_id, is_leader) whenever one of them changes.
        on_refused: a peer's process is gone: its connection was refused.
        on_failure: the store failed or an invariant broke; the process must stop.
        writing: entered for as long as something is being persisted.
        directory_id: of the data directory that the store is in.
        renew_directory: gives that directory another id, when its Raft state was set aside.
        writes_configurations: whether all processes know entries that name the voters.
    """

    def __init__(
        self,
        *,
        config: RaftConfig,
        store: RaftStore,
        peers: PeerClient,
        voter_urls: dict[int, str],
        broker_url: Callable[[int], str | None],
        random: Random,
        state_machine: SnapshotStateMachine,
        snapshot_schedule: SnapshotSchedule,
        on_committed: Callable[[Sequence[Entry]], None],
        on_leadership: Callable[[int, int | None, bool], None],
        on_refused: Callable[[int], None],
        on_failure: Callable[[OttlaError], None],
        writing: Writing = uncounted,
        directory_id: str,
        renew_directory: Callable[[], object],
        writes_configurations: Callable[[], bool],
    ) -> None:
        self._config = config
        self._store = store
        self._voter_urls = voter_urls
        self._broker_url = broker_url
        self._random = random
        self._state_machine = state_machine
        self._snapshot_schedule = snapshot_schedule
        self._on_committed = on_committed
        self._on_leadership = on_leadership
        self._on_refused = on_refused
        self._on_failure = on_failure
        self._writing = writing
        self._directory_id = directory_id
        self._renew_directory = renew_directory
        self._writes_configurations = writes_configurations
        self.administration = RaftAdministration(self._put)
        self._inputs: asyncio.Queue[_Input] = asyncio.Queue(maxsize=MAX_QUEUED_INPUTS)
        self._outboxes = RaftOutboxes(
            peers=peers,
            on_refused=self._connection_refused,
            on_leader=self._leader_told,
            on_failure=on_failure,
        )
        # What an observer last announced, and the leader of which a voter told it then.
        self._announcement: ObserveRequest | None = None
        self._told_leader: KnownLeader | None = None
        # That of which the outboxes know.
        self._known_configuration: Configuration | None = None
        self._reads: dict[int, asyncio.Future[int]] = {}
        self._next_read_token = 0
        self._known_leadership: tuple[int, int | None, bool] = (0, None, False)
        self._announced_term = 0
        self._task: CriticalTask | None = None
        self._node: RaftNode | None = None

    async def start(self) -> None:
        """Load what was persisted and begin to take inputs."""
        incarnation = f"{self._random.getrandbits(64):016x}"
        persisted = await self._store.load(incarnation)
        self._node = RaftNode(
            self._config,
            hard_state=persisted.hard_state,
            entries=persisted.entries,
            compaction=persisted.compaction,
            random=self._random,
            now_ms=monotonic_ms(),
            origin=Origin(
                self._directory_id,
                persisted.start_count,
                incarnation,
                persisted.former_incarnations,
            ),
            remembered=persisted.remembered,
        )
        self._task = CriticalTask(self._run(), name="raft", on_failure=self._on_failure)

    async def hand_over(self, *, timeout_ms: int) -> None:
        """Have another voter lead before this one stops; what fails is left to an election."""
        if self._node is None or self._node.role is not Role.LEADER:
            return
        try:
            await self.administration.transfer_leadership(None, timeout_ms=timeout_ms)
        except OttlaError as error:
            log.info("leadership_not_handed_over", detail=error.detail)

    async def stop(self) -> None:
        """Stop taking inputs and close the store; nothing acknowledged is lost."""
        if self._task is not None:
            await self._task.stop()
        await self._outboxes.stop()
        for done in self._reads.values():
            done.cancel()
        await self._store.close()

    @property
    def node(self) -> RaftNode:
        """The pure node, to be read only."""
        assert self._node is not None, "start() comes first"
        return self._node

    @property
    def leader_id(self) -> int | None:
        """The leader that this voter knows, itself included."""
        return self._node.leader_id if self._node else None

    @property
    def term(self) -> int:
        """The current term."""
        return self._node.term if self._node else 0

    def describe_rejections(self) -> list[str]:
        """Which peers refuse this node's messages, and why: they are of another cluster, say."""
        return self._outboxes.describe_rejections()

    def describe_silence(self) -> list[str]:
        """Which peers do not answer."""
        return self._outboxes.describe_silence()

    @property
    def known_leader(self) -> KnownLeader | None:
        """The leader that this node knows, and where it is reached."""
        leader_id = self.leader_id
        url = None if leader_id is None else self.url_of(leader_id)
        return None if leader_id is None or url is None else KnownLeader(leader_id, url)

    # --- inputs -----------------------------------------------------------------------------

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages from a peer."""
        for message in messages:
            with contextlib.suppress(asyncio.QueueFull):
                self._inputs.put_nowait(message)

    def peer_refused(self, peer_id: int) -> None:
        """A connection to a peer was refused."""
        if peer_id in self._outboxes:
            with contextlib.suppress(asyncio.QueueFull):
                self._inputs.put_nowait(_Refusal(peer_id))

    def _connection_refused(self, peer_id: int) -> None:
        self.peer_refused(peer_id)
        self._on_refused(peer_id)

    def _leader_told(self, leader: KnownLeader) -> None:
        """A voter told an announcing observer of a leader that perhaps no setting of its names."""
        known = (self._config.node_id, *self._peer_urls())
        if self._announcement is not None and leader.node_id not in known:
            self._told_leader = leader
            self._outboxes.open(leader.node_id, leader.url)
            self._outboxes.put(replace(self._announcement, receiver=leader.node_id))

    def stand_aside(self, *, stands_aside: bool) -> None:
        """Neither lead nor campaign from now on, or no longer: what is persisted may never end.

        An input like any other: where one is being persisted already this voter says nothing
        anyway, and by then the disk works again.
        """
        with contextlib.suppress(asyncio.QueueFull):
            self._inputs.put_nowait(_StandAside(stands_aside))

    def propose(self, payload: bytes, appended: Appended) -> None:
        """Append an entry as leader; proposals keep their order.

        `appended` is called once: with the entry's place before it can be applied, or with the
        error (NotLeaderError, OverloadedError) when nothing was appended.

        Raises:
            OverloadedError: the queue of inputs is full; `appended` is not called.
        """
        self._put(_Proposal(payload, appended))

    async def read_index(self) -> int:
        """An index such that a state machine that applied it may serve a linearizable read.

        Raises:
            NotControllerError: this node does not lead, or leadership was lost meanwhile.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._put(_Read(done))
        return await done

    def _put(self, item: _Input) -> None:
        try:
            self._inputs.put_nowait(item)
        except asyncio.QueueFull:
            raise OverloadedError(
                f"{MAX_QUEUED_INPUTS} inputs wait for the metadata quorum",
                outcome=Outcome.NOT_APPLIED,
                retry_after_seconds=1,
            ) from None

    @property
    def input_places(self) -> tuple[int, int]:
        """How many inputs wait for the node, and may."""
        return self._inputs.qsize(), MAX_QUEUED_INPUTS

    @property
    def outbox_places(self) -> tuple[int, int]:
        """How many messages wait for the peer that keeps up least, and may."""
        return self._outboxes.longest, MAX_QUEUED_MESSAGES_PER_PEER

    # --- the loop ---------------------------------------------------------------------------

    async def _run(self) -> None:
        self.node.allow_configurations(allowed=self._writes_configurations())
        await self._process(self.node.tick(monotonic_ms()))
        while True:
            item = await self._next_input()
            if item is None:
                await self._process(self.node.tick(monotonic_ms()))
                self._outboxes.retain((*self._peer_urls(), *self.node.observer_ids))
            else:
                try:
                    await self._take(item)
                except RaftDirectoryRolledBackError as error:
                    await self._set_aside()
                    raise error from None
            if self._snapshot_schedule.is_due:
                await self._compact()

    async def _set_aside(self) -> None:
        """The Raft state is of an older copy of the directory: begin anew, as another directory."""
        # First the id: a crash in between leaves another directory, and not one that would be
        # refused again, with an empty file to set aside in place of this one.
        self._renew_directory()
        moved = await self._store.set_aside()
        log.critical("raft_state_set_aside", path=str(moved))

    async def _compact(self) -> None:
        """Take a snapshot and let the log begin there."""
        started_ms = monotonic_ms()
        data = self._state_machine.snapshot()
        ready = self.node.compact(self.node.applied_index, data, monotonic_ms())
        await self._process(ready)
        self._snapshot_schedule.snapshot_taken(len(data))
        if ready.compaction is not None:
            tell_made(ready.compaction, took_ms=monotonic_ms() - started_ms)

    async def _next_input(self) -> _Input | None:
        """The next input; None when the node's clock must be told first."""
        wait_ms = self.node.next_deadline_ms() - monotonic_ms()
        if wait_ms <= 0:
            return None
        try:
            async with asyncio.timeout(wait_ms / 1000):
                return await self._inputs.get()
        except TimeoutError:
            return None

    async def _take(self, item: _Input) -> None:
        now_ms = monotonic_ms()
        self.node.allow_configurations(allowed=self._writes_configurations())
        match item:
            case RaftRequest():
                answer = self.administration.take(item, self.node)
                if answer is not None:
                    await self._process(answer)
            case _Proposal():
                await self._take_proposal(item, now_ms)
            case _Read():
                self._next_read_token += 1
                self._reads[self._next_read_token] = item.done
                try:
                    ready = self.node.request_read(self._next_read_token, now_ms)
                except OttlaError as error:
                    _fail(self._reads.pop(self._next_read_token), error)
                else:
                    await self._process(ready)
            case _Refusal():
                await self._process(self.node.peer_refused(item.peer_id, now_ms))
            case _StandAside():
                await self._process(self.node.stand_aside(now_ms, stands_aside=item.stands_aside))
            case _:
                try:
                    ready = self.node.step(item, now_ms)
                except RaftMessageRefusedError as error:
                    log.warning("raft_message_refused", detail=error.detail)
                else:
                    if isinstance(item, ObserveRequest) and item.sender in self.node.observer_ids:
                        self._outboxes.open(item.sender, item.url)
                    await self._process(ready)

    async def _take_proposal(self, proposal: _Proposal, now_ms: int) -> None:
        try:
            ready = self.node.propose([proposal.payload], now_ms)
        except (NotLeaderError, OverloadedError, MessageTooLargeError) as error:
            proposal.appended(error)
            return
        assert ready.proposed is not None
        proposal.appended(ready.proposed)
        await self._process(ready)

    async def _process(self, ready: Ready) -> None:
        """Persist, then send, then apply."""
        if ready.must_persist:
            await self._persist(ready)
        for message in ready.messages:
            if isinstance(message, InstallSnapshotRequest):
                tell_sent(message)
            self._send(message)
        # Before anything is applied: a leadership begins with its own no-op, and one that has ended
        # must not answer for entries that replaced its own.
        self._tell_leadership(ready)
        if ready.snapshot is not None:
            self._state_machine.restore(ready.snapshot)
            self._snapshot_schedule.snapshot_taken(len(ready.snapshot.data))
            tell_restored(ready.snapshot, from_leader=ready.compaction is not None)
        if ready.committed:
            self._on_committed(ready.committed)
            self._snapshot_schedule.applied(ready.committed)
            self.administration.committed(ready.committed)
        for read in ready.confirmed_reads:
            done = self._reads.pop(read.token)
            if not done.done():
                done.set_result(read.index)
        for token in ready.failed_reads:
            _fail(
                self._reads.pop(token),
                NotControllerError("leadership was lost before the read was confirmed"),
            )

    async def _persist(self, ready: Ready) -> None:
        """Persist, however long the disk has no room: the node stands still, as in any stall.

        It has said nothing to anybody meanwhile, so the others elect one that can persist.
        """
        assert ready.hard_state is not None
        is_told = False
        while True:
            try:
                with self._writing():
                    await self._store.persist(
                        ready.hard_state,
                        ready.truncate_from,
                        ready.entries,
                        ready.compaction,
                        ready.remembered,
                    )
            except DiskFullError as error:
                if not is_told:
                    log.error("raft_state_held", detail=error.detail)  # noqa: TRY400  it passes
                    is_told = True
                await asyncio.sleep(RETRY_FULL_DISK_MS / 1000)
            else:
                if is_told:
                    log.info("raft_state_persisted")
                return

    def _tell_leadership(self, ready: Ready) -> None:
        leadership = (ready.term, ready.leader_id, ready.role is Role.LEADER)
        if leadership == self._known_leadership:
            return
        previous, self._known_leadership = self._known_leadership, leadership
        if ready.term != previous[0]:
            METRICS.elections.inc()
        if ready.leader_id is not None and ready.term != self._announced_term:
            # A term has one leader at most: forgetting and meeting it again is no news.
            self._announced_term = ready.term
            log.info("controller_elected", controller=ready.leader_id, term=ready.term)
        self._on_leadership(*leadership)
        self.administration.led_by(ready.leader_id)

    # --- sending ----------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Queue a message; it is dropped where nobody knows its receiver's URL."""
        if self._known_configuration is not self.node.configuration:
            self._known_configuration = self.node.configuration
            for peer_id, url in self._peer_urls().items():
                self._outboxes.open(peer_id, url)
        if isinstance(message, ObserveRequest):
            self._announcement = message
        if message.receiver not in self._outboxes:
            # A candidate that this node's configuration does not name.
            known = self.url_of(message.receiver)
            if known is not None:
                self._outboxes.open(message.receiver, known)
        self._outboxes.put(message)

    def _peer_urls(self) -> dict[int, str]:
        """Voters and learners by node id, and the voters that the settings name."""
        urls = dict(self._voter_urls)
        for member in self.node.configuration.members:
            url = self.url_of(member.node_id)
            if url is not None:
                urls[member.node_id] = url
        if self._told_leader is not None:
            urls.setdefault(self._told_leader.node_id, self._told_leader.url)
        return {node_id: url for node_id, url in urls.items() if node_id != self._config.node_id}

    @property
    def voter_urls(self) -> dict[int, str]:
        """Where the voters are reached, by node id, this node included if it votes.

        Without those of which that is not known here.
        """
        known = self.member_urls
        urls = {voter_id: known[voter_id] for voter_id in self.voter_ids}
        return {voter_id: url for voter_id, url in urls.items() if url}

    @property
    def voter_ids(self) -> tuple[int, ...]:
        """The voters, ascending, whether or not it is known where they are reached."""
        if self._node is None:
            return tuple(sorted(self._voter_urls))
        return self._node.configuration.voter_ids

    @property
    def member_urls(self) -> dict[int, str | None]:
        """Where voters and learners are reached; None of those of which that is not known here."""
        if self._node is None:
            return dict(self._voter_urls)
        members = self._node.configuration.members
        return {member.node_id: self.url_of(member.node_id) for member in members}

    def needs_registration(self, node_id: int) -> bool:
        """Whether only its registration as a broker tells where a voter or learner is reached."""
        return any(
            member.node_id == node_id and not member.url and node_id not in self._voter_urls
            for member in self.node.configuration.members
        )

    def url_of(self, node_id: int) -> str | None:
        """Where a node is reached: as the quorum, the settings or the metadata say."""
        for member in self.node.configuration.members:
            if member.node_id == node_id and member.url:
                return member.url
        told = self._told_leader
        if told is not None and told.node_id == node_id:
            return told.url
        return self._voter_urls.get(node_id) or self._broker_url(node_id)


def _fail(done: asyncio.Future[int], error: OttlaError) -> None:
    if not done.done():
        done.set_exception(error)
