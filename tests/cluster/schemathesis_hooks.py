"""What schemathesis cannot know of itself: MessagePack, and how long a test may take.

Loaded by `python -m schemathesis.cli` (SCHEMATHESIS_HOOKS) in test_generated_requests.
"""

import copy
import os
import sys
from collections import Counter
from itertools import groupby

import msgspec
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.generation.meta import TestPhase
from schemathesis.openapi.checks import EnsureResourceAvailability
from schemathesis.specs.openapi import stateful

from ottla_broker.http.operation_tables.parameters import PRINTABLE
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


RECORD_BY_RECORD = ("restProduceBatch", "restProduceRecords")
"""Operations that tell each record its fate, under 200 or 207 whatever it is; so does NDJSON."""


BEGINNINGS = (
    "beginRestore", "commitOffsets", "createTopic", "initialiseProducer", "joinGroup", "poll",
    "proxyCreateConsumer", "restCreateTopic",
)  # fmt: skip
"""Where walks along links begin."""


def is_beginning(operation, *_):
    """In place of a guess by names and methods, for which there is no setting."""
    return operation.definition.raw["operationId"] in BEGINNINGS


assert callable(stateful.is_likely_root_transition)
stateful.is_likely_root_transition = is_beginning


def printable_ranges():
    """What PRINTABLE has, for Python's regular expressions, which know no classes of Unicode."""
    numbered = ((code, chr(code).isprintable()) for code in range(sys.maxunicode + 1))
    for is_printable, run in groupby(numbered, key=lambda each: each[1]):
        if is_printable:
            codes = [code for code, _ in run]
            yield f"\\U{codes[0]:08x}-\\U{codes[-1]:08x}"


@schemathesis.hook
def before_load_schema(_, raw_schema):
    """Spell classes of characters out."""
    ranges = "".join(printable_ranges())

    def spell_out(schema):
        for name, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
            if isinstance(value, dict | list):
                spell_out(value)
            elif name == "pattern" and isinstance(value, str):
                schema[name] = value.replace(PRINTABLE, ranges)

    spell_out(raw_schema)


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


@schemathesis.hook
def filter_failure(_, failure, case, response):
    """Whether what a check found is one: not where a wrong request was refused in another way.

    Of records that come one by one each is told what is wrong with it. And what was to be a wrong
    body may come out as none, where none is right. Nor where what was just made is there, and a
    topic that the body names is not.
    """
    if isinstance(failure, EnsureResourceAvailability):
        return "topic" in case.path_parameters or not tells_of_a_topic(response.content)
    if not isinstance(failure, AcceptedNegativeData):
        return True
    definition = case.operation.definition.raw
    if not response.request.body and not definition.get("requestBody", {}).get("required", True):
        return False
    is_record_by_record = definition["operationId"] in RECORD_BY_RECORD
    if case.media_type == routes.NDJSON or is_record_by_record:
        return not tells_of_a_refusal(response.content)
    return True


def tells_of_a_topic(body):
    """Whether a 404 says that there is no such topic or partition.

    A proxy has one code for that and for a consumer instance that is not there.
    """
    problem = msgspec.json.decode(body)
    if problem.get("error_code") == 40403:
        return "has no consumer instance" not in problem["message"]
    return problem.get("code") == "UNKNOWN_TOPIC_OR_PARTITION"


def tells_of_a_refusal(body):
    """Whether one of an answer's items says that its record was not taken."""
    for item in map(msgspec.json.decode, body.splitlines()):
        if "error" in item or item.get("failures") or item.get("error_code", 200) != 200:
            return True
    return False


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
