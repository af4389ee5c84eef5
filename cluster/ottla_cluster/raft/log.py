"""The Raft log in memory: entries, how far they are committed, and what is not on disk yet.

A snapshot of the state machine replaces the log's beginning. The log remembers where it was cut
(`compacted_index` and the term there), so that the first entry that it still holds can follow
something; some entries that the snapshot covers may still be held, for followers that are a little
behind. The log follows two rules that the rest of the node relies on: what is committed never
changes, and every change is handed out exactly once, by `take_changes` and `take_compaction`, for
the driver to persist.

      compacted_index   snapshot.index   applied_index   commit_index   last_index
    ────────┤├────────────────┤────────────────┤──────────────┤─────────────┤
      gone     held all the same       applied      to be applied   uncommitted
"""

from bisect import bisect_right
from collections.abc import Sequence

from ottla_cluster.raft.configuration import Configuration, ConfigurationHistory
from ottla_cluster.raft.errors import RaftInvariantError, RaftStateCorruptError
from ottla_cluster.raft.messages import Compaction, Entry, EntryKind, Snapshot


class RaftLog:
    """An append-only log whose uncommitted tail may be replaced by a leader's.

    Args:
        entries: the persisted entries, contiguous, the first one right behind the compacted prefix,
            terms never falling.
        compaction: the persisted snapshot and where the log was cut for it; None when the log is
            whole.
        commit_index: how far they were known to be committed.
        applied_index: how far the caller's state machine already is.
        bootstrap: who votes while neither entries nor snapshot say so.

    Raises:
        RaftStateCorruptError: the entries, snapshot or indexes contradict one another.
    """

    __slots__ = (
        "_applied_index",
        "_bootstrap",
        "_changed_from",
        "_commit_index",
        "_compacted_index",
        "_compacted_term",
        "_compaction",
        "_configurations",
        "_entries",
        "_persisted_last_index",
        "snapshot",
    )

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        compaction: Compaction | None = None,
        commit_index: int = 0,
        applied_index: int = 0,
        bootstrap: Configuration = Configuration(),  # noqa: B008  frozen
    ) -> None:
        # The newest snapshot; its index never falls. None until there is one.
        self.snapshot: Snapshot | None = compaction.snapshot if compaction else None
        # The last entry that is gone, all of it covered by the snapshot; (0, 0) when none is. It
        # never falls.
        self._compacted_index = compaction.compacted_index if compaction else 0
        self._compacted_term = compaction.compacted_term if compaction else 0
        # _entries[i] has index first_index + i; terms never fall from one entry to the next.
        self._entries: list[Entry] = list(entries)
        # compacted_index <= snapshot.index <= _commit_index <= last_index and
        # _applied_index <= _commit_index; none of them ever falls.
        self._commit_index = commit_index
        self._applied_index = applied_index
        # Everything below _changed_from was handed out for persisting as it is now; None when
        # that is the whole log. _persisted_last_index is where the log on disk ends.
        self._changed_from: int | None = None
        self._persisted_last_index = self.last_index
        # A snapshot that is not handed out for persisting yet.
        self._compaction: Compaction | None = None
        self._bootstrap = bootstrap
        self._configurations = ConfigurationHistory(
            bootstrap,
            index=self.snapshot_index,
            snapshot=self.snapshot.configuration if self.snapshot else None,
        )
        self._check_recovered()

    def _check_recovered(self) -> None:
        previous_term = self._compacted_term
        for index, entry in enumerate(self._entries, self.first_index):
            if entry.index != index:
                raise RaftStateCorruptError(f"entry {index} is missing: found {entry.index}")
            if entry.term < previous_term:
                raise RaftStateCorruptError(f"the term falls at entry {index}")
            previous_term = entry.term
            if entry.kind is EntryKind.CONFIGURATION:
                self._recover_configuration(entry)
        if not 0 <= self._applied_index <= self._commit_index <= self.last_index:
            raise RaftStateCorruptError(
                f"applied index {self._applied_index}, commit index {self._commit_index} and "
                f"last index {self.last_index} are out of order: entries are missing"
            )
        if self.snapshot is not None:
            self._check_recovered_snapshot(self.snapshot)

    def _recover_configuration(self, entry: Entry) -> None:
        try:
            self._configurations.appended(entry.index, entry.payload)
        except ValueError as error:
            raise RaftStateCorruptError(f"entry {entry.index}: {error}") from error

    def _check_recovered_snapshot(self, snapshot: Snapshot) -> None:
        if not self._compacted_index <= snapshot.index <= self._commit_index:
            raise RaftStateCorruptError(
                f"the log is cut at index {self._compacted_index}, its snapshot is of index "
                f"{snapshot.index} and the commit index is {self._commit_index}: out of order"
            )
        if self.term_at(snapshot.index) != snapshot.term:
            raise RaftStateCorruptError(
                f"the snapshot of index {snapshot.index} is of term {snapshot.term}, and the log "
                f"has the term {self.term_at(snapshot.index)} there"
            )
        if (self._compacted_index == 0) != (self._compacted_term == 0):
            raise RaftStateCorruptError(
                f"the log is cut at index {self._compacted_index}, term {self._compacted_term}"
            )

    @property
    def compacted_index(self) -> int:
        """Index of the last entry that the log no longer holds; 0 when it is whole."""
        return self._compacted_index

    @property
    def first_index(self) -> int:
        """Index of the first entry that the log holds or will hold."""
        return self._compacted_index + 1

    @property
    def last_index(self) -> int:
        """Index of the last entry, held or compacted away; 0 when there was none."""
        return self._compacted_index + len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry, held or compacted away; 0 when there was none."""
        return self._entries[-1].term if self._entries else self._compacted_term

    @property
    def snapshot_index(self) -> int:
        """Index of the last entry that the snapshot covers; 0 without a snapshot."""
        return self.snapshot.index if self.snapshot else 0

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._commit_index

    @property
    def applied_index(self) -> int:
        """Highest index handed out for applying."""
        return self._applied_index

    @property
    def configuration(self) -> Configuration:
        """Who votes: the last configuration in the log, committed or not (dissertation §4.1)."""
        return self._configurations.current

    @property
    def committed_configuration(self) -> Configuration:
        """Who voted as of the last committed entry."""
        if self._configurations.index <= self._commit_index:
            return self._configurations.current
        return self._configurations.at_or_before(self._commit_index) or self._bootstrap

    @property
    def configuration_index(self) -> int:
        """An index at or behind its entry, committed if that is; 0 while the log names none."""
        return self._configurations.index

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, from where the log was cut on; 0 for index 0."""
        assert self._compacted_index <= index <= self.last_index, f"index {index} is not in the log"
        if index == self._compacted_index:
            return self._compacted_term
        return self._entries[index - self.first_index].term

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds (index, term); then it equals the other log up to there (§5.3).

        Before the place where it was cut it does: that is committed, so every leader of this term
        or a later one has it (§5.4).
        """
        if index < self._compacted_index:
            return True
        return index <= self.last_index and self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends with these is at least as up to date as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_at_or_below(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) at or before `index` whose term is at most `term`.

        (0, 0) when there is none, or none that the log still knows. Terms never fall along the log,
        so this is a binary search.
        """
        if index < self._compacted_index or term < self._compacted_term:
            return 0, 0
        end = min(index, self.last_index) - self._compacted_index
        held = bisect_right(self._entries, term, 0, end, key=lambda entry: entry.term)
        found = self._compacted_index + held
        return found, self.term_at(found)

    def slice_from(self, index: int, *, max_entries: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `index` on within both limits; at least one when there is one."""
        assert index >= self.first_index, f"index {index} is before the log"
        start = index - self.first_index
        candidates = self._entries[start : start + max_entries]
        size_bytes = 0
        for count, entry in enumerate(candidates):
            size_bytes += len(entry.payload)
            if size_bytes > max_bytes and count:
                return tuple(candidates[:count])
        return tuple(candidates)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append a leader's own new entries."""
        for entry in entries:
            assert entry.index == self.last_index + 1, "a leader appends at its log's end"
            assert entry.term >= self.last_term, "terms never fall along the log"
            self._mark_changed(entry.index)
            self._entries.append(entry)
            if entry.kind is EntryKind.CONFIGURATION:
                self._configurations.appended(entry.index, entry.payload)

    def merge(self, entries: Sequence[Entry]) -> None:
        """Take over a leader's entries whose predecessor this log holds (Raft §5.3).

        What is already there stays, so that a delayed append never shortens the log; what was
        compacted away is passed over. From the first entry whose term differs on, the log is
        replaced by the leader's.

        Raises:
            RaftInvariantError: the entry that differs is committed.
        """
        for position, entry in enumerate(entries):
            if self.matches(entry.index, entry.term):
                continue
            if entry.index <= self._commit_index:
                raise RaftInvariantError(
                    f"a leader's entry ({entry.index}, term {entry.term}) contradicts the "
                    f"committed one of term {self.term_at(entry.index)}: commit index "
                    f"{self._commit_index}"
                )
            self._truncate(entry.index)
            self.append(entries[position:])
            return

    def _truncate(self, index: int) -> None:
        if index <= self.last_index:
            self._mark_changed(index)
            del self._entries[index - self.first_index :]
            self._configurations.truncated(index)

    def _mark_changed(self, index: int) -> None:
        if self._changed_from is None or index < self._changed_from:
            self._changed_from = index

    def commit_to(self, index: int) -> bool:
        """Raise the commit index to `index`; whether it moved."""
        assert index <= self.last_index, "only entries that the log holds can be committed"
        if index <= self._commit_index:
            return False
        self._commit_index = index
        return True

    def size_bytes(self, first_index: int, last_index: int) -> int:
        """Payload bytes of the entries from `first_index` to `last_index`, both included."""
        held = self._entries[first_index - self.first_index : last_index - self._compacted_index]
        return sum(len(entry.payload) for entry in held)

    # --- snapshots ------------------------------------------------------------------------------

    def compact(
        self, index: int, data: bytes, *, retained_entries: int, retained_bytes: int
    ) -> bool:
        """Take the state machine's own snapshot and drop what it covers, save for the newest of it.

        Args:
            index: where the state machine was: applied, so committed.
            data: its state there.
            retained_entries: covered entries that stay, at most.
            retained_bytes: their payload bytes, at most.

        Returns:
            Whether anything changed: an older snapshot than the present one changes nothing.
        """
        assert index <= self._applied_index, "a snapshot holds what was applied and no more"
        if index <= self.snapshot_index:
            return False
        self.snapshot = Snapshot(
            index, self.term_at(index), data, self._configurations.at_or_before(index)
        )
        self._configurations.compacted(index)
        cut, held_bytes = index, 0
        while cut > self._compacted_index and index - cut < retained_entries:
            held_bytes += len(self._entries[cut - self.first_index].payload)
            if held_bytes > retained_bytes:
                break
            cut -= 1
        self._cut(cut, self.term_at(cut))
        return True

    def install(self, snapshot: Snapshot) -> None:
        """Take a leader's snapshot in place of the whole log, which does not hold its last entry.

        All that the log still holds is then covered by the snapshot, or contradicts the leader's
        log (Raft §7).
        """
        assert snapshot.index > self._commit_index, "what is committed never changes"
        assert not self.matches(snapshot.index, snapshot.term), "entries that agree are kept"
        self._truncate(snapshot.index + 1)
        self.snapshot = snapshot
        self._configurations.installed(snapshot.index, snapshot.configuration)
        self._commit_index = snapshot.index
        self._cut(snapshot.index, snapshot.term)

    def _cut(self, index: int, term: int) -> None:
        """Forget the entries up to `index`, whose last one is, or would be, of `term`."""
        assert self.snapshot is not None, "only a snapshot replaces entries"
        assert self._changed_from is None or self._changed_from > index, "persist entries first"
        del self._entries[: index - self._compacted_index]
        self._compacted_index, self._compacted_term = index, term
        self._persisted_last_index = max(self._persisted_last_index, index)
        self._compaction = Compaction(self.snapshot, index, term)

    # --- what the driver is given ---------------------------------------------------------------

    def take_compaction(self) -> Compaction | None:
        """The snapshot to persist since the last call, and where to cut the log on disk."""
        compaction, self._compaction = self._compaction, None
        return compaction

    def take_changes(self) -> tuple[int | None, tuple[Entry, ...]]:
        """What to persist since the last call: (truncate from this index, then append these)."""
        if self._changed_from is None:
            return None, ()
        changed_from = self._changed_from
        truncate_from = changed_from if changed_from <= self._persisted_last_index else None
        self._changed_from = None
        self._persisted_last_index = self.last_index
        return truncate_from, tuple(self._entries[changed_from - self.first_index :])

    def take_snapshot(self) -> Snapshot | None:
        """The snapshot to restore if the state machine is behind; goes before `take_committed`."""
        if self._applied_index >= self.snapshot_index:
            return None
        self._applied_index = self.snapshot_index
        return self.snapshot

    def take_committed(self) -> tuple[Entry, ...]:
        """Entries to apply since the last call, in order."""
        if self._applied_index == self._commit_index:
            return ()
        assert self._applied_index >= self.snapshot_index, "the snapshot is restored first"
        held = slice(
            self._applied_index - self._compacted_index, self._commit_index - self._compacted_index
        )
        self._applied_index = self._commit_index
        return tuple(self._entries[held])
