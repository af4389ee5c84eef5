"""Records of the REST Proxy API, version 3, become Ottla's, or are refused by name."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError
from ottla_protocol.models_rest_v3 import MAX_BATCH_ENTRIES, ProducedData
from ottla_protocol.rest_v3_records import parse_batch, parse_record, rfc3339

MAX_MS = 253_402_300_799_999  # the end of the year 9999


def parsed(**fields):
    return parse_record(json.dumps(fields).encode())


def encoded(data):
    return base64.b64encode(data).decode()


@given(st.binary(max_size=40), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_binary_is_bytes_and_string_is_utf_8(data, text):
    sent = parsed(
        key={"type": "STRING", "data": text}, value={"type": "BINARY", "data": encoded(data)}
    )
    assert (sent.record.key, sent.record.value) == (text.encode(), data)
    assert sent.key == ProducedData("STRING", len(text.encode()))
    assert sent.value == ProducedData("BINARY", len(data))


def test_json_keeps_its_digits_and_loses_its_whitespace():
    sent = parse_record(b'{"value": {"type": "JSON", "data": {"a": [1.10, 1e400]} }}')
    assert sent.record.value == b'{"a":[1.10,1e400]}'
    assert (sent.record.key, sent.key) == (None, None)


@pytest.mark.parametrize("kind", ["BINARY", "JSON", "STRING"])
@pytest.mark.parametrize("data", [{}, {"data": None}])
def test_data_that_is_null_or_missing_is_null(kind, data):
    sent = parsed(value={"type": kind, **data})
    assert (sent.record.value, sent.value) == (None, ProducedData(kind, 0))


def test_headers_partition_and_time():
    sent = parsed(
        partition_id=3,
        headers=[{"name": "a", "value": encoded(b"\xff")}, {"name": "a"}],
        timestamp="2013-01-01T10:00:00.5+02:00",
    )
    moment = datetime(2013, 1, 1, 8, 0, 0, 500_000, tzinfo=UTC)
    assert sent.record.headers == (("a", b"\xff"), ("a", None))
    assert (sent.record.partition, sent.record.timestamp) == (3, moment.timestamp() * 1000)


@given(st.integers(0, MAX_MS))
def test_times_survive_the_round_trip(timestamp_ms):
    assert parsed(timestamp=rfc3339(timestamp_ms)).record.timestamp == timestamp_ms


def test_a_time_that_no_calendar_has_is_none():
    assert rfc3339(2**63 - 1) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"value": {"type": "AVRO", "data": 1}}, "value.type"),
        ({"key": {"data": "x"}}, "key.type"),
        ({"value": {"type": "STRING", "data": 1}}, "value.data"),
        ({"value": {"type": "BINARY", "data": "***"}}, "value.data"),
        ({"value": "plain"}, "value"),
        ({"partition_id": -1}, "partition_id"),
        ({"headers": [{"value": "eA=="}]}, "name"),
        ({"headers": [{"name": "x"}] * 1_001}, "headers"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2013-01-01T10:00:00"}, "timestamp"),
        ({"timestamp": "1969-12-31T23:59:59Z"}, "timestamp"),
        ({"vaule": None}, "vaule"),
    ],
)
def test_what_breaks_a_rule_is_named(fields, named):
    with pytest.raises(InvalidRequestError, match=named) as caught:
        parsed(**fields)
    assert not isinstance(caught.value, MalformedBodyError)


@pytest.mark.parametrize(
    "document", [b"{", b'{"a" 1}', b'{"value": {"type": "JSON", "data": "\xff"}}']
)
def test_what_is_no_json_is_told_apart(document):
    with pytest.raises(MalformedBodyError):
        parse_record(document)


def batch(*entries):
    return parse_batch(json.dumps({"entries": list(entries)}).encode())


def test_each_entry_of_a_batch_is_a_record_or_an_error():
    good, bad = batch(
        {"id": "1", "value": {"type": "STRING", "data": "x"}},
        {"id": "b-2", "value": {"type": "PROTOBUF", "data": "x"}},
    )
    assert (good.entry_id, good.record.record.value) == ("1", b"x")
    assert bad.entry_id == "b-2"
    assert isinstance(bad.record, InvalidRequestError)


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([], InvalidRequestError),
        ([{}], InvalidRequestError),
        ([{"id": ""}], InvalidRequestError),
        ([{"id": 1}], InvalidRequestError),
        ([{"id": "a b"}], InvalidRequestError),
        ([{"id": "x" * 81}], InvalidRequestError),
        ([{"id": "1"}, {"id": "1"}], InvalidRequestError),
        ([{"id": str(number)} for number in range(MAX_BATCH_ENTRIES + 1)], MessageTooLargeError),
    ],
)
def test_a_batch_without_good_ids_is_refused_as_a_whole(entries, error):
    with pytest.raises(error):
        batch(*entries)
