"""How long a call may take, as its caller says it."""

import threading
from numbers import Real
from typing import Any

from ottla_protocol.errors import InvalidRequestError


def seconds_in(timeout: Any) -> float | None:
    """The `timeout` of a call; None stands for whatever the call takes then.

    What no thread can wait for, infinity too, is as long as one can.

    Raises:
        InvalidRequestError: it is no number.
    """
    if timeout is None:
        return None
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not is_number or timeout != timeout:  # NaN
        raise InvalidRequestError(
            f"timeout must be a number of seconds, not {timeout!r}", field="timeout"
        )
    return float(min(timeout, threading.TIMEOUT_MAX))
