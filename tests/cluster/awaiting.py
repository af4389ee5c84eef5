"""Waiting for a condition instead of for a time."""

import time

import urllib3

POLL_INTERVAL_S = 0.02


def eventually(check, timeout_s=10.0):
    """Repeat `check` until it returns something true; return that.

    A check may also assert, or ask a broker that is not there yet: it is repeated until it does not
    raise, and its last failure is told when the time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        failure = None
        try:
            result = check()
        except (AssertionError, urllib3.exceptions.HTTPError) as error:
            result, failure = None, error
        if result or (result is None and failure is None):
            return result
        if time.monotonic() >= deadline_s:
            raise AssertionError(
                f"not within {timeout_s} s: {failure or check.__name__}"
            ) from failure
        time.sleep(POLL_INTERVAL_S)
