"""The URL by which a client reached this broker, for answers that hold links."""

from aiohttp import web

from ottla_broker.http.admission import has_cluster_secret
from ottla_broker.http.context import context_of


def base_url_of(request: web.Request) -> str:
    """`rest_base_uri` where it is set, else where the client came to, as far as anybody may say.

    What a proxy in front forwards counts only if it knows the cluster's secret: else any client
    could have others sent elsewhere.
    """
    context = context_of(request)
    if context.settings.rest_base_uri:
        return context.settings.rest_base_uri
    host, scheme = request.headers.get("Host", ""), "http"
    if has_cluster_secret(context, request.headers):
        host = request.headers.get("X-Forwarded-Host", host).partition(",")[0].strip()
        scheme = request.headers.get("X-Forwarded-Proto", scheme).partition(",")[0].strip()
    return f"{scheme}://{host}" if host else context.settings.url
