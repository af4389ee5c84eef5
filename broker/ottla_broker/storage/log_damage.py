"""What was found to be damaged in one log while it is open.

Whoever reads the log's files (a consumer's or a follower's read, a look-up, retention, scrubbing,
compaction) meets damage as DamagedSegmentError, and gets it; so nothing damaged is served. It is
noted here on the way, once for each place, and the log's owner is told: a follower cuts its log
there and fetches it again, a leader gives its leadership up.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ottla_broker.storage.stored_batch import DamagedSegmentError

FOUND_MAX: Final = 64
"""Damaged places that one log remembers; what is beyond is refused to readers all the same."""

OnDamage = Callable[[DamagedSegmentError, str], None]
"""Told the error, and what found it."""


class LogDamage:
    """The damaged places of one log.

    Args:
        on_damage: told each place once.
    """

    def __init__(self, on_damage: OnDamage) -> None:
        self._on_damage = on_damage
        self._found: dict[tuple[Path, object], DamagedSegmentError] = {}

    def __len__(self) -> int:
        return len(self._found)

    @property
    def first(self) -> Path | None:
        """The oldest segment with damage; None where nothing is known."""
        return min((path for path, _ in self._found), default=None)

    @contextmanager
    def noted(self, found_by: str) -> Iterator[None]:
        """Note a DamagedSegmentError that leaves the block, and let it pass."""
        try:
            yield
        except DamagedSegmentError as error:
            self.found(error, found_by)
            raise

    def found(self, error: DamagedSegmentError, found_by: str) -> None:
        """Note damage.

        Args:
            error: names the file; one that does not is of no use to anybody.
            found_by: read, retention, scrub, compaction: for the metric and the log line.
        """
        if error.path is None:
            return
        place = (error.path, error.members.get("offset"))
        if place not in self._found and len(self._found) < FOUND_MAX:
            self._found[place] = error
            self._on_damage(error, found_by)

    def forget_from(self, path: Path) -> None:
        """The segment at `path` was made anew, and those after it are gone."""
        self._found = {place: error for place, error in self._found.items() if place[0] < path}

    def forget_segment(self, path: Path) -> None:
        """The segment at `path` is gone, and those after it are as they were."""
        self._found = {place: error for place, error in self._found.items() if place[0] != path}

    def forget_all(self) -> None:
        """The log was begun anew."""
        self._found.clear()
