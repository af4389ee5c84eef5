"""Errors that are not retriable, and that clients may be told while a fault explains them.

An error of any other code has to be retriable: the client ends that is told another one.
"""

from dataclasses import dataclass

AFTER_NS = 60_000_000_000
"""How long after a fault was taken away what it began may still be told."""


@dataclass(frozen=True)
class Expected:
    """Why a client may be told an error.

    Attributes:
        faults: by which it comes up.
        how: what they do, for people.
    """

    faults: tuple
    how: str


EXPECTED_CODES = {
    "INVALID_TIMESTAMP": Expected(
        ("clock jump", "clock drift", "clock a month ahead"),
        "a broker whose clock is ahead stamps records, and a leader whose clock is right refuses "
        "them",
    ),
    "KAFKA_STORAGE_ERROR": Expected(
        ("few descriptors", "failing disk", "full disk", "hung disk", "bit flips"),
        "a broker cannot open or read what is there, or its log has failed and it is about to stop",
    ),
}
LINGERING_FAULTS = ("bit flips",)
"""What these did may come up at any time afterwards."""


def unexplained_errors(operations, turns):
    """What clients were told without a reason, in words.

    Args:
        operations: the history.
        turns: of the schedule: mappings with `fault`, `from_ns` and `to_ns`.
    """
    turns = list(turns)
    for operation in operations:
        for code in dict.fromkeys(operation.codes):
            expected = EXPECTED_CODES.get(code)
            if expected is None:
                continue
            if not any(_explains(turn, expected, operation) for turn in turns):
                yield (
                    f"{operation.process} was told {code} by a {operation.function} of partition "
                    f"{operation.partition}, and none of {', '.join(expected.faults)} was in effect"
                )


def _explains(turn, expected, operation):
    if turn["fault"] not in expected.faults or operation.completed_ns < turn["from_ns"]:
        return False
    is_over = operation.invoked_ns > turn["to_ns"] + AFTER_NS
    return turn["fault"] in LINGERING_FAULTS or not is_over
