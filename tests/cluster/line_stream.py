"""A producer of NDJSON on a socket of its own: it sends when told, and reads when it wants."""

import json
import socket
from urllib.parse import urlsplit

from ottla_protocol import routes

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class StreamEndedError(Exception):
    """The connection ended before the answer did."""


class LineStream:
    """One chunked POST, whose answer is read line by line while it is sent.

    Args:
        url: of the broker and the call, with its query.
        headers: besides those that every stream has.
    """

    def __init__(self, url, **headers):
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), CONNECT_TIMEOUT_S)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._received = self._socket.makefile("rb")
        self._chunk = b""
        self.status = None
        self.headers = {}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = {
            "Host": parts.netloc,
            "Content-Type": routes.NDJSON,
            "Transfer-Encoding": "chunked",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Break off, wherever the stream is."""
        self._received.close()
        self._socket.close()

    def never_wait_longer_than(self, seconds):
        """For the broker to take what is sent, or to answer."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.settimeout(seconds)

    def send(self, *records):
        """Records as lines; bytes as they are."""
        body = b"".join(
            record if isinstance(record, bytes) else json.dumps(record).encode() + b"\n"
            for record in records
        )
        try:
            self._socket.sendall(b"%x\r\n%b\r\n" % (len(body), body))
        except OSError as error:
            raise StreamEndedError(str(error)) from error

    def send_one_by_one(self, records):
        """Each in a write of its own."""
        for record in records:
            self.send(record)

    def finish(self):
        """Say that there are no more records."""
        self._socket.sendall(b"0\r\n\r\n")

    def read_head(self):
        """Wait for the status."""
        line = self._line()
        self.status = int(line.split()[1])
        while (line := self._line()) not in (b"\r\n", b"\n"):
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def answer(self):
        """The next answer; None where there are no more."""
        if self.status is None:
            self.read_head()
        while b"\n" not in self._chunk:
            size = int(self._line(), 16)
            if size == 0:
                return None
            data = self._received.read(size + 2)
            if len(data) < size + 2:
                raise StreamEndedError("in a chunk")
            self._chunk += data[:-2]
        line, _, self._chunk = self._chunk.partition(b"\n")
        return json.loads(line)

    def answers(self, count=None):
        """That many answers, or all."""
        found = []
        while count is None or len(found) < count:
            answer = self.answer()
            if answer is None:
                assert count is None, f"{len(found)} answers instead of {count}"
                return found
            found.append(answer)
        return found

    def document(self):
        """The body of an answer that is no stream."""
        if self.status is None:
            self.read_head()
        return json.loads(self._received.read(int(self.headers["content-length"])))

    def _line(self):
        try:
            line = self._received.readline()
        except OSError as error:
            raise StreamEndedError(str(error)) from error
        if not line.endswith(b"\n"):
            raise StreamEndedError("in a line")
        return line
