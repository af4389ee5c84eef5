"""Reads whole partitions back from each broker's own copy (`replica=local`)."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from loadtests.flights import SEQUENCE_HEADER, WRITER_HEADER
from loadtests.history import HistoryCheck, StoredRecord, fingerprint
from loadtests.http_connection import Answer, HttpConnection
from ottla_protocol.models import OffsetResponse, TopicDescription

READ_RECORDS = 10_000
READ_BYTES = 8 << 20
LONG_POLL_MS = 500
REQUEST_TIMEOUT_S = 10.0
RETRY_INTERVAL_S = 0.1


class ReadBackError(Exception):
    """A broker could not be read in time; the message names it and its last answer."""


class _Record(msgspec.Struct):
    offset: int
    key: str | None
    value: msgspec.Raw
    headers: dict[str, str] | list[msgspec.Raw] = {}


class _Records(msgspec.Struct):
    records: list[_Record]
    next_offset: int
    high_watermark: int


_records_decoder = msgspec.json.Decoder(_Records)


async def check_topic(
    check: HistoryCheck, urls: Mapping[int, str], topic: str, *, timeout_s: float
) -> None:
    """Read every partition of `topic` from every broker and put it before `check`.

    A broker that is still behind is waited for. One that is not there in time is checked with what
    it has, so that the verdict tells.

    Args:
        check: has all acknowledgements.
        urls: base URLs by broker.
        topic: all of its partitions are read.
        timeout_s: for everything together.

    Raises:
        ReadBackError: a broker did not answer within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    connections = {broker: HttpConnection(url) for broker, url in urls.items()}
    try:
        first = next(iter(connections.values()))
        answer = await _get(first, f"/v1/topics/{topic}", deadline_s)
        acknowledged_ends = check.end_offsets()
        for partition in msgspec.json.decode(answer.body, type=TopicDescription).partitions:
            number = partition.partition
            target = f"/v1/topics/{topic}/partitions/{number}"
            latest = await _get(first, f"{target}/offsets?at=latest", deadline_s)
            end = msgspec.json.decode(latest.body, type=OffsetResponse).offset
            end = max(end, acknowledged_ends.get(number, 0))
            copies = await asyncio.gather(
                *(
                    _read_copy(connection, f"{target}/records", end, deadline_s)
                    for connection in connections.values()
                )
            )
            check.check_partition(number, dict(zip(connections, copies, strict=True)))
    finally:
        for connection in connections.values():
            connection.close()


async def _read_copy(
    connection: HttpConnection, target: str, end: int, deadline_s: float
) -> Sequence[StoredRecord]:
    found: list[StoredRecord] = []
    offset = 0
    while offset < end and (not found or time.monotonic() < deadline_s):
        answer = await _get(
            connection,
            f"{target}?replica=local&offset={offset}&max_records={READ_RECORDS}"
            f"&max_bytes={READ_BYTES}&max_wait_ms={LONG_POLL_MS}&format=json",
            deadline_s,
        )
        page = _records_decoder.decode(answer.body)
        found.extend(_stored(record) for record in page.records)
        if page.next_offset == offset:
            if time.monotonic() >= deadline_s:
                break
            await asyncio.sleep(RETRY_INTERVAL_S)
        offset = page.next_offset
    return found


def _stored(record: _Record) -> StoredRecord:
    headers = record.headers if isinstance(record.headers, dict) else {}
    return StoredRecord(
        offset=record.offset,
        sequence=_number(headers.get(SEQUENCE_HEADER)),
        key=record.key,
        fingerprint=fingerprint(bytes(record.value)),
        writer=_number(headers.get(WRITER_HEADER)),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


async def _get(connection: HttpConnection, target: str, deadline_s: float) -> Answer:
    """GET until it succeeds."""
    while True:
        try:
            answer = await connection.request("GET", target, timeout_s=REQUEST_TIMEOUT_S)
            if answer.status == 200:
                return answer
            reason = answer.body.decode(errors="replace")
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() >= deadline_s:
            raise ReadBackError(f"{connection.url}{target}: {reason}")
        await asyncio.sleep(RETRY_INTERVAL_S)
