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
        is_short: whether the witness tells that it was short before, and has not been refilled.
        high_watermark: as last written down; 0 when it never was.
        syncs_commits: whether the log promises to survive a loss of power. One that does not may
            be shorter than anybody knew it, which is no damage.
    """
    reasons = [] if damage is None else [damage]
    expected = log_end_offset
    if is_short:
        reasons.append("it was short before, and was not refilled")
        if witnessed is not None:
            expected = max(expected, witnessed[1])
    elif syncs_commits:
        if high_watermark > log_end_offset:
            expected = high_watermark
            reasons.append(f"its high watermark was {high_watermark}")
        epoch, end_offset = witnessed or (
            leader_epochs.epoch_at(log_end_offset - 1),
            log_end_offset,
        )
        if end_offset > log_end_offset:
            expected = max(end_offset, expected)
            reasons.append(f"it ended at {end_offset}")
        elif leader_epochs.epoch_at(end_offset - 1) != epoch:
            reasons.append(f"leader epoch {epoch} wrote the record before offset {end_offset}")
    return TailLoss(log_end_offset, expected, "; ".join(reasons)) if reasons else None
