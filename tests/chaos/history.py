"""What clients did to a cluster, as they wrote it down while they did it.

A client writes a line before it asks for something (`invoke`) and one when it knows what became of
it: `ok`, `fail` (it certainly did not happen) or `info` (nobody knows). What it never knew the end
of, because it was killed, is `info` as well. Times are of CLOCK_MONOTONIC in ns, which is one clock
for all processes of a machine, so the lines of many processes make one history.

Each line is written by one `write` at once: a SIGKILL cuts off at most the last one.
"""

import itertools
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

INVOKE, OK, FAIL, INFO = "invoke", "ok", "fail", "info"

SEND = "send"
"""Write `value`; ok has its `offset`."""
POLL = "poll"
"""Read on; ok has `records`, and as `high_watermark` and `next_offset` what was told of them."""
END_OFFSET = "end_offset"
"""Ask for the end; ok has `offset`."""
TIME_LOOKUP = "time_lookup"
"""Ask for the first offset at `timestamp_ms` or later; ok has `offset`, None for none."""
LEADER = "leader"
"""Ask who leads; ok has `leader` and `leader_epoch`."""
COMMIT = "commit"
"""Have a group remember where to go on, `next_offset`."""
COMMITTED = "committed"
"""Ask where a group goes on; ok has `next_offset`, None where nothing was ever committed."""
START = "start"
"""A partition is assigned to a member of a group; ok has the `offset` of what it read first."""


@dataclass(frozen=True)
class Operation:
    """One operation of one client.

    Attributes:
        process: who did it.
        function: one of the functions above.
        outcome: ok, fail or info.
        invoked_ns, completed_ns: the latter None where the client never knew.
        partition: which one it is about.
        value: what was sent.
        offset: what was told; an operation that did not succeed has none (L12).
        records: (offset, value) of what a poll returned, in its order.
        session: polls of one process with the same session are one reading without a seek.
        high_watermark: told by a poll.
        next_offset: where a poll goes on, as it was told; what a commit names, or was told of.
        told_by: polls of one session with the same number were answered by one broker, with no
            failure in between: by one life of one leadership.
        via: node id of the broker that a session of polls reads from; None for the leader.
        timestamp_ms: what was looked up.
        leader, leader_epoch: what was told.
        is_ordered: of a send whose producer numbers what it sends, so that it stands in its place
            even where nobody knew.
        codes: of the errors that it was told.
        detail: of an operation that did not succeed, for people.
    """

    process: str
    function: str
    outcome: str
    invoked_ns: int
    completed_ns: int | None = None
    partition: int | None = None
    value: str | None = None
    offset: int | None = None
    records: tuple = ()
    session: int = 0
    high_watermark: int | None = None
    next_offset: int | None = None
    told_by: int = 0
    via: int | None = None
    timestamp_ms: int | None = None
    leader: int | None = None
    leader_epoch: int | None = None
    is_ordered: bool = False
    codes: tuple = ()
    detail: str | None = None


class HistoryWriter:
    """Writes the history of one process.

    Args:
        path: the file; a process that was killed and started again goes on in one of its own.
        process: the name in the history, unique for each life of a process.
    """

    def __init__(self, path, process):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._process = process
        self._numbers = itertools.count()

    def invoke(self, function, **fields):
        """An operation begins; returns its number."""
        number = next(self._numbers)
        self._write(INVOKE, number, function=function, process=self._process, **fields)
        return number

    def ok(self, number, **fields):
        """It happened."""
        self._write(OK, number, **fields)

    def fail(self, number, **fields):
        """It certainly did not happen, and never will."""
        self._write(FAIL, number, **fields)

    def info(self, number, **fields):
        """Nobody knows whether it happened, or will."""
        self._write(INFO, number, **fields)

    def close(self):
        os.close(self._file)

    def _write(self, outcome, number, **fields):
        line = {"time_ns": time.monotonic_ns(), "type": outcome, "number": number, **fields}
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def read_history(paths):
    """All operations of some files, in the order of their beginnings.

    Raises:
        ValueError: a line makes no sense, and it is not a last one that was cut off.
    """
    operations = []
    for path in paths:
        operations += _read_file(Path(path))
    return sorted(operations, key=lambda operation: operation.invoked_ns)


def _read_file(path):
    begun, done = {}, []
    lines = path.read_bytes().split(b"\n")
    for line in lines[:-1]:
        fields = json.loads(line)
        number, kind, time_ns = fields.pop("number"), fields.pop("type"), fields.pop("time_ns")
        if kind == INVOKE:
            begun[number] = Operation(outcome=INFO, invoked_ns=time_ns, **fields)
            continue
        if number not in begun:
            raise ValueError(f"{path}: the end of {number} has no beginning")
        if "records" in fields:
            fields["records"] = tuple((offset, value) for offset, value in fields["records"])
        if "codes" in fields:
            fields["codes"] = tuple(fields["codes"])
        done.append(replace(begun.pop(number), outcome=kind, completed_ns=time_ns, **fields))
    return done + list(begun.values())
