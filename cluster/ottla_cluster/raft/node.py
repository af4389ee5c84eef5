"""One node of the metadata quorum, a voter or an observer: a pure Raft node.

Inputs go in one at a time; each gives one `Ready`. The driver's contract, on which safety rests:

1. Inputs are strictly serial. A Ready is persisted, then sent, then applied, before the next input.
2. Persist: when `ready.must_persist`, one durable transaction takes over `compaction`, deletes the
   entries from `truncate_from` on, appends `entries` and stores `hard_state`. A failed write stops
   the process.
3. Send: `messages` leave only then. They may be lost, repeated and reordered.
4. Apply: restore `snapshot`, then `committed` in order, then answer `confirmed_reads` and
   `failed_reads`.
5. `tick` is called at `next_deadline_ms()` at the latest. After every input, one that raised
   included, the driver asks for it again: an input that raised may have left an output that is due.
6. `now_ms` is monotonic and moves on while the process is suspended or blocked. A clock that steps
   back counts as standing still.
7. Now and then the driver hands in a snapshot of its state machine (`compact`), as of what it has
   applied: the log is cut there, and a follower that needs more gets the snapshot.

Because of rule 1 a leader counts its own entries as durable when the next input arrives, a reply
never promises what is not on disk, and a single voter commits within one Ready: persisting comes
before applying. `hard_state.commit_index` only saves time after a restart, so a commit alone
persists nothing. A restarted node hands out its snapshot and all it knows to be committed with its
first Ready.

Roles:

    FOLLOWER       election timeout → PRE_CANDIDATE
    PRE_CANDIDATE  a quorum would vote → CANDIDATE; a quorum would not, or a leader → FOLLOWER
    CANDIDATE      a quorum votes → LEADER; a quorum does not, or a leader → FOLLOWER
    LEADER         no quorum heard for an election timeout → FOLLOWER
    any            a higher term → FOLLOWER

A node that no configuration names is an observer: a FOLLOWER that grants no vote and, where a voter
would campaign, announces itself to the voters (`observers`).

Against disruption: pre-vote (dissertation §9.6), check-quorum (§6.2), and a voter that heard from a
live leader within the minimum election timeout helps nobody else to power (§4.2.3), save when that
leader's connection was refused.

Who votes is what the last configuration in the log says (`configuration`, `membership`). What a
node holds and tells of itself is in `node_state`; how it comes to power, and whom it helps there,
in `elections`; how voters change, and the leadership is handed over, in `voter_changes`.
"""

from typing import TYPE_CHECKING, assert_never

from msgspec.structs import replace

from ottla_cluster.raft.admission import check_message, check_payloads, check_snapshot
from ottla_cluster.raft.appends import AppendReceiver
from ottla_cluster.raft.election_timer import ElectionTimer
from ottla_cluster.raft.elections import Elections
from ottla_cluster.raft.errors import (
    NotLeaderError,
    RaftDirectoryRolledBackError,
    RaftInvariantError,
    RaftStateCorruptError,
)
from ottla_cluster.raft.leadership import Leadership
from ottla_cluster.raft.log import RaftLog
from ottla_cluster.raft.messages import (
    AppendRequest,
    AppendResponse,
    Compaction,
    Entry,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    Message,
    ObserveRequest,
    Origin,
    PreVoteRequest,
    PreVoteResponse,
    StartRefused,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from ottla_cluster.raft.observers import ObserverTimer
from ottla_cluster.raft.ready import Outputs, Proposed, Ready, Role
from ottla_cluster.raft.snapshots import SnapshotReceiver
from ottla_cluster.raft.starts import RememberedStarts, Standing
from ottla_cluster.raft.voter_changes import VoterChanges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.messages import RememberedStart


class RaftNode(Elections, VoterChanges):
    """One node.

    Args:
        config: identity, timing and limits.
        hard_state: as persisted last; `HardState()` on the first start.
        entries: every persisted entry, in order.
        compaction: the persisted snapshot; None while there is none.
        random: draws election timeouts; nothing else depends on it.
        now_ms: the monotonic clock.
        applied_index: how far the caller's state machine already is.
        origin: the data directory and this start of the process, told with every message; None
            where directories have no ids.
        remembered: what was persisted of other voters' starts, by node id.

    Raises:
        RaftStateCorruptError: the persisted state contradicts itself, so entries are missing.
    """

    def __init__(
        self,
        config: "RaftConfig",
        *,
        hard_state: HardState,
        entries: "Sequence[Entry]",
        random: "Random",
        now_ms: int,
        compaction: Compaction | None = None,
        applied_index: int = 0,
        origin: Origin | None = None,
        remembered: "Mapping[int, RememberedStart] | None" = None,
    ) -> None:
        self._config = config
        self._now_ms = now_ms
        self._log = RaftLog(
            entries,
            compaction=compaction,
            commit_index=hard_state.commit_index,
            applied_index=applied_index,
            bootstrap=config.bootstrap,
        )
        if self._log.last_term > hard_state.term:
            raise RaftStateCorruptError(
                f"the last entry is of term {self._log.last_term}, but the persisted term is "
                f"{hard_state.term}"
            )
        self._term = hard_state.term
        self._voted_for = hard_state.voted_for
        self._persisted_vote = (hard_state.term, hard_state.voted_for)
        self._role = Role.FOLLOWER
        self._stands_aside = False
        self._leader_id = None
        self._leadership = None
        self._campaign = None
        self._origin = origin
        self._starts = RememberedStarts(remembered or {})
        self._standing = Standing.TRUSTED
        self._writes_configurations = True
        self._random = random
        self._timer = (
            ElectionTimer(
                config,
                random,
                now_ms,
                is_alone=self._log.configuration.voter_ids == (config.node_id,),
            )
            if self._may_campaign
            else ObserverTimer(config, now_ms)
        )
        self._appends = AppendReceiver(config, self._log)
        self._snapshots = SnapshotReceiver(config, self._log)
        self._outputs = Outputs()

    # --- inputs ---------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> Ready:
        """Do what is due: campaign or announce itself, heartbeat, step down."""
        self._advance_clock(now_ms)
        if self._leadership is not None:
            self._leadership.tick(self._now_ms)
        elif self._now_ms >= self._timer.deadline_ms:
            if not self._may_campaign:
                self._announce()
            elif self._stands_aside:
                self._timer.restart(self._now_ms)
            else:
                self._begin_pre_vote()
        return self._ready()

    def step(self, message: Message, now_ms: int) -> Ready:
        """Handle one message from a peer.

        Raises:
            RaftMessageRefusedError: it is not for this voter or is malformed; nothing changed.
            RaftInvariantError: it breaks a rule of Raft; the process must stop.
            RaftDirectoryRolledBackError: the data directory is an older copy; stop likewise.
        """
        check_message(message, self._config)
        self._advance_clock(now_ms)
        self._standing = self._starts.judge(
            message.sender, message.origin, message.term, self._log.configuration
        )
        if self._standing is Standing.ROLLED_BACK and message.origin is not None:
            self._outputs.messages.append(
                StartRefused(
                    term=self._term,
                    sender=self._config.node_id,
                    receiver=message.sender,
                    refused=message.origin,
                )
            )
            return self._ready()
        match message:
            case AppendRequest():
                self._handle_append_request(message)
            case AppendResponse() | InstallSnapshotResponse():
                self._handle_response(message)
            case InstallSnapshotRequest():
                self._handle_install_snapshot_request(message)
            case PreVoteRequest():
                self._handle_pre_vote_request(message)
            case PreVoteResponse():
                self._handle_pre_vote_response(message)
            case VoteRequest():
                self._handle_vote_request(message)
            case VoteResponse():
                self._handle_vote_response(message)
            case TimeoutNow():
                self._handle_timeout_now(message)
            case StartRefused():
                self._handle_start_refused(message)
            case ObserveRequest():
                self._handle_observe_request(message)
            case _:  # pragma: no cover
                assert_never(message)
        return self._ready()

    def propose(self, payloads: "Sequence[bytes]", now_ms: int) -> Ready:
        """Append payloads as consecutive entries; `Ready.proposed` tells where they went.

        Args:
            payloads: at least one, none of them empty (that is the election's no-op).
            now_ms: the monotonic clock.

        Raises:
            NotLeaderError: this node does not lead, or has just noticed that it may not.
            MessageTooLargeError: a payload is over `max_entry_bytes`.
            OverloadedError: `max_uncommitted_bytes` is reached.
        """
        check_payloads(payloads, self._config)
        leadership = self._require_leadership(now_ms)
        first_index = self._log.last_index + 1
        leadership.append(payloads)
        return self._ready(Proposed(first_index, self._log.last_index, self._term))

    def request_read(self, token: int, now_ms: int) -> Ready:
        """Begin a linearizable read (dissertation §6.4).

        The token comes back once, in `confirmed_reads` or in `failed_reads` of this Ready or a
        later one.

        Raises:
            NotLeaderError: this node does not lead, or has just noticed that it may not.
            OverloadedError: `max_pending_reads` is reached.
        """
        self._require_leadership(now_ms).request_read(token)
        return self._ready()

    def compact(self, index: int, data: bytes, now_ms: int) -> Ready:
        """Take a snapshot of the state machine in place of the log's beginning.

        An older snapshot than the present one changes nothing: a leader's may have come meanwhile.

        Args:
            index: the last entry that was applied to it.
            data: its state then, not empty; equal on every voter that applied the same entries.
            now_ms: the monotonic clock.

        Raises:
            MessageTooLargeError: `data` is over `max_snapshot_bytes`; no voter would take it.
        """
        check_snapshot(data, self._config)
        self._advance_clock(now_ms)
        self._log.compact(
            index,
            data,
            retained_entries=self._config.retained_entries,
            retained_bytes=self._config.retained_bytes,
        )
        return self._ready()

    def stand_aside(self, now_ms: int, *, stands_aside: bool) -> Ready:
        """Neither lead nor campaign while this holds: the caller's disk takes nothing.

        A leader gives up its leadership, which changes nothing that is persisted; the others elect
        once they miss it. Votes and entries are taken as ever, and answered when they are
        persisted. A single voter has nobody to stand aside for.
        """
        self._advance_clock(now_ms)
        has_others = len(self._log.configuration.voters) > 1
        self._stands_aside = stands_aside and has_others
        if self._stands_aside and self._leadership is not None:
            self._become_follower(self._term, None)
        return self._ready()

    def peer_refused(self, peer_id: int, now_ms: int) -> Ready:
        """The connection to a peer was refused (ECONNREFUSED and nothing else): it has crashed.

        A follower of that voter forgets it, grants pre-votes at once, and campaigns itself after a
        short random delay. A candidate counts it as refusing, so that a vote split between the
        survivors is found and repeated at once. A leader forgets an observer. An observer of that
        voter looks for the next leader at once.
        """
        assert peer_id != self._config.node_id, "a node never calls itself"
        self._advance_clock(now_ms)
        if self._leadership is not None:
            self._leadership.peer_refused(peer_id)
        elif self._campaign is not None:
            if self._log.configuration.voter(peer_id) is not None:
                self._campaign.record_unreachable(peer_id)
                self._conclude(self._campaign)
        elif self._leader_id == peer_id:
            self._leader_id = None
            self._timer.hasten(self._now_ms)
        return self._ready()

    # --- its own part -------------------------------------------------------------------------

    def _take_its_part(self) -> None:
        """Become an observer, or stop being one, when the configuration says so."""
        observes = not self._may_campaign
        if observes == isinstance(self._timer, ObserverTimer):
            return
        if observes:
            self._timer = ObserverTimer(self._config, self._now_ms)
        else:
            self._timer = ElectionTimer(self._config, self._random, self._now_ms, is_alone=False)
        if self._leader_id is not None:
            self._timer.heard_from_leader(self._now_ms)

    # --- shared by the inputs -------------------------------------------------------------------

    def _advance_clock(self, now_ms: int) -> None:
        """Take the time, before anything else: a leader that was away too long steps down first.

        So a process that was paused neither proposes nor reads on the strength of answers that
        waited in its socket meanwhile.
        """
        self._now_ms = max(self._now_ms, now_ms)
        leadership = self._leadership
        if leadership is not None and not leadership.has_quorum_contact(self._now_ms):
            self._become_follower(self._term, None)

    def _require_leadership(self, now_ms: int) -> Leadership:
        self._advance_clock(now_ms)
        if self._leadership is None:
            raise NotLeaderError(self._leader_id)
        return self._leadership

    def _ready(self, proposed: Proposed | None = None) -> Ready:
        if self._leadership is not None and self._leadership.is_removed:
            # Its last messages tell the others that this is committed.
            self._become_follower(self._term, None)
        self._take_its_part()
        compaction = self._log.take_compaction()
        truncate_from, entries = self._log.take_changes()
        vote = (self._term, self._voted_for)
        hard_state = None
        remembered = self._starts.take_changes()
        is_log_changed = compaction is not None or truncate_from is not None or entries
        if is_log_changed or remembered or vote != self._persisted_vote:
            hard_state = HardState(self._term, self._voted_for, self._log.commit_index)
            self._persisted_vote = vote
        outputs = self._outputs
        ready = Ready(
            hard_state=hard_state,
            compaction=compaction,
            truncate_from=truncate_from,
            entries=entries,
            messages=self._signed(outputs.messages),
            # Taken first: what it covers is not handed out for applying.
            snapshot=self._log.take_snapshot(),
            committed=self._log.take_committed(),
            confirmed_reads=tuple(outputs.confirmed_reads),
            failed_reads=tuple(outputs.failed_reads),
            proposed=proposed,
            term=self._term,
            role=self._role,
            leader_id=self._leader_id,
            commit_index=self._log.commit_index,
            remembered=remembered,
        )
        outputs.clear()
        return ready

    def _signed(self, messages: "Sequence[Message]") -> tuple[Message, ...]:
        """The messages with this node's origin, which all of them carry."""
        if self._origin is None:
            return tuple(messages)
        return tuple(replace(message, origin=self._origin) for message in messages)

    # --- roles ----------------------------------------------------------------------------------

    def _become_follower(self, term: int, leader_id: int | None) -> None:
        """Follow `leader_id` (None: whoever wins) in `term`, which never falls."""
        assert term >= self._term, "the term never falls"
        if term > self._term:
            self._term = term
            self._voted_for = None
        if self._leadership is not None:
            self._outputs.failed_reads.extend(self._leadership.fail_reads())
            self._leadership = None
        # A follower that merely learns a term keeps its deadline: only a leader or a granted vote
        # moves it (Raft §5.2), or stale candidates could hold off a fresh one for ever.
        if self._role is not Role.FOLLOWER:
            self._timer.restart(self._now_ms)
        self._role = Role.FOLLOWER
        self._leader_id = leader_id
        self._campaign = None

    def _become_leader(self) -> None:
        assert self._role is Role.CANDIDATE, "only a candidate wins"
        assert self._voted_for == self._config.node_id, "a candidate has voted for itself"
        self._role = Role.LEADER
        self._leader_id = self._config.node_id
        self._campaign = None
        self._leadership = Leadership(
            self._config,
            self._log,
            self._outputs,
            term=self._term,
            now_ms=self._now_ms,
            starts=self._starts,
            origin=self._origin,
        )
        self._leadership.writes_configurations = self._writes_configurations
        # The no-op commits what earlier terms left (Raft §8).
        self._leadership.append((b"",))

    # --- leading --------------------------------------------------------------------------------

    def _handle_response(self, response: AppendResponse | InstallSnapshotResponse) -> None:
        self._observe_term(response.term)
        if self._leadership is None or response.term != self._term:
            return
        if isinstance(response, AppendResponse):
            self._leadership.handle_response(response, self._now_ms)
        else:
            self._leadership.handle_snapshot_response(response, self._now_ms)

    def _handle_observe_request(self, request: ObserveRequest) -> None:
        if self._leadership is not None:
            self._leadership.admit_observer(request.sender, self._now_ms)

    def _handle_start_refused(self, refusal: StartRefused) -> None:
        if self._origin is None or not refusal.refused.is_start_of(self._origin):
            return
        if self._log.configuration.voter_ids == (self._config.node_id,):
            # Set aside it would begin an empty log, and nobody could give it the other one back.
            raise RaftStateCorruptError(
                f"node {refusal.sender} has heard later news from the data directory "
                f"{self._directory_id} than it holds: it was put back to an older copy, and it is "
                "the only voter's. Put the newest copy back; or, to go on with this one, start the "
                "other nodes without their raft.sqlite"
            )
        raise RaftDirectoryRolledBackError(
            f"node {refusal.sender} has heard later news from the data directory "
            f"{self._directory_id} than it holds: it was put back to an older copy"
        )

    # --- following ------------------------------------------------------------------------------

    def _handle_append_request(self, request: AppendRequest) -> None:
        if request.term < self._term:
            # The answer carries this term, and the old leader follows it.
            self._outputs.messages.append(self._appends.refusal(request, self._term))
            return
        self._follow(request)
        self._outputs.messages.append(self._appends.receive(request))

    def _handle_install_snapshot_request(self, request: InstallSnapshotRequest) -> None:
        if request.term < self._term:
            self._outputs.messages.append(self._snapshots.refusal(request, self._term))
            return
        self._follow(request)
        self._outputs.messages.append(self._snapshots.receive(request))

    def _follow(self, request: AppendRequest | InstallSnapshotRequest) -> None:
        """The sender leads this term or a newer one (Raft §5.2)."""
        leads_this_term = self._leader_id if request.term == self._term else None
        if leads_this_term not in (None, request.sender):
            raise RaftInvariantError(
                f"nodes {leads_this_term} and {request.sender} both lead term {request.term}"
            )
        if request.term > self._term or self._leader_id != request.sender:
            self._become_follower(request.term, request.sender)
        self._timer.heard_from_leader(self._now_ms)
