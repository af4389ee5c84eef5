"""`make load`: many clients, a broker that is killed at half time, and a check of what is left.

Starts three brokers of its own and locust in a process of its own. At half time the broker that
leads most partitions gets SIGKILL, and is started again as a supervisor would. At the end every
partition is read from every broker and compared with what was acknowledged. The exit code is 1 when
a request failed (`loadtests.settlement` says what that is), when a group skipped a record, or when
anything was lost, doubled, out of order or divergent (`loadtests.history`).

`make load-ui` gives locust's web page in place of the two minutes.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from loadtests.acknowledgements import IncompleteFileError, read_acknowledged
from loadtests.history import Verdict
from loadtests.load_report import BrokerKill, LoadOutcome, report_lines, write_report
from loadtests.load_run import LoadRun, read_run
from loadtests.locust_process import LocustError, LocustProcess
from loadtests.read_back import ReadBackError, check_topic
from loadtests.scenarios import PARTITIONS, USER_CLASSES, WRITING
from ottla import Admin
from ottla_ops.local_cluster import LocalCluster, LocalClusterError
from ottla_protocol.errors import OttlaError

BROKERS = 3
TOPIC = "flights-load"
USERS = 32
SECONDS = 120
WEB_PORT = 8089

RESTART_AFTER_S = 1.0
START_TIMEOUT_S = 120.0
READ_BACK_TIMEOUT_BASE_S = 60.0
READ_BACK_RECORDS_PER_S_MIN = 1_000
"""Reading back may take the base and a second for so many records."""


class LoadError(Exception):
    """The run could not be made or judged."""


def kill_busiest(cluster: LocalCluster) -> BrokerKill:
    """Kill the broker that leads most partitions, start it again, and wait until it is ready.

    Raises:
        OttlaError: no broker tells who leads.
        LocalClusterError: it does not come back.
    """
    with Admin(cluster.bootstrap) as admin:
        partitions = admin.describe_topic(TOPIC).partitions
    leaders = Counter(partition.leader for partition in partitions if partition.leader is not None)
    if not leaders:
        raise LoadError("no partition has a leader to kill")
    node_id = min(leaders, key=lambda leader: (-leaders[leader], leader))
    broker = cluster.broker(node_id)
    killed_s = time.time()
    broker.kill()
    print(f"killed broker {node_id}, leader of {leaders[node_id]} partitions", flush=True)
    time.sleep(RESTART_AFTER_S)
    broker.start()
    broker.wait_ready(START_TIMEOUT_S)
    ready_s = time.time()
    print(f"broker {node_id} is back after {ready_s - killed_s:.1f} s", flush=True)
    return BrokerKill(node_id, killed_s, ready_s)


def run_locust(
    cluster: LocalCluster, directory: Path, results: Path, chosen: argparse.Namespace
) -> tuple[int, BrokerKill | None]:
    """Run locust without its web page, and kill a broker at half time.

    Returns:
        Its exit code, and the kill.

    Raises:
        LoadError: it ended before its time.
        LocustError, OttlaError, LocalClusterError: the run did not come to its end.
    """
    arguments = [
        *("--headless", "--only-summary", "--loglevel", "WARNING"),
        *("--users", str(chosen.users), "--spawn-rate", str(chosen.users)),
        *("--run-time", f"{chosen.seconds}s"),
        *("--html", str(results / "locust.html"), "--json-file", str(results / "locust")),
        *_own_arguments(cluster, directory),
        *(USER_CLASSES[name] for name in chosen.scenario),
    ]
    with LocustProcess(arguments, directory / "started", is_ramp=chosen.ramp) as locust:
        if not locust.wait_begin():
            raise LoadError(f"locust ended with {locust.wait_end(0)} before the run began")
        began_s = time.monotonic()
        kill = None
        if chosen.kill:
            if not locust.runs_for(chosen.seconds / 2):
                raise LoadError(f"locust ended with {locust.wait_end(0)} before half time")
            kill = kill_busiest(cluster)
        left_s = chosen.seconds - (time.monotonic() - began_s)
        return locust.wait_end(max(0.0, left_s)), kill


def run_web_page(cluster: LocalCluster, directory: Path, results: Path, port: int) -> int:
    """Run locust with its web page on the loopback until Ctrl-C; returns its exit code."""
    arguments = [
        *("--class-picker", "--web-host", "127.0.0.1", "--web-port", str(port)),
        *("--users", str(USERS), "--spawn-rate", str(USERS), "--loglevel", "WARNING"),
        *("--html", str(results / "locust.html"), "--json-file", str(results / "locust")),
        *_own_arguments(cluster, directory),
    ]
    with LocustProcess(arguments, directory / "started", is_ramp=True) as locust:
        try:
            if locust.wait_listening(port):
                print(
                    f"http://127.0.0.1:{port}; Ctrl-C ends it and checks what is left", flush=True
                )
            return locust.wait_end(None)
        except KeyboardInterrupt:
            locust.interrupt()
            return locust.wait_end(0)


def _own_arguments(cluster: LocalCluster, directory: Path) -> list[str]:
    return [
        *("--host", cluster.urls[0], "--brokers", cluster.bootstrap, "--topic", TOPIC),
        *("--acknowledged", str(directory / "acknowledged.ndjson")),
        *("--run-file", str(directory / "run.json")),
    ]


def verify(cluster: LocalCluster, directory: Path) -> tuple[LoadRun, Verdict]:
    """Read everything back from every broker and compare.

    Raises:
        LoadError: what was acknowledged cannot be known or read.
    """
    if not (directory / "acknowledged.ndjson").exists():
        raise LoadError("no run has begun")
    try:
        run = read_run(directory / "run.json")
        check = read_acknowledged(directory / "acknowledged.ndjson")
        timeout_s = READ_BACK_TIMEOUT_BASE_S + check.acknowledged / READ_BACK_RECORDS_PER_S_MIN
        urls = dict(enumerate(cluster.urls, start=1))
        asyncio.run(check_topic(check, urls, TOPIC, timeout_s=timeout_s))
    except (OSError, msgspec.DecodeError, IncompleteFileError, ReadBackError) as error:
        raise LoadError(str(error)) from error
    return run, check.verdict()


def run_load(chosen: argparse.Namespace, results: Path) -> LoadOutcome:
    """One whole run on a cluster of its own.

    Raises:
        LoadError, LocustError, LocalClusterError, OttlaError: it could not be made or judged.
    """
    with tempfile.TemporaryDirectory(prefix="ottla-load-") as temporary:
        directory = Path(temporary)
        with _started(LocalCluster(directory, brokers=BROKERS)) as cluster:
            kill = None
            # Not left to the users: locust counts the time from before their topic is there.
            with Admin(cluster.bootstrap) as admin:
                admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=BROKERS)
            if chosen.ui:
                exit_code = run_web_page(cluster, directory, results, chosen.web_port)
            else:
                print(
                    f"{chosen.users} users for {chosen.seconds} s on {cluster.bootstrap}",
                    flush=True,
                )
                exit_code, kill = run_locust(cluster, directory, results, chosen)
            print("reading everything back from every broker", flush=True)
            run, verdict = verify(cluster, directory)
    scenarios = chosen.scenario or list(USER_CLASSES)
    return LoadOutcome(chosen.users, chosen.seconds, scenarios, run, verdict, exit_code, kill)


@contextmanager
def _started(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """A cluster that may take long to start: the load run is for busy machines too."""
    try:
        cluster.start()
        cluster.wait_ready(START_TIMEOUT_S)
        yield cluster
    finally:
        cluster.stop()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.load",
        description="Many clients, a broker that is killed at half time, and a check of the rest.",
    )
    parser.add_argument("--users", type=int, default=USERS, help="at most so many at a time")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="how long they work")
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        choices=sorted(USER_CLASSES),
        help="one of those to run; may be given again; all without it",
    )
    parser.add_argument(
        "--ramp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="have the users come in stages",
    )
    parser.add_argument(
        "--kill",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="kill a broker at half time",
    )
    parser.add_argument("--results", type=Path, help="directory for reports and plots")
    parser.add_argument("--ui", action="store_true", help="locust's web page, until Ctrl-C")
    parser.add_argument("--web-port", type=int, default=WEB_PORT, help="of the web page")
    chosen = parser.parse_args(arguments)
    if chosen.users < 1 or chosen.seconds < 1:
        parser.error("--users and --seconds must be at least 1")
    if chosen.scenario and not WRITING.intersection(chosen.scenario):
        parser.error(f"none of these writes: add one of {', '.join(sorted(WRITING))}")
    return chosen


def write_plots_of(outcome: LoadOutcome, results: Path) -> None:
    """The plots of the run, into this directory."""
    # Imported late: it takes as long as everything else together.
    from loadtests.load_plots import write_plots

    write_plots(results, outcome.run, outcome.kill)


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load; 0 when no request failed and no record is missing."""
    chosen = _arguments(arguments)
    signal.signal(signal.SIGTERM, _end)  # Without it the brokers would stay.
    results = chosen.results or Path("bench-results") / f"load-{time.strftime('%Y%m%d-%H%M%S')}"
    results = results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    try:
        outcome = run_load(chosen, results)
    except (LoadError, LocustError, LocalClusterError, OttlaError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    write_report(results / "load.json", outcome)
    write_plots_of(outcome, results)
    for line in report_lines(outcome):
        print(line)
    print(f"reports are in {results}")
    return 1 if outcome.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
