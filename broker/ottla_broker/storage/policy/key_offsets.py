"""The newest offset of each key, in a table of fixed size.

A compaction must know of every key where its newest record is, and there may be more keys than
memory. As Kafka's, the table holds no keys but 16 bytes made from each, and the offset: 24 bytes a
slot, three of four slots in use at most, so 32 MB hold a million keys, however long they are. A
table that is full takes no more keys, and the compaction ends where it was full.

Two different keys with the same 16 bytes would cost the older one its newest record. The bytes are
two runs of Python's own hash of byte strings, which is keyed (SipHash), the second over the key
behind a random salt of this table: nobody outside can choose such keys, and by chance they come
once in 10^20 tables of a million keys.
"""

import math

SLOT_BYTES = 24
"""What a slot takes: twice eight bytes of hashes, and eight of the offset."""

KEY_BYTES = 32
"""What a key takes, the slots that stay empty counted in."""

SLOTS_MIN = 31


class KeyOffsets:
    """Keys with offsets, which only rise.

    Args:
        map_bytes: what the table may take.
        keys_max: how many keys there can be: a table for fewer keys is smaller.
        salt: random bytes; secret from whoever chooses the keys.
    """

    def __init__(self, map_bytes: int, keys_max: int, salt: bytes) -> None:
        enough = keys_max * 3 // 2 + SLOTS_MIN
        slots = _prime_at_most(max(SLOTS_MIN, min(map_bytes // SLOT_BYTES, enough)))
        self.capacity = slots * SLOT_BYTES // KEY_BYTES
        """How many keys it takes."""
        self._count = 0
        self._slots = slots
        self._salt = salt
        # Memory that nobody has touched is not in memory: a table is as large as what it holds.
        self._first = memoryview(bytearray(8 * slots)).cast("q")
        self._second = memoryview(bytearray(8 * slots)).cast("q")
        # One more than the offset: 0 is an empty slot.
        self._offsets = memoryview(bytearray(8 * slots)).cast("q")

    def __len__(self) -> int:
        return self._count

    def put(self, key: bytes, offset: int) -> bool:
        """Note that the key's newest record is at `offset`; False when there is no room for it."""
        first, second = hash(key), hash(self._salt + key)
        slots, offsets = self._slots, self._offsets
        slot = first % slots
        step = 0
        while offsets[slot]:
            if self._first[slot] == first and self._second[slot] == second:
                offsets[slot] = offset + 1
                return True
            # As many steps as slots reach each one, for their number is prime.
            step = step or 1 + second % (slots - 1)
            slot = (slot + step) % slots
        if self._count == self.capacity:
            return False
        self._first[slot], self._second[slot], offsets[slot] = first, second, offset + 1
        self._count += 1
        return True

    def get(self, key: bytes) -> int:
        """The offset of the key's newest record; -1 where the table does not have it."""
        first, second = hash(key), hash(self._salt + key)
        slots, offsets = self._slots, self._offsets
        slot = first % slots
        step = 0
        while found := offsets[slot]:
            if self._first[slot] == first and self._second[slot] == second:
                return found - 1
            step = step or 1 + second % (slots - 1)
            slot = (slot + step) % slots
        return -1


def _prime_at_most(number: int) -> int:
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number -= 1
    return number
