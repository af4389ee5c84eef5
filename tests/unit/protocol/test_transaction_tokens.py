"""Tokens of transactions: they come back as they went, and nothing else is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.transaction_tokens import (
    MAX_PRODUCER_EPOCH,
    MAX_PRODUCER_ID,
    MAX_TRANSACTION_TOKEN_CHARACTERS,
    MAX_TRANSACTIONAL_ID_CHARACTERS,
    TransactionToken,
    decode_transaction,
    encode_transaction,
)

TOKENS = st.builds(
    TransactionToken,
    st.text(
        st.characters(exclude_categories=("Cs",)),
        min_size=1,
        max_size=MAX_TRANSACTIONAL_ID_CHARACTERS,
    ),
    st.integers(0, MAX_PRODUCER_ID),
    st.integers(0, MAX_PRODUCER_EPOCH),
)


@given(TOKENS)
def test_a_token_comes_back_as_it_went(token: TransactionToken) -> None:
    """Whatever its id is made of, a token is text of a header that is read as the same token."""
    encoded = encode_transaction(token)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert " " not in encoded
    assert len(encoded) <= MAX_TRANSACTION_TOKEN_CHARACTERS
    assert decode_transaction(encoded) == token


def test_the_longest_token_has_the_named_length() -> None:
    """The limit is no larger than it must be."""
    longest = TransactionToken(
        "\U0001f600" * MAX_TRANSACTIONAL_ID_CHARACTERS, MAX_PRODUCER_ID, MAX_PRODUCER_EPOCH
    )
    assert len(encode_transaction(longest)) == MAX_TRANSACTION_TOKEN_CHARACTERS
    assert decode_transaction(encode_transaction(longest)) == longest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7001",
        "7001.3",
        "7001.3.",
        ".3.orders",
        "-1.3.orders",
        "07.3.orders",
        "7001.-1.orders",
        "7001.3.orders/billing",
        "7001.3.orders%2",
        "7001.3.orders%ff",
        "7001.3.orders ",
        "7001.3.orders\n",
        "٣.3.orders",
        f"7001.{MAX_PRODUCER_EPOCH + 1}.orders",
        f"{MAX_PRODUCER_ID + 1}.3.orders",
        f"7001.3.{'a' * (MAX_TRANSACTIONAL_ID_CHARACTERS + 1)}",
        f"7001.3.{'a' * MAX_TRANSACTION_TOKEN_CHARACTERS}",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    """The refusal names the field in which it was sent."""
    with pytest.raises(InvalidRequestError) as refused:
        decode_transaction(text, field="Ottla-Transaction")
    assert refused.value.members["field"] == "Ottla-Transaction"


@given(st.text(max_size=60))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """Nothing but the typed error comes of what clients send."""
    try:
        token = decode_transaction(text)
    except InvalidRequestError:
        return
    assert decode_transaction(encode_transaction(token)) == token


def test_an_id_that_is_no_unicode_is_refused() -> None:
    """Half a surrogate pair has no percent-encoding."""
    with pytest.raises(InvalidRequestError):
        encode_transaction(TransactionToken("\ud800", 1, 0))
