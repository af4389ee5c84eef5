"""What an Idempotency-Key leaves behind beside the batch that it came with.

The digest of who wrote where under which key finds the batch again when the request is repeated;
the digest of the body tells a repetition from another request under the same key. Both are stored
and replicated with the batch (column `idempotency`), so any later leader answers a retry the same.
"""

from dataclasses import dataclass
from hashlib import blake2b

DIGEST_BYTES = 16
IDEMPOTENCY_BYTES = 2 * DIGEST_BYTES
"""Size of the stored form."""


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
