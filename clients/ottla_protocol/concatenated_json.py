"""Concatenated JSON: objects one after the other, cut apart as their bytes arrive.

    {"value": 1}{"value": 2}
    {"value": 3}

Whitespace between objects means nothing, and line ends mean nothing within them, so a document's
end is where its braces close. Finding that takes no more than counting brackets outside strings;
whether what lies between is JSON is for a decoder to say, which sees each document whole.

A splitter holds no more than one unfinished document, of `limit_bytes` at most, beside what it was
fed last.
"""

import re

from ottla_protocol.errors import (
    InvalidRequestError,
    MalformedBodyError,
    MessageTooLargeError,
    OttlaError,
)

MAX_DEPTH = 200
"""Objects and arrays within one another, in one document."""

_NOT_WHITESPACE = re.compile(rb"[^ \t\r\n]")
_BRACKET_OR_STRING = re.compile(rb'["{}\[\]]')
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')

_QUOTE = 0x22
_BACKSLASH = 0x5C
_OPENING = frozenset(b"{[")


class ConcatenatedJsonSplitter:
    """Cuts a stream of bytes into JSON objects.

    Args:
        limit_bytes: the longest document.
        max_depth: how deep objects and arrays may lie within one another.

    Attributes:
        error: why the stream cannot be cut any further; None as long as it can. What was cut
            before it is whole.
    """

    def __init__(self, *, limit_bytes: int, max_depth: int = MAX_DEPTH) -> None:
        self.error: OttlaError | None = None
        self._limit_bytes = limit_bytes
        self._max_depth = max_depth
        self._buffer = bytearray()
        self._scanned = 0
        """Where scanning goes on; behind the buffer's end when that is a backslash."""
        self._depth = 0
        self._is_in_string = False
        self._dropped_bytes = 0
        """What lay in front of the buffer, for positions in errors."""

    @property
    def pending_bytes(self) -> int:
        """The bytes of the document that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The documents that `data` completes, in order; see `error` afterwards."""
        if self.error is not None:
            return []
        self._buffer += data
        documents: list[bytes] = []
        start = 0
        while self.error is None:
            if self._depth == 0:
                found = _NOT_WHITESPACE.search(self._buffer, start)
                if found is None:
                    start = len(self._buffer)
                    break
                start = found.start()
                if self._buffer[start] != 0x7B:
                    self._fail_at(start)
                    break
                self._depth, self._scanned = 1, start + 1
            end = self._end_of_document()
            if (len(self._buffer) if end is None else end) - start > self._limit_bytes:
                self.error = MessageTooLargeError(
                    f"a JSON document is over the limit of {self._limit_bytes} bytes",
                    limit_bytes=self._limit_bytes,
                )
            elif end is None:
                break
            else:
                documents.append(bytes(self._buffer[start:end]))
                start = end
        self._drop(start)
        return documents

    def finish(self) -> None:
        """The stream has ended; `error` says so if it ended within a document."""
        if self.error is None and self._depth:
            self.error = MalformedBodyError("the body ended within a JSON document")

    def _end_of_document(self) -> int | None:
        """Where the document ends whose scan has begun, None if it goes on behind the buffer."""
        buffer = self._buffer
        position = self._scanned
        while True:
            pattern = _QUOTE_OR_ESCAPE if self._is_in_string else _BRACKET_OR_STRING
            found = pattern.search(buffer, position)
            if found is None:
                self._scanned = max(position, len(buffer))
                return None
            position = found.end()
            byte = buffer[position - 1]
            if byte == _BACKSLASH:
                position += 1
            elif byte == _QUOTE:
                self._is_in_string = not self._is_in_string
            elif byte in _OPENING:
                self._depth += 1
                if self._depth > self._max_depth:
                    self.error = InvalidRequestError(
                        f"a JSON document is nested deeper than {self._max_depth}",
                        max_depth=self._max_depth,
                    )
                    return None
            else:
                self._depth -= 1
                if self._depth == 0:
                    return position

    def _fail_at(self, position: int) -> None:
        where = self._dropped_bytes + position
        self.error = MalformedBodyError(
            f"byte {where}: a JSON object must begin here, with a brace", position=where
        )

    def _drop(self, count: int) -> None:
        """Forget what was handed out, and all of it once nothing follows."""
        if self.error is not None:
            self._buffer = bytearray()
            return
        if count:
            del self._buffer[:count]
            self._scanned -= count
            self._dropped_bytes += count
