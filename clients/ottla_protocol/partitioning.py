"""Which partition a key belongs to, as Kafka's Java client decides it.

Records with one key must meet in one partition whoever sends them, so the hash is part of the
protocol: murmur2 of the key's bytes, made positive, modulo the number of partitions. Every client
with the "murmur2" or "java" partitioner agrees; librdkafka's default (CRC-32) does not.
"""

from struct import Struct

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF
_WORD = Struct("<I")


def murmur2(key: bytes) -> int:
    """MurmurHash2, 32 bit, with Kafka's seed, as the signed int that Java computes."""
    length = len(key)
    whole = length & ~3
    hash_ = _SEED ^ length
    for (word,) in _WORD.iter_unpack(key[:whole] if whole != length else key):
        word = word * _MULTIPLIER & _MASK  # noqa: PLW2901 - rounds of the hash rework their word
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK  # noqa: PLW2901 - as above
        hash_ = hash_ * _MULTIPLIER & _MASK ^ word
    if whole != length:
        hash_ = (hash_ ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK
    hash_ = (hash_ ^ hash_ >> 13) * _MULTIPLIER & _MASK
    hash_ ^= hash_ >> 15
    return hash_ - (1 << 32) if hash_ > _POSITIVE else hash_


def partition_for_key(key: bytes, partitions: int) -> int:
    """The partition, of `partitions` many, that holds every record with this key.

    Args:
        key: the key's bytes; text keys are hashed as their UTF-8.
        partitions: how many partitions the topic has, at least 1.
    """
    assert partitions > 0, partitions
    return (murmur2(key) & _POSITIVE) % partitions
