"""The first 100 bytes of a segment's file, of which SQLite believes everything.

A flipped bit there can make the file another one: read-only, of another page size, in another text
encoding. SQLite reports some of that as damage, some as a wrong way of opening the file, and some
not at all; for us all of these fields have one value.

Layout: https://sqlite.org/fileformat2.html#the_database_header
"""

import os
from pathlib import Path
from typing import Final

from ottla_broker.storage import sqlite
from ottla_broker.storage.stored_batch import damaged

HEADER_BYTES: Final = 100

_PAGES_AT: Final = 28

_MAGIC: Final = b"SQLite format 3\0"
_FIXED: Final = {
    "page size": (16, sqlite.PAGE_BYTES.to_bytes(2, "big")),
    "reserved space": (20, b"\0"),
    "payload fractions": (21, bytes((64, 32, 32))),
    "schema format": (44, (4).to_bytes(4, "big")),
    "vacuum root page": (52, bytes(4)),
    "text encoding": (56, (1).to_bytes(4, "big")),
    "user version": (60, bytes(4)),
    "vacuum mode": (64, bytes(4)),
    "application id": (68, bytes(4)),
    "reserved bytes": (72, bytes(20)),
}
_VERSIONS: Final = (1, 2)
"""Of reading and of writing: a rollback journal, or a write-ahead log."""


def check_header(path: Path) -> None:
    """Check the fields that never change; blocking.

    Raises:
        DamagedSegmentError: naming the field.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise damaged(path, None, "it does not begin as an SQLite file does")
    for name, (position, expected) in _FIXED.items():
        if header[position : position + len(expected)] != expected:
            raise damaged(path, None, f"the {name} in its header is wrong")
    if header[18] not in _VERSIONS or header[19] not in _VERSIONS:
        raise damaged(path, None, "the journal versions in its header are wrong")


def check_length(path: Path) -> None:
    """Check that a sealed file is as long as its header says; blocking.

    A sealed file is read through a mapping, and to touch a page of a mapping that its file has not
    got ends the process. So a file that was cut short is refused before it is mapped.

    Raises:
        DamagedSegmentError: it is shorter, or longer.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        length_bytes = os.fstat(file.fileno()).st_size
    pages = int.from_bytes(header[_PAGES_AT : _PAGES_AT + 4], "big")
    if pages * sqlite.PAGE_BYTES != length_bytes:
        raise damaged(path, None, f"it has {length_bytes} bytes, and its header says {pages} pages")
