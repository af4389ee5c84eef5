"""Answers of reads by media type, their tags, and how long they may be kept."""

from dataclasses import replace
from urllib.parse import unquote, unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.entity_tags import cache_control, is_not_modified
from ottla_broker.http.query import Query
from ottla_broker.http.record_answers import ReadSource, answer, wanted_answer
from ottla_broker.http.record_headers import MAX_FIELDS, MAX_FIELDS_BYTES, record_fields
from ottla_broker.http.selections import SELECTION_PARAMETERS
from ottla_broker.services.record_read import RecordsRead
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, NotAcceptableError
from ottla_protocol.record_codec import Record

RECORDS = (Record(5, 10, b"a", b'{"n":1}'), Record(6, 11, None, b"text", (("h", b"x"),)))
FOUND = RecordsRead("id", RECORDS, 5, 7, True, 20, 2, 30)
SOURCE = ReadSource("t", 3, None, False, False, True)


def answered(media_type, found=FOUND, source=SOURCE, if_none_match=None, **parameters):
    wanted = wanted_answer(Query(parameters.items(), SELECTION_PARAMETERS), media_type)
    return answer(found, source, wanted, if_none_match)


def test_json_tells_all_in_one_document():
    response = answered(routes.JSON)
    assert response.content_type == routes.JSON
    assert msgspec.json.decode(response.body) == {
        "topic": "t",
        "partition": 3,
        "records": [
            {"offset": 5, "timestamp": 10, "key": "a", "value": {"n": 1}, "headers": {}},
            {
                "offset": 6,
                "timestamp": 11,
                "key": None,
                "value_text": "text",
                "headers": {"h": "x"},
            },
        ],
        "next_offset": 7,
        "high_watermark": 20,
        "log_start_offset": 2,
    }


def test_lines_are_the_records_and_the_rest_is_in_the_headers():
    response = answered(routes.NDJSON, fields="offset")
    assert response.body == b'{"offset":5}\n{"offset":6}\n'
    for name, value in (("Next-Offset", "7"), ("High-Watermark", "20"), ("Log-Start-Offset", "2")):
        assert response.headers[name] == value
    assert response.headers["Vary"] == "Accept"


def test_bytes_of_one_record():
    response = answered(routes.OCTET_STREAM, replace(FOUND, records=RECORDS[1:]))
    assert (response.status, response.body, response.content_type) == (
        200, b"text", routes.OCTET_STREAM,
    )  # fmt: skip
    headers = response.headers
    assert (headers["Ottla-Offset"], headers["Ottla-Timestamp"]) == ("6", "11")
    assert (headers["Ottla-Header-h"], "Ottla-Key" in headers) == ("x", False)
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_no_record_has_no_bytes_and_a_tombstone_says_so():
    nothing = answered(routes.OCTET_STREAM, replace(FOUND, records=()))
    assert (nothing.status, nothing.headers["Next-Offset"]) == (204, "7")
    deleted = replace(FOUND, records=(Record(5, 1, b"k", None),))
    response = answered(routes.OCTET_STREAM, deleted)
    assert (response.status, response.body) == (200, b"")
    assert response.headers["Ottla-Tombstone"] == "true"
    empty = answered(routes.OCTET_STREAM, replace(FOUND, records=(Record(5, 1, b"k", b""),)))
    assert "Ottla-Tombstone" not in empty.headers


@pytest.mark.parametrize("name", ["format", "fields"])
def test_bytes_take_no_parameter_of_json(name):
    with pytest.raises(InvalidRequestError):
        answered(routes.OCTET_STREAM, **{name: "text" if name == "format" else "offset"})


def tag(media_type=routes.NDJSON, found=FOUND, source=SOURCE, **parameters):
    return answered(media_type, found, source, **parameters).headers["ETag"]


def test_the_tag_is_that_of_the_content():
    """Not of the batches, nor of what moves around it."""
    assert tag() == tag()
    moved = replace(FOUND, high_watermark=99, log_start_offset=4, size_bytes=1)
    assert tag(found=moved) == tag()
    others = [
        tag(found=replace(FOUND, topic_id="other")),
        tag(found=replace(FOUND, records=RECORDS[:1])),
        tag(found=replace(FOUND, records=RECORDS[1:])),
        tag(found=replace(FOUND, next_offset=8)),
        tag(found=replace(FOUND, offset=4)),
        tag(source=SOURCE._replace(partition=4)),
        tag(source=SOURCE._replace(unclean_leader_epoch=3)),
        tag(fields="offset"),
        tag(format="base64"),
        tag(routes.JSON),
    ]
    assert len({tag(), *others}) == len(others) + 1


def test_only_the_document_with_bounds_that_move_has_a_weak_tag():
    one = replace(FOUND, records=RECORDS[:1])
    assert tag(routes.JSON).startswith('W/"')
    assert tag(routes.NDJSON).startswith('"')
    assert tag(routes.OCTET_STREAM, one).startswith('"')


@pytest.mark.parametrize("media_type", [routes.JSON, routes.NDJSON])
def test_who_has_the_answer_is_told_so(media_type):
    known = tag(media_type)
    opaque = known.removeprefix("W/")
    for field in (known, opaque, f"W/{opaque}", "*", f'"x", {known}', f'"a,b" , {known}'):
        response = answered(media_type, if_none_match=field)
        assert (response.status, response.body) == (304, None), field
        assert response.headers["ETag"] == known
        assert response.headers["Next-Offset"] == "7"
    for field in (None, "", '"x"', opaque.strip('"'), f'"x{opaque}', known[:-2] + '"'):
        assert answered(media_type, if_none_match=field).status == 200, field


def test_an_open_quote_is_looked_at_once():
    assert not is_not_modified('"' * 100_000, '"x"')
    assert not is_not_modified('"a' * 100_000, '"x"')


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "max-age=3600, immutable"),
        ({"is_full": False}, "no-store"),
        ({"is_local": True}, "no-store"),
        ({"is_at_an_offset": False}, "no-cache"),
        ({"is_compacted": True}, "no-cache"),
        ({"is_compacted": True, "is_full": False}, "no-store"),
    ],
)
def test_only_what_cannot_change_is_kept(changes, expected):
    plain = {
        "is_full": True, "is_local": False, "is_at_an_offset": True, "is_compacted": False,
    }  # fmt: skip
    assert cache_control(**plain | changes) == expected


def test_what_is_not_stored_has_no_tag():
    at_the_tail = replace(FOUND, is_full=False)
    response = answered(routes.NDJSON, at_the_tail, if_none_match="*")
    assert (response.status, "ETag" in response.headers) == (200, False)


_names = st.text(max_size=6)
_values = st.binary(max_size=12)


@given(st.none() | _values, st.lists(st.tuples(_names, _values), max_size=4))
def test_any_bytes_are_safe_as_fields_and_come_back(key, headers):
    fields = record_fields(Record(1, 2, key, b"", tuple(headers)))
    for name, value in fields:
        assert all(0x21 <= ord(character) < 0x7F for character in name + value), (name, value)
        assert not set(name) & set('"(),/:;<=>?@[\\]{}')
    told = [
        (unquote(name.removeprefix("Ottla-Header-")), unquote_to_bytes(value))
        for name, value in fields
        if name.startswith("Ottla-Header-")
    ]
    assert told == headers
    assert dict(fields).get("Ottla-Key") == (None if key is None else dict(fields)["Ottla-Key"])
    if key is not None:
        assert unquote_to_bytes(dict(fields)["Ottla-Key"]) == key


def test_what_does_not_fit_into_fields_is_not_acceptable():
    many = tuple(("h", b"") for _ in range(MAX_FIELDS))
    for record in (
        Record(7, 0, None, b"", many),
        Record(7, 0, b"k" * MAX_FIELDS_BYTES, b""),
        # Each of these takes three characters.
        Record(7, 0, b"\xff" * (MAX_FIELDS_BYTES // 3), b""),
    ):
        with pytest.raises(NotAcceptableError) as refused:
            record_fields(record)
        assert refused.value.members["offered"] == [routes.JSON, routes.NDJSON]
