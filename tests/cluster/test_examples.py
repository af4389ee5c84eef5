"""The examples of clients/examples, each in its own language, against brokers that fail them.

They are given two addresses: one that refuses, and one that passes requests on to a broker and cuts
the connection instead of answering, the first time that it sees a request. So every record is sent
at least twice, and every poll that has not been seen; nothing may come twice for all that.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"
RECORDS = 10
TIMEOUT_S = 900
"""Go compiles its library first, which takes half a minute alone and ten times that beside load."""

ON_THE_WAY_S = 60

LANGUAGES = {
    "curl": ("curl", ["sh", EXAMPLES / "curl" / "produce-and-consume.sh"]),
    "node": ("node", ["node", EXAMPLES / "node" / "produce-and-consume.mjs"]),
    "java": ("java", ["java", EXAMPLES / "java" / "ProduceAndConsume.java"]),
    # Without optimization, and behind everything else: nobody waits for it but this test.
    "go": (
        "go",
        ["nice", "go", "run", "-gcflags=all=-N -l", EXAMPLES / "go" / "produce_and_consume.go"],
    ),
}

_numbers = count(1)


class Cutting(ThreadingHTTPServer):
    """Passes requests on to one broker, and cuts off the first answer to each produce and poll."""

    daemon_threads = True

    def __init__(self, broker_url):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.broker = urlsplit(broker_url).netloc
        self.seen = set()
        self.lock = Lock()
        self.cut = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def is_first(self, path, key, body):
        """Whether this request was never seen before; a poll is known by its body."""
        with self.lock:
            request = (path, key or body)
            if request in self.seen:
                return False
            self.seen.add(request)
            self.cut += 1
            return True


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Idempotency-Key")
        connection = http.client.HTTPConnection(self.server.broker, timeout=ON_THE_WAY_S)
        kept = {
            name: self.headers[name]
            for name in ("Content-Type", "Idempotency-Key")
            if name in self.headers
        }
        connection.request(self.command, self.path, body or None, kept)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if self.command == "POST" and self.server.is_first(self.path, key, body):
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name in ("Content-Type", "Retry-After"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = _pass_on  # noqa: N815  the base class's names

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def cutting(broker_url):
    with Cutting(broker_url) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def refusing():
    """The URL of a port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def surroundings(tmp_path):
    """Nothing is downloaded, and what Go compiles is kept beside Python's bytecode."""
    return {
        **os.environ,
        "GOCACHE": str(Path(sys.prefix) / "go-build"),
        "GOPATH": str(tmp_path / "go"),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GO111MODULE": "on",
        "CGO_ENABLED": "0",
        "no_proxy": "127.0.0.1",
    }


@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.parametrize("language", LANGUAGES)
def test_it_produces_once_and_consumes_all(language, shared, tmp_path):
    tool, command = LANGUAGES[language]
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool} on this machine")
    topic, group = f"example-{language}-{next(_numbers)}", f"example-{language}"
    shared.create_topic(topic, partitions=3, replication_factor=3)
    shared.wait_led(topic, partitions=3)
    with cutting(shared.url(2)) as between, refusing() as nowhere:
        environment = surroundings(tmp_path) | {"OTTLA_BOOTSTRAP": f"{nowhere},{between.url}"}
        ran = subprocess.run(
            [*command, topic, group],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == f"produced {RECORDS} records"
    assert sorted(lines[1:]) == sorted(f"read departure-{each}" for each in range(RECORDS))
    # Each record once, though each was sent again; all of it done with; and nobody left behind.
    stored = [value for each in range(3) for value in shared.values(topic, each).values()]
    assert sorted(stored) == sorted(f"departure-{each}" for each in range(RECORDS))
    assert between.cut > RECORDS
    described = shared.http.get(f"{shared.any_url()}/v1/groups/{group}").expect(200).document
    assert described["members"] == []
    committed = [each["committed"] for each in described["offsets"] if each["topic"] == topic]
    assert sum(filter(None, committed)) == RECORDS, json.dumps(described)


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_follower_reads_from_whoever_answers(shared, topic):
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    shared.append(topic, *(f"departure-{each}" for each in range(RECORDS)))
    with refusing() as nowhere:
        ran = subprocess.run(
            ["node", EXAMPLES / "node" / "follow.mjs", topic, str(RECORDS)],
            env={**os.environ, "OTTLA_BOOTSTRAP": f"{nowhere},{shared.url(3)}"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"read departure-{each}" for each in range(RECORDS)]
    assert "another broker" in ran.stderr


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_the_follower_ends_where_no_broker_could_help(shared):
    if shutil.which("node") is None:
        pytest.skip("there is no node on this machine")
    ran = subprocess.run(
        ["node", EXAMPLES / "node" / "follow.mjs", "no-such-topic", "1"],
        env={**os.environ, "OTTLA_BOOTSTRAP": shared.url(1)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ran.returncode == 1
    assert "There is no topic" in ran.stderr
