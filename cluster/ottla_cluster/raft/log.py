"""The Raft log in memory: entries, how far they are committed, and what is not on disk yet.

The log holds every entry since `first_index`; there are no snapshots yet, so that is 1. It follows
two rules that the rest of the node relies on: what is committed never changes, and every change is
handed out exactly once, by `take_changes`, for the driver to persist.
"""

from bisect import bisect_right
from collections.abc import Sequence

from ottla_cluster.raft.errors import RaftInvariantError, RaftStateCorruptError
from ottla_cluster.raft.messages import Entry


class RaftLog:
    """An append-only log whose uncommitted tail may be replaced by a leader's.

    Args:
        entries: the persisted entries, contiguous from index 1, terms never falling.
        commit_index: how far they were known to be committed.
        applied_index: how far the caller's state machine already is.

    Raises:
        RaftStateCorruptError: the entries or indexes contradict one another.
    """

    __slots__ = (
        "_applied_index",
        "_changed_from",
        "_commit_index",
        "_entries",
        "_persisted_last_index",
    )

    def __init__(
        self, entries: Sequence[Entry], *, commit_index: int = 0, applied_index: int = 0
    ) -> None:
        # _entries[i] has index first_index + i; terms never fall from one entry to the next.
        self._entries: list[Entry] = list(entries)
        # 0 <= _applied_index <= _commit_index <= last_index; neither ever falls.
        self._commit_index = commit_index
        self._applied_index = applied_index
        # Everything below _changed_from was handed out for persisting as it is now; None when
        # that is the whole log. _persisted_last_index is where the log on disk ends.
        self._changed_from: int | None = None
        self._persisted_last_index = len(self._entries)
        self._check_recovered()

    def _check_recovered(self) -> None:
        previous_term = 0
        for index, entry in enumerate(self._entries, self.first_index):
            if entry.index != index:
                raise RaftStateCorruptError(f"entry {index} is missing: found {entry.index}")
            if entry.term < previous_term:
                raise RaftStateCorruptError(f"the term falls at entry {index}")
            previous_term = entry.term
        if not 0 <= self._applied_index <= self._commit_index <= self.last_index:
            raise RaftStateCorruptError(
                f"applied index {self._applied_index}, commit index {self._commit_index} and "
                f"last index {self.last_index} are out of order: entries are missing"
            )

    @property
    def first_index(self) -> int:
        """Index of the first entry that the log holds or will hold."""
        return 1

    @property
    def last_index(self) -> int:
        """Index of the last entry; 0 when there is none."""
        return len(self._entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 when there is none."""
        return self._entries[-1].term if self._entries else 0

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return self._commit_index

    @property
    def applied_index(self) -> int:
        """Highest index handed out for applying."""
        return self._applied_index

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`; 0 for index 0, before the first entry."""
        assert 0 <= index <= self.last_index, f"index {index} is outside the log"
        return self._entries[index - 1].term if index else 0

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds (index, term); then it equals the other log up to there (§5.3)."""
        return index <= self.last_index and self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends with these is at least as up to date as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_at_or_below(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) at or before `index` whose term is at most `term`.

        (0, 0) when there is none. Terms never fall along the log, so this is a binary search.
        """
        end = min(index, self.last_index)
        found = bisect_right(self._entries, term, 0, end, key=lambda entry: entry.term)
        return found, self.term_at(found)

    def slice_from(self, index: int, *, max_entries: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `index` on within both limits; at least one when there is one."""
        assert index >= self.first_index, f"index {index} is before the log"
        candidates = self._entries[index - 1 : index - 1 + max_entries]
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

    def merge(self, entries: Sequence[Entry]) -> None:
        """Take over a leader's entries whose predecessor this log holds (Raft §5.3).

        What is already there stays, so that a delayed append never shortens the log. From the
        first entry whose term differs on, the log is replaced by the leader's.

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
            del self._entries[index - 1 :]

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
        return sum(len(entry.payload) for entry in self._entries[first_index - 1 : last_index])

    def take_changes(self) -> tuple[int | None, tuple[Entry, ...]]:
        """What to persist since the last call: (truncate from this index, then append these)."""
        if self._changed_from is None:
            return None, ()
        changed_from = self._changed_from
        truncate_from = changed_from if changed_from <= self._persisted_last_index else None
        self._changed_from = None
        self._persisted_last_index = self.last_index
        return truncate_from, tuple(self._entries[changed_from - 1 :])

    def take_committed(self) -> tuple[Entry, ...]:
        """Entries to apply since the last call, in order."""
        if self._applied_index == self._commit_index:
            return ()
        committed = tuple(self._entries[self._applied_index : self._commit_index])
        self._applied_index = self._commit_index
        return committed
