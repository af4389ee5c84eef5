"""Whether one error tells what became of a whole request with several parts.

One status can speak for all parts only when they failed alike. Where one may be sent again and
another may not, or one is certainly not applied and another perhaps is, a caller that hears only of
the first loses the second or doubles it.
"""

from collections.abc import Sequence

from ottla_protocol.errors import OttlaError


def shared_failure(results: Sequence[object]) -> OttlaError | None:
    """The first part's error if every part failed with that code and outcome, else None."""
    errors = [result for result in results if isinstance(result, OttlaError)]
    if not errors or len(errors) < len(results):
        return None
    if len({(error.code, error.outcome) for error in errors}) > 1:
        return None
    return errors[0]
