"""What schemathesis cannot know of itself: MessagePack, and how long a test may take.

Loaded by `python -m schemathesis.cli` (SCHEMATHESIS_HOOKS) in test_generated_requests.
"""

import copy
import os
from collections import Counter

import msgspec
import schemathesis
from schemathesis.generation.meta import TestPhase

from ottla_protocol import routes

MAX_WAIT_MS = 10
"""Long-polls that would be right as they are wait no longer than this."""

FOLLOW_S = 2
"""Reads that go on are followed for so long."""

MAX_PARTITIONS = 4
"""A topic of 2,000 partitions is right too, and takes many seconds each time."""

THINNING = int(os.environ.get("OTTLA_SCHEMATHESIS_THINNING", "0")) or None
"""Cases of the coverage phase, of one operation, that are tried before they become fewer."""

LIMITS = {
    "max_wait_ms": MAX_WAIT_MS,
    "partitions": MAX_PARTITIONS,
    "partitions_count": MAX_PARTITIONS,
    "timeout": MAX_WAIT_MS,
}


@schemathesis.serializer("application/msgpack")
def to_msgpack(_, value):
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        # A number that MessagePack has no form for.
        return b"\xc1"


@schemathesis.serializer("application/x-ndjson")
def to_lines(_, value):
    if isinstance(value, str | bytes):
        return value.encode() if isinstance(value, str) else value
    return msgspec.json.encode(value) + b"\n"


@schemathesis.deserializer("application/msgpack")
def from_msgpack(_, response):
    return msgspec.msgpack.decode(response.content)


@schemathesis.hook
def before_add_examples(_, examples):
    """Add a read that goes on to the example of each that may."""
    for case in [each for each in examples if "follow" in (each.query or {})]:
        following = case.operation.Case(
            path_parameters=case.path_parameters,
            query={"follow": "true", "offset": "earliest"},
            _meta=copy.deepcopy(case.meta),
        )
        examples.append(following)


_cases = Counter()
"""Cases of the coverage phase so far, by operation."""


@schemathesis.hook
def filter_case(_, case):
    """Whether to try a case of the coverage phase, which has hundreds for some operations.

    The first dozen of each operation are tried, and then ever fewer, from all that follow.
    """
    if case.media_type == "application/x-ndjson" and case.meta.generation.mode.is_negative:
        # The status is sent before the lines come; each line has an answer of its own.
        return False
    if THINNING is None or case.meta.phase.name is not TestPhase.COVERAGE:
        return True
    number = _cases[case.operation.label]
    _cases[case.operation.label] += 1
    return number % (1 + number // THINNING) == 0


@schemathesis.hook
def before_call(_, case, kwargs):
    """Shorten what would be right and take long, and write whole numbers as such.

    JSON Schema counts 1.0 as an integer; nobody writes one so.
    """
    case.body = whole(case.body)
    if isinstance(case.query, dict) and case.query.get("follow") in (True, "true"):
        # It never ends. Only of event streams does schemathesis read no more than it has time for.
        case.headers["Accept"] = routes.EVENT_STREAM
        kwargs["timeout"] = FOLLOW_S
    for part in (case.query, case.body):
        if isinstance(part, dict):
            for name in LIMITS.keys() & part.keys():
                part[name] = shortened(part[name], LIMITS[name])


def whole(value):
    """The value with 1 for 1.0 wherever that stands in it."""
    if isinstance(value, dict):
        return {name: whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shortened(value, limit):
    """The limit in place of a larger number, whether it is one or says one."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        return str(min(int(value), limit))
    if isinstance(value, int) and not isinstance(value, bool) and limit < value <= 60_000:
        return limit
    return value
