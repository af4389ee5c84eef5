"""murmur2 against the vectors of Kafka's Java tests and another client's code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_python_murmur2

from ottla_protocol.partitioning import murmur2, partition_for_key


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_vectors_of_the_java_client(key, expected):
    assert murmur2(key) == expected


@given(st.binary(max_size=70))
def test_agrees_with_kafka_python(key):
    assert murmur2(key) & 0xFFFFFFFF == kafka_python_murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=20), st.integers(1, 1_000))
def test_partition_is_the_positive_hash_modulo_the_count(key, partitions):
    assert partition_for_key(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_no_partitions_is_a_programmer_error():
    with pytest.raises(AssertionError):
        partition_for_key(b"key", 0)
