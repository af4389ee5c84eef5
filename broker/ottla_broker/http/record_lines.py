"""NDJSON in pieces: the lines in whatever parts it comes, and the answers, one for each.

Lines end with LF or CRLF; the last may do without. Blank lines are no records and are not counted:
they keep an idle stream open.
"""

from collections.abc import Sequence

import msgspec

from ottla_broker.services.stream_produce import LineResult, StoredLine, StreamLine
from ottla_protocol.errors import MessageTooLargeError, OttlaError, Outcome

LINE_BYTES_MAX = 2 << 20
"""The longest line, without its end. A value of 1 MiB in base64 fits."""

LONG_LINE = b""
"""What stands for a line that was too long, in its place among the others."""

_encoder = msgspec.json.Encoder()


class LineSplitter:
    """Cuts a body into lines; of an unfinished one it keeps at most `line_bytes_max`.

    Args:
        line_bytes_max: longer lines are LONG_LINE, and are not kept.
    """

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._begun: list[bytes] = []
        self._begun_bytes = 0

    @property
    def begun_bytes(self) -> int:
        """How much of an unfinished line is kept."""
        return min(self._begun_bytes, self._line_bytes_max)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their ends and without blank ones."""
        first, *others = data.split(b"\n")
        self._keep(first)
        if not others:
            return []
        lines = [self._take()]
        last = others.pop()
        lines += [
            line if len(line) <= self._line_bytes_max else LONG_LINE
            for line in others
            if line and not line.isspace()
        ]
        self._keep(last)
        return [line for line in lines if line is not None]

    def finish(self) -> list[bytes]:
        """The last line, if it has no end."""
        line = self._take()
        return [] if line is None else [line]

    def _keep(self, part: bytes) -> None:
        self._begun_bytes += len(part)
        if self._begun_bytes > self._line_bytes_max:
            self._begun.clear()
        elif part:
            self._begun.append(part)

    def _take(self) -> bytes | None:
        """The line that has been begun; None if it is blank."""
        is_long = self._begun_bytes > self._line_bytes_max
        line = b"".join(self._begun)
        self._begun.clear()
        self._begun_bytes = 0
        if is_long:
            return LONG_LINE
        return None if not line or line.isspace() else line


def long_line(number: int) -> MessageTooLargeError:
    """What LONG_LINE is answered with."""
    return MessageTooLargeError(
        f"line {number} is over {LINE_BYTES_MAX} bytes",
        outcome=Outcome.NOT_APPLIED,
        limit_bytes=LINE_BYTES_MAX,
    )


def render_error(error: OttlaError, number: int) -> bytes:
    """The answer to a line that failed, with its end."""
    problem = error.problem()
    problem.pop("index", None)
    return b'{"error":%b,"index":%d}\n' % (_encoder.encode(problem), number)


def render_results(
    lines: Sequence[StreamLine], results: Sequence[LineResult], *, with_topics: bool
) -> bytes:
    """The answers to some lines, each with its end."""
    rendered: list[bytes] = []
    for line, result in zip(lines, results, strict=False):
        if not isinstance(result, StoredLine):
            rendered.append(render_error(result, line.number))
            continue
        topic = b'"topic":%b,' % _encoder.encode(line.topic) if with_topics else b""
        duplicate = b',"duplicate":true' if result.duplicate else b""
        rendered.append(
            b'{%b"partition":%d,"offset":%d%b}\n'
            % (topic, result.partition, result.offset, duplicate)
        )
    return b"".join(rendered)
