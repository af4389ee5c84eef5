"""Stand-ins for the broker process."""

import io
import sys
import tempfile
import textwrap
from contextlib import contextmanager

import pytest

from ottla_ops.cli.main import run
from tests.unit.ops.fake_cluster import FakeCluster

FAKE_BROKER = """
    import http.server, os, signal, sys, threading, time

    mode = os.environ.get("FAKE_MODE", "")
    print("settings", sorted(name for name in os.environ if name.startswith("OTTLA_")), flush=True)
    if mode == "exit":
        print("cannot bind", flush=True)
        sys.exit(3)
    print("pid", os.getpid(), flush=True)
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    host, port = (flags.get("--listen") or os.environ["OTTLA_LISTEN"]).split(":")
    ready_at = time.monotonic() + float(os.environ.get("FAKE_READY_AFTER_S", "0"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = 200 if time.monotonic() >= ready_at and mode != "unready" else 503
            body = b'{"reasons": ["no controller"]}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        stop = lambda *_: threading.Thread(target=server.shutdown).start()
        signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.02)
    print("stopped", flush=True)
"""


@pytest.fixture
def fake_broker(tmp_path):
    """Command of a process that answers `/readyz` like a broker; FAKE_* variables change it."""
    script = tmp_path / "fake_broker.py"
    script.write_text(textwrap.dedent(FAKE_BROKER))
    return (sys.executable, "-S", str(script))


@pytest.fixture
def cluster():
    """One fake broker."""
    with closing_cluster(1) as cluster:
        yield cluster


@pytest.fixture
def three_brokers():
    """Three fake brokers with common memory."""
    with closing_cluster(3) as cluster:
        yield cluster


@contextmanager
def closing_cluster(brokers):
    cluster = FakeCluster(brokers)
    try:
        yield cluster
    finally:
        cluster.stop()


class Cli:
    """Runs `ottla` in this process: exit code, stdout, stderr."""

    def __init__(self, capsysbinary, monkeypatch):
        self._capture = capsysbinary
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments, stdin=b"", to=None):
        with tempfile.TemporaryFile("w+b") as file:
            file.write(stdin)
            file.seek(0)
            self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
            bootstrap = ["--bootstrap", to.bootstrap] if to else []
            code = run([*bootstrap, *map(str, arguments)])
            sys.stdin.detach()
        captured = self._capture.readouterr()
        return code, captured.out.decode(errors="surrogateescape"), captured.err.decode()


@pytest.fixture
def cli(capsysbinary, monkeypatch, tmp_path):
    """The command, run in this process by a user without contexts."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("OTTLA_BOOTSTRAP", "OTTLA_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    return Cli(capsysbinary, monkeypatch)
