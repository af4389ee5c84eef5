"""What an answer means to an honest client: settled, send it again, or failed.

A broker may say that it cannot serve a request now (`retriable`), or die before it answers. A
client that gives each write an Idempotency-Key sends the same bytes again, to the next broker, and
what comes of that is what its user sees. So a load run counts as failed what such a client cannot
settle: an answer that says no for good, one that is wrong, and nothing settled within
`SETTLE_TIMEOUT_S`. What it had to send again is counted apart.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

SETTLE_TIMEOUT_S = 30.0
"""How long a client goes on with one request."""

ATTEMPT_TIMEOUT_S = 8.0
"""How long it waits for one answer, beyond what it asked the broker to wait."""

ACK_TIMEOUT_MS = 5_000
"""`timeout_ms` of a produce: shorter than the client's own, so that the broker's answer arrives."""

BACKOFF_FIRST_S = 0.01
BACKOFF_MAX_S = 0.25
RETRY_AFTER_MAX_S = 5.0


class _Problem(msgspec.Struct):
    code: str = "none"
    detail: str = ""
    retriable: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to do about an answer, and why: a code for `again`, a sentence for `failed`."""

    step: Literal["settled", "again", "failed"]
    reason: str = ""


def judge(status: int, body: bytes, settles: tuple[int, ...] = (200,)) -> Judgement:
    """Judge one answer.

    Args:
        status: the HTTP status; 0 where none came.
        body: the whole body; without an answer, the name of what happened.
        settles: the statuses that settle this request.
    """
    if status in settles:
        return Judgement("settled")
    if status == 0:
        return Judgement("again", body.decode(errors="replace"))
    if status == 207:
        return Judgement("again", "PARTLY_FAILED")
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(detail=body[:200].decode(errors="replace"))
    if problem.retriable:
        return Judgement("again", problem.code)
    return Judgement("failed", f"{status} {problem.code}: {problem.detail}")


def backoff_s(attempt: int, retry_after: str | None = None) -> float:
    """How long to wait after an attempt, from 0 on, that is to be repeated.

    `Retry-After` in seconds (RFC 9110 section 10.2.3) counts where it is longer.
    """
    wait_s = float(min(BACKOFF_FIRST_S * 2 ** min(attempt, 16), BACKOFF_MAX_S))
    if retry_after is not None and retry_after.isdigit():
        wait_s = max(wait_s, min(float(retry_after), RETRY_AFTER_MAX_S))
    return wait_s
