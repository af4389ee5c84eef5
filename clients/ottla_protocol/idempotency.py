"""What an Idempotency-Key leaves behind beside the batch that it came with.

The digest of who wrote where under which key finds the batch again when the request is repeated;
the digest of the body tells a repetition from another request under the same key. Both are stored
and replicated with the batch (column `idempotency`), so any later leader answers a retry the same.

A stream of records has no body that could be known when its first batch is stored, and how its
lines fall into batches is chance. So in place of the body's digest its batches carry the numbers of
their first and last line (`LineNumbers`), as a producer's batches carry sequence numbers: what is
not behind the last line that a partition holds of the stream is there already.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

DIGEST_BYTES = 16
IDEMPOTENCY_BYTES = 2 * DIGEST_BYTES
"""Size of the stored form."""

MAX_LINE_NUMBER = 2**48 - 1
"""The last line that a stream of records can have."""

_LINES_MARK = b"\xffNDL"
_LINE_NUMBER_BYTES = 6


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Two BLAKE2b digests of DIGEST_BYTES each."""

    key_digest: bytes
    body_digest: bytes

    def __post_init__(self) -> None:
        assert len(self.key_digest) == DIGEST_BYTES, self.key_digest
        assert len(self.body_digest) == DIGEST_BYTES, self.body_digest

    def to_bytes(self) -> bytes:
        """The stored form: the key's digest, then the body's."""
        return self.key_digest + self.body_digest

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Idempotency":
        """Read the stored form.

        Raises:
            ValueError: it has not IDEMPOTENCY_BYTES bytes.
        """
        if len(stored) != IDEMPOTENCY_BYTES:
            raise ValueError(f"idempotency has {len(stored)} bytes, not {IDEMPOTENCY_BYTES}")
        return cls(bytes(stored[:DIGEST_BYTES]), bytes(stored[DIGEST_BYTES:]))


def idempotency_for(principal: str, topic: str, key: str, body: bytes) -> Idempotency:
    """Digests for one request.

    Args:
        principal: who sends it; one principal's keys never meet another's.
        topic: where it writes to.
        key: the Idempotency-Key header.
        body: the body after content decoding.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    for part in (principal, topic, key):
        # Header text may carry undecodable bytes as lone surrogates (PEP 383).
        encoded = part.encode("utf-8", "surrogatepass")
        # Lengths go first so that no two triples share one concatenation.
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return Idempotency(digest.digest(), blake2b(body, digest_size=DIGEST_BYTES).digest())


def key_within(transaction: str | None, key: str) -> str:
    """The key as it is digested: another one in each transaction.

    What an aborted transaction left must not pass for the record that the next one sends again.

    Args:
        transaction: the token of the transaction; None outside of any.
        key: the Idempotency-Key header.
    """
    # No header has a NUL, so no other request has this key.
    return key if transaction is None else f"\0transaction\0{transaction}\0{key}"


def divided_key(key: str, count: int) -> str:
    """The key as it is digested where a request was divided among `count` partitions.

    Of a topic that has got more of them: the same records go elsewhere then, and what is stored has
    to tell with how many that was.
    """
    # No header has a NUL, so no other request has this key.
    return f"\0divided\0{count}\0{key}"


@dataclass(frozen=True, slots=True)
class LineNumbers:
    """Which lines of a stream a batch has: `first`, `last`, and those between for its partition."""

    first: int
    last: int

    def __post_init__(self) -> None:
        assert 0 <= self.first <= self.last <= MAX_LINE_NUMBER, (self.first, self.last)

    def to_bytes(self) -> bytes:
        """What stands where another batch has its body's digest; DIGEST_BYTES long."""
        return b"".join(
            (
                _LINES_MARK,
                self.first.to_bytes(_LINE_NUMBER_BYTES, "big"),
                self.last.to_bytes(_LINE_NUMBER_BYTES, "big"),
            )
        )

    @classmethod
    def from_digest(cls, digest: bytes) -> Self | None:
        """The lines that this tells; None for the digest of a body.

        One digest in 2**32 looks like lines. That harms nobody: the keys of streams are others.
        """
        if not digest.startswith(_LINES_MARK):
            return None
        start = len(_LINES_MARK)
        first = int.from_bytes(digest[start : start + _LINE_NUMBER_BYTES], "big")
        last = int.from_bytes(digest[start + _LINE_NUMBER_BYTES :], "big")
        return cls(first, last) if first <= last else None


def stream_idempotency(
    principal: str, topic: str, key: str, split: str, lines: LineNumbers
) -> Idempotency:
    """What a batch of a stream of records leaves behind.

    Args:
        principal: as `idempotency_for`.
        topic: as there.
        key: the Idempotency-Key header of the stream.
        split: how the stream is divided into partitions: lines that were divided in another way
            are those of another stream.
        lines: of this batch.
    """
    # No header has a NUL, so no other request has this key.
    named = idempotency_for(principal, topic, f"\0lines\0{split}\0{key}", b"")
    return Idempotency(named.key_digest, lines.to_bytes())
