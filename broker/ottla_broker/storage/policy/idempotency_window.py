"""Which HTTP requests this partition has stored, so that a retry gets the first answer again.

Kafka clients number their batches; a plain HTTP client names its request with an Idempotency-Key.
The key's digest is stored in the row of the batch that it produced and travels with it to the
followers, so the window is rebuilt from the log alone, and a new leader knows what the old one
knew. The window forgets its oldest entries by count and by age; a retry later than that is a new
request. Age is counted as that of producers is (`producer_state`): by this broker's own steady
clock, from when it took the batch in, and anew after a restart. A wall clock that jumps a day ahead
for a moment would make every retry on its way a new request.

Of a stream of records under one key it remembers the last batch alone. The lines of a stream come
to a partition in order, so that batch tells of each line whether it is there.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    IdempotencyKeyReusedError,
    Outcome,
)
from ottla_protocol.idempotency import LineNumbers

IDEMPOTENCY_ENTRIES_MAX = 65_536
"""Most requests that one partition remembers (about 20 MiB when full)."""

IDEMPOTENCY_WINDOW_MS = 24 * 60 * 60 * 1000
"""How long one request is remembered."""

UNKNOWN_OFFSET = -1
"""The base offset of lines that are known to be there, but not where."""

LAST_LINE = "last_line"
"""The error member that says up to where a stream's lines are there."""


class StoredRequest(NamedTuple):
    """Where the batch of one request went.

    `seen_ms` is this broker's wall clock when it appended, fetched or recovered the batch. It
    stands in segments for people, and for older versions; no age is counted from it here.
    """

    body_digest: bytes
    base_offset: int
    last_offset: int
    timestamp: int
    seen_ms: int


class _Remembered(NamedTuple):
    """A request, and the steady clock when its batch was taken in."""

    request: StoredRequest
    since_ms: int


class IdempotencyWindow:
    """Requests by key digest, oldest first.

    Args:
        entries_max: most entries.
        window_ms: age at which an entry is forgotten.

    Times are of a clock that never goes back.
    """

    def __init__(
        self,
        *,
        entries_max: int = IDEMPOTENCY_ENTRIES_MAX,
        window_ms: int = IDEMPOTENCY_WINDOW_MS,
    ) -> None:
        assert entries_max > 0, entries_max
        self._entries_max = entries_max
        self._window_ms = window_ms
        # Invariant: in order of offset, and so of since_ms.
        self._requests: OrderedDict[bytes, _Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def find(self, key_digest: bytes, body_digest: bytes) -> StoredRequest | None:
        """The request stored under this key; None if there is none.

        For lines of a stream it is where they are, or None if all of them come behind what is
        there. `base_offset` is UNKNOWN_OFFSET where lines are older than the last batch.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
            DuplicateSequenceNumberError: some of the lines are there and some are not; member
                LAST_LINE says up to which they are.
        """
        remembered = self._requests.get(key_digest)
        if remembered is None:
            return None
        stored = remembered.request
        if stored.body_digest == body_digest:
            return stored
        lines = LineNumbers.from_digest(body_digest)
        known = LineNumbers.from_digest(stored.body_digest)
        if lines is not None and known is not None:
            return _find_lines(stored, known, lines)
        raise IdempotencyKeyReusedError(
            "the Idempotency-Key was used before with another body",
            outcome=Outcome.NOT_APPLIED,
        )

    def remember(self, key_digest: bytes, request: StoredRequest, now_ms: int) -> None:
        """Store a request as the newest, and forget what is over count or age."""
        self._requests.pop(key_digest, None)
        self._requests[key_digest] = _Remembered(request, now_ms)
        # More than one where the bound was lowered since they were loaded.
        while len(self._requests) > self._entries_max:
            self._requests.popitem(last=False)
        self.expire(now_ms)

    def expire(self, now_ms: int) -> None:
        """Forget every entry that is `window_ms` old."""
        oldest_ms = now_ms - self._window_ms
        while self._requests:
            key_digest = next(iter(self._requests))
            if self._requests[key_digest].since_ms > oldest_ms:
                return
            del self._requests[key_digest]

    def entries(self) -> tuple[tuple[bytes, StoredRequest], ...]:
        """Everything remembered, oldest first: the snapshot that a new segment begins with."""
        return tuple((key, remembered.request) for key, remembered in self._requests.items())

    def load(self, entries: Iterable[tuple[bytes, StoredRequest]], now_ms: int) -> None:
        """Replace everything by a snapshot, oldest first; all of it is young again."""
        self._requests = OrderedDict(
            (key, _Remembered(request, now_ms)) for key, request in entries
        )


def _find_lines(
    stored: StoredRequest, known: LineNumbers, lines: LineNumbers
) -> StoredRequest | None:
    if lines.first > known.last:
        return None
    if lines.last > known.last:
        raise DuplicateSequenceNumberError(
            f"lines {lines.first} to {known.last} of the stream are stored, those behind are not",
            outcome=Outcome.NOT_APPLIED,
            **{LAST_LINE: known.last},
        )
    return stored if lines.last == known.last else stored._replace(base_offset=UNKNOWN_OFFSET)
