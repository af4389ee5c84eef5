"""Did a log that was just opened lose its end?

Three things tell: the log itself, where recovery found damage; the witness of its end; and the
checkpoint of its high watermark, which is older, and there for logs that no witness knows yet.
"""

from dataclasses import dataclass

from ottla_cluster.replication.leader_epochs import LeaderEpochs


@dataclass(frozen=True, slots=True)
class TailLoss:
    """A log lacks records that were durable in it.

    Attributes:
        log_end_offset: where it ends.
        expected_end_offset: where it ended at least; `log_end_offset` where nobody knows.
        reason: how that is known.
    """

    log_end_offset: int
    expected_end_offset: int
    reason: str


def find_tail_loss(
    *,
    log_end_offset: int,
    leader_epochs: LeaderEpochs,
    damage: str | None,
    witnessed: tuple[int, int] | None,
    outlasts_witness: bool,
    is_short: bool,
    high_watermark: int,
    syncs_commits: bool,
) -> TailLoss | None:
    """What is known to be missing at a log's end.

    Args:
        log_end_offset: where it ends.
        leader_epochs: which epoch wrote what of it.
        damage: what recovery found, None for nothing.
        witnessed: leader epoch of the last record, and end, that the witness tells of.
        outlasts_witness: whether what was witnessed must be there: the log syncs, or the system has
            not been started since.
        is_short: whether the witness tells that it was short before, and has not been refilled.
        high_watermark: as last written down; 0 when it never was.
        syncs_commits: whether the log promises to survive a loss of power. One that does not may
            be shorter than anybody knew it, which is no damage. Where something else tells of a
            loss, all that is known says how far the log went: consumers may have read that.
    """
    reasons = [] if damage is None else [damage]
    if is_short:
        reasons.append("it was short before, and was not refilled")
    is_known = bool(reasons)
    expected = log_end_offset
    if (syncs_commits or is_known) and high_watermark > log_end_offset:
        expected = high_watermark
        reasons.append(f"its high watermark was {high_watermark}")
    if witnessed is not None and (outlasts_witness or is_known):
        epoch, end_offset = witnessed
        if end_offset > log_end_offset:
            expected = max(end_offset, expected)
            reasons.append(f"it ended at {end_offset}")
        elif not is_short and leader_epochs.epoch_at(end_offset - 1) != epoch:
            reasons.append(f"leader epoch {epoch} wrote the record before offset {end_offset}")
    return TailLoss(log_end_offset, expected, "; ".join(reasons)) if reasons else None
