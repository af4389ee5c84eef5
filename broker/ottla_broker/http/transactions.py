"""`/v1/transactions`, as operators look at it; what producers do is in `transaction_posts`."""

from aiohttp import web

from ottla_broker.drivers.clock import wall_clock_ms
from ottla_broker.http.context import context_of
from ottla_broker.http.query import MAX_TIMESTAMP, Query, parse_integer, partition_number
from ottla_broker.http.topics import change_request, json_response
from ottla_cluster.transactions.records import TransactionState
from ottla_protocol.errors import InvalidRequestError, OttlaError, Outcome
from ottla_protocol.models_transactions import (
    DEFAULT_LISTED_TRANSACTIONS,
    MAX_LISTED_TRANSACTIONS,
    AbortHangingRequest,
)
from ottla_protocol.transaction_tokens import MAX_PRODUCER_ID

MAX_AGE_MS = MAX_TIMESTAMP

_STATES = {state.lower(): state for state in TransactionState}


async def list_transactions(request: web.Request) -> web.Response:
    """`GET /v1/transactions`."""
    query = Query(request.query.items(), ("state", "older_than_ms", "limit", "cursor"))
    state = query.text("state")
    older_than_ms = None
    if query.text("older_than_ms") is not None:
        older_than_ms = query.number("older_than_ms", 0, minimum=0, maximum=MAX_AGE_MS)
    found = await context_of(request).transactions.list_transactions(
        None if state is None else _states(state),
        older_than_ms=older_than_ms,
        now_ms=wall_clock_ms(),
        limit=query.number(
            "limit", DEFAULT_LISTED_TRANSACTIONS, minimum=1, maximum=MAX_LISTED_TRANSACTIONS
        ),
        cursor=query.text("cursor"),
    )
    return json_response(found)


async def describe(request: web.Request) -> web.Response:
    """`GET /v1/transactions/{transactional_id}`."""
    Query(request.query.items(), ())
    transactions = context_of(request).transactions
    transactional_id = request.match_info["transactional_id"]
    return json_response(await transactions.describe(transactional_id, now_ms=wall_clock_ms()))


async def of_partition(request: web.Request) -> web.Response:
    """`GET /v1/topics/{topic}/partitions/{partition}/transactions`."""
    Query(request.query.items(), ())
    found = await context_of(request).open_transactions.describe(
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
        now_ms=wall_clock_ms(),
    )
    return json_response(found)


async def list_hanging(request: web.Request) -> web.Response:
    """`GET /v1/hanging-transactions`."""
    context = context_of(request)
    query = Query(request.query.items(), ("topic", "idle_ms"))
    found = await context.open_transactions.hanging(
        query.text("topic"),
        idle_ms=query.number(
            "idle_ms", context.open_transactions.hanging_after_ms, minimum=0, maximum=MAX_AGE_MS
        ),
        now_ms=wall_clock_ms(),
    )
    return json_response(found)


async def abort_hanging(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/partitions/{partition}/transactions/{producer}/abort`."""
    wanted = await change_request(request, AbortHangingRequest)
    try:
        aborted = await context_of(request).open_transactions.abort(
            request.match_info["topic"],
            partition_number(request.match_info["partition"]),
            _producer_id(request.match_info["producer"]),
            wanted,
        )
    except OttlaError as error:
        # What comes after the append of the marker says so itself.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return json_response(aborted)


def _states(text: str) -> list[TransactionState]:
    """The states of a list that is separated by commas; capitals do not matter.

    Raises:
        InvalidRequestError: there is no such state, or there are more than all.
    """
    words = text.split(",", maxsplit=len(_STATES))
    try:
        states = [_STATES[word.lower()] for word in words]
    except KeyError:
        states = []
    if not 1 <= len(states) <= len(_STATES):
        raise InvalidRequestError(
            f"state must be some of {', '.join(TransactionState)}, separated by commas, not "
            f"'{text}'",
            parameter="state",
        )
    return states


def _producer_id(text: str) -> int:
    number = parse_integer(text)
    if number is None or not 0 <= number <= MAX_PRODUCER_ID:
        raise InvalidRequestError(
            f"'{text}' is no producer id, which is a whole number", parameter="producer"
        )
    return number
