"""Cursors of lists by name: behind which name the next page begins, as one opaque word. Pure.

The name need not be listed any more when it comes back. It is sealed, so that no mere name is taken
for one: a page behind what nobody was told would look like the end of the list.
"""

from typing import Final

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.sealed_text import CHECKSUM_BYTES, seal, unseal
from ottla_protocol.transaction_tokens import MAX_TRANSACTIONAL_ID_CHARACTERS

MAX_NAME_CHARACTERS: Final = MAX_TRANSACTIONAL_ID_CHARACTERS
"""Transactional ids are what is listed so; a longer name would get a cursor that is refused."""

_SEALED_BYTES_MAX: Final = 4 * MAX_NAME_CHARACTERS + CHECKSUM_BYTES
MAX_LISTING_CURSOR_CHARACTERS: Final = -(-_SEALED_BYTES_MAX * 4 // 3)
"""What a cursor takes with the longest name: up to four bytes a character, and the checksum."""


def encode_listing_cursor(name: str) -> str:
    """The cursor as clients get it, of a name of at most MAX_NAME_CHARACTERS."""
    return seal(name.encode()).decode("ascii")


def decode_listing_cursor(text: str, *, parameter: str = "cursor") -> str:
    """The name that a client's cursor tells.

    Args:
        text: as `encode_listing_cursor` made it.
        parameter: where it was sent, for the error.

    Raises:
        InvalidRequestError: it is no such cursor, or a damaged one.
    """
    try:
        return unseal(text, max_characters=MAX_LISTING_CURSOR_CHARACTERS).decode()
    except ValueError as error:
        raise InvalidRequestError(
            f"{parameter} must be the next_cursor of an answer, not {text[:80]!r}",
            parameter=parameter,
        ) from error
