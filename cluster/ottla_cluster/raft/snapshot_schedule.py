"""When a voter takes a snapshot of its state machine."""

from collections.abc import Sequence

from ottla_cluster.raft.messages import Entry


class SnapshotSchedule:
    """Counts what was applied since the last snapshot, this voter's own or its leader's.

    A restart replays at most this much. By bytes a snapshot is due only when the entries outweigh
    the last one, so that a large state is not written again and again for a few large entries.

    Args:
        max_entries: a snapshot is due after so many entries.
        max_bytes: or after so many payload bytes, if the last snapshot was not larger.
    """

    __slots__ = ("_entries", "_entry_bytes", "_max_bytes", "_max_entries", "_snapshot_bytes")

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        assert max_entries > 0 < max_bytes, "a snapshot after nothing says nothing new"
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries = 0
        self._entry_bytes = 0
        self._snapshot_bytes = 0

    @property
    def is_due(self) -> bool:
        """Whether a snapshot is to be taken now."""
        return self._entries >= self._max_entries or self._entry_bytes >= max(
            self._max_bytes, self._snapshot_bytes
        )

    def applied(self, entries: Sequence[Entry]) -> None:
        """Entries were applied."""
        self._entries += len(entries)
        self._entry_bytes += sum(len(entry.payload) for entry in entries)

    def snapshot_taken(self, size_bytes: int) -> None:
        """The state machine is as of a snapshot of that size: taken from it, or restored to it."""
        self._entries = 0
        self._entry_bytes = 0
        self._snapshot_bytes = size_bytes
