"""JSON records: text kept as sent, one form per field, errors that name record and rule."""

import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol import json_records as jr
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError
from ottla_protocol.json_records import (
    ParsedRecord,
    parse_record_line,
    parse_records,
    parse_topic_records,
)
from ottla_protocol.record_codec import Record


def body_of(*records):
    return b'{"records":[' + b",".join(records) + b"]}"


def parse_one(record):
    (parsed,) = parse_records(body_of(record))
    assert parse_record_line(record + b"\n", 0) == parsed
    return parsed


def rendered(record, fmt, **where):
    (document,) = json.loads(jr.render_records([record], fmt, **where))
    return document


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b'{"a" : 1.50E+3 ,\t"b":[ 1 ,\r\n2 ] }', b'{"a":1.50E+3,"b":[1,2]}'),
        (b"1e400", b"1e400"),
        (b"12345678901234567890123", b"12345678901234567890123"),
        (b"-0", b"-0"),
        (b"1.10", b"1.10"),
        (b'"two  words \\" \\u00e9"', b'"two  words \\" \\u00e9"'),
        ('"žluťoučký kůň"'.encode(), '"žluťoučký kůň"'.encode()),
        (b"{ }", b"{}"),
        (b"[ ]", b"[]"),
        (b"true", b"true"),
        (b'"null"', b'"null"'),
        (b'{"a":1, "a":2}', b'{"a":1,"a":2}'),
    ],
)
def test_json_values_keep_their_text_without_whitespace(sent, stored):
    assert parse_one(b'{"value": ' + sent + b" }").value == stored


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b'{"value":null}', ParsedRecord(None, None)),
        (b'{"key":null,"value":1}', ParsedRecord(None, b"1")),
        (b'{"key":"","value":1}', ParsedRecord(b"", b"1")),
        ('{"key":"ž","value":1}'.encode(), ParsedRecord("ž".encode(), b"1")),
        (b'{"key_b64":"/wA=","value":1}', ParsedRecord(b"\xff\x00", b"1")),
        (b'{"key":null,"key_b64":"AA==","value":1}', ParsedRecord(b"\x00", b"1")),
        (b'{"value_text":" a\\n"}', ParsedRecord(None, b" a\n")),
        (b'{"value_text":"null"}', ParsedRecord(None, b"null")),
        (b'{"value_b64":""}', ParsedRecord(None, b"")),
        (b'{"value":1,"timestamp":0,"partition":3}', ParsedRecord(None, b"1", (), 0, 3)),
        (
            b'{"value":1,"headers":{"a":"x","b":{"b64":"/w=="},"c":null}}',
            ParsedRecord(None, b"1", (("a", b"x"), ("b", b"\xff"), ("c", None))),
        ),
        (
            b'{"value":1,"headers":[["a","x"],["a",{"b64":"/w=="}],["a",null]]}',
            ParsedRecord(None, b"1", (("a", b"x"), ("a", b"\xff"), ("a", None))),
        ),
        (b'{"value":1,"headers":{}}', ParsedRecord(None, b"1")),
        (b'{"value":1,"headers":null,"timestamp":null}', ParsedRecord(None, b"1")),
    ],
)
def test_every_form_of_every_field(record, expected):
    assert parse_one(record) == expected


GOOD = b'{"value":1}'


@pytest.mark.parametrize(
    ("record", "field", "rule"),
    [
        (b"{}", "", "one of value, value_text and value_b64 is needed"),
        (b'{"key":"a"}', "", "one of value, value_text and value_b64 is needed"),
        (b'{"value":1,"value_b64":""}', "", "value and value_b64 exclude each other"),
        (b'{"value":null,"value_text":""}', "", "value and value_text exclude each other"),
        (b'{"value_b64":"","value_text":""}', "", "value_text and value_b64 exclude each other"),
        (b'{"key":"a","key_b64":"","value":1}', "", "key and key_b64 exclude each other"),
        (b'{"value":1,"kye":"a"}', ".kye", "is no field"),
        (b'{"value":1,"transaction":"7.0.t"}', ".transaction", "by the header Ottla-Transaction"),
        (b'{"key":1,"value":1}', ".key", "must be text or null, not a whole number"),
        (b'{"key_b64":"a","value":1}', ".key_b64", "must be base64"),
        (b'{"key_b64":"-_8=","value":1}', ".key_b64", "must be base64"),
        (b'{"value_b64":"YQ"}', ".value_b64", "must be base64"),
        (b'{"value_text":1}', ".value_text", "must be text"),
        (b'{"value_text":null}', ".value_text", "not null"),
        (b'{"value":1,"timestamp":-1}', ".timestamp", "at least 0"),
        (b'{"value":1,"timestamp":1.5}', ".timestamp", "not a fraction"),
        (
            b'{"value":1,"timestamp":9223372036854775808}',
            ".timestamp",
            "at most 9223372036854775807",
        ),
        (b'{"value":1,"timestamp":true}', ".timestamp", "not true or false"),
        (b'{"value":1,"partition":-1}', ".partition", "at least 0"),
        (b'{"value":1,"partition":2147483648}', ".partition", "at most 2147483647"),
        (b'{"value":1,"headers":1}', ".headers", "not a whole number"),
        (b'{"value":1,"headers":{"a":1}}', ".headers", "not a whole number"),
        (b'{"value":1,"headers":[["a"]]}', ".headers[0]", "exactly 2 entries"),
        (b'{"value":1,"headers":{"a":{"b64":"x"}}}', ".headers", "must be base64"),
        (b'{"value":1,"headers":{"a":{"b65":""}}}', ".headers", "field"),
        (b"1", "", "must be an object, not a whole number"),
    ],
)
def test_a_broken_rule_names_record_path_and_rule(record, field, rule):
    with pytest.raises(InvalidRequestError) as in_body:
        parse_records(body_of(GOOD, record, GOOD))
    with pytest.raises(InvalidRequestError) as in_line:
        parse_record_line(record, 1)
    for caught in (in_body.value, in_line.value):
        assert caught.status == 422
        assert caught.detail.startswith("record 1")
        assert rule in caught.detail
        assert caught.members["index"] == 1
        assert caught.members["path"].startswith(f"$.records[1]{field}")
    assert in_body.value.members == in_line.value.members


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"{}", "records: is missing"),
        (b"[]", "body: must be an object, not an array"),
        (b'{"records":{}}', "records: must be an array, not an object"),
        (b'{"records":[]}', "at least one record"),
        (b'{"records":[{"value":1}],"acks":1}', "acks: is no field"),
        (
            b'{"records":[{"value":1}],"transactional_id":"t"}',
            "transactional_id: is no field that there is; records name their transaction by the "
            "header Ottla-Transaction$",
        ),
        (b'{"value":1}', r'value: is no field that there is; records are sent as \{"records": \['),
    ],
)
def test_a_wrong_document_is_refused(body, rule):
    with pytest.raises(InvalidRequestError, match=rule) as caught:
        parse_records(body)
    assert caught.value.status == 422
    assert "index" not in caught.value.members


@pytest.mark.parametrize(
    ("body", "position", "line", "column"),
    [
        (b"", 0, 1, 1),
        (b"{", 1, 1, 2),
        (b'{"records":[{"value":nul}]}', 22, 1, 23),
        (b'{"records":[\n{"value":1},\n {"value":1]}', 37, 3, 12),
        (b'{"records":[{"value":"\xff"}]}', 22, 1, 23),
        (b'{"records":[{"value":1}]} x', 26, 1, 27),
        (b'{"records":[{"value":NaN}]}', 21, 1, 22),
        (b'{"records":[{"value":01}]}', 22, 1, 23),
        (b'\xef\xbb\xbf{"records":[{"value":1}]}', 0, 1, 1),
    ],
)
def test_malformed_json_is_a_400_with_its_position(body, position, line, column):
    with pytest.raises(MalformedBodyError) as caught:
        parse_records(body)
    assert caught.value.status == 400
    assert caught.value.members == {"position": position, "line": line, "column": column}
    assert f"byte {position} (line {line}, column {column})" in caught.value.detail


def test_a_malformed_line_names_its_record():
    with pytest.raises(MalformedBodyError, match=r"^record 7, byte 9") as caught:
        parse_record_line(b'{"value":}', 7)
    assert caught.value.members["index"] == 7


def test_unpaired_surrogates_are_malformed():
    for field in (b"value", b"value_text", b"key"):
        with pytest.raises(MalformedBodyError):
            parse_records(body_of(b'{"' + field + b'":"\\udc00"}'))


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_deep_nesting_is_refused_without_a_crash(depth):
    record = b'{"value":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        parse_records(body_of(record))
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        parse_record_line(record, 0)


def test_limits_are_exact(monkeypatch):
    monkeypatch.setattr(jr, "MAX_RECORDS_PER_REQUEST", 3)
    assert len(parse_records(body_of(*[GOOD] * 3))) == 3
    with pytest.raises(MessageTooLargeError, match="4 records, at most 3"):
        parse_records(body_of(*[GOOD] * 4))
    monkeypatch.setattr(jr, "MAX_HEADERS_PER_RECORD", 1)
    assert parse_one(b'{"value":1,"headers":[["a","b"]]}').headers == (("a", b"b"),)
    with pytest.raises(InvalidRequestError, match="2 headers, at most 1"):
        parse_records(body_of(b'{"value":1,"headers":[["a","b"],["a","b"]]}'))


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_refused_with_a_typed_error(body):
    for parse in (parse_records, lambda line: parse_record_line(line, 0)):
        try:
            parsed = parse(body)
        except InvalidRequestError:
            continue
        assert parsed


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_values_mean_the_same_after_compaction(value, indent, ascii_only):
    sent = json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False).encode()
    stored = parse_one(b'{"value":' + sent + b"}").value
    assert (None if stored is None else json.loads(stored)) == value


# --- rendering ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "auto", "text", "base64"),
    [
        (b"1.10", {"value": 1.1}, {"value_text": "1.10"}, {"value_b64": "MS4xMA=="}),
        (b"abc", {"value_text": "abc"}, {"value_text": "abc"}, {"value_b64": "YWJj"}),
        (b"\xff", {"value_b64": "/w=="}, {"value_b64": "/w=="}, {"value_b64": "/w=="}),
        (b'"\xff"', {"value_b64": "Iv8i"}, {"value_b64": "Iv8i"}, {"value_b64": "Iv8i"}),
        (b"", {"value_text": ""}, {"value_text": ""}, {"value_b64": ""}),
        (b"null", {"value_text": "null"}, {"value_text": "null"}, {"value_b64": "bnVsbA=="}),
        (None, {"value": None}, {"value": None}, {"value": None}),
    ],
)
def test_forms_of_a_value(value, auto, text, base64):
    for fmt, expected in (("auto", auto), ("text", text), ("base64", base64)):
        document = rendered(Record(5, 6, None, value), fmt)
        assert document == {"offset": 5, "timestamp": 6, "key": None, **expected, "headers": {}}


@pytest.mark.parametrize(
    ("key", "fmt", "expected"),
    [
        (b"k", "auto", {"key": "k"}),
        (b"\xff", "text", {"key_b64": "/w=="}),
        (b"k", "base64", {"key_b64": "aw=="}),
        (None, "base64", {"key": None}),
    ],
)
def test_forms_of_a_key(key, fmt, expected):
    document = rendered(Record(0, 0, key, None), fmt)
    assert {name: document[name] for name in document if name.startswith("key")} == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), {}),
        ((("a", b"x"), ("b", b"")), {"a": "x", "b": ""}),
        ((("a", b"x"), ("a", b"x")), [["a", "x"], ["a", "x"]]),
        ((("a", b"\xff"),), [["a", {"b64": "/w=="}]]),
        ((("a", None),), [["a", None]]),
    ],
)
def test_forms_of_headers(headers, expected):
    assert rendered(Record(0, 0, None, None, headers), "auto")["headers"] == expected


def test_json_numbers_keep_their_text_on_the_way_out():
    out = jr.render_records([Record(0, 0, None, b"[1.10,1e400,123456789012345678901]")], "auto")
    assert b'"value":[1.10,1e400,123456789012345678901]' in out


def test_json_format_refuses_other_values_naming_the_offset():
    assert rendered(Record(9, 0, None, b"{}"), "json")["value"] == {}
    assert rendered(Record(9, 0, None, None), "json")["value"] is None
    assert rendered(Record(9, 0, None, b"null"), "json")["value_text"] == "null"
    with pytest.raises(InvalidRequestError, match="offset 9 is not JSON") as caught:
        jr.render_record(Record(9, 0, None, b"abc"), "json")
    assert caught.value.members == {"offset": 9}


def test_topic_and_partition_are_given_when_asked_for():
    document = rendered(Record(0, 0, None, None), "auto", topic="orders", partition=0)
    assert (document["topic"], document["partition"]) == ("orders", 0)
    assert not {"topic", "partition"} & set(rendered(Record(0, 0, None, None), "auto"))


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_deeply_nested_values_are_rendered_as_text(depth):
    value = b"[" * depth + b"]" * depth
    assert rendered(Record(0, 0, None, value), "auto")["value_text"] == value.decode()


def test_lines_hold_one_record_each_even_for_values_with_line_ends():
    records = [Record(0, 0, None, b'{\n "a": 1\r\n}\n'), Record(1, 0, None, b"a\nb")]
    lines = jr.render_lines(records, "auto", partition=2).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["offset"] for line in lines] == [0, 1]
    assert json.loads(lines[0])["value"] == {"a": 1}
    assert json.loads(b"[" + b",".join(lines) + b"]") == json.loads(
        jr.render_records(records, "auto", partition=2)
    )


def compact(value):
    try:
        value.decode()
        return msgspec.json.format(value, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value


json_like = st.text(alphabet=string.digits + '{}[]":, .-eabcntru\\\n', max_size=12)
values = st.none() | st.binary(max_size=12) | json_like.map(str.encode)
values |= json_values.map(lambda value: json.dumps(value, allow_nan=False).encode())


@given(
    key=st.none() | st.binary(max_size=6) | st.text(max_size=6).map(str.encode),
    value=values,
    headers=st.lists(
        st.tuples(st.text(max_size=2), st.none() | st.binary(max_size=4)), max_size=3
    ).map(tuple),
    timestamp=st.integers(0, jr.MAX_TIMESTAMP),
    fmt=st.sampled_from(["auto", "text", "base64"]),
)
def test_parsing_what_was_rendered_gives_the_same_record(key, value, headers, timestamp, fmt):
    record = Record(3, timestamp, key, value, headers)
    line = jr.render_lines([record], fmt, partition=7)
    document = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    assert bytes(document.pop("offset")) == b"3"
    parsed = parse_one(msgspec.json.encode(document))
    # JSON comes back compact, save for the text null, which is told as text.
    json_value = compact(value) if fmt == "auto" and value is not None else value
    expected = value if json_value == b"null" else json_value
    assert parsed == ParsedRecord(key, expected, headers, timestamp, 7)


json_like = st.one_of(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value, separators=(",", ":")).encode()),
    st.text(alphabet='{}[]",:\\ \n\ttrue1.e-nulé\x01', max_size=12).map(str.encode),
    st.binary(max_size=8),
)


@given(json_like)
def test_what_has_no_whitespace_is_json_exactly_if_it_can_be_written_anew(value):
    """Looking must not take for JSON what would break a line or a reader."""
    try:
        value.decode()
        expected = msgspec.json.format(value, indent=-1)
    except (UnicodeDecodeError, msgspec.DecodeError):
        expected = None
    assert jr._compact_json(value) == expected


@given(
    st.none() | st.binary(max_size=5) | st.text(max_size=5).map(str.encode),
    st.none() | json_like,
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=3),
    st.sampled_from(["auto", "text", "base64"]),
    st.none() | st.sampled_from(["orders", '\u20ac"']),
    st.none() | st.integers(0, 9),
)
def test_texts_are_those_of_the_rendered_records(key, value, headers, fmt, topic, partition):
    record = Record(7, 1_700_000_000_000, key, value, tuple(headers))
    where = {"topic": topic, "partition": partition}
    expected = msgspec.json.encode(jr.render_record(record, fmt, **where))
    assert jr.render_texts([record, record], fmt, **where) == [expected, expected]


@pytest.mark.parametrize(
    "body",
    [
        *(b"hello", b" hello", b"test", b"n", b"first one", b"12 apples", b'"text"', b"[1]", b"-x"),
        *(b"null", b"gr\xfc\xdfe", b"\xff\xd8\xff\xe0", b"\x00\x00"),
    ],
)
def test_a_body_that_may_be_meant_as_a_value_is_told_how_to_send_one(body):
    with pytest.raises(InvalidRequestError, match=r'as \{"records": .*application/octet-stream$'):
        parse_records(body)
    # There is no way to send one value where each record names its topic.
    with pytest.raises(InvalidRequestError, match=r'sent as \{"records": \[\{"topic": ') as caught:
        parse_topic_records(body)
    assert "octet-stream" not in caught.value.detail


@pytest.mark.parametrize("body", [b"", b" \n", b'{"records": [}', b' {"records": "\xff"}', b"{"])
def test_a_body_that_is_meant_as_a_document_is_told_of_no_values(body):
    for parse in (parse_records, parse_topic_records):
        with pytest.raises(MalformedBodyError) as caught:
            parse(body)
        assert "records are sent" not in caught.value.detail


def test_a_document_of_other_fields_is_told_those_of_its_call():
    with pytest.raises(InvalidRequestError, match=r'sent as \{"records": \[\{"key": ...,'):
        parse_records(b'{"value": 1}')
    with pytest.raises(InvalidRequestError, match=r'sent as \{"records": \[\{"topic": ...,'):
        parse_topic_records(b'{"value": 1}')
