"""What this node remembers of the voters' data directories and starts, to know a forgetful one.

A voter's word binds it, and so it must not forget what it has said. A directory that was lost
shows by another directory id (KIP-853). One that was put back to an older copy has the same id, and
shows here:

* Every start on a directory has the next number, on disk before the start says anything, and a
  random incarnation. A start with a lower number than one that is remembered, or with the same
  number and another incarnation, began from an older copy. So did a later one that does not name
  the remembered one among those before it: an older copy that was started again and again, unheard,
  until its number was high enough.
* A voter has on disk the term that it tells. A start that tells a lower one than an earlier start
  did has forgotten it.

What is remembered is persisted with whatever it led to, before any answer leaves. A copy that is
older than what was said and yet not older than the last start, nor of an older term, is not known
from any other; `Leadership` finds it if it lacks what was acknowledged to the present leader.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

from ottla_cluster.raft.configuration import UNKNOWN_DIRECTORY
from ottla_cluster.raft.messages import Origin, RememberedStart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ottla_cluster.raft.configuration import Configuration


class Standing(StrEnum):
    """What a sender's word is worth."""

    TRUSTED = "trusted"
    OTHER_DIRECTORY = "other_directory"
    """The voter is another directory of its node: this one may learn, and does not count."""
    ROLLED_BACK = "rolled_back"
    """The directory has been put back to an older copy, or an earlier start still speaks."""


class RememberedStarts:
    """The newest start of each voter that was heard of.

    Args:
        remembered: as persisted, by node id.
    """

    __slots__ = ("_changed", "_starts")

    def __init__(self, remembered: "Mapping[int, RememberedStart]") -> None:
        self._starts = dict(remembered)
        self._changed: dict[int, RememberedStart] = {}

    def directory_of(self, node_id: int) -> str:
        """The directory that this voter was last heard from; "" when it never told."""
        known = self._starts.get(node_id)
        return known.directory_id if known else UNKNOWN_DIRECTORY

    def judge(
        self, node_id: int, origin: Origin | None, term: int, configuration: "Configuration"
    ) -> Standing:
        """What the word of `node_id` is worth, which tells `term` as its own; remembers it."""
        voter = configuration.voter(node_id)
        if origin is None or voter is None:
            return Standing.TRUSTED
        known = self._starts.get(node_id)
        expected = voter.directory_id or self.directory_of(node_id)
        if expected not in (UNKNOWN_DIRECTORY, origin.directory_id):
            return Standing.OTHER_DIRECTORY
        if known is None or known.directory_id != origin.directory_id:
            self._remember(node_id, origin, term)
        elif _is_rolled_back(origin, term, known):
            return Standing.ROLLED_BACK
        elif origin.start_count > known.start_count or term > known.term:
            self._remember(node_id, origin, max(term, known.term))
        return Standing.TRUSTED

    def _remember(self, node_id: int, origin: Origin, term: int) -> None:
        start = RememberedStart(origin.directory_id, origin.start_count, origin.incarnation, term)
        self._starts[node_id] = start
        self._changed[node_id] = start

    def take_changes(self) -> tuple[tuple[int, RememberedStart], ...]:
        """What to persist since the last call, by node id."""
        if not self._changed:
            return ()
        changed = tuple(sorted(self._changed.items()))
        self._changed.clear()
        return changed


def _is_rolled_back(origin: Origin, term: int, known: RememberedStart) -> bool:
    later_by = origin.start_count - known.start_count
    if later_by == 0:
        return origin.incarnation != known.incarnation
    if later_by < 0 or term < known.term:
        return True
    former = origin.former_incarnations[later_by - 1 : later_by]
    return former not in ((), ("",), (known.incarnation,))
