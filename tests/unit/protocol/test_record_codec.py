"""Records through the compiled codec, against kafka-python's own, and against hostile batches."""

import subprocess
import sys
from types import SimpleNamespace

import cramjam
import google_crc32c
import kafka.codec
import kafka.record.default_records as kafka_python
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_protocol import record_batch as rb
from ottla_protocol.compression import deflate
from ottla_protocol.errors import CorruptMessageError, InvalidRequestError, MessageTooLargeError
from ottla_protocol.record_codec import (
    Record,
    RecordData,
    decode_batch,
    decode_consumed_batch,
    encode_batch,
)

MAX_INFLATED_BYTES = 1_000_000

headers = st.lists(
    st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3
).map(tuple)
records = st.lists(
    st.builds(
        RecordData,
        timestamp=st.integers(0, 2**45),
        key=st.none() | st.binary(max_size=20),
        value=st.none() | st.binary(max_size=80),
        headers=headers,
    ),
    min_size=1,
    max_size=8,
)
codecs = st.sampled_from(list(rb.Compression))


def fields(record):
    return (record.timestamp, record.key, record.value, tuple(record.headers))


def decode(batch):
    return decode_batch(batch, max_inflated_bytes=MAX_INFLATED_BYTES)


def batch_of_body(body, *, count=1, compression=0, last_offset_delta=None):
    """A batch with a right length, count and CRC around any bytes as records."""
    batch = encode_batch([RecordData(1_000, None, None)])[: rb.HEADER_BYTES] + body
    batch[22] |= compression
    batch[23:27] = (count - 1 if last_offset_delta is None else last_offset_delta).to_bytes(4)
    batch[57:61] = count.to_bytes(4)
    rb.seal_batch(batch)
    return batch


def varint(value):
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record_body(*, offset_delta=0, tail=b"\x01\x01\x00"):
    """One record's bytes; the tail is key length -1, value length -1 and no headers."""
    content = b"\x00" + varint(0) + varint(offset_delta) + tail
    return varint(len(content)) + content


@pytest.fixture(autouse=True, scope="module")
def kafka_python_with_codecs():
    """Give kafka-python the codecs whose wheels are not installed; framing stays its own."""
    patch = pytest.MonkeyPatch()
    snappy = SimpleNamespace(
        compress=lambda data: bytes(cramjam.snappy.compress_raw(data)),
        decompress=lambda data: bytes(cramjam.snappy.decompress_raw(data)),
    )
    patch.setattr(kafka.codec, "snappy", snappy)
    for name in ("has_lz4", "has_zstd"):
        patch.setattr(kafka.codec, name, lambda: True)
    for name, module in (("lz4", cramjam.lz4), ("zstd", cramjam.zstd)):
        patch.setattr(
            kafka_python, f"{name}_encode", lambda data, m=module: bytes(m.compress(data))
        )
        patch.setattr(
            kafka_python, f"{name}_decode", lambda data, m=module: bytes(m.decompress(data))
        )
    yield
    patch.undo()


@given(records, codecs)
def test_decode_gives_back_what_was_encoded(given_records, compression):
    batch = encode_batch(given_records, compression=compression, base_offset=40, leader_epoch=3)
    header = rb.validate_batch(batch, on_append=True)
    assert header.compression is compression
    assert (header.base_offset, header.leader_epoch) == (40, 3)
    assert header.record_count == len(given_records)
    decoded = decode(batch)
    assert [fields(record) for record in decoded] == [fields(record) for record in given_records]
    assert [record.offset for record in decoded] == list(range(40, 40 + len(given_records)))


@given(records, codecs)
def test_kafka_python_reads_what_we_encode(given_records, compression):
    batch = encode_batch(
        given_records, compression=compression, producer_id=9, producer_epoch=1, base_sequence=5
    )
    reader = kafka_python.DefaultRecordBatch(bytes(batch))
    assert reader.validate_crc()
    assert (reader.producer_id, reader.producer_epoch, reader.base_sequence) == (9, 1, 5)
    assert [fields(record) for record in reader] == [fields(record) for record in given_records]


@given(records, codecs)
def test_we_decode_what_kafka_python_encodes(given_records, compression):
    builder = kafka_python.DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 20)
    for index, record in enumerate(given_records):
        builder.append(index, record.timestamp, record.key, record.value, list(record.headers))
    batch = builder.build()
    rb.validate_batch(batch, on_append=True)
    assert [fields(record) for record in decode(batch)] == [
        fields(record) for record in given_records
    ]


@given(records)
def test_uncompressed_batches_are_byte_for_byte_those_of_kafka_python(given_records):
    builder = kafka_python.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for index, record in enumerate(given_records):
        builder.append(index, record.timestamp, record.key, record.value, list(record.headers))
    theirs = bytearray(builder.build())
    rb.patch_batch(theirs, base_offset=0, leader_epoch=-1)
    assert encode_batch(given_records) == theirs


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("compression", list(rb.Compression))
def test_every_kind_of_buffer_decodes(kind, compression):
    batch = kind(encode_batch([RecordData(1, b"k", b"v")], compression=compression))
    assert decode(batch) == [Record(0, 1, b"k", b"v")]


def test_transactional_and_control_bits_are_set_and_covered_by_the_crc():
    marker = encode_batch(
        [RecordData(1, b"\0\0\0\1", b"\0" * 6)],
        compression=rb.Compression.ZSTD,
        producer_id=1,
        producer_epoch=0,
        is_transactional=True,
        is_control=True,
    )
    header = rb.validate_batch(marker, on_append=False)
    assert header.is_control
    assert header.is_transactional
    assert decode(marker) == [Record(0, 1, b"\0\0\0\1", b"\0" * 6)]


def test_log_append_time_holds_for_every_record():
    batch = encode_batch([RecordData(1, None, b"a"), RecordData(2, None, b"b")])
    rb.set_log_append_time(batch, 77)
    assert [record.timestamp for record in decode(batch)] == [77, 77]


def test_a_batch_without_timestamps_reads_as_minus_one():
    batch = encode_batch([RecordData(1, None, b"a")])
    batch[27:43] = b"\xff" * 16
    rb.seal_batch(batch)
    assert decode(batch)[0].timestamp == rb.NO_TIMESTAMP


def test_no_records_and_negative_first_timestamps_are_refused():
    with pytest.raises(InvalidRequestError, match="at least one record"):
        encode_batch([])
    with pytest.raises(InvalidRequestError, match="timestamp -1"):
        encode_batch([RecordData(-1, None, b"a")])


def test_a_large_record_passes():
    value = bytes(range(256)) * 40_000
    batch = encode_batch([RecordData(1, None, value)], compression=rb.Compression.LZ4)
    assert decode_batch(batch, max_inflated_bytes=11_000_000)[0].value == value


@pytest.mark.parametrize("compression", list(rb.Compression))
def test_inflation_is_bounded(compression):
    batch = encode_batch([RecordData(1, None, bytes(2_000_000))], compression=compression)
    with pytest.raises(MessageTooLargeError):
        decode_batch(batch, max_inflated_bytes=1_999_999)


@pytest.mark.parametrize("count", [1, 3])
def test_a_count_that_is_not_the_number_of_records_is_corrupt(count):
    two = record_body() + record_body(offset_delta=1)
    with pytest.raises(CorruptMessageError, match="does not decode"):
        decode(batch_of_body(two, count=count))
    assert len(decode(batch_of_body(two, count=2))) == 2


def test_garbage_after_the_records_is_corrupt():
    for compression in rb.Compression:
        body = record_body() + b"\x00"
        if compression is not rb.Compression.NONE:
            body = deflate(compression, body)
        with pytest.raises(CorruptMessageError, match="unconsumed"):
            decode(batch_of_body(body, compression=compression))


@pytest.mark.parametrize("deltas", [(0, 0), (1, 0), (0, 2), (-1, 0), (1, 1)])
def test_offsets_must_be_those_that_the_header_promises(deltas):
    body = b"".join(record_body(offset_delta=delta) for delta in deltas)
    with pytest.raises(CorruptMessageError, match="offset"):
        decode(batch_of_body(body, count=2))


def test_gaps_that_compaction_left_are_kept_and_their_order_checked():
    body = record_body(offset_delta=1) + record_body(offset_delta=4)
    batch = batch_of_body(body, count=2, last_offset_delta=9)
    assert [record.offset for record in decode(batch)] == [1, 4]
    for bad in ((4, 1), (4, 4), (1, 10), (-1, 4)):
        body = b"".join(record_body(offset_delta=delta) for delta in bad)
        with pytest.raises(CorruptMessageError, match="offset"):
            decode(batch_of_body(body, count=2, last_offset_delta=9))


HUGE = [2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63 - 100, -(2**63), -2]


@pytest.mark.parametrize("length", HUGE)
@pytest.mark.parametrize(
    "place", ["record", "key", "value", "header count", "header name", "header"]
)
def test_lying_inner_lengths_are_corrupt(place, length):
    lie = varint(length)
    tails = {
        "key": lie + b"\x01\x00",
        "value": b"\x01" + lie + b"\x00",
        "header count": b"\x01\x01" + lie,
        "header name": b"\x01\x01\x02" + lie + b"\x01",
        "header": b"\x01\x01\x02\x02n" + lie,
    }
    if place == "record":
        body = lie + record_body()[1:]
    elif place in ("key", "value", "header") and length < 0:
        # Any negative length is null to the codec: what must not happen is a crash.
        decode(batch_of_body(record_body(tail=tails[place])))
        return
    else:
        body = record_body(tail=tails[place])
    with pytest.raises(CorruptMessageError, match="does not decode"):
        decode(batch_of_body(body))


def test_header_names_that_are_not_utf8_are_corrupt():
    body = record_body(tail=b"\x01\x01\x02\x02\xff\x01")
    with pytest.raises(CorruptMessageError, match="does not decode"):
        decode(batch_of_body(body))


@given(st.binary(max_size=64), st.integers(1, 4), codecs)
def test_any_body_behind_a_right_crc_decodes_or_is_refused(body, count, compression):
    try:
        decoded = decode(batch_of_body(body, count=count, compression=compression))
    except (CorruptMessageError, MessageTooLargeError):
        return
    assert len(decoded) == count


@given(records, st.data())
@settings(max_examples=300)
def test_any_mutation_behind_a_right_crc_decodes_or_is_refused(given_records, data):
    batch = encode_batch(given_records)
    body = batch[rb.HEADER_BYTES :]
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "cut"]))
        if kind == "set":
            body[position] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "insert":
            body[position:position] = data.draw(st.binary(max_size=12))
        elif len(body) > 1:
            del body[position:]
        if not body:
            break
    try:
        decoded = decode(batch_of_body(body, count=len(given_records)))
    except CorruptMessageError:
        return
    assert len(decoded) == len(given_records)


def test_every_truncation_behind_a_right_crc_is_refused():
    batch = encode_batch([RecordData(1, b"key", b"value", (("h", b"1"), ("n", None)))] * 2)
    for length in range(rb.HEADER_BYTES, len(batch)):
        cut = batch[:length]
        rb.seal_batch(cut)
        with pytest.raises(CorruptMessageError):
            decode(cut)


def test_a_wrong_crc_never_reaches_the_codec():
    batch = encode_batch([RecordData(1, b"key", b"value")])
    batch[-1] ^= 1
    with pytest.raises(CorruptMessageError, match="CRC"):
        decode(batch)
    assert google_crc32c.value(bytes(batch[21:])) != rb.read_header(batch).crc


def test_importing_the_codec_leaves_the_kafka_client_unloaded_and_loadable():
    program = (
        "import sys, ottla_protocol.record_codec as codec\n"
        "assert 'asyncio' not in sys.modules and 'aiokafka' not in sys.modules\n"
        "import aiokafka\n"
        "from aiokafka.record.default_records import DefaultRecordBatch\n"
        "assert DefaultRecordBatch is codec._codec.DefaultRecordBatch\n"
        "assert aiokafka.AIOKafkaProducer\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


class TestConsumedBatches:
    """Batches decoded into a reader's own records."""

    @staticmethod
    def consumed(batch):
        return decode_consumed_batch(
            batch,
            rb.validate_batch(batch, on_append=False),
            lambda *fields: SimpleNamespace(offset=fields[2], fields=fields),
            "t",
            3,
            max_inflated_bytes=MAX_INFLATED_BYTES,
        )

    @given(records, codecs, st.integers(0, 2**40), st.integers(0, 2**31 - 1))
    def test_they_have_what_plain_records_have(self, given, codec, base_offset, epoch):
        batch = encode_batch(given, compression=codec, base_offset=base_offset, leader_epoch=epoch)
        plain = decode(batch)
        assert [record.fields for record in self.consumed(batch)] == [
            ("t", 3, one.offset, one.timestamp, one.key, one.value, one.headers, epoch)
            for one in plain
        ]

    def test_offsets_that_lie_are_found(self):
        batch = encode_batch([RecordData(1, None, b"a"), RecordData(1, None, b"b")])
        # The second record's offset delta: behind its length, attributes and timestamp delta.
        second = rb.HEADER_BYTES + (len(batch) - rb.HEADER_BYTES) // 2
        batch[second + 3] = 8
        rb.seal_batch(batch)
        with pytest.raises(CorruptMessageError, match="has offset 4 where 1 is due"):
            self.consumed(batch)


def test_a_batch_without_records_decodes_to_none_and_holds_no_bytes():
    batch = encode_batch([RecordData(1_000, b"k", None)])
    header = rb.read_header(batch)._replace(record_count=0)
    empty = bytes(rb.make_batch(header, b""))
    assert decode(empty) == []
    assert (
        decode_consumed_batch(
            empty, rb.read_header(empty), Record, "t", 0, max_inflated_bytes=MAX_INFLATED_BYTES
        )
        == []
    )
    with pytest.raises(CorruptMessageError, match="without records has 3 bytes"):
        decode(rb.make_batch(header, b"abc"))
