"""What a produce body is, by its type and by what goes with it."""

import pytest

from ottla_broker.http.post import Post
from ottla_broker.http.produce_bodies import BodyKind, body_kind, parameters, read_records
from ottla_broker.http.query import Query
from ottla_protocol.errors import InvalidRequestError, UnsupportedMediaTypeError


def post(content_type=None, *, body=b"", query=(), **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        sent["content-type"] = content_type
    return Post({}, list(query), sent, body)


def records(request):
    kind = body_kind(request)
    return read_records(kind, request, request.body, Query(request.query, parameters(kind)))


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (None, BodyKind.JSON),
        ("application/json; charset=utf-8", BodyKind.JSON),
        ("application/x-www-form-urlencoded", BodyKind.JSON),
        ("Application/Octet-Stream", BodyKind.RAW),
        ("application/cloudevents+json; charset=UTF-8", BodyKind.EVENT),
        ("application/cloudevents-batch+json", BodyKind.EVENTS),
    ],
)
def test_types_that_are_known(content_type, kind):
    assert body_kind(post(content_type)) is kind


def test_an_event_in_headers_is_one_whatever_the_type():
    for content_type in (None, "application/json", "image/png", "application/octet-stream"):
        assert body_kind(post(content_type, ce_specversion="1.0")) is BodyKind.BINARY_EVENT
    structured = post("application/cloudevents+json", ce_specversion="1.0")
    assert body_kind(structured) is BodyKind.EVENT


def test_another_type_is_a_value_only_where_the_request_says_so():
    for content_type in ("text/plain", "image/png", "application/xml"):
        with pytest.raises(UnsupportedMediaTypeError, match="application/json"):
            body_kind(post(content_type))
        for query in (("key", "k"), ("key_b64", "aw=="), ("timestamp", "1")):
            assert body_kind(post(content_type, query=[query])) is BodyKind.RAW
        assert body_kind(post(content_type, ottla_header_a="1")) is BodyKind.RAW
        with pytest.raises(UnsupportedMediaTypeError):
            body_kind(post(content_type, query=[("acks", "1")]))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=x",
        "application/cloudevents+avro",
        "application/vnd.kafka.v2+json",
    ],
)
def test_envelopes_that_we_do_not_read_are_never_a_value(content_type):
    with pytest.raises(UnsupportedMediaTypeError):
        body_kind(post(content_type, query=[("key", "k")]))


def test_a_raw_record_has_key_headers_and_timestamp():
    [record] = records(
        post(
            "application/octet-stream",
            body=b"\x00\xff",
            query=[("key", "N1"), ("timestamp", "17"), ("acks", "1")],
            Ottla_Header_Trace_Id="caf\u00e9",
            other="x",
        )
    )
    assert (record.key, record.value, record.timestamp) == (b"N1", b"\x00\xff", 17)
    assert record.headers == (("trace-id", "caf\u00e9".encode()),)


def test_an_empty_body_is_an_empty_value_and_no_tombstone():
    assert records(post("application/octet-stream"))[0].value == b""


def test_another_type_is_kept_beside_the_value():
    [record] = records(post("text/plain; charset=utf-8", body=b"x", query=[("key", "k")]))
    assert record.headers == (("content-type", b"text/plain; charset=utf-8"),)
    [record] = records(post("text/plain", ottla_header_content_type="image/png"))
    assert record.headers == (("content-type", b"image/png"),)


@pytest.mark.parametrize("key_b64", ["+/8=", " /8="])
def test_key_b64_is_bytes(key_b64):
    [record] = records(post("application/octet-stream", query=[("key_b64", key_b64)]))
    assert record.key == b"\xfb\xff"


@pytest.mark.parametrize(
    "query",
    [
        [("key", "a"), ("key_b64", "YQ==")],
        [("key_b64", "?")],
        [("key_b64", "\u00e9")],
        [("key", "\N{REPLACEMENT CHARACTER}")],
        [("timestamp", "-1")],
        [("partition", "1")],
    ],
)
def test_parameters_that_break_a_rule(query):
    with pytest.raises(InvalidRequestError):
        records(post("application/octet-stream", query=query))


def test_parameters_of_a_value_do_not_go_with_json():
    with pytest.raises(InvalidRequestError, match="unknown query parameter 'key'"):
        records(post("application/json", query=[("key", "k")]))


def test_a_header_needs_a_name():
    with pytest.raises(InvalidRequestError, match="needs a name"):
        records(post("application/octet-stream", **{"ottla-header-": "x"}))
