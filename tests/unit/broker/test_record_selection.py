"""Filters by key and value, projections, and the parameters that ask for them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.query import Query
from ottla_broker.http.selections import MAX_KEY_CHARACTERS, SELECTION_PARAMETERS, selection_of
from ottla_broker.services.record_view import MAX_FIELD_DEPTH, MAX_FIELDS, RecordView
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.record_codec import Record

RECORDS = [
    Record(0, 10, b"N1", b'{"origin":"JFK","delay":4.10,"gate":{"no":7,"open":true}}'),
    Record(1, 11, b"N12", b'{"origin":"LGA"}', (("trace", b"x"),)),
    Record(2, 12, None, b"plain"),
    Record(3, 13, b"", None),
    Record(4, 14, b"\xff", b'[1, "JFK"]'),
]


def _offsets(**parameters: str) -> list[int]:
    selection = selection_of(Query(parameters.items(), SELECTION_PARAMETERS))
    assert selection.filter is not None
    return [record.offset for record in selection.filter.select(RECORDS)]


def test_filters_by_key_and_value() -> None:
    assert _offsets(key="N1") == [0]
    assert _offsets(key="") == [3]
    assert _offsets(key_prefix="N1") == [0, 1]
    assert _offsets(key_prefix="") == [0, 1, 3, 4]
    assert _offsets(where="!$.delay") == [1, 4]
    assert _offsets(where="$[1] == 'JFK'") == [4]
    assert _offsets(key_prefix="N", where="$.delay > 4") == [0]
    assert _offsets(key="N1", key_prefix="N2") == []


def test_nothing_asked_is_no_filter() -> None:
    selection = selection_of(Query([("format", "text")], SELECTION_PARAMETERS))
    assert selection.filter is None
    assert selection.view.record_format == "text"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"key": "k" * (MAX_KEY_CHARACTERS + 1)}, "key"),
        ({"key_prefix": "k" * (MAX_KEY_CHARACTERS + 1)}, "key_prefix"),
        ({"key": "N\ufffd"}, "key"),
        ({"key_prefix": "\ufffd"}, "key_prefix"),
        ({"where": ""}, "where"),
        ({"format": "xml"}, "format"),
        ({"fields": ""}, "fields"),
        ({"fields": "offset,"}, "fields"),
        ({"fields": "offset,colour"}, "fields"),
        ({"fields": "key.a"}, "fields"),
        ({"fields": "value."}, "fields"),
        ({"fields": "value..a"}, "fields"),
        ({"fields": "value.a", "format": "base64"}, "fields"),
        ({"fields": ",".join(["key"] * (MAX_FIELDS + 1))}, "fields"),
        ({"fields": "value" + ".a" * (MAX_FIELD_DEPTH + 1)}, "fields"),
        ({"fields": "value." + "a" * 3_000}, "fields"),
    ],
)
def test_refuses_and_names_the_parameter(parameters: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        selection_of(Query(parameters.items(), SELECTION_PARAMETERS))
    assert refused.value.members["parameter"] == named


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ("offset", '{"offset":0}'),
        ("key,offset", '{"offset":0,"key":"N1"}'),
        # The text of a number stays what it was.
        ("value.delay", '{"value":{"delay":4.10}}'),
        ("value.gate.open,value.origin", '{"value":{"gate":{"open":true},"origin":"JFK"}}'),
        ("value.gate.open,value.gate", '{"value":{"gate":{"no":7,"open":true}}}'),
        ("value.gate,value.gate.open", '{"value":{"gate":{"no":7,"open":true}}}'),
        ("value.missing,timestamp", '{"timestamp":10,"value":{}}'),
        ("value.origin.x", '{"value":{}}'),
        ("headers", '{"headers":{}}'),
    ],
)
def test_projects(fields: str, line: str) -> None:
    assert RecordView("auto", fields).lines(RECORDS[:1]).decode() == line + "\n"


def test_members_of_what_is_no_object() -> None:
    lines = RecordView("auto", "offset,value.origin").lines(RECORDS).decode().splitlines()
    assert lines[1:] == [
        '{"offset":1,"value":{"origin":"LGA"}}',
        '{"offset":2}',
        # A tombstone stays one.
        '{"offset":3,"value":null}',
        '{"offset":4}',
    ]


def test_projections_name_topic_and_partition_where_asked() -> None:
    view = RecordView("base64", "key")
    assert view.array(RECORDS[4:], topic="t", partition=2) == (
        b'[{"topic":"t","partition":2,"key_b64":"/w=="}]'
    )


_names = st.sampled_from(["a", "b", "c"])
_values = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(_names, _values), st.lists(st.lists(_names, min_size=1, max_size=3), min_size=1)
)
def test_projections_are_what_is_at_the_paths(
    value: dict[str, object], paths: list[list[str]]
) -> None:
    fields = ",".join(".".join(["value", *path]) for path in paths)
    body = RecordView("auto", fields).array([Record(0, 0, None, msgspec.json.encode(value))])
    (told,) = msgspec.json.decode(body)

    def at(document: object, path: list[str]) -> tuple[bool, object]:
        for name in path:
            if not isinstance(document, dict) or name not in document:
                return False, None
            document = document[name]
        return True, document

    whole = [path for path in paths if not any(path[: len(o)] == o != path for o in paths)]
    for path in whole:
        assert at(told["value"], path) == at(value, path)
    names = {path[0] for path in paths}
    assert set(told["value"]) <= names
