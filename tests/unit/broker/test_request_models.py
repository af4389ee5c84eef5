"""How the JSON body of a request is refused: with the field and its rule."""

import pytest

from ottla_broker.http.topics import parse_json
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError
from ottla_protocol.models_groups import SeekGroupRequest
from ottla_protocol.models_poll import GroupPollRequest


@pytest.mark.parametrize(
    ("model", "body", "told"),
    [
        (
            GroupPollRequest,
            b'{"topics": ["t"], "auto_offset_reset": "begin"}',
            "Invalid enum value 'begin' - at `$.auto_offset_reset`; "
            "it is one of 'earliest', 'latest', 'none'",
        ),
        (
            SeekGroupRequest,
            b'{"to": "time"}',
            "Invalid enum value 'time' - at `$.to`; "
            "it is one of 'earliest', 'latest', 'offset', 'shift', 'timestamp'",
        ),
        (
            GroupPollRequest,
            b'{"topics": 7}',
            "Expected `array | null`, got `int` - at `$.topics`",
        ),
        (GroupPollRequest, b'{"topic": "t"}', "Object contains unknown field `topic`"),
    ],
)
def test_a_field_that_is_wrong_is_told_with_its_rule(model, body, told):
    with pytest.raises(InvalidRequestError) as refused:
        parse_json(body, model)
    assert refused.value.detail == told


def test_what_is_no_json_is_malformed():
    with pytest.raises(MalformedBodyError):
        parse_json(b"{", GroupPollRequest)
