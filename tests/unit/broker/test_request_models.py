"""How the JSON body of a request is refused: with the field and its rule."""

import msgspec
import pytest

from ottla_broker.http.json_bodies import parse_json
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError
from ottla_protocol.models_groups import SeekGroupRequest
from ottla_protocol.models_poll import GroupPollRequest

UNKNOWN_FIELD = "Object contains unknown field `topic`; this call takes: " + ", ".join(
    each.encode_name for each in msgspec.structs.fields(GroupPollRequest)
)


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
        (GroupPollRequest, b'{"topic": "t"}', UNKNOWN_FIELD),
    ],
)
def test_a_field_that_is_wrong_is_told_with_its_rule(model, body, told):
    with pytest.raises(InvalidRequestError) as refused:
        parse_json(body, model)
    assert refused.value.detail == told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is empty; it must be a JSON object"),
        (b'{"topics":', "JSON is malformed: it ends too early (byte 10)"),
        (b"{topics}", "JSON is malformed: object keys must be strings (byte 1)"),
    ],
)
def test_what_is_no_json_is_malformed(body, told):
    with pytest.raises(MalformedBodyError) as refused:
        parse_json(body, GroupPollRequest)
    assert refused.value.detail == told
