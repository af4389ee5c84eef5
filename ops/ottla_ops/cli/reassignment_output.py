"""How `ottla cluster reassign` shows what is under way, and reads a throttle."""

from typing import TYPE_CHECKING

from ottla_ops.cli.failures import usage_error
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer
    from ottla_ops.cli.session import Session
    from ottla_protocol.models import OngoingReassignment, ReassignmentList, ReplicaCopyProgress

_UNITS = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_NO_THROTTLE = "none"
_HEADERS = ("TOPIC", "PARTITION", "TARGET", "ADDING", "REMOVING", "ISR")
_PROGRESS_HEADERS = ("COPIED", "REMAINING", "RATE", "TIME LEFT")


def rate_of(text: str) -> int | None:
    """A throttle in bytes per second; None for `none`.

    Raises:
        CommandError: (usage) it is neither a number, with a unit or without, nor `none`.
    """
    if text == _NO_THROTTLE:
        return None
    unit = _UNITS.get(text[-1:], 1)
    digits = text[:-1] if unit > 1 else text
    if not (digits.isascii() and digits.isdigit()):
        raise usage_error(f"--throttle {text}: neither bytes per second (500k, 20M) nor 'none'")
    return int(digits) * unit


def show_reassignments(session: "Session", answer: "Answer", found: "ReassignmentList") -> None:
    """One row for each partition, and for each further replica that is copied to it."""
    if session.output.as_json:
        session.output.document(answer.document())
        return
    rows = [row for each in found.reassignments for row in _rows(each)]
    headers = (*_HEADERS, *_PROGRESS_HEADERS)
    session.output.table(headers, rows, empty="no reassignment is under way")
    rate = found.throttle_bytes_per_second
    if rate is not None:
        session.output.text(f"throttle  {_size(rate)}/s from each broker")


def show_throttle(session: "Session", answer: "Answer", rate: int | None) -> None:
    """What the throttle is now."""
    if session.output.as_json:
        session.output.document(answer.document())
    else:
        told = "none" if rate is None else f"{_size(rate)}/s from each broker"
        session.output.text(f"throttle  {told}")


def _rows(ongoing: "OngoingReassignment") -> list[tuple[object, ...]]:
    node_ids = (
        ongoing.target_replicas,
        ongoing.adding_replicas,
        ongoing.removing_replicas,
        ongoing.isr,
    )
    names = (
        ongoing.topic,
        ongoing.partition,
        *(",".join(map(str, each)) or "none" for each in node_ids),
    )
    if not ongoing.progress:
        return [(*names, *("-" for _ in _PROGRESS_HEADERS))]
    return [(*names, *_progress(each)) for each in ongoing.progress]


def _progress(progress: "ReplicaCopyProgress") -> tuple[str, ...]:
    return (
        f"{_size(progress.copied_bytes)} to {progress.replica}",
        f"{_size(progress.remaining_bytes)}, {counted(progress.remaining_offsets, 'record')}",
        f"{_size(progress.bytes_per_second)}/s",
        "?" if progress.remaining_seconds is None else _duration(progress.remaining_seconds),
    )


def _size(size_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
