"""How segments and their batches are printed, whether they come from files or from brokers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ottla_ops.segments.dump import DumpedBatch


def dump_lines(dumped: "DumpedBatch") -> Iterator[bytes]:
    """A batch as lines for a person: its header, then its records where they were decoded."""
    header = dumped.header
    marks = [
        name
        for name, is_set in (
            ("transactional", header.is_transactional),
            ("control", header.is_control),
            (f"marker={dumped.marker}", dumped.marker),
            ("log-append-time", header.is_log_append_time),
            ("idempotency-key", dumped.has_idempotency_key),
        )
        if is_set
    ]
    producer = (
        f" producer {header.producer_id} epoch {header.producer_epoch} "
        f"sequence {header.base_sequence}"
        if header.has_producer
        else ""
    )
    yield (
        f"{dumped.topic}-{dumped.partition} {header.base_offset}-{header.last_offset} "
        f"epoch {header.leader_epoch} records {header.record_count} bytes {header.size_bytes} "
        f"{header.compression.name.lower()} time {shown_time(header.max_timestamp)}{producer}"
        f"{''.join(f' {mark}' for mark in marks)}"
    ).encode()
    for record in dumped.rendered_records():
        yield b"  " + record


def document_of(value: Any) -> dict[str, Any]:
    """A result as JSON has it: its fields, paths and states as text."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(value, enc_hook=str)
    return document


def json_of(document: dict[str, Any]) -> bytes:
    """One object as a line of JSON."""
    import msgspec

    return msgspec.json.encode(document)


def shown_time(timestamp_ms: int | None) -> str:
    """A timestamp for a person; text without blanks."""
    from datetime import UTC, datetime

    if timestamp_ms is None or timestamp_ms < 0:
        return "none"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
