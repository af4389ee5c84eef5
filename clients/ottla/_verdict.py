"""What an answer means for one batch; `_settlement` acts on it."""

import copy
from enum import Enum, auto

from ottla._batch import Batch
from ottla._errors import DeliveryTimeoutError
from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    OttlaError,
    OutOfOrderSequenceNumberError,
    error_from_problem,
)
from ottla_protocol.models import AppendedBatch
from ottla_protocol.record_batch import MAX_SEQUENCE, add_sequence

Result = AppendedBatch | OttlaError
"""What a request tells of one batch."""


class Verdict(Enum):
    """What becomes of a batch after an attempt.

    COMPLETE and FAIL settle it. RETRY sends it again as it is, RENUMBER under a new epoch.
    """

    COMPLETE = auto()
    FAIL = auto()
    RETRY = auto()
    RENUMBER = auto()


SEQUENCE_ERRORS = (
    OutOfOrderSequenceNumberError,
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
)
"""How a leader says that a batch's number does not fit; nothing was appended then."""


def judge_sequence(
    batch: Batch, error: OttlaError, *, was_uncertain: bool, is_same: bool
) -> Verdict:
    """What a complaint about the sequence means for the first batch that failed.

    Args:
        batch: the batch.
        error: one of SEQUENCE_ERRORS; this attempt was not applied.
        was_uncertain: an earlier attempt perhaps was.
        is_same: that attempt went to this same broker, where it may still arrive.
    """
    if not was_uncertain:
        return Verdict.RENUMBER
    if isinstance(error, DuplicateSequenceNumberError):
        # It is in the log; only where, the leader has forgotten.
        return Verdict.COMPLETE
    expected = error.members.get("expected_sequence")
    is_gap = (
        isinstance(error, OutOfOrderSequenceNumberError)
        and isinstance(expected, int)
        and 0 < add_sequence(batch.base_sequence, -expected) <= MAX_SEQUENCE // 2
    )
    # The log ends before this batch: it lacks earlier ones, which only acks=1 or an unclean
    # election can lose, so it does not hold this one either.
    return Verdict.RENUMBER if is_gap and not is_same else Verdict.FAIL


def is_success(result: Result) -> bool:
    """Whether the batch was appended."""
    return isinstance(result, AppendedBatch) and result.error is None


def error_in(result: Result) -> OttlaError:
    """The error of a result that has one."""
    if isinstance(result, OttlaError):
        return result
    return error_from_problem(result.error or {})


def timed_out(batch: Batch, cause: Exception | None) -> DeliveryTimeoutError:
    """The error of a batch whose time is over."""
    where = f"{batch.queue.topic}-{batch.queue.partition}"
    detail = f"{where}: not acknowledged within {batch.deadline_ms - batch.opened_ms} ms"
    error = DeliveryTimeoutError(
        f"{detail}: {cause}" if cause is not None else detail, outcome=batch.outcome
    )
    error.__cause__ = cause
    return error


def as_told(batch: Batch, error: OttlaError) -> OttlaError:
    """The error as the record's sender should hear it: true of all attempts, not of the last."""
    if error.outcome is batch.outcome:
        return error
    told = copy.copy(error)
    told.outcome = batch.outcome
    told.__cause__ = error.__cause__
    return told
