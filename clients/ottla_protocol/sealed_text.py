"""Bytes as a word that clients hand back: base64url without padding (RFC 4648 section 5).

Behind the bytes is their CRC-32, big-endian, against cuts and typing errors; nothing is secret.
"""

import base64
import binascii
import zlib
from typing import Final

CHECKSUM_BYTES: Final = 4


def seal(body: bytes, checksum: int | None = None) -> bytes:
    """The word in ASCII.

    Args:
        body: what it holds.
        checksum: of the body, where it is known already.
    """
    known = zlib.crc32(body) if checksum is None else checksum
    sealed = base64.urlsafe_b64encode(body + known.to_bytes(CHECKSUM_BYTES, "big"))
    return sealed.rstrip(b"=")


def unseal(text: str, *, max_characters: int) -> bytes:
    """What the word holds: one byte at least.

    Args:
        text: as `seal` made it.
        max_characters: longer ones are none.

    Raises:
        ValueError: it is no such word, or a damaged one.
    """
    if not 0 < len(text) <= max_characters:
        raise ValueError("length")
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    try:
        sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("base64") from error
    body = sealed[:-CHECKSUM_BYTES]
    if not body or zlib.crc32(body) != int.from_bytes(sealed[-CHECKSUM_BYTES:], "big"):
        raise ValueError("checksum")
    return body
