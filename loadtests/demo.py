"""`make demo`: kill a leader while records are written, then count what every broker holds.

Three brokers of its own on free ports take a stream of flights over HTTP. Halfway the leader of the
busiest partition gets SIGKILL; the stream goes on, and after a second the broker is started again
as a supervisor would. Then every partition is read from every broker and compared, record by
record, with what was acknowledged. The counts are defined in `loadtests.history`, the gap in
`loadtests.flight_stream.PartitionGap`.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from loadtests.data.make_sample import SAMPLE_PATH
from loadtests.flight_stream import FlightStream, PartitionGap, StreamError
from loadtests.flights import Flight, read_flights, repeat_flights
from loadtests.history import HistoryCheck, Verdict
from loadtests.http_connection import HttpConnection
from loadtests.progress import Progress, open_progress
from loadtests.read_back import ReadBackError, check_topic
from ottla_ops.local_cluster import LocalCluster, LocalClusterError
from ottla_protocol.models import CreateTopicRequest, TopicDescription

TOPIC = "flights"
PARTITIONS = 6
BROKERS = 3
PRODUCERS = 12
RECORDS_PER_REQUEST = 50

GAP_MS_MAX = 2_000
RECORDS_WITH_KILL_MIN = 2_000
"""Fewer would all be on their way at the kill, and nothing would be sent after it."""

RESTART_AFTER_S = 1.0
START_TIMEOUT_S = 30.0
STREAM_TIMEOUT_BASE_S = 60.0
STREAM_RECORDS_PER_S_MIN = 1_000
"""The stream may take the base and a second for so many records, then the demo gives up."""
READ_BACK_TIMEOUT_BASE_S = 30.0
ADMIN_TIMEOUT_S = 15.0


class DemoError(Exception):
    """The demo could not run to its end."""


class Demo:
    """One run on a cluster that is ready.

    Args:
        cluster: three brokers.
        flights: in order.
        kill: whether to kill a leader halfway.
        progress: is told what happens.
    """

    def __init__(
        self, cluster: LocalCluster, flights: Sequence[Flight], *, kill: bool, progress: Progress
    ) -> None:
        self._cluster = cluster
        self._flights = flights
        self._kill = kill
        self._progress = progress
        self._halfway = asyncio.Event()
        self._acknowledged = 0
        self._check = HistoryCheck(len(flights))
        timeout_s = STREAM_TIMEOUT_BASE_S + len(flights) / STREAM_RECORDS_PER_S_MIN
        self._stream = FlightStream(
            cluster.urls,
            TOPIC,
            self._check,
            run_id=f"demo-{os.getpid()}",
            producers=PRODUCERS,
            records_per_request=RECORDS_PER_REQUEST,
            deadline_s=time.monotonic() + timeout_s,
            on_acknowledged=self._on_acknowledged,
        )

    async def run(self) -> dict[str, Any]:
        """Create the topic, stream, kill, read back.

        Returns:
            Every count of the run, by name.

        Raises:
            DemoError, StreamError, ReadBackError, LocalClusterError: it did not come to its end.
        """
        await self._create_topic()
        started_s = time.monotonic()
        killer = asyncio.create_task(self._kill_halfway()) if self._kill else None
        try:
            await self._stream.run(self._flights)
            stream_s = time.monotonic() - started_s
            killed = await killer if killer is not None else None
        finally:
            if killer is not None:
                killer.cancel()
        self._progress.say("reading everything back from every broker")
        await check_topic(
            self._check,
            dict(enumerate(self._cluster.urls, start=1)),
            TOPIC,
            timeout_s=READ_BACK_TIMEOUT_BASE_S + len(self._flights) / STREAM_RECORDS_PER_S_MIN,
        )
        verdict = self._check.verdict()
        gap = self._stream.progress.gap
        return {
            **asdict(verdict),
            "sent": len(self._flights),
            "seconds": round(stream_s, 3),
            "records_per_s": round(len(self._flights) / stream_s, 1),
            "killed_broker": killed,
            "killed_partition": gap.partition if gap else None,
            "gap_ms": round(gap.gap_ms, 1) if gap and gap.gap_ms is not None else None,
            "retries": dict(self._stream.progress.retries),
            "duplicate_answers": self._stream.progress.duplicate_answers,
            "passed": is_passed(verdict, gap, kill=self._kill),
        }

    def _on_acknowledged(self, records: int) -> None:
        self._acknowledged += records
        self._progress.advance(records)
        if self._acknowledged * 2 >= len(self._flights):
            self._halfway.set()

    async def _create_topic(self) -> None:
        connection = HttpConnection(self._cluster.urls[0])
        request = CreateTopicRequest(TOPIC, partitions=PARTITIONS, replication_factor=BROKERS)
        try:
            answer = await connection.request(
                "POST",
                "/v1/topics",
                ("Content-Type", "application/json"),
                body=msgspec.json.encode(request),
                timeout_s=ADMIN_TIMEOUT_S,
            )
        except (OSError, TimeoutError) as error:
            raise DemoError(f"the topic could not be created: {error!r}") from error
        finally:
            connection.close()
        if answer.status != 201:
            raise DemoError(f"the topic could not be created: {answer.body.decode()}")

    async def _kill_halfway(self) -> int:
        """Kill the leader of the busiest partition, and start it again; returns its id."""
        await self._halfway.wait()
        counts = self._stream.progress.acknowledged_by_partition
        partition = max(counts, key=lambda number: (counts[number], -number))
        leader = await self._leader_of(partition)
        broker = self._cluster.broker(leader)
        # Synchronously: nothing may be sent between the kill and the moment it is over.
        killed_s = time.monotonic()
        broker.kill()
        self._stream.progress.gap = PartitionGap(partition, killed_s, time.monotonic())
        self._progress.say(f"killed broker {leader}, leader of partition {partition} (kill -9)")
        await asyncio.sleep(RESTART_AFTER_S)
        broker.start()
        await asyncio.to_thread(broker.wait_ready, START_TIMEOUT_S)
        self._progress.say(f"broker {leader} is back")
        return leader

    async def _leader_of(self, partition: int) -> int:
        connection = HttpConnection(self._cluster.urls[0])
        try:
            answer = await connection.request(
                "GET", f"/v1/topics/{TOPIC}", timeout_s=ADMIN_TIMEOUT_S
            )
        finally:
            connection.close()
        topic = msgspec.json.decode(answer.body, type=TopicDescription)
        leader = topic.partitions[partition].leader
        if leader is None:
            raise DemoError(f"partition {partition} has no leader to kill")
        return leader


def is_passed(verdict: Verdict, gap: PartitionGap | None, *, kill: bool) -> bool:
    """Whether nothing was lost, doubled, swapped or divergent, and the gap was short enough."""
    gap_ms = gap.gap_ms if gap is not None else None
    return verdict.is_clean and (not kill or (gap_ms is not None and gap_ms < GAP_MS_MAX))


def report_lines(result: dict[str, Any]) -> Iterator[str]:
    """The result for a person."""
    read = ", ".join(f"{count} from broker {broker}" for broker, count in result["read"].items())
    yield f"acknowledged          {result['acknowledged']} of {result['sent']}"
    yield f"read                  {read}"
    yield f"lost                  {result['lost']}"
    yield f"duplicated            {result['duplicated']}"
    yield f"out of order per key  {result['out_of_order']}"
    yield f"divergent             {result['divergent']}"
    if result["foreign"]:
        yield f"never sent            {result['foreign']}"
    if result["killed_broker"] is not None:
        gap = "no record was acknowledged again"
        if result["gap_ms"] is not None:
            gap = f"{result['gap_ms']:.0f} ms"
        yield (
            f"gap after the kill    {gap} (partition {result['killed_partition']}, "
            f"limit {GAP_MS_MAX} ms)"
        )
    yield f"rate                  {result['records_per_s']:.0f} records/s with the kill in it"
    if result["retries"]:
        retries = ", ".join(f"{count} {code}" for code, count in sorted(result["retries"].items()))
        yield f"repeated requests     {retries}"
    yield from (f"  {example}" for example in result["examples"])
    yield "PASSED" if result["passed"] else "FAILED"


@contextmanager
def _directory(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="ottla-demo-") as temporary:
        yield Path(temporary)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.demo",
        description="Kill a leader while records are written, and count them.",
    )
    parser.add_argument(
        "--records",
        type=int,
        help="how many flights, repeating the file if need be; the whole file when unset",
    )
    parser.add_argument(
        "--kill", action=argparse.BooleanOptionalAction, default=True, help="kill a leader halfway"
    )
    parser.add_argument("--data-dir", type=Path, help="keep the brokers' data and logs here")
    parser.add_argument("--json", type=Path, help="write the counts to this file as JSON")
    parser.add_argument("--full", type=Path, metavar="PATH", help="flights of the whole year")
    parsed = parser.parse_args(arguments)
    records_min = RECORDS_WITH_KILL_MIN if parsed.kill else 1
    if parsed.records is not None and parsed.records < records_min:
        parser.error(f"--records must be at least {records_min}")
    if parsed.data_dir is not None and parsed.data_dir.exists() and any(parsed.data_dir.iterdir()):
        parser.error(f"--data-dir {parsed.data_dir} is not empty")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when it passed, 1 when not."""
    chosen = _arguments(arguments)
    try:
        flights = list(read_flights(chosen.full or SAMPLE_PATH, chosen.records))
        flights = repeat_flights(flights, chosen.records or len(flights))
        with _directory(chosen.data_dir) as directory, open_progress(len(flights)) as progress:
            progress.say(f"starting {BROKERS} brokers in {directory}")
            with LocalCluster(directory, brokers=BROKERS) as cluster:
                progress.say(f"streaming {len(flights)} flights into {PARTITIONS} partitions")
                demo = Demo(cluster, flights, kill=chosen.kill, progress=progress)
                result = asyncio.run(demo.run())
    except (DemoError, StreamError, ReadBackError, LocalClusterError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    for line in report_lines(result):
        print(line)
    if chosen.json is not None:
        chosen.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
