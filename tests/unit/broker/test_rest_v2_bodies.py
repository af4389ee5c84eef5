"""Media types and bodies of the REST Proxy API v2, as pure functions."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.rest_v2.consumer_bodies import render_consumed
from ottla_broker.http.rest_v2.errors import (
    FormatMismatchError,
    KeySchemaMissingError,
    PayloadError,
    RecordFormatError,
    SchemaRegistryError,
    ValueSchemaMissingError,
    error_code_of,
)
from ottla_broker.http.rest_v2.media_types import answer_type, embedded_format, records_type
from ottla_broker.http.rest_v2.produce_bodies import entry_of, parse_body
from ottla_broker.services.polled_records import PolledPartition
from ottla_broker.services.record_appends import AppendedRecord
from ottla_protocol.errors import (
    MalformedBodyError,
    MessageTooLargeError,
    NotAcceptableError,
    NotEnoughReplicasError,
    OverloadedError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.record_codec import Record

V2 = "application/vnd.kafka.v2+json"
BINARY = "application/vnd.kafka.binary.v2+json"
JSON = "application/vnd.kafka.json.v2+json"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (BINARY, "binary"),
        (f"{JSON}; charset=utf-8", "json"),
        (V2, "binary"),
        ("Application/JSON", "binary"),
        ("", "binary"),
        ("application/vnd.kafka.avro.v2+json", "avro"),
        ("application/vnd.kafka.jsonschema.v2+json", "jsonschema"),
        ("application/vnd.kafka.protobuf.v2+json", "protobuf"),
    ],
)
def test_the_content_type_names_the_embedded_format(content_type, expected):
    assert embedded_format(content_type) == expected


@pytest.mark.parametrize("content_type", ["text/plain", "application/vnd.kafka.json.v1+json"])
def test_other_content_types_are_refused(content_type):
    with pytest.raises(UnsupportedMediaTypeError, match="is none of"):
        embedded_format(content_type)


@pytest.mark.parametrize(
    ("accept", "instance_format", "expected"),
    [
        (None, "json", JSON),
        ("*/*", "binary", BINARY),
        (V2, "binary", V2),
        (BINARY, "binary", BINARY),
        (f"{JSON};q=0.5, {BINARY}", "json", JSON),
        ("application/json", "json", "application/json"),
    ],
)
def test_records_are_told_in_the_instances_format(accept, instance_format, expected):
    assert records_type(accept, instance_format) == expected


@pytest.mark.parametrize(
    ("accept", "instance_format"), [(V2, "json"), (BINARY, "json"), (JSON, "binary")]
)
def test_a_reader_of_another_format_is_refused(accept, instance_format):
    with pytest.raises(FormatMismatchError, match=f"has the format {instance_format}"):
        records_type(accept, instance_format)


def test_an_answer_is_the_apis_type_unless_the_client_takes_json_only():
    assert answer_type(None) == V2
    assert answer_type("application/json") == "application/json"
    with pytest.raises(NotAcceptableError):
        answer_type("text/html")


@given(
    st.lists(
        st.tuples(st.none() | st.binary(), st.none() | st.binary(), st.none() | st.integers(0, 9)),
        min_size=1,
        max_size=5,
    )
)
def test_binary_records_come_through_as_they_are(records):
    def text(data):
        return None if data is None else base64.b64encode(data).decode()

    body = {
        "records": [
            {"key": text(key), "value": text(value), "partition": partition}
            for key, value, partition in records
        ]
    }
    parsed = parse_body(json.dumps(body).encode(), "binary")
    assert [(each.key, each.value, each.partition) for each in parsed] == records


def test_json_keeps_its_text_and_null_is_no_value():
    first = b'{"key":{"a" : 1.10},"value":[1e400, "\xc3\xa9"]}'
    body = b'{"records":[%b,{"value":null},{"key":"k"}]}' % first
    parsed = parse_body(body, "json")
    assert [(each.key, each.value) for each in parsed] == [
        (b'{"a":1.10}', '[1e400,"é"]'.encode()),
        (None, None),
        (b'"k"', None),
    ]


@pytest.mark.parametrize(
    ("body", "embedded", "expected"),
    [
        (b"{", "binary", MalformedBodyError),
        (b'{"records":[{"value":"="}]}', "binary", MalformedBodyError),
        (b'{"records":[{"value":"\xff"}]}', "json", MalformedBodyError),
        (b'{"records":[]}', "binary", PayloadError),
        (b"{}", "json", PayloadError),
        (b'{"records":[{"value":1}]}', "binary", PayloadError),
        (b'{"records":[{"value":1,"color":2}]}', "json", PayloadError),
        (b'{"records":[{"value":"","partition":-1}]}', "binary", PayloadError),
        (b'{"records":[{"value":1}]}', "avro", ValueSchemaMissingError),
        (b'{"value_schema_id":1,"records":[{"key":1,"value":1}]}', "avro", KeySchemaMissingError),
        (b'{"value_schema":"{}","records":[{"value":1}]}', "protobuf", SchemaRegistryError),
        (b'{"records":[{"value":' + b"[" * 100_000, "json", (PayloadError, MalformedBodyError)),
    ],
)
def test_bodies_that_are_refused(body, embedded, expected):
    with pytest.raises(expected):
        parse_body(body, embedded)


def test_an_entry_says_where_its_record_is_or_why_it_is_not():
    stored = entry_of(AppendedRecord(partition=2, offset=7, timestamp=1))
    assert (stored.partition, stored.offset, stored.error_code, stored.error) == (2, 7, None, None)
    few = entry_of(NotEnoughReplicasError("one in sync, two are needed"))
    assert (few.partition, few.offset, few.error_code) == (None, None, 50003)
    assert few.error == "one in sync, two are needed"


def test_an_error_that_will_not_go_away_is_another_than_one_that_may():
    assert entry_of(MessageTooLargeError("too large")).error_code == 50002
    assert entry_of(OverloadedError("busy")).error_code == 50003


def test_codes_begin_with_their_status():
    for error in (MalformedBodyError("x"), MessageTooLargeError("x"), PayloadError("x")):
        status, code = error_code_of(error)
        assert str(code).startswith(str(status))


def polled(*values, partition=0):
    records = [Record(10 * index, 5, None, value) for index, value in enumerate(values)]
    return PolledPartition(("t", partition), records, 10 * len(records) + 3)


def test_records_end_before_one_that_cannot_be_told():
    whole = polled(b"1", b"2", partition=1)
    told, body = render_consumed([polled(b"1", b"x", b"3"), whole], "json")
    assert [(each.next_offset, len(each.records)) for each in told] == [(10, 1), (23, 2)]
    assert [(each["partition"], each["value"]) for each in json.loads(body)] == [
        (0, 1), (1, 1), (1, 2),
    ]  # fmt: skip
    with pytest.raises(RecordFormatError, match="t-0 at offset 0"):
        render_consumed([polled(b"x", b"2"), whole], "json")
    told, _ = render_consumed([polled(b"1", b"x")], "binary")
    assert len(told[0].records) == 2
