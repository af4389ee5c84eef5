"""Flips single bits of segment files and of write-ahead logs, told apart by what they hit."""

import os
import random
import stat
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 16384
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24

_LEAF_TABLE_PAGE = 0x0D
_BTREE_PAGES = (0x02, 0x05, 0x0A, 0x0D)

MEANINGFUL_SHARE = 0.9
"""How many flips look for a byte that is not zero: most of a page is room for more."""


@dataclass(frozen=True)
class Flip:
    """Where a bit was turned."""

    path: Path
    kind: str
    position: int
    bit: int

    def __str__(self):
        return f"{self.kind} page of {self.path.name}, bit {self.bit} of byte {self.position}"


def kinds(path: Path) -> dict[str, list[tuple[int, int]]]:
    """The byte ranges of a file by what they hold: data, index or wal.

    Data are the leaves that hold record batches, and what overflows from them. Index is whatever
    leads there or describes the segment: interior pages, the schema, meta, epochs, snapshots and
    the index by time.
    """
    content = path.read_bytes()
    if path.name.endswith("-wal"):
        return {"wal": [(0, len(content))]} if content else {}
    found: dict[str, list[tuple[int, int]]] = {"data": [], "index": []}
    for start in range(0, len(content), PAGE_BYTES):
        page = content[start : start + PAGE_BYTES]
        is_leaf = start > 0 and page[0] == _LEAF_TABLE_PAGE
        is_overflow = start > 0 and page[0] not in _BTREE_PAGES
        # The leaves of the small tables are nearly empty.
        is_data = is_overflow or (is_leaf and sum(map(bool, page)) > PAGE_BYTES // 4)
        found["data" if is_data else "index"].append((start, start + len(page)))
    return {kind: ranges for kind, ranges in found.items() if ranges}


def choose_flip(path: Path, random_numbers: random.Random, kind: str) -> Flip | None:
    """A bit of a page of this kind; None where the file has none."""
    ranges = kinds(path).get(kind)
    if not ranges:
        return None
    start, end = random_numbers.choice(ranges)
    content = path.read_bytes()
    candidates = range(start, end)
    if random_numbers.random() < MEANINGFUL_SHARE:
        candidates = [position for position in candidates if content[position]] or candidates
    return Flip(path, kind, random_numbers.choice(candidates), random_numbers.randrange(8))


def apply(flips: list[Flip]) -> None:
    """Turn the bits, all at once: the first of them may have a broker put the files aside."""
    files = [(flip, _writable(flip.path)) for flip in flips]
    for flip, descriptor in files:
        [byte] = os.pread(descriptor, 1, flip.position)
        os.pwrite(descriptor, bytes([byte ^ 1 << flip.bit]), flip.position)
        os.close(descriptor)


def _writable(path: Path) -> int:
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    try:
        return os.open(path, os.O_RDWR)
    finally:
        path.chmod(mode)
