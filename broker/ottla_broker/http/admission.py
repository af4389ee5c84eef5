"""Who may ask this process what: members of its own cluster, and clients that want a broker.

A dedicated controller serves what the metadata answer, changes of them included. Records, groups
and everything else that replicas are needed for it refuses, and names brokers: it could forward,
but its work is to keep the quorum, and clients that leave no work there cannot disturb that.
"""

import hmac
from collections.abc import Mapping

from aiohttp import web

from ottla_broker.http.context import BrokerContext, context_of
from ottla_broker.http.problems import Handler
from ottla_protocol import routes
from ottla_protocol.errors import (
    ClusterAuthorizationFailedError,
    InconsistentClusterIdError,
    MismatchedEndpointTypeError,
)

MAX_NAMED_BROKERS = 16
"""URLs of brokers in one refusal."""

_CLUSTER_ID = routes.HEADER_CLUSTER_ID.lower()
_CLUSTER_SECRET = routes.HEADER_CLUSTER_SECRET.lower()


def admit_member(context: BrokerContext, headers: Mapping[str, str]) -> None:
    """Refuse calls from other clusters and from whoever lacks the secret.

    Raises:
        InconsistentClusterIdError: the caller names another cluster, or none.
        ClusterAuthorizationFailedError: the secret is missing or wrong.
    """
    admit_namesake(context, headers)
    if context.settings.cluster_secret is not None and not has_cluster_secret(context, headers):
        raise ClusterAuthorizationFailedError("the cluster secret is missing or wrong")


def admit_namesake(context: BrokerContext, headers: Mapping[str, str]) -> None:
    """Refuse calls from other clusters; whether the caller knows the secret is seen later.

    Raises:
        InconsistentClusterIdError: the caller names another cluster, or none.
    """
    settings = context.settings
    theirs = headers.get(_CLUSTER_ID)
    if theirs != settings.cluster_id:
        raise InconsistentClusterIdError(
            f"node {settings.node_id} belongs to cluster '{settings.cluster_id}', "
            f"and the caller to '{theirs or 'none'}'"
        )


def has_cluster_secret(context: BrokerContext, headers: Mapping[str, str]) -> bool:
    """Whether the caller knows the cluster's secret; nobody does where none is set."""
    secret = context.settings.cluster_secret
    return secret is not None and hmac.compare_digest(
        headers.get(_CLUSTER_SECRET, "").encode(errors="surrogateescape"),
        secret.get_secret_value().encode(),
    )


def is_member(context: BrokerContext, headers: Mapping[str, str]) -> bool:
    """Whether another node of this cluster asks.

    What forwarders say about a request (`Ottla-Forwarded-By`, `Ottla-Purpose`) counts only then.
    Where the cluster has no secret, its name must do: such a cluster trusts whoever reaches it.
    """
    try:
        admit_member(context, headers)
    except (InconsistentClusterIdError, ClusterAuthorizationFailedError):
        return False
    return True


def admit_to_broker(context: BrokerContext, headers: Mapping[str, str]) -> None:
    """Refuse what this process does not serve, and brokers that took it for one of their own.

    Brokers call public routes too, to pass a client's request on, and then name their cluster.

    Raises:
        MismatchedEndpointTypeError: this process is a dedicated controller.
        InconsistentClusterIdError: the caller is a broker of another cluster.
    """
    if not context.settings.is_broker:
        raise _not_a_broker(context)
    theirs = headers.get(_CLUSTER_ID)
    if theirs is not None and theirs != context.settings.cluster_id:
        admit_member(context, headers)


def at_broker(handler: Handler) -> Handler:
    """The handler, for brokers only."""

    async def admit(request: web.Request) -> web.StreamResponse:
        admit_to_broker(context_of(request), request.headers)
        return await handler(request)

    return admit


def _not_a_broker(context: BrokerContext) -> MismatchedEndpointTypeError:
    brokers = sorted(context.metadata.image.active_brokers(), key=lambda broker: broker.node_id)
    urls = [broker.url for broker in brokers][:MAX_NAMED_BROKERS]
    known = f"ask a broker: {', '.join(urls)}" if urls else "no broker is active"
    return MismatchedEndpointTypeError(
        f"node {context.settings.node_id} is a dedicated controller and hosts no replicas; {known}",
        brokers=urls,
    )
