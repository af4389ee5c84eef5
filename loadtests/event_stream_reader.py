"""Interprets an event stream line by line, as WHATWG HTML section 9.2.6 has it. Pure."""

from typing import NamedTuple


class StreamEvent(NamedTuple):
    """One dispatched event: its type, `message` where the stream names none, and its data."""

    kind: str
    data: bytes


class EventStreamReader:
    """The state of one follower over its connections.

    Attributes:
        last_event_id: what to resume with.
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.begin()

    def begin(self) -> None:
        """A connection begins; what the last one left unfinished is dropped."""
        self._id = self.last_event_id
        self._kind = ""
        self._data: list[bytes] = []

    def feed(self, line: bytes) -> StreamEvent | None:
        """Take one line, with or without its end; returns the event that it dispatches."""
        line = line.rstrip(b"\r\n")
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._kind = value.decode()
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode()
        return None

    def _dispatch(self) -> StreamEvent | None:
        # The id counts where there is no data too: a stream says so where it begins.
        self.last_event_id = self._id
        data, self._data = self._data, []
        kind, self._kind = self._kind or "message", ""
        return StreamEvent(kind, b"\n".join(data)) if data else None
