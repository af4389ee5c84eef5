"""`make load`: many clients over HTTP, then a check that nothing acknowledged is missing.

Starts three brokers of its own, lets locust run in a process of its own (its gevent patches must
not reach this one), and then reads every partition from every broker and compares it with what
locust's users were told. Any failed request and any lost record makes the exit code 1.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests.acknowledgements import IncompleteFileError, read_acknowledged
from loadtests.history import Verdict
from loadtests.read_back import ReadBackError, check_topic
from ottla_ops.local_cluster import LocalCluster, LocalClusterError

BROKERS = 3
TOPIC = "flights-load"
LOCUST_FILE = Path(__file__).with_name("locustfile.py")
STOP_TIMEOUT_S = 10
"""How long locust lets its users finish what they are at."""

LOCUST_GRACE_S = 60.0
READ_BACK_TIMEOUT_S = 60.0


class LoadError(Exception):
    """The run could not be made or judged."""


def run_locust(cluster: LocalCluster, acknowledged: Path, *, users: int, seconds: int) -> int:
    """Run locust headless; returns its exit code, which is not 0 when a request failed.

    Raises:
        LoadError: it did not end in time.
    """
    command = [
        *(sys.executable, "-m", "locust", "-f", str(LOCUST_FILE), "--headless", "--only-summary"),
        *("--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"),
        *("--stop-timeout", str(STOP_TIMEOUT_S), "--exit-code-on-error", "1"),
        *("--loglevel", "WARNING", "--host", cluster.urls[0], "--brokers", cluster.bootstrap),
        *("--topic", TOPIC, "--acknowledged", str(acknowledged)),
    ]
    try:
        return subprocess.run(
            command, timeout=seconds + STOP_TIMEOUT_S + LOCUST_GRACE_S, check=False
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"locust did not end within {error.timeout:.0f} s") from error


def verify(cluster: LocalCluster, acknowledged: Path) -> Verdict:
    """Read everything back from every broker and compare.

    Raises:
        LoadError: nothing was acknowledged, or what was cannot be known or read.
    """
    try:
        check = read_acknowledged(acknowledged)
        if not check.acknowledged:
            raise LoadError("not a single record was acknowledged")
        urls = dict(enumerate(cluster.urls, start=1))
        asyncio.run(check_topic(check, urls, TOPIC, timeout_s=READ_BACK_TIMEOUT_S))
    except (OSError, msgspec.DecodeError, IncompleteFileError, ReadBackError) as error:
        raise LoadError(str(error)) from error
    return check.verdict()


def print_verdict(verdict: Verdict) -> None:
    """The counts for a person."""
    read = ", ".join(f"{count} from broker {broker}" for broker, count in verdict.read.items())
    print(f"acknowledged {verdict.acknowledged}, read {read}")
    print(
        f"lost {verdict.lost}, duplicated {verdict.duplicated}, "
        f"out of order per key {verdict.out_of_order}, divergent {verdict.divergent}, "
        f"never sent {verdict.foreign}"
    )
    for example in verdict.examples:
        print(f"  {example}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load; 0 when no request failed and no record is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.load", description="Many clients over HTTP, with locust."
    )
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=30)
    chosen = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="ottla-load-") as temporary:
            directory = Path(temporary)
            acknowledged = directory / "acknowledged.ndjson"
            with LocalCluster(directory, brokers=BROKERS) as cluster:
                print(f"{chosen.users} users for {chosen.seconds} s on {cluster.bootstrap}")
                exit_code = run_locust(
                    cluster, acknowledged, users=chosen.users, seconds=chosen.seconds
                )
                print("reading everything back from every broker", flush=True)
                verdict = verify(cluster, acknowledged)
    except (LoadError, LocalClusterError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    print_verdict(verdict)
    if exit_code != 0:
        print(f"FAILED: locust ended with {exit_code}")
    passed = exit_code == 0 and verdict.is_clean
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
