"""An HTTP/1.1 answer out of the bytes of a connection, its body read to where it stays. Pure.

The body is received into memory of its own, as large as announced, and never copied after that: of
a fetched megabyte every copy is time that nobody else has in a program of threads, because the
interpreter's lock is held for it.

Only what brokers send to a POST is understood: a head, and a body of announced length. The rest is
for a general client.
"""

from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 16 << 10
"""A longer head is none of a broker."""

_HEAD_END: Final = b"\r\n\r\n"
_VERSION: Final = b"HTTP/1."


class Answer(NamedTuple):
    """A whole answer.

    Attributes:
        status: the HTTP status.
        content_type: without parameters, in lower case.
        body: this answer's own memory.
        keeps_alive: whether another request may follow on the connection.
    """

    status: int
    content_type: str
    body: bytearray
    keeps_alive: bool


class NotAnAnswerError(Exception):
    """What came is no HTTP answer, or longer than it may be."""


class ForeignAnswerError(NotAnAnswerError):
    """The answer is no broker's but a proxy's, which a general client can read.

    It does not say how long it is, is encoded, or of HTTP/1.0.
    """


class AnswerReader:
    """Reads one answer after the other.

    `buffer` is where the next bytes go, and `received` is told how many came; how they were cut
    makes no difference.

    Args:
        max_body_bytes: the longest body that is taken.
    """

    __slots__ = ("_answer", "_filled", "_max_body_bytes", "_scratch")

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._scratch = bytearray(MAX_HEAD_BYTES)
        # Set from the head's end on. `_filled` counts the bytes of the body then, and before it
        # those of the head, which are in `_scratch`.
        self._answer: Answer | None = None
        self._filled = 0

    @property
    def buffer(self) -> memoryview:
        """Where to put what comes; never empty."""
        target = self._scratch if self._answer is None else self._answer.body
        return memoryview(target)[self._filled :]

    def received(self, count: int) -> Answer | None:
        """`count` bytes are in `buffer` now; returns the answer if they end it.

        Raises:
            NotAnAnswerError: after it, nothing that comes is of any use.
        """
        self._filled += count
        while self._answer is None:
            end = self._scratch.find(_HEAD_END, 0, self._filled)
            if end < 0:
                if self._filled == MAX_HEAD_BYTES or not _begins_well(self._scratch, self._filled):
                    raise NotAnAnswerError("its head does not end, or is none")
                return None
            self._end_head(end)
        answer = self._answer
        if self._filled < len(answer.body):
            return None
        self._answer, self._filled = None, 0
        return answer

    def _end_head(self, end: int) -> None:
        status, fields = _parse_head(bytes(self._scratch[:end]))
        begin = end + len(_HEAD_END)
        rest = self._scratch[begin : self._filled]
        if 100 <= status < 200:
            # An interim answer: the real one follows.
            self._scratch[: len(rest)] = rest
            self._filled = len(rest)
            return
        length = _body_bytes(status, fields)
        if not len(rest) <= length <= self._max_body_bytes:
            raise NotAnAnswerError(
                f"an answer of {length} bytes, of which {len(rest)} came with its head, is over "
                f"the limit of {self._max_body_bytes} or longer than it says"
            )
        body = bytearray(length)
        body[: len(rest)] = rest
        self._filled = len(rest)
        self._answer = Answer(
            status,
            fields.get("content-type", "").partition(";")[0].strip().lower(),
            body,
            fields.get("connection", "").lower() != "close",
        )


def _begins_well(received: bytearray, count: int) -> bool:
    return received.startswith(_VERSION[:count])


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status, and the fields by lower-case name."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if version == "HTTP/1.0":
        raise ForeignAnswerError("it is of HTTP/1.0")
    if version != "HTTP/1.1" or not (code.isascii() and code.isdigit()):
        raise NotAnAnswerError(f"no status line of HTTP/1.1: {first[:80]!r}")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if not colon or (name == "content-length" and fields.get(name, value) != value):
            raise NotAnAnswerError(f"not a header field, or at odds with another: {line[:80]!r}")
        fields[name] = value
    return int(code), fields


def _body_bytes(status: int, fields: dict[str, str]) -> int:
    length = fields.get("content-length")
    if "transfer-encoding" in fields or (length is None and status != 204):
        raise ForeignAnswerError("its length is not announced")
    if fields.get("content-encoding", "identity").lower() != "identity":
        raise ForeignAnswerError("its body is encoded, which nobody asked for")
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()):
        raise NotAnAnswerError(f"no length: {length[:80]!r}")
    return int(length)
