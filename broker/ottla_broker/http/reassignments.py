"""`/v1/elections` and `/v1/reassignments`."""

from collections.abc import Sequence

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import change_request, json_response
from ottla_broker.services.shared_failure import shared_failure
from ottla_protocol.errors import OttlaError, Outcome, error_from_problem
from ottla_protocol.models import (
    ElectedPartition,
    ElectionRequest,
    ElectionResponse,
    ReassignedPartition,
    ReassignmentRequest,
    ReassignmentResponse,
)

OK = 200
MULTI_STATUS = 207


async def elect(request: web.Request) -> web.Response:
    """`POST /v1/elections`."""
    wanted = await change_request(request, ElectionRequest)
    return _answer(await context_of(request).reassignments.elect(wanted))


async def list_reassignments(request: web.Request) -> web.Response:
    """`GET /v1/reassignments`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).reassignments.reassignments())


async def alter_reassignments(request: web.Request) -> web.Response:
    """`POST /v1/reassignments`."""
    wanted = await change_request(request, ReassignmentRequest)
    return _answer(await context_of(request).reassignments.reassign(wanted))


def _answer(response: ElectionResponse | ReassignmentResponse) -> web.Response:
    """200, or 207 where some failed.

    Raises:
        OttlaError: all failed, and alike.
    """
    errors = _errors(response.results)
    failure = shared_failure(errors)
    if failure is not None:
        raise failure.with_outcome(Outcome.NOT_APPLIED)
    return json_response(response, status=MULTI_STATUS if any(errors) else OK)


def _errors(
    results: Sequence[ElectedPartition | ReassignedPartition],
) -> list[OttlaError | None]:
    return [
        None if result.error is None else error_from_problem(result.error) for result in results
    ]
