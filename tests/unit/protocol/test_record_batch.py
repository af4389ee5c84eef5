"""The batch header against kafka-python's codec, and every way in which a batch can be damaged."""

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from ottla_protocol import record_batch as rb
from ottla_protocol.errors import CorruptMessageError


def kafka_batch(
    count=3,
    *,
    compression=0,
    transactional=0,
    producer_id=-1,
    producer_epoch=-1,
    base_sequence=-1,
    value=b"value",
):
    builder = DefaultRecordBatchBuilder(
        2, compression, transactional, producer_id, producer_epoch, base_sequence, 1 << 24
    )
    for index in range(count):
        builder.append(index, 1_000 + index, b"key", value, [("h", b"1")])
    return bytearray(builder.build())


def renew_crc(batch):
    """Make the CRC match the content, so that the checks behind it are reached."""
    batch[17:21] = google_crc32c.value(bytes(batch[21:])).to_bytes(4, "big")
    return batch


def damaged(batch, offset, field):
    """The batch with other bytes at `offset` and a CRC that matches them."""
    copy = bytearray(batch)
    copy[offset : offset + len(field)] = field
    return renew_crc(copy)


def test_header_fields_are_those_that_kafka_python_wrote():
    batch = kafka_batch(3, transactional=1, producer_id=7, producer_epoch=2, base_sequence=40)
    rb.patch_batch(batch, base_offset=100, leader_epoch=5)
    header = rb.validate_batch(batch, on_append=True)
    assert header.size_bytes == len(batch)
    assert (header.base_offset, header.last_offset, header.next_offset) == (100, 102, 103)
    assert header.leader_epoch == 5
    assert (header.base_timestamp, header.max_timestamp) == (1_000, 1_002)
    assert (header.producer_id, header.producer_epoch) == (7, 2)
    assert (header.base_sequence, header.last_sequence) == (40, 42)
    assert header.is_transactional
    assert header.has_producer
    assert not header.is_control
    assert not header.is_log_append_time
    assert header.record_count == 3
    assert header.compression is rb.Compression.NONE


@pytest.mark.parametrize("codec", [rb.Compression.NONE, rb.Compression.GZIP])
def test_compressed_batches_of_kafka_python_validate(codec):
    batch = kafka_batch(50, compression=codec, value=b"v" * 100)
    assert rb.validate_batch(batch, on_append=True).compression is codec


def test_every_truncation_and_every_extension_is_detected():
    batch = bytes(kafka_batch())
    for length in range(len(batch)):
        with pytest.raises(CorruptMessageError):
            rb.validate_batch(batch[:length], on_append=True)
        if length:
            with pytest.raises(CorruptMessageError):
                rb.split_batches(batch + batch[:length])
    with pytest.raises(CorruptMessageError):
        rb.validate_batch(batch + b"\0", on_append=True)


def test_every_flipped_bit_is_detected_save_in_what_the_leader_assigns():
    batch = kafka_batch(2)
    assigned = set(range(8)) | set(range(12, 16))
    for position in range(len(batch)):
        for bit in range(8):
            flipped = bytearray(batch)
            flipped[position] ^= 1 << bit
            if position in assigned and not (position == 0 and bit == 7):
                rb.validate_batch(flipped, on_append=True)
            else:
                with pytest.raises(CorruptMessageError):
                    rb.validate_batch(flipped, on_append=True)


@pytest.mark.parametrize(
    ("offset", "field", "rule"),
    [
        (21, b"\x00\x05", "unknown compression 5"),
        (21, b"\x00\x80", "unknown attribute bits 0x0080"),
        (21, b"\x80\x00", "unknown attribute bits 0x8000"),
        (23, b"\x00\x00\x00\x01", "last offset delta 1, too small for 3"),
        (23, b"\xff\xff\xff\xff", "last offset delta -1"),
        (43, b"\xff\xff\xff\xff\xff\xff\xff\xfe", "producer id -2"),
        (43, b"\x00\x00\x00\x00\x00\x00\x00\x01", "producer id 1 with producer epoch -1"),
        (57, b"\xff\xff\xff\xff", "record count -1"),
    ],
)
def test_rules_for_every_batch_hold_behind_a_right_crc(offset, field, rule):
    batch = damaged(kafka_batch(), offset, field)
    for on_append in (True, False):
        with pytest.raises(CorruptMessageError, match=rule):
            rb.validate_batch(batch, on_append=on_append)


@pytest.mark.parametrize(
    ("offset", "field", "rule"),
    [
        (21, b"\x00\x30", "control batch"),
        (21, b"\x00\x20", "control batch"),
        (21, b"\x00\x08", "bits 0x0008 that brokers set"),
        (21, b"\x00\x40", "bits 0x0040 that brokers set"),
        (21, b"\x00\x10", "transactional without a producer id"),
        (23, b"\x00\x00\x00\x03", "last offset delta 3 for 3 records"),
        (27, b"\xff\xff\xff\xff\xff\xff\xff\xfe", "timestamps -2 to"),
        (35, b"\x00" * 8, "timestamps 1000 to 0"),
    ],
)
def test_rules_for_producers_do_not_bind_stored_batches(offset, field, rule):
    batch = damaged(kafka_batch(), offset, field)
    rb.validate_batch(batch, on_append=False)
    with pytest.raises(CorruptMessageError, match=rule):
        rb.validate_batch(batch, on_append=True)


def test_a_producer_id_needs_a_base_sequence():
    batch = kafka_batch(producer_id=1, producer_epoch=0)
    with pytest.raises(CorruptMessageError, match="producer id 1 with base sequence -1"):
        rb.validate_batch(batch, on_append=True)


@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_magics_are_refused(magic):
    batch = kafka_batch()
    batch[16] = magic
    with pytest.raises(CorruptMessageError, match="magic"):
        rb.read_header(batch)
    with pytest.raises(CorruptMessageError, match="magic"):
        rb.split_batches(batch)


def test_read_header_needs_only_the_header():
    batch = kafka_batch()
    assert rb.read_header(batch[: rb.HEADER_BYTES]) == rb.read_header(batch)
    with pytest.raises(CorruptMessageError, match="shorter"):
        rb.read_header(batch[: rb.HEADER_BYTES - 1])


def test_compression_of_an_unchecked_header_is_checked():
    header = rb.read_header(damaged(kafka_batch(), 21, b"\x00\x07"))
    with pytest.raises(CorruptMessageError, match="unknown compression 7"):
        _ = header.compression


@pytest.mark.parametrize("window", [0, 1, 21, 22])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(bytes(b))])
def test_checksum_is_the_same_over_every_buffer_and_around_window_edges(kind, window):
    for base in (rb._CRC_COPY_BYTES, rb._CRC_WINDOW_BYTES, 2 * rb._CRC_WINDOW_BYTES):
        content = bytearray(range(256)) * (base // 256) + bytes(window)
        assert rb.checksum(kind(content)) == google_crc32c.value(bytes(content[21:]))


def test_checksum_leaves_a_bytearray_resizable():
    content = bytearray(2 * rb._CRC_WINDOW_BYTES)
    rb.checksum(content)
    content.append(1)


@given(st.lists(st.integers(1, 4), max_size=5))
def test_split_gives_back_what_was_joined(counts):
    batches = [bytes(kafka_batch(count)) for count in counts]
    views = rb.split_batches(b"".join(batches))
    assert [bytes(view) for view in views] == batches


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"])
def test_split_refuses_lying_lengths(length):
    batch = kafka_batch()
    batch[8:12] = length
    with pytest.raises(CorruptMessageError, match="claims"):
        rb.split_batches(batch)


def test_split_views_write_through_to_the_buffer():
    buffer = kafka_batch() + kafka_batch()
    for index, view in enumerate(rb.split_batches(buffer)):
        rb.patch_batch(view, base_offset=10 * index, leader_epoch=3)
    headers = [rb.validate_batch(view, on_append=True) for view in rb.split_batches(buffer)]
    assert [header.base_offset for header in headers] == [0, 10]
    assert [header.leader_epoch for header in headers] == [3, 3]


def test_log_append_time_holds_for_every_record_as_kafka_python_reads_it():
    batch = kafka_batch()
    rb.set_log_append_time(batch, 123_456)
    header = rb.validate_batch(batch, on_append=False)
    assert header.is_log_append_time
    assert header.max_timestamp == 123_456
    reader = DefaultRecordBatch(bytes(batch))
    assert reader.validate_crc()
    assert [record.timestamp for record in reader] == [123_456] * 3


def test_sequences_wrap_after_the_largest_int32():
    assert rb.add_sequence(rb.MAX_SEQUENCE, 1) == 0
    batch = kafka_batch(3, producer_id=1, producer_epoch=0, base_sequence=rb.MAX_SEQUENCE - 1)
    assert rb.read_header(batch).last_sequence == 0
    assert rb.read_header(kafka_batch()).last_sequence == rb.NO_SEQUENCE


def test_compaction_may_leave_a_batch_without_records_but_no_producer_may_send_one():
    batch = kafka_batch(3)
    header = rb.validate_batch(batch, on_append=True)
    empty = rb.make_batch(header._replace(record_count=0), b"")
    assert len(empty) == rb.HEADER_BYTES
    found = rb.validate_batch(empty, on_append=False)
    assert (found.record_count, found.next_offset) == (0, header.next_offset)
    with pytest.raises(CorruptMessageError, match="at least 1"):
        rb.validate_batch(empty, on_append=True)


def test_a_batch_is_made_of_its_header_and_its_records():
    batch = kafka_batch(3)
    header = rb.read_header(batch)
    assert rb.make_batch(header, batch[rb.HEADER_BYTES :]) == batch
    assert header.delete_horizon_ms is None
    horizon = header._replace(attributes=rb.DELETE_HORIZON_BIT, base_timestamp=77)
    assert rb.read_header(rb.make_batch(horizon, b"")).delete_horizon_ms == 77
