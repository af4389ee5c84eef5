"""Query parameters: positions and their bounds."""

import pytest

from ottla_broker.http.query import MAX_OFFSET, Query
from ottla_protocol.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("sent", "position"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("-5", -5),
        (str(MAX_OFFSET), MAX_OFFSET),
        (str(-MAX_OFFSET), -MAX_OFFSET),
    ],
)
def test_a_position(sent, position):
    assert Query([("offset", sent)], ["offset"]).position("offset") == position


@pytest.mark.parametrize("sent", ["", "first", "1.5", str(MAX_OFFSET + 1), str(-MAX_OFFSET - 1)])
def test_what_is_no_position(sent):
    with pytest.raises(InvalidRequestError):
        Query([("offset", sent)], ["offset"]).position("offset")
