"""Loads kafka-python, whose own imports warn, once and with those warnings off."""

import warnings

with warnings.catch_warnings():
    # kafka-python 3.0 reads its schemas with a deprecated importlib.resources call.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka.record.default_records  # noqa: F401 - for its effect: later imports find it loaded
