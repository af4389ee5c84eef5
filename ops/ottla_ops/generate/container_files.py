"""A container image of a broker, and a cluster of three on one host."""

from collections.abc import Iterator
from typing import Final

from ottla_ops.generate.broker_process import (
    BROKER_MODULE,
    BROKER_STOPS_WITHIN_S,
    DESCRIPTORS,
    KILLED_AFTER_S,
    PORT,
)
from ottla_protocol import routes

PYTHON_IMAGE: Final = "python:3.13-slim"
USER_ID: Final = 10001
DATA_DIRECTORY: Final = "/var/lib/ottla"
COMPOSE_BROKERS: Final = 3

DOCKERFILE: Final = """\
# A broker as an image. In a clone:
#
#   docker build --file ops/container/Dockerfile --tag ottla .
#
# On machines other than x86-64 there is no SQLite that can be trusted with WAL, and a broker needs
# OTTLA_ALLOW_AFFECTED_SQLITE=true to start. Made by `ottla generate dockerfile`.
FROM {python} AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY clients clients
COPY cluster cluster
COPY broker broker
COPY ops ops
RUN python -m venv /opt/ottla \\
    && /opt/ottla/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM {python}
RUN useradd --uid {user} --user-group --no-create-home --shell /usr/sbin/nologin ottla \\
    && install --directory --owner ottla --mode 0700 {data}
COPY --from=build /opt/ottla /opt/ottla
ENV PATH=/opt/ottla/bin:$PATH \\
    OTTLA_DATA_DIR={data} \\
    OTTLA_LOG_FORMAT=json
USER {user}
VOLUME {data}
EXPOSE {port}
# The broker is the first process and hears SIGTERM itself: it exits within {stops} seconds.
STOPSIGNAL SIGTERM
# Not by a proxy, which Docker tells containers of; and a broker that hangs is no broker.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \\
    CMD ["python", "-c", "import urllib.request as r; \\
r.build_opener(r.ProxyHandler({{}})).open('http://127.0.0.1:{port}{live}', timeout=4)"]
ENTRYPOINT ["python", "-m", "{module}"]
"""

DOCKERIGNORE: Final = """\
# Only what the image is built from.
*
!pyproject.toml
!constraints.txt
!README.md
!clients
!cluster
!broker
!ops
**/__pycache__
"""

COMPOSE_HEADER: Final = """\
# Three brokers on one host, for trying and for tests:
#
#   docker compose --file ops/container/compose.yaml up --build --detach
#   curl -s http://127.0.0.1:{port}/v1/cluster
#
# Any broker takes any request at its port of this host. SDKs go to leaders under the names that
# these advertise, so they run in the same network.
# Brokers listen beyond loopback without TLS and authentication, but only within that network: ports
# are published on loopback. Made by `ottla generate compose`.
name: ottla

services:
"""


def dockerfile() -> str:
    """The Dockerfile; its context is the root of a clone."""
    return DOCKERFILE.format(
        python=PYTHON_IMAGE,
        user=USER_ID,
        data=DATA_DIRECTORY,
        port=PORT,
        live=routes.LIVENESS,
        stops=BROKER_STOPS_WITHIN_S,
        module=BROKER_MODULE,
    )


def dockerignore() -> str:
    """What BuildKit leaves out of the context, beside the Dockerfile."""
    return DOCKERIGNORE


def compose() -> str:
    """The compose file, as YAML."""
    node_ids = range(1, COMPOSE_BROKERS + 1)
    lines = [line for node_id in node_ids for line in _service(node_id)]
    volumes = ["volumes:", *(f"  broker{node_id}:" for node_id in node_ids)]
    return COMPOSE_HEADER.format(port=PORT) + "\n".join([*lines, *volumes]) + "\n"


def _service(node_id: int) -> Iterator[str]:
    voters = ",".join(f"{other}@broker{other}:{PORT}" for other in range(1, COMPOSE_BROKERS + 1))
    yield f"  broker{node_id}:"
    yield "    image: ottla"
    yield "    build:"
    yield "      context: ../.."
    yield "      dockerfile: ops/container/Dockerfile"
    yield "    environment:"
    yield f'      OTTLA_NODE_ID: "{node_id}"'
    yield f'      OTTLA_LISTEN: "0.0.0.0:{PORT}"'
    yield f'      OTTLA_ADVERTISED_URL: "http://broker{node_id}:{PORT}"'
    yield f'      OTTLA_VOTERS: "{voters}"'
    yield '      OTTLA_INSECURE_LISTEN: "true"'
    yield "    ports:"
    yield f'      - "127.0.0.1:{PORT + node_id - 1}:{PORT}"'
    yield "    volumes:"
    yield f"      - broker{node_id}:{DATA_DIRECTORY}"
    yield "    restart: unless-stopped"
    yield f"    stop_grace_period: {KILLED_AFTER_S}s"
    yield "    ulimits:"
    yield f"      nofile: {DESCRIPTORS}"
    yield ""
