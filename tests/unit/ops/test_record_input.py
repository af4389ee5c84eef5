"""Lines become records byte for byte, and batches that close when full or when input pauses."""

import base64
import json
import os
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_ops.cli import record_input
from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.record_input import RecordFormat, encode_record, read_batches

TEXT = RecordFormat()
NDJSON = RecordFormat(ndjson=True)


def records_of(data, record_format=TEXT):
    """The records of all batches of an input."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        batches = list(read_batches(file.fileno(), record_format))
    records = [record for batch in batches for record in json.loads(batch.body)["records"]]
    assert sum(batch.records for batch in batches) == len(records)
    return records


def stored(record, name):
    """The bytes that a broker stores for the key or the value of a record."""
    if f"{name}_b64" in record:
        return base64.b64decode(record[f"{name}_b64"])
    text = record.get("value_text" if name == "value" else "key")
    return None if text is None else text.encode()


line = st.binary(max_size=30).map(lambda data: data.replace(b"\n", b" "))


@given(st.lists(line, max_size=20), st.booleans())
def test_text_lines_are_stored_as_the_same_bytes(lines, with_final_newline):
    data = b"\n".join(lines)
    data += b"\n" if with_final_newline and lines else b""
    expected = data.removesuffix(b"\n").split(b"\n") if data else []
    assert [stored(record, "value") for record in records_of(data)] == expected


@given(line, line)
def test_a_key_is_what_stands_before_the_first_separator(key, value):
    key = key.replace(b":", b"")
    record = json.loads(encode_record(key + b":" + value, RecordFormat(key_separator=":")))
    assert (stored(record, "key"), stored(record, "value")) == (key, value)


def test_the_same_key_for_every_record():
    records = records_of(b"a\nb\n", RecordFormat(key="ключ"))
    assert [record["key"] for record in records] == ["ключ", "ключ"]


def test_a_line_without_its_separator_is_named():
    with pytest.raises(CommandError, match="line 2: there is no key separator"):
        records_of(b"a:b\nc\n", RecordFormat(key_separator=":"))


def test_json_values_keep_their_text():
    text = b'{"n": 1.10, "big": 123456789012345678901234567890, "e": 1e5}'
    with tempfile.TemporaryFile() as file:
        file.write(text + b"\n")
        file.seek(0)
        (batch,) = read_batches(file.fileno(), NDJSON)
    assert batch.body == b'{"records":[{"value":' + text + b"}]}"


def test_blank_json_lines_are_skipped():
    assert [record["value"] for record in records_of(b"1\n\n  \r\n2", NDJSON)] == [1, 2]


@pytest.mark.parametrize("broken", [b"{", b"{}x", b'{"a":tru}', b'"\xff"', b"nul"])
def test_a_line_that_is_no_json_is_named_and_the_lines_before_it_are_kept(broken):
    with tempfile.TemporaryFile() as file:
        file.write(b"1\n" + broken + b"\n3\n")
        file.seek(0)
        batches = read_batches(file.fileno(), NDJSON)
        assert json.loads(next(batches).body)["records"] == [{"value": 1}]
        with pytest.raises(CommandError, match=r"^line 2: "):
            next(batches)


@pytest.mark.parametrize(
    ("member", "key"),
    [
        (b'"text"', "text"),
        (b'"\\u00e9\\""', 'é"'),
        (b"12.50", "12.50"),
        (b"true", "true"),
        (b"null", None),
    ],
)
def test_a_key_field_is_taken_as_text(member, key):
    value = b'{"k":' + member + b',"n":1}'
    (record,) = records_of(value, RecordFormat(ndjson=True, key_field="k"))
    assert record.get("key") == key
    assert record["value"] == json.loads(value)


def test_a_record_without_the_key_field_has_no_key():
    assert "key" not in records_of(b"{}", RecordFormat(ndjson=True, key_field="k"))[0]


@pytest.mark.parametrize("value", [b"[1]", b'{"k":{}}', b'{"k":[1]}', b"1"])
def test_a_key_field_that_cannot_be_a_key_is_named(value):
    with pytest.raises(CommandError, match=r"^line 1: "):
        records_of(value, RecordFormat(ndjson=True, key_field="k"))


def test_batches_are_bounded_by_records():
    with tempfile.TemporaryFile() as file:
        file.write(b"x\n" * (2 * record_input.BATCH_RECORDS_MAX + 1))
        file.seek(0)
        counts = [batch.records for batch in read_batches(file.fileno(), TEXT)]
    assert counts == [record_input.BATCH_RECORDS_MAX] * 2 + [1]


def test_batches_are_bounded_by_bytes():
    size = record_input.BATCH_BYTES_MAX // 4 - 100
    with tempfile.TemporaryFile() as file:
        file.write((b"x" * size + b"\n") * 9)
        file.write(b"x" * 2 * record_input.BATCH_BYTES_MAX)
        file.seek(0)
        batches = list(read_batches(file.fileno(), TEXT))
    assert [batch.records for batch in batches] == [4, 4, 1, 1]
    assert [batch.input_bytes for batch in batches[:3]] == [4 * (size + 1)] * 2 + [size + 1]
    assert max(len(batch.body) for batch in batches[:3]) < record_input.BATCH_BYTES_MAX + 100


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(record_input, "LINE_BYTES_MAX", 100_000)
    with pytest.raises(CommandError, match="longer than 100000 bytes"):
        records_of(b"x" * 300_000)


def test_a_pause_of_the_input_closes_the_batch():
    reader, writer = os.pipe()
    batches = read_batches(reader, TEXT)
    try:
        os.write(writer, b"a\nb\nincompl")
        assert json.loads(next(batches).body)["records"] == [
            {"value_text": "a"},
            {"value_text": "b"},
        ]
        os.write(writer, b"ete\n")
        assert json.loads(next(batches).body)["records"] == [{"value_text": "incomplete"}]
        threading.Timer(0.1, os.close, [writer]).start()
        assert list(batches) == []
    finally:
        os.close(reader)
