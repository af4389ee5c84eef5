"""Whether one error tells what became of a whole request with several parts.

One status can speak for all parts only when they failed alike. Where one may be sent again and
another may not, or one is certainly not applied and another perhaps is, a caller that hears only of
the first loses the second or doubles it. And where each part has a leader of its own, a caller that
hears of the first one's takes it for the leader of all.
"""

from collections.abc import Sequence

from ottla_protocol.errors import OttlaError

LEADER_MEMBERS = ("leader", "leader_epoch")
"""What an error tells of one partition, for a client to go on with."""


def shared_failure(results: Sequence[object]) -> OttlaError | None:
    """The first part's error if every part failed with that code, outcome and leader, else None."""
    errors = [result for result in results if isinstance(result, OttlaError)]
    if not errors or len(errors) < len(results):
        return None
    first = errors[0]
    return first if all(_speaks_for(first, error) for error in errors) else None


def _speaks_for(first: OttlaError, error: OttlaError) -> bool:
    return (
        error.code == first.code
        and error.outcome is first.outcome
        and all(error.members.get(name) == first.members.get(name) for name in LEADER_MEMBERS)
    )
