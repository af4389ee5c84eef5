"""The token of one transaction: what a client holds between the calls that belong to it. Pure.

    {producer_id}.{producer_epoch}.{transactional_id}

such as `7001.3.orders%2Fbilling`, the transactional id percent-encoded (RFC 3986 section 2.1), so
that the token is plain ASCII and fits a header field. It names the identity that the coordinator
granted (KIP-98), and each transaction has one of its own (KIP-890): a call that comes late, with
the token of a transaction that is over, cannot touch the next one. The token grants nothing that
its parts would not.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from ottla_protocol.errors import InvalidRequestError

MAX_TRANSACTIONAL_ID_CHARACTERS: Final = 249
"""Characters of a transactional id."""

MAX_TRANSACTION_TOKEN_CHARACTERS: Final = 3_014
"""What a token takes with the longest id: four bytes a character, each percent-encoded."""

MAX_PRODUCER_ID: Final = 2**63 - 1
MAX_PRODUCER_EPOCH: Final = 2**15 - 1

_TOKEN = re.compile(
    r"(?P<producer_id>0|[1-9][0-9]{0,18})\.(?P<producer_epoch>0|[1-9][0-9]{0,4})\."
    r"(?P<transactional_id>(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+)"
)


@dataclass(frozen=True, slots=True)
class TransactionToken:
    """One transaction of one producer."""

    transactional_id: str
    producer_id: int
    producer_epoch: int


def encode_transaction(token: TransactionToken) -> str:
    """The token as clients get it.

    Raises:
        InvalidRequestError: the transactional id is not valid Unicode.
    """
    try:
        encoded = quote(token.transactional_id, safe="")
    except UnicodeEncodeError as error:
        raise InvalidRequestError("transactional_id is not valid Unicode") from error
    return f"{token.producer_id}.{token.producer_epoch}.{encoded}"


def decode_transaction(text: str, *, field: str = "transaction") -> TransactionToken:
    """What a client sends back.

    Args:
        text: as `encode_transaction` made it.
        field: where it was sent, for the error.

    Raises:
        InvalidRequestError: it is no token of a transaction.
    """
    found = _TOKEN.fullmatch(text) if len(text) <= MAX_TRANSACTION_TOKEN_CHARACTERS else None
    if found is not None:
        token = _token(found)
        if token is not None:
            return token
    raise InvalidRequestError(
        f"{field} is not the token of a transaction: send what the broker answered as "
        "`transaction` when the transaction began",
        field=field,
    )


def _token(found: re.Match[str]) -> TransactionToken | None:
    producer_id, producer_epoch = int(found["producer_id"]), int(found["producer_epoch"])
    try:
        transactional_id = unquote(found["transactional_id"], errors="strict")
    except UnicodeDecodeError:
        return None
    if producer_id > MAX_PRODUCER_ID or producer_epoch > MAX_PRODUCER_EPOCH:
        return None
    if len(transactional_id) > MAX_TRANSACTIONAL_ID_CHARACTERS:
        return None
    return TransactionToken(transactional_id, producer_id, producer_epoch)
