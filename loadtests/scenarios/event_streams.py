"""Followers of the topic over server-sent events (WHATWG HTML section 9.2) that come back.

Each follows all partitions for some seconds, ends the connection and resumes with `Last-Event-ID`,
at once or at another broker. In every partition the offsets must follow one another, over all
connections: a gap is a lost event, a step back a repeated one. What is measured is how long after
its timestamp a record arrives.
"""

import time
from typing import Any

import gevent
import msgspec
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust import task

from loadtests.event_stream_reader import EventStreamReader
from loadtests.scenarios.http_user import OttlaHttpUser, name_of
from loadtests.scenarios.run_state import RUN, report
from loadtests.settlement import SETTLE_TIMEOUT_S, judge
from ottla_protocol.routes import EVENT_STREAM, HEADER_LAST_EVENT_ID

FOLLOW_S = (2.0, 6.0)
REPORT_INTERVAL_S = 0.25
"""One operation is reported for what arrives in this time: an event costs too little to count."""


class _Record(msgspec.Struct):
    partition: int
    offset: int
    timestamp: int


_record_decoder = msgspec.json.Decoder(_Record)


class EventStreamUser(OttlaHttpUser):
    """A page that shows what is written."""

    weight = 2

    def on_start(self) -> None:
        """Begin with what is written from now on."""
        self._reader = EventStreamReader()
        self._next_offsets: dict[int, int] = {}
        self._reported_s = 0.0
        self._began_s: float | None = None  # When the stream that is not there yet was asked for.

    @task
    def follow(self) -> None:
        """One connection."""
        started_s = time.perf_counter()
        path = f"/v1/topics/{self.topic}/records"
        headers = {"Accept": EVENT_STREAM, "Accept-Encoding": "identity"}
        if self._reader.last_event_id:
            headers[HEADER_LAST_EVENT_ID] = self._reader.last_event_id
        else:
            path += "?offset=latest"
        response = self.client.request(
            "GET", self.broker + path, headers=headers, stream=True, catch_response=True
        )
        if self._began_s is None:
            self._began_s = started_s
        if response.status_code != 200:
            status = response.status_code
            error = name_of(response.request_meta["exception"])
            self._refused(status, bytes(response.content or b"") if status else error)
            return
        report(self.environment, "SSE", "follow", self._began_s)
        self._began_s = None
        self._reader.begin()
        # locust's own iterators wait for whole blocks, which a quiet stream does not fill.
        stream: Any = response._response  # noqa: SLF001 - see above
        try:
            with gevent.Timeout(self.random.uniform(*FOLLOW_S), exception=False):
                self._take(stream)
        finally:
            # What is still on its way belongs to nobody: the next connection begins behind the last
            # event that was taken.
            stream.release()

    def _take(self, stream: Any) -> None:
        """Take events until the stream ends or the time is up."""
        while True:
            try:
                line = stream.readline(b"\n")
            except (OSError, HTTPConnectionClosed, HTTPParseError) as error:
                RUN.recorder.repeated("follow", type(error).__name__)
                self.next_broker()
                return
            if not line:
                RUN.recorder.repeated("follow", "end of the stream")
                self.next_broker()
                return
            event = self._reader.feed(bytes(line))
            if event is None:
                continue
            if event.kind == "error":
                # The stream ended with a problem document.
                status = int(msgspec.json.decode(event.data).get("status", 500))
                self._refused(status, event.data)
                return
            self._arrived(_record_decoder.decode(event.data))

    def _arrived(self, record: _Record) -> None:
        wanted = self._next_offsets.get(record.partition, record.offset)
        self._next_offsets[record.partition] = record.offset + 1
        failure = None
        if record.offset != wanted:
            failure = f"offset {record.offset} of partition {record.partition}, not {wanted}"
        now_s = time.time()
        if failure is None and now_s - self._reported_s < REPORT_INTERVAL_S:
            return
        self._reported_s = now_s
        lag_ms = max(0.0, now_s * 1000 - record.timestamp)
        report(self.environment, "SSE", "event", 0.0, failure=failure, duration_ms=lag_ms)

    def _refused(self, status: int, body: bytes) -> None:
        """There is no stream, or no more of it: try another broker, for as long as may be."""
        judgement = judge(status, body)
        failure: str | None = judgement.reason
        now_s = time.perf_counter()
        began_s = now_s if self._began_s is None else self._began_s
        self.next_broker()
        if judgement.step == "again":
            RUN.recorder.repeated("follow", judgement.reason)
            if now_s - began_s < SETTLE_TIMEOUT_S:
                return
            failure = f"not settled within {SETTLE_TIMEOUT_S:.0f} s: {judgement.reason}"
        report(self.environment, "SSE", "follow", began_s, failure=failure)
        self._began_s = None
