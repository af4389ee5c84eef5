"""Stand-ins for the broker process."""

import sys
import textwrap

import pytest

FAKE_BROKER = """
    import http.server, os, signal, sys, threading, time

    mode = os.environ.get("FAKE_MODE", "")
    print("settings", sorted(name for name in os.environ if name.startswith("OTTLA_")), flush=True)
    if mode == "exit":
        print("cannot bind", flush=True)
        sys.exit(3)
    host, port = os.environ["OTTLA_LISTEN"].split(":")
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
