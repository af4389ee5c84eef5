"""Lines are read no faster than they are taken."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.http import line_intake
from ottla_broker.http.content_inflating import content_inflater
from ottla_broker.http.inflight import InflightBytes
from ottla_broker.http.line_intake import LineIntake
from ottla_protocol.compression import deflate
from ottla_protocol.errors import Outcome, OverloadedError
from ottla_protocol.record_batch import Compression
from tests.unit.awaiting import until


class Content:
    """A body that says how much of it was read."""

    def __init__(self, parts):
        self.parts = list(parts)

    async def readany(self):
        await asyncio.sleep(0)
        return self.parts.pop(0) if self.parts else b""

    def at_eof(self):
        return not self.parts


@pytest.fixture
def inflight():
    return InflightBytes(1_000)


def intake_of(inflight, parts, encoding="identity"):
    with inflight.hold() as held:
        return LineIntake(Content(parts), content_inflater(encoding), held), held


def take(intake):
    """The next line, answered at once."""
    line = intake.lines.popleft()
    intake.taken(len(line))
    intake.give_back(len(line))
    return line


async def test_reading_stops_while_lines_wait(monkeypatch, inflight):
    monkeypatch.setattr(line_intake, "LINES_WAITING_MAX", 3)
    intake, held = intake_of(inflight, [b"1\n2\n", b"3\n4\n", b"5\n6\n", b"7\n8\n"])
    receiving = asyncio.create_task(intake.receive())
    await until(lambda: inflight.held_bytes == 3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(intake._content.parts) == 2
    taken = []
    while not intake.is_over or intake.lines:
        if not intake.lines:
            await asyncio.sleep(0)
            continue
        taken.append(take(intake))
        assert held.size_bytes <= 3
    assert taken == [b"%d" % number for number in range(1, 9)]
    assert inflight.held_bytes == 0
    await receiving


async def test_a_stream_waits_at_the_bound_of_all_requests(inflight):
    other = inflight.hold()
    with other as held:
        held.grow(999)
        intake, _ = intake_of(inflight, [b"12\n34\n"])
        receiving = asyncio.create_task(intake.receive())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not intake.lines
        assert inflight.held_bytes == 999
    await receiving
    assert list(intake.lines) == [b"12", b"34"]
    assert inflight.held_bytes == 4


async def test_a_line_that_has_begun_is_held_too(inflight):
    intake, held = intake_of(inflight, [b"x" * 500, b"x" * 100, b"\n"])
    receiving = asyncio.create_task(intake.receive())
    await receiving
    assert held.size_bytes == 600
    take(intake)
    assert inflight.held_bytes == 0


async def test_streams_that_wait_for_one_another_are_given_up(monkeypatch, inflight):
    monkeypatch.setattr(line_intake, "ROOM_WAIT_S", 0.05)
    pairs = [intake_of(inflight, [b"x" * 400, b"x" * 200, b"\n"]) for _ in range(2)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for intake, _ in pairs:
            group.create_task(intake.receive())
    failures = [intake.failure for intake, _ in pairs if intake.failure is not None]
    assert {type(failure) for failure in failures} == {OverloadedError}
    assert failures[0].outcome is Outcome.NOT_APPLIED


async def test_a_stream_whose_lines_are_being_stored_waits_for_them(monkeypatch, inflight):
    monkeypatch.setattr(line_intake, "ROOM_WAIT_S", 0.01)
    intake, _ = intake_of(inflight, [b"x" * 600 + b"\n", b"x" * 500 + b"\n"])
    with inflight.hold() as other:
        other.count(1)
        receiving = asyncio.create_task(intake.receive())
        await until(lambda: intake.lines)
        line = intake.lines.popleft()
        intake.taken(len(line))
        for _ in range(10):
            # As long as it likes, a batch is stored.
            await asyncio.sleep(line_intake.ROOM_WAIT_S)
        assert not intake.is_over
        intake.give_back(len(line))
        await receiving
    assert intake.failure is None
    assert [len(line) for line in intake.lines] == [500]


async def test_a_long_line_that_never_ends_is_given_up(monkeypatch, inflight):
    monkeypatch.setattr(line_intake, "SLOW_LINE_BYTES", 100)
    monkeypatch.setattr(line_intake, "body_deadline_s", lambda began_s, _: began_s + 0.01)
    parts = [b"x" * 60, b"x" * 60]

    async def readany():
        if parts:
            return parts.pop(0)
        return await asyncio.Event().wait()

    intake, _ = intake_of(inflight, [])
    intake._content = SimpleNamespace(readany=readany, at_eof=lambda: False)
    async with asyncio.timeout(30):
        await intake.receive()
    assert intake.failure.code == "REQUEST_TIMED_OUT"


async def test_the_window_of_a_compressed_stream_is_held(inflight):
    inflight.limit_bytes = 16 << 20
    text = b"".join(b'{"value":%d}\n' % number for number in range(100_000))
    compressed = deflate(Compression.ZSTD, text)
    intake, held = intake_of(inflight, [compressed[:-20]], "zstd")
    receiving = asyncio.create_task(intake.receive())
    most_bytes = 0
    while not intake.is_over or intake.lines:
        most_bytes = max(most_bytes, held.size_bytes)
        if intake.lines:
            take(intake)
        else:
            await asyncio.sleep(0)
    await receiving
    assert 512 << 10 <= most_bytes <= 4 << 20
    assert held.size_bytes >= 512 << 10


async def test_silence_ends_a_stream(monkeypatch, inflight):
    monkeypatch.setattr(line_intake, "STREAM_IDLE_TIMEOUT_MS", 10)
    intake, _ = intake_of(inflight, [])
    intake._content = SimpleNamespace(readany=asyncio.Event().wait)
    await intake.receive()
    assert intake.failure.code == "REQUEST_TIMED_OUT"
    assert intake.is_over
