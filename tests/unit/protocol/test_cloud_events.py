"""CloudEvents as records: the rules of version 1.0.2, and of its bindings for HTTP and Kafka."""

import json
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol import cloud_events as ce
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError

EVENT = {"specversion": "1.0", "id": "A1", "source": "/planes", "type": "landed"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}


def encoded(**members):
    return json.dumps(EVENT | members).encode()


def test_a_structured_event_is_the_value_and_partitionkey_the_key():
    text = b'{ "specversion": "1.0", "id": "A1", "source": "/p", "type": "t", "data": {"n": 1.10},'
    text += b' "partitionkey": "N1422\\u0038", "level": 3, "gone": null }'
    record = ce.parse_event(text)
    assert record.key == b"N14228"
    assert record.value == (
        b'{"specversion":"1.0","id":"A1","source":"/p","type":"t","data":{"n":1.10},'
        b'"partitionkey":"N1422\\u0038","level":3,"gone":null}'
    )
    assert record.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ({"specversion": "0.3"}, "specversion: must be 1.0"),
        ({"id": ""}, "id: must not be empty"),
        ({"source": 1}, "source: must be a string"),
        ({"type": None}, "type: is required"),
        ({"Level": "x"}, "Level: a name has lower-case"),
        ({"level": 1.5}, "level: must be a string, a boolean or a whole number"),
        ({"level": {}}, "level: must be a string, a boolean or a whole number"),
        ({"time": "yesterday"}, "time: must be an RFC 3339 time"),
        ({"time": "2026-02-30T00:00:00Z"}, "time: must be an RFC 3339 time"),
        ({"data": 1, "data_base64": "AA=="}, "data: data and data_base64 exclude each other"),
        ({"data_base64": "?"}, "data_base64: must be base64"),
        ({"subject": "x" * (ce.MAX_ATTRIBUTE_BYTES + 1)}, "subject: is over"),
        ({f"a{n}": "x" for n in range(ce.MAX_ATTRIBUTES)}, "attributes, at most"),
    ],
)
def test_a_broken_rule_is_told_with_its_attribute(members, rule):
    with pytest.raises(InvalidRequestError, match=rule):
        ce.parse_event(encoded(**members))
    with pytest.raises(InvalidRequestError, match="event 1, ") as refused:
        ce.parse_batch(b"[%b,%b]" % (encoded(), encoded(**members)))
    assert refused.value.members["index"] == 1


@pytest.mark.parametrize(
    "time", ["2026-11-22T15:04:05Z", "2026-11-22t15:04:05.123456789+01:00", "2016-12-31T23:59:60Z"]
)
def test_times_of_rfc_3339(time):
    assert json.loads(ce.parse_event(encoded(time=time)).value)["time"] == time


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"id":1'])
def test_what_is_not_json_is_malformed(body):
    with pytest.raises(MalformedBodyError):
        ce.parse_event(body)
    with pytest.raises(MalformedBodyError):
        ce.parse_batch(b"[" + body)


def test_a_batch_is_an_array_of_events_and_bounded(monkeypatch):
    records = ce.parse_batch(b"[%b, %b]" % (encoded(id="1"), encoded(id="2")))
    assert [json.loads(record.value)["id"] for record in records] == ["1", "2"]
    for body in (b"[]", encoded(), b"[1]"):
        with pytest.raises(InvalidRequestError):
            ce.parse_batch(body)
    monkeypatch.setattr(ce, "MAX_RECORDS_PER_REQUEST", 1)
    with pytest.raises(MessageTooLargeError):
        ce.parse_batch(b"[%b,%b]" % (encoded(), encoded()))


def test_binary_headers_become_record_headers():
    headers = {
        "Content-Type": "image/png",
        "CE-Subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "ce-partitionkey": "N14228",
        "ce-quoted": '"a \\"b\\""',
        "Accept": "*/*",
        **BINARY,
    }
    record = ce.binary_event(headers.items(), b"\x89PNG")
    assert (record.key, record.value) == (b"N14228", b"\x89PNG")
    assert dict(record.headers) == {
        "content-type": b"image/png",
        "ce_subject": "Euro \u20ac \U0001f600".encode(),
        "ce_partitionkey": b"N14228",
        "ce_quoted": b'a "b"',
        "ce_specversion": b"1.0",
        "ce_id": b"A1",
        "ce_source": b"/planes",
        "ce_type": b"landed",
    }
    assert ce.binary_event(BINARY.items(), b"").value == b""


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ([("ce-id", "again")], "there twice"),
        ([("ce-datacontenttype", "a/b")], "the Content-Type says it"),
        ([("ce-a_b", "x")], "a name has lower-case"),
        ([("ce-note", "%FF")], "must be UTF-8"),
        ([("ce-note", "\udcff")], "must be UTF-8"),
        ([("ce-note", "")], "must not be empty"),
    ],
)
def test_broken_headers_are_told(more, rule):
    with pytest.raises(InvalidRequestError, match=rule):
        ce.binary_event([*BINARY.items(), *more], b"")


@pytest.mark.parametrize("missing", sorted(EVENT))
def test_each_required_attribute_is_required(missing):
    with pytest.raises(InvalidRequestError, match=f"{missing}: is required"):
        ce.binary_event(
            [(name, value) for name, value in BINARY.items() if name != f"ce-{missing}"], b""
        )


@given(st.binary(max_size=200) | st.from_regex(rb"\{.*\}", fullmatch=True))
def test_whatever_comes_is_a_record_or_an_error_of_ours(body):
    for parse in (ce.parse_event, ce.parse_batch):
        with suppress(InvalidRequestError):
            parse(body)


_TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())


@given(st.dictionaries(st.from_regex(r"x[a-z0-9]{1,8}", fullmatch=True), _TEXTS), st.binary())
def test_percent_encoded_headers_come_back_as_they_were(attributes, data):
    headers = [
        *BINARY.items(),
        *((f"ce-{name}", quote(value)) for name, value in attributes.items()),
    ]
    record = ce.binary_event(headers, data)
    assert record.value == data
    stored = dict(record.headers)
    assert {name: stored[f"ce_{name}"].decode() for name in attributes} == attributes
