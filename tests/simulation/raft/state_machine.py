"""The simulated state machine: a digest over everything that was applied.

Two machines are equal exactly when they applied the same entries, so a snapshot that was cut,
mixed or mislabelled shows in the digest.
"""

from hashlib import sha256

EMPTY = b"nothing applied"
COPIES_MAX = 7
"""A snapshot repeats itself up to so often, so that it has several parts of any size."""


def applied(state, entry):
    """The state after one more entry."""
    return sha256(b"%b %d %d %b" % (state, entry.index, entry.term, entry.payload)).digest()


def encode(state, maker):
    """The state as a snapshot; each maker writes it in its own way, so that parts do not mix."""
    line = b"%d %b\n" % (maker, state.hex().encode())
    return line * (1 + maker % COPIES_MAX)


def decode(data):
    """The state that `encode` wrote.

    Raises:
        ValueError: the data is not whole, or of several makers.
    """
    lines = data.split(b"\n")
    if lines[-1] or len(set(lines[:-1])) != 1:
        raise ValueError("the parts of a snapshot do not fit together")
    maker, state = lines[0].split()
    if len(lines) - 1 != 1 + int(maker) % COPIES_MAX:
        raise ValueError("a part of the snapshot is missing")
    return bytes.fromhex(state.decode())
