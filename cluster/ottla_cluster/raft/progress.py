"""The leader's view of one follower: how far its log agrees, and what is on its way.

    PROBE      the leader guesses where the logs agree: one append at a time, resent by heartbeats
       │ accepted: the follower holds next_index - 1          ▲ refused, or its connection was
       ▼                                                       │ refused
    REPLICATE  the leader streams: appends leave before earlier ones are answered, up to a window

       │ PROBE, REPLICATE: the next entry is       ▲ REPLICATE: the follower has the snapshot
       ▼ compacted away                            │ PROBE: its connection was refused
    SNAPSHOT   the leader sends its snapshot, one part at a time; heartbeats ask for what was lost

Heartbeats carry prev_index = next_index - 1, so a lost append shows at the next one. Commit news
and read rounds carry prev_index = match_index, which the follower is known to hold: they cannot be
refused because they overtook an append.
"""

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla_cluster.raft.messages import Snapshot


class ProgressState(StrEnum):
    """How the leader sends to the follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower in one leadership.

    Args:
        follower_id: the follower.
        next_index: first guess: the entry after the leader's last one.
        now_ms: when the leadership began; until then the follower counts as heard from.
        max_inflight_appends: the window in REPLICATE.
        directory_id: the data directory that the follower answers from, as far as it told.
    """

    __slots__ = (
        "_inflight",
        "_max_inflight_appends",
        "_may_resend_chunk",
        "_probe_sent",
        "acknowledged_start",
        "answered_read_sequence",
        "begun_ms",
        "commit_index_sent",
        "directory_id",
        "follower_id",
        "last_contact_ms",
        "match_index",
        "next_index",
        "snapshot",
        "snapshot_offset",
        "state",
    )

    def __init__(
        self,
        follower_id: int,
        *,
        next_index: int,
        now_ms: int,
        max_inflight_appends: int,
        directory_id: str = "",
    ) -> None:
        self.follower_id = follower_id
        # All that follows is about this directory; another one of the follower begins anew.
        self.directory_id = directory_id
        self.begun_ms = now_ms
        self.state = ProgressState.PROBE
        # The follower's log equals the leader's up to match_index, durably. It never falls.
        self.match_index = 0
        # The start of the follower's process that acknowledged something last; 0 if it told none.
        self.acknowledged_start = 0
        # The first entry to send next. Always above match_index.
        self.next_index = next_index
        # The highest read round that the follower answered in this term. It never falls.
        self.answered_read_sequence = 0
        # The highest index that the follower has been told is committed; may have been lost.
        self.commit_index_sent = 0
        self.last_contact_ms = now_ms
        # Last indexes of the unanswered appends, ascending, all above match_index.
        self._inflight: deque[int] = deque()
        self._max_inflight_appends = max_inflight_appends
        self._probe_sent = False
        # What is being sent, present exactly in SNAPSHOT, and from which byte on the follower lacks
        # it, as far as it told.
        self.snapshot: Snapshot | None = None
        self.snapshot_offset = 0
        self._may_resend_chunk = False

    @property
    def may_send_entries(self) -> bool:
        """Whether entries may leave now: one probe at a time, or room in the window."""
        if self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE:
            return not self._probe_sent
        return len(self._inflight) < self._max_inflight_appends

    def sent(self, last_index: int) -> None:
        """An append with entries up to `last_index` leaves."""
        assert self.may_send_entries, "the window is full"
        assert last_index >= self.next_index, "an append with entries moves forward"
        if self.state is ProgressState.PROBE:
            self._probe_sent = True
            return
        self._inflight.append(last_index)
        self.next_index = last_index + 1

    def accepted(self, index: int) -> None:
        """The follower's log equals the leader's up to `index`."""
        self.match_index = max(self.match_index, index)
        if self.state is not ProgressState.REPLICATE and index >= self.next_index - 1:
            self.state = ProgressState.REPLICATE
            self.snapshot = None
            self._inflight.clear()
        while self._inflight and self._inflight[0] <= self.match_index:
            self._inflight.popleft()
        self.next_index = max(self.next_index, self.match_index + 1)

    def refused(self, index: int, next_guess: int) -> bool:
        """The follower does not hold the entry before an append, at `index`.

        Args:
            index: the refused prev_index.
            next_guess: where the leader would try next.

        Returns:
            Whether this is news; a delayed or repeated refusal is not.
        """
        if index <= self.match_index or self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE and index != self.next_index - 1:
            return False
        self.probe()
        self.next_index = max(self.match_index + 1, min(index, next_guess))
        return True

    def probe(self) -> None:
        """Fall back to one append at a time, from the known match on."""
        self.state = ProgressState.PROBE
        self.snapshot = None
        self._probe_sent = False
        self._inflight.clear()
        self.next_index = self.match_index + 1
        self.commit_index_sent = 0

    def begin_snapshot(self, snapshot: "Snapshot") -> None:
        """The entry that the follower needs next is compacted away: it gets the snapshot."""
        self.state = ProgressState.SNAPSHOT
        self.snapshot = snapshot
        self.snapshot_offset = 0
        # Nothing of it has been sent, so whatever the follower answers first is answered by a part.
        self._may_resend_chunk = True
        self._inflight.clear()
        self.next_index = snapshot.index + 1

    def heartbeat_passed(self, newest: "Snapshot") -> None:
        """The part that is under way had its time: the next answer tells whether it was lost.

        A follower that was silent and has nothing of the snapshot yet is to get the newest one: by
        the time that it is back, the log behind an old one may be compacted away too.
        """
        assert self.snapshot is not None, "a snapshot is being sent"
        is_silent = self._may_resend_chunk
        if is_silent and self.snapshot_offset == 0 and newest.index > self.snapshot.index:
            self.begin_snapshot(newest)
        self._may_resend_chunk = True

    def snapshot_answered(self, next_offset: int) -> bool:
        """The follower has the snapshot up to `next_offset`.

        Returns:
            Whether the part at `snapshot_offset` is to be sent now. A repeated or delayed answer
            sends nothing, so that there is one part under way; at most one more per heartbeat.
        """
        if next_offset <= self.snapshot_offset and not self._may_resend_chunk:
            return False
        self.snapshot_offset = next_offset
        self._may_resend_chunk = False
        return True

    def answered(self, read_sequence: int, now_ms: int) -> None:
        """The follower answered in this term, accepting or refusing."""
        self.last_contact_ms = now_ms
        self.answered_read_sequence = max(self.answered_read_sequence, read_sequence)
