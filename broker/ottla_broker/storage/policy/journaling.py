"""Which of SQLite's two journals a stream of commits should go through.

The write-ahead log costs one sync per commit, but every byte is written twice: into the log, then
by a checkpoint into the file. The rollback journal costs six syncs per commit, four where it fits
into the page cache, but a new page is written once, straight into the file, because undoing it
needs no copy of what was there; and new pages are nearly all that an append writes. So small
commits belong in the log, and commits of a megabyte in the journal: measured here, 1.7 to 2.3 times
the throughput at half the processor time. Both are equally safe: with synchronous=FULL a commit
returns after it is durable in either.

Changing over costs a few syncs, so it takes a run of commits of one kind.
"""

BULK_COMMIT_BYTES = 768 * 1024
"""A commit at least this large is cheaper through the rollback journal."""

BULK_AFTER_COMMITS = 4
"""Large commits in a row after which to leave the write-ahead log."""

SMALL_AFTER_COMMITS = 2
"""Small commits in a row after which to go back to it: small ones are the ones in a hurry."""


class JournalChoice:
    """The choice for one segment connection after another; begins with the write-ahead log."""

    def __init__(self) -> None:
        self._is_bulk = False
        # Commits in a row that speak against the present choice.
        self._contrary = 0

    def next_is_bulk(self, commit_bytes: int) -> bool:
        """Whether a commit of this size, the next one, should go through the rollback journal."""
        if (commit_bytes >= BULK_COMMIT_BYTES) == self._is_bulk:
            self._contrary = 0
            return self._is_bulk
        self._contrary += 1
        if self._contrary >= (SMALL_AFTER_COMMITS if self._is_bulk else BULK_AFTER_COMMITS):
            self._is_bulk = not self._is_bulk
            self._contrary = 0
        return self._is_bulk
