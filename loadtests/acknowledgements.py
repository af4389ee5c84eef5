"""The file through which the locust processes hand over what was acknowledged.

One JSON line for each acknowledged record, then one that says how many records were numbered. Its
absence means that the writer did not come to its end.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import msgspec

from loadtests.history import Acknowledged, HistoryCheck


class IncompleteFileError(Exception):
    """The file does not end with its last line."""


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    sent: int


_line_decoder = msgspec.json.Decoder(Acknowledged)
_last_line_decoder = msgspec.json.Decoder(_Sent)


def write_acknowledged(file: IO[bytes], records: Iterable[Acknowledged]) -> None:
    """Append records."""
    for record in records:
        file.write(msgspec.json.encode(record) + b"\n")


def write_end(file: IO[bytes], sent: int) -> None:
    """Append the last line: records were numbered from 0 below `sent`."""
    file.write(msgspec.json.encode(_Sent(sent)) + b"\n")


def read_acknowledged(path: Path) -> HistoryCheck:
    """A check that has every acknowledgement of the file.

    Raises:
        IncompleteFileError: the last line is missing.
        msgspec.DecodeError: a line is none of ours.
    """
    lines = path.read_bytes().splitlines()
    try:
        sent = _last_line_decoder.decode(lines[-1] if lines else b"").sent
    except msgspec.DecodeError as error:
        raise IncompleteFileError(f"{path.name} breaks off after {len(lines)} lines") from error
    check = HistoryCheck(sent)
    for line in lines[:-1]:
        check.acknowledge(_line_decoder.decode(line))
    return check
