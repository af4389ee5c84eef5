"""How the JSON body of a request is refused: with the field and its rule."""

import msgspec
import pytest

from ottla_broker.http.binary import decode
from ottla_broker.http.json_bodies import parse_json
from ottla_broker.http.rest_v2.consumer_bodies import parse_document
from ottla_protocol.errors import (
    InvalidRequestError,
    MalformedBodyError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.models_groups import SeekGroupRequest
from ottla_protocol.models_poll import GroupPollRequest
from ottla_protocol.models_rest_v2 import CreateConsumer

UNKNOWN_FIELD = "topic is no field of this call, which takes: " + ", ".join(
    each.encode_name for each in msgspec.structs.fields(GroupPollRequest)
)


@pytest.mark.parametrize(
    ("model", "body", "told"),
    [
        (
            GroupPollRequest,
            b'{"topics": ["t"], "auto_offset_reset": "begin"}',
            "auto_offset_reset must be one of earliest, latest, none, not 'begin'",
        ),
        (
            SeekGroupRequest,
            b'{"to": "time"}',
            "to must be one of earliest, latest, offset, shift, timestamp, not 'time'",
        ),
        (
            GroupPollRequest,
            b'{"topics": 7}',
            "topics must be an array or null, not a whole number",
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
        (b"", "the body is empty; it must be JSON"),
        (b'{"topics": ["\xd3"]}', "JSON is malformed: a text in it is no UTF-8"),
        (b'{"topics":', "JSON is malformed: it ends too early (byte 10)"),
        (b"{topics}", "JSON is malformed: object keys must be strings (byte 1)"),
    ],
)
def test_what_is_no_json_is_malformed(body, told):
    with pytest.raises(MalformedBodyError) as refused:
        parse_json(body, GroupPollRequest)
    assert refused.value.detail == told


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/x-www-form-urlencoded",
    ],
)
def test_a_body_is_json_if_nothing_else_is_said(content_type):
    """`curl -d` calls every body a form."""
    assert parse_json(b'{"topics": ["t"]}', GroupPollRequest, content_type).topics == ["t"]


@pytest.mark.parametrize("content_type", ["text/plain;charset=UTF-8", "application/xml", "json"])
def test_another_media_type_is_refused(content_type):
    with pytest.raises(UnsupportedMediaTypeError) as refused:
        parse_json(b'{"topics": ["t"]}', GroupPollRequest, content_type)
    assert refused.value.status == 415
    assert refused.value.members["accepted"] == ["application/json"]
    with pytest.raises(MalformedBodyError):
        parse_json(b"", GroupPollRequest, content_type)


def test_a_text_that_is_no_utf8_is_malformed_in_every_encoding():
    body = b'{"name": "\xd3"}'
    with pytest.raises(MalformedBodyError, match="no UTF-8"):
        parse_document(body, CreateConsumer)
    body = msgspec.msgpack.encode({"topics": ["xx"]}).replace(b"xx", b"\xd3x")
    with pytest.raises(MalformedBodyError, match="no MessagePack"):
        decode(msgspec.msgpack.Decoder(GroupPollRequest), body)
