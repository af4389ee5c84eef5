"""The staged ramp: how many users there are at which time of a run.

It climbs in steps, so that a report shows what each number of users gets; the last step up comes
before half time, when a broker is killed, and stays for a while after it; then it comes down, and
the users that leave have to end in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

SHARES = ((0.15, 0.25), (0.30, 0.5), (0.85, 1.0), (1.0, 0.5))
"""By stage: until which share of the time, and which share of the users."""


@dataclass(frozen=True, slots=True)
class Stage:
    """So many users until a time, in seconds from the run's begin."""

    until_s: float
    users: int


def stages(users: int, seconds: float) -> tuple[Stage, ...]:
    """The stages of a run of `seconds` whose highest number of users is `users`."""
    assert users > 0, "a run has users"
    return tuple(Stage(until * seconds, max(1, ceil(share * users))) for until, share in SHARES)


def users_at(plan: Sequence[Stage], elapsed_s: float) -> int | None:
    """How many users there should be; None when the run is over."""
    return next((stage.users for stage in plan if elapsed_s < stage.until_s), None)
