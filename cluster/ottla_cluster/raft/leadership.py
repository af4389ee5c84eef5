"""What only a leader does: replicate, commit, keep its followers and observers, confirm reads.

One object lives as long as one leadership; losing the term drops it whole. It shares the log with
its node and writes messages and confirmed reads into the node's `Outputs`.

The leader counts its own log as durable up to its end. It may, because the driver persists a Ready
before it hands in the next input, so what a follower can have acknowledged the leader has on disk,
and because a single voter's committed entries are applied only after they were persisted.
"""

from itertools import chain
from typing import TYPE_CHECKING, NoReturn

from ottla_cluster.raft.configuration import (
    UNKNOWN_DIRECTORY,
    Configuration,
    encode_configuration,
)
from ottla_cluster.raft.errors import RaftInvariantError, RaftMessageRefusedError
from ottla_cluster.raft.membership import NEVER_MS, Membership
from ottla_cluster.raft.messages import (
    AppendRequest,
    AppendResponse,
    Entry,
    EntryKind,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    StartRefused,
)
from ottla_cluster.raft.observers import Observers
from ottla_cluster.raft.progress import Progress, ProgressState
from ottla_cluster.raft.quorum import reached_by_quorum
from ottla_cluster.raft.reads import ReadRounds
from ottla_cluster.raft.transfer import Transfer, chosen_target
from ottla_protocol.errors import Outcome, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.log import RaftLog
    from ottla_cluster.raft.messages import Origin
    from ottla_cluster.raft.ready import Outputs
    from ottla_cluster.raft.starts import RememberedStarts


class Leadership:
    """One term as leader.

    Args:
        config: the node's settings.
        log: the node's log.
        outputs: where messages and confirmed reads go.
        term: the term that this node won.
        now_ms: when it won.
        starts: what is remembered of the voters' directories.
        origin: this node's data directory and start, if it has an id.
    """

    __slots__ = (
        "_config",
        "_log",
        "_members",
        "_now_ms",
        "_observers",
        "_outputs",
        "_reads",
        "_transfer",
        "_uncommitted_bytes",
        "heartbeat_due_ms",
        "term",
        "writes_configurations",
    )

    def __init__(
        self,
        config: "RaftConfig",
        log: "RaftLog",
        outputs: "Outputs",
        *,
        term: int,
        now_ms: int,
        starts: "RememberedStarts",
        origin: "Origin | None" = None,
    ) -> None:
        self.term = term
        self._config = config
        self._log = log
        self._outputs = outputs
        self._now_ms = now_ms
        directory_id = origin.directory_id if origin else UNKNOWN_DIRECTORY
        self._members = Membership(config, log, starts, directory_id=directory_id, now_ms=now_ms)
        # The handing over that is under way.
        self._transfer: Transfer | None = None
        self.writes_configurations = True
        self._observers = Observers(config)
        self._reads = ReadRounds(max_rounds_in_flight=config.max_read_rounds_in_flight)
        # Payload bytes of the entries above the commit index.
        self._uncommitted_bytes = log.size_bytes(log.commit_index + 1, log.last_index)
        self.heartbeat_due_ms = now_ms + self._heartbeat_interval_ms()

    def _heartbeat_interval_ms(self) -> int:
        """A leader without followers has nobody to show that it lives, and only idles."""
        if self._members or self._observers:
            return self._config.heartbeat_interval_ms
        return self._config.election_timeout_max_ms

    # --- appending and committing ---------------------------------------------------------------

    def append(self, payloads: "Sequence[bytes]") -> None:
        """Append entries of this term and send them on.

        Raises:
            OverloadedError: too much is uncommitted, or another voter is about to lead; nothing was
                appended.
        """
        if self._transfer is not None:
            raise OverloadedError(
                f"the leadership of the metadata quorum is going to node "
                f"{self._transfer.target_id}",
                outcome=Outcome.NOT_APPLIED,
            )
        size_bytes = sum(map(len, payloads))
        limit_bytes = self._config.max_uncommitted_bytes
        if size_bytes and self._uncommitted_bytes + size_bytes > limit_bytes:
            raise OverloadedError(
                f"{self._uncommitted_bytes} bytes of metadata are not committed yet, and "
                f"max_uncommitted_bytes is {limit_bytes}",
                outcome=Outcome.NOT_APPLIED,
            )
        next_index = self._log.last_index + 1
        self._append(
            [Entry(index, self.term, payload) for index, payload in enumerate(payloads, next_index)]
        )

    def _append(self, entries: "Sequence[Entry]") -> None:
        self._log.append(entries)
        if self._log.configuration_index == self._log.last_index:
            # It counts before it is committed, and its own voters commit it.
            self._members.reconcile(self._now_ms)
            for progress in self._members.all():
                self._observers.forget(progress.follower_id)
            # A leader that had no followers needed no heartbeats so far.
            next_due_ms = self._now_ms + self._heartbeat_interval_ms()
            self.heartbeat_due_ms = min(self.heartbeat_due_ms, next_due_ms)
        self._uncommitted_bytes += sum(len(entry.payload) for entry in entries)
        self._advance_commit()
        for progress in self._receivers():
            self._replicate(progress)
        self._advance_reads()

    def _receivers(self) -> "Iterable[Progress]":
        """Everybody who gets the log: the followers, and the observers, which never count."""
        return chain(self._members.all(), self._observers.all())

    def handle_response(self, response: AppendResponse, now_ms: int) -> None:
        """Learn from the answer of a follower or an observer in this term.

        Raises:
            RaftInvariantError: a follower acknowledges what this leader never sent.
            RaftMessageRefusedError: an observer does; it is forgotten.
        """
        progress = self._progress_of(response, now_ms)
        if progress is None:
            return
        if response.accepted and response.index > self._log.last_index:
            self._refuse_answer(
                response.sender,
                f"node {response.sender} acknowledges index {response.index}, but the leader's "
                f"log ends at {self._log.last_index}",
            )
        if response.accepted:
            progress.accepted(response.index)
            if response.index == progress.match_index:
                # A late answer to less says nothing of who holds the rest.
                progress.acknowledged_start = response.origin.start_count if response.origin else 0
            self._leave_snapshot(progress)
            if self._advance_commit():
                for receiver in self._receivers():
                    self._replicate(receiver)
            else:
                self._replicate(progress)
        elif self._has_lost_entries(response, progress):
            self._refuse_start(response, progress, now_ms)
        elif response.index <= progress.match_index and self._observers.get(response.sender):
            # It has lost what it acknowledged. A voter may never; an observer begins anew.
            self.admit_observer(response.sender, now_ms)
        else:
            agreed, _ = self._log.last_at_or_below(response.hint_index, response.hint_term)
            if progress.refused(response.index, agreed + 1):
                self._replicate(progress)
        self._advance_reads()
        self._change_what_is_due(now_ms)
        self._advance_transfer()

    def _has_lost_entries(self, response: AppendResponse, progress: Progress) -> bool:
        """Whether a member lacks what an earlier start on the same directory acknowledged.

        A message that was late is of an earlier start, or of the same one.
        """
        return (
            self._members.get(response.sender) is progress
            and response.origin is not None
            and 0 < progress.acknowledged_start < response.origin.start_count
            and response.hint_index < progress.match_index
        )

    def _refuse_start(self, response: AppendResponse, progress: Progress, now_ms: int) -> None:
        assert response.origin is not None, "only a start that was told is refused"
        self._outputs.messages.append(
            StartRefused(
                term=self.term,
                sender=self._config.node_id,
                receiver=response.sender,
                refused=response.origin,
            )
        )
        self._members.forget(progress, now_ms)

    def handle_snapshot_response(self, response: InstallSnapshotResponse, now_ms: int) -> None:
        """Learn how far a follower or an observer has the snapshot, and send what follows.

        Raises:
            RaftInvariantError: a follower claims more of the snapshot than there is.
            RaftMessageRefusedError: an observer does; it is forgotten.
        """
        progress = self._progress_of(response, now_ms)
        if progress is None:
            return
        snapshot = progress.snapshot
        if snapshot is not None and snapshot.index == response.index:
            if response.next_offset >= len(snapshot.data):
                self._refuse_answer(
                    response.sender,
                    f"node {response.sender} lacks the snapshot of index {snapshot.index} from "
                    f"byte {response.next_offset} on, and it has {len(snapshot.data)}",
                )
            if progress.snapshot_answered(response.next_offset):
                self._send_snapshot(progress, self._config.max_snapshot_chunk_bytes)
        self._advance_reads()

    def _progress_of(
        self, response: AppendResponse | InstallSnapshotResponse, now_ms: int
    ) -> Progress | None:
        """Whom an answer is about; None for an observer that was forgotten: it announces itself."""
        progress = self._members.answered(response, now_ms)
        if progress is None:
            progress = self._observers.get(response.sender)
            if progress is not None:
                progress.answered(response.read_sequence, now_ms)
        return progress

    def _refuse_answer(self, node_id: int, detail: str) -> NoReturn:
        """A follower's impossible answer breaks Raft; an observer's must not stop the leader."""
        if self._members.get(node_id) is not None:
            raise RaftInvariantError(detail)
        self._observers.forget(node_id)
        raise RaftMessageRefusedError(detail)

    def _advance_commit(self) -> bool:
        """Commit what a majority holds, when it ends in an entry of this term (Raft §5.4.2).

        An older term's entry on a majority may still be replaced (figure 8); it is committed with
        the first entry of this term that follows it.
        """
        committed_before, last_index = self._log.commit_index, self._log.last_index
        if committed_before == last_index:
            return False
        matches = self._members.values(last_index, lambda progress: progress.match_index)
        index = reached_by_quorum(matches)
        if index <= committed_before or self._log.term_at(index) != self.term:
            return False
        self._log.commit_to(index)
        self._uncommitted_bytes -= self._log.size_bytes(committed_before + 1, index)
        return True

    def _has_committed_in_term(self) -> bool:
        return self._log.term_at(self._log.commit_index) == self.term

    # --- sending --------------------------------------------------------------------------------

    def _replicate(self, progress: Progress, *, must_send: bool = False) -> None:
        """Send the entries that the follower's window allows, else news of the commit index.

        With `must_send` at least one message leaves. Without entries it builds on match_index, so
        it cannot be refused for overtaking an append, and still tells what the follower may apply.
        """
        has_sent = self._turn_to_snapshot(progress)
        while progress.may_send_entries and progress.next_index <= self._log.last_index:
            prev_index = progress.next_index - 1
            entries = self._log.slice_from(
                progress.next_index,
                max_entries=self._config.max_append_entries,
                max_bytes=self._config.max_append_bytes,
            )
            progress.sent(entries[-1].index)
            self._send(progress, prev_index, entries)
            has_sent = True
        agreed_index = 0 if progress.snapshot else min(self._log.commit_index, progress.match_index)
        has_news = progress.commit_index_sent < agreed_index
        if not has_sent and (must_send or has_news):
            self._send_heartbeat(progress, progress.match_index)

    def _turn_to_snapshot(self, progress: Progress) -> bool:
        """Begin to send the snapshot when the log no longer holds what the follower needs."""
        snapshot = self._log.snapshot
        if progress.next_index >= self._log.first_index or progress.snapshot is not None:
            return False
        assert snapshot is not None, "what is compacted away is in a snapshot"
        progress.begin_snapshot(snapshot)
        # First ask how far the follower is: most that answer now turn out to need nothing.
        self._send_snapshot(progress, 0)
        return True

    def _leave_snapshot(self, progress: Progress) -> None:
        """A late answer may show that the follower holds enough to go on with entries."""
        is_behind = progress.match_index < self._log.compacted_index
        if progress.state is ProgressState.SNAPSHOT and not is_behind:
            progress.probe()

    def _send_heartbeat(self, progress: Progress, prev_index: int) -> None:
        """Show that the leader lives, without entries, building on `prev_index` if it is known."""
        if progress.snapshot is not None:
            self._send_snapshot(progress, 0)
        elif prev_index < self._log.compacted_index:
            self._send(progress, progress.next_index - 1, ())
        else:
            self._send(progress, prev_index, ())

    def _send_snapshot(self, progress: Progress, max_bytes: int) -> None:
        """Send the part that the follower lacks next, up to `max_bytes`; 0 for a heartbeat."""
        snapshot = progress.snapshot
        assert snapshot is not None, "there is a snapshot under way"
        offset = progress.snapshot_offset
        self._outputs.messages.append(
            InstallSnapshotRequest(
                term=self.term,
                sender=self._config.node_id,
                receiver=progress.follower_id,
                index=snapshot.index,
                snapshot_term=snapshot.term,
                size_bytes=len(snapshot.data),
                offset=offset,
                chunk=snapshot.data[offset : offset + max_bytes],
                read_sequence=self._reads.sequence,
                configuration=snapshot.configuration,
            )
        )

    def _send(self, progress: Progress, prev_index: int, entries: tuple[Entry, ...]) -> None:
        commit_index = self._log.commit_index
        self._outputs.messages.append(
            AppendRequest(
                term=self.term,
                sender=self._config.node_id,
                receiver=progress.follower_id,
                prev_index=prev_index,
                prev_term=self._log.term_at(prev_index),
                entries=entries,
                commit_index=commit_index,
                read_sequence=self._reads.sequence,
            )
        )
        progress.commit_index_sent = max(
            progress.commit_index_sent, min(commit_index, prev_index + len(entries))
        )

    # --- time and followers ---------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Send heartbeats when they are due; they also find lost appends."""
        if self._transfer is not None and now_ms >= self._transfer.deadline_ms:
            self._transfer = None
        if now_ms < self.heartbeat_due_ms:
            return
        self._observers.expire(now_ms)
        self.heartbeat_due_ms = now_ms + self._heartbeat_interval_ms()
        for progress in self._receivers():
            if progress.snapshot is not None and self._log.snapshot is not None:
                progress.heartbeat_passed(self._log.snapshot)
            if not self._turn_to_snapshot(progress):
                self._send_heartbeat(progress, progress.next_index - 1)
        self._change_what_is_due(now_ms)

    def has_quorum_contact(self, now_ms: int) -> bool:
        """Whether a quorum has answered within an election timeout (check-quorum)."""
        contacts = self._members.values(
            now_ms, lambda progress: progress.last_contact_ms, absent=NEVER_MS
        )
        last_contact_ms = reached_by_quorum(contacts)
        return now_ms - last_contact_ms < self._config.election_timeout_max_ms

    def peer_refused(self, peer_id: int) -> None:
        """The peer's process is gone: what was on its way to it is lost.

        A follower is probed until it is back; an observer announces itself then.
        """
        follower = self._members.get(peer_id)
        if follower is not None:
            follower.probe()
        self._observers.forget(peer_id)

    @property
    def observer_ids(self) -> tuple[int, ...]:
        """The observers that this leader keeps, ascending."""
        return self._observers.ids

    def admit_observer(self, observer_id: int, now_ms: int) -> None:
        """Keep an observer, and let it hear from its leader at once.

        One that the configuration names gets the log anyway.

        Raises:
            RaftMessageRefusedError: there are too many.
        """
        if self._members.get(observer_id) is not None:
            return
        next_index = self._log.last_index + 1
        progress = self._observers.admit(observer_id, next_index=next_index, now_ms=now_ms)
        # Without followers nobody needed heartbeats so far.
        next_due_ms = now_ms + self._heartbeat_interval_ms()
        self.heartbeat_due_ms = min(self.heartbeat_due_ms, next_due_ms)
        if not self._turn_to_snapshot(progress):
            self._send_heartbeat(progress, progress.next_index - 1)

    # --- voters ---------------------------------------------------------------------------------

    def change_configuration(
        self, configuration: Configuration, now_ms: int, *, needs_majority: bool = False
    ) -> None:
        """Append a configuration; it counts from here on.

        Args:
            configuration: the voters and learners from now on.
            now_ms: the monotonic clock.
            needs_majority: whether a majority of its voters has to be at work.

        Raises:
            VoterChangeInProgressError: the one before, or any entry of this term, is not committed.
            InvalidVoterChangeError: it is not one step away.
            QuorumAtRiskError: too few of its voters are at work.
        """
        self._members.check_change(
            configuration, has_committed_in_term=self._has_committed_in_term()
        )
        if needs_majority:
            self._members.check_majority(configuration, now_ms)
        index = self._log.last_index + 1
        self._now_ms = now_ms
        payload = encode_configuration(configuration)
        entry = Entry(index, self.term, payload, EntryKind.CONFIGURATION)
        self._append((entry,))

    def _change_what_is_due(self, now_ms: int) -> None:
        if not self.writes_configurations or self._transfer is not None:
            return
        may_change = self._log.configuration_index <= self._log.commit_index
        if may_change and self._has_committed_in_term():
            configuration = self._members.due_change(now_ms)
            if configuration is not None:
                self.change_configuration(configuration, now_ms)

    def followers(self) -> "list[Progress]":
        """Members and observers, as this leader knows them; to be read only."""
        return list(self._receivers())

    # --- handing over ---------------------------------------------------------------------------

    def transfer(self, target_id: int | None, now_ms: int) -> int:
        """Hand the leadership over to a voter, or to the one that is furthest; to which.

        Raises:
            VoterNotFoundError: that node could not take over.
            InvalidVoterChangeError: there is nobody.
        """
        target_id = chosen_target(self._members, target_id, now_ms)
        deadline_ms = now_ms + self._config.election_timeout_max_ms
        self._transfer = Transfer(target_id, deadline_ms)
        self._advance_transfer()
        return target_id

    @property
    def is_handing_over(self) -> bool:
        """Whether another voter has been chosen, and has time to take over."""
        return self._transfer is not None

    def _advance_transfer(self) -> None:
        if self._transfer is None:
            return
        message = self._transfer.message(
            self._members.get(self._transfer.target_id),
            self._log.last_index,
            term=self.term,
            sender=self._config.node_id,
        )
        if message is not None:
            self._outputs.messages.append(message)

    @property
    def is_removed(self) -> bool:
        """Whether it is committed that this leader is no voter (dissertation §4.2.2)."""
        is_committed = self._log.configuration_index <= self._log.commit_index
        return is_committed and not self._members.votes_itself

    # --- reads ----------------------------------------------------------------------------------

    def request_read(self, token: int) -> None:
        """Take a read and start its round at once, as soon as this term has committed.

        Raises:
            OverloadedError: too many reads wait.
        """
        if self._reads.pending_count >= self._config.max_pending_reads:
            raise OverloadedError(
                f"max_pending_reads is {self._config.max_pending_reads}: that many reads wait"
            )
        self._reads.add(token)
        self._advance_reads()

    def fail_reads(self) -> list[int]:
        """End every unconfirmed read; their tokens."""
        return self._reads.fail_all()

    def _advance_reads(self) -> None:
        """Confirm the rounds that a quorum has answered, and start the next one."""
        if not self._reads.has_pending:
            return
        self._confirm_reads()
        if self._has_committed_in_term() and self._reads.start_round(self._log.commit_index):
            for progress in self._members.all():
                self._replicate(progress, must_send=True)
            # A single voter is its own quorum.
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        answered = self._members.values(
            self._reads.sequence, lambda progress: progress.answered_read_sequence
        )
        sequence = reached_by_quorum(answered)
        self._outputs.confirmed_reads.extend(self._reads.confirm(sequence))
