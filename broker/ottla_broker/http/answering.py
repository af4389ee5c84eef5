"""What every answer goes through, whichever way its request came: errors, and the count of both.

What a handler raises as OttlaError is rendered as it is. Anything else is a defect: it is logged
with its traceback, answered as 500, and says of a write that its outcome is unknown.
"""

import structlog
from prometheus_client import Counter

from ottla_broker.http.context import BrokerContext
from ottla_broker.http.post import Answer, Post, PostRoute, problem_answer
from ottla_broker.request_id import REQUEST_ID
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import InternalError, OttlaError, Outcome, OverloadedError

# Looking a labelled counter up costs more than counting; bounded by routes, methods and statuses.
_counters: dict[tuple[str, str, int], Counter] = {}

log = structlog.get_logger()


def count(route: str, method: str, status: int) -> None:
    """Count one answer. No label may be the client's to make up."""
    counter = _counters.get((route, method, status))
    if counter is None:
        counter = METRICS.http_requests.labels(route, method, status)
        _counters[route, method, status] = counter
    counter.inc()


def answered(method: str, path: str, status: int) -> None:
    """Count one answer, and log it, at the debug level and if it is for a client's request.

    Args:
        method: of the request.
        path: the route's, with `{name}` for what clients make up.
        status: of the answer.
    """
    count(path, method, status)
    if REQUEST_ID.get() is not None:
        log.debug("request_answered", method=method, path=path, status=status)


def defect(method: str) -> OttlaError:
    """What the client hears of an exception that nobody foresaw."""
    outcome = Outcome.UNKNOWN if method == "POST" else None
    return InternalError("the broker failed; its log tells more", outcome=outcome)


def refusal(route: PostRoute, error: OttlaError) -> Answer:
    """The answer to a request that fails before its handler."""
    if route.is_write:
        error = error.with_outcome(Outcome.NOT_APPLIED)
    answered("POST", route.path, error.status)
    return problem_answer(error)


def no_room(error: OverloadedError, *, is_write: bool) -> OttlaError:
    """What a client hears where its answer has no room among those that nobody takes.

    The request has been served by then, so of a write it is not said that nothing was applied: who
    believed that would send it again.
    """
    if is_write:
        error.outcome = Outcome.UNKNOWN
    return error


async def answer_post(context: BrokerContext, route: PostRoute, post: Post) -> Answer:
    """Serve one POST; raises nothing but the cancellation of its task."""
    try:
        answer = await route.handler(context, post)
    except OttlaError as error:
        answer = problem_answer(error)
    except Exception:
        log.exception("request_failed", method="POST", path=route.path)
        answer = problem_answer(defect("POST"))
    answered("POST", route.path, answer.status)
    return answer
