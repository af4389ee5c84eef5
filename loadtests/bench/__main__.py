"""The command: `python -m loadtests.bench` (`make bench`).

Starts its own brokers on free ports in a temporary directory, runs every group of rows once, prints
one table and writes one JSON file.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import msgspec
import uvloop
from rich.console import Console

from loadtests.bench.compaction_rows import measure_compaction
from loadtests.bench.environment import (
    FULL_BOUNDS,
    QUICK_BOUNDS,
    STORAGE_BYTES,
    BenchError,
    Environment,
    machine_facts,
)
from loadtests.bench.fetch_rows import measure_fetch
from loadtests.bench.filter_rows import measure_filter
from loadtests.bench.follow_rows import measure_follow
from loadtests.bench.footprint_rows import (
    measure_cold_starts,
    measure_disk,
    measure_memory,
    measure_restart,
)
from loadtests.bench.group_rows import measure_groups
from loadtests.bench.hostile_rows import measure_hostile
from loadtests.bench.idle_rows import measure_idle
from loadtests.bench.json_rows import measure_json
from loadtests.bench.latency_rows import measure_latency
from loadtests.bench.line_rows import measure_lines
from loadtests.bench.produce_rows import measure_produce
from loadtests.bench.report import (
    FORMAT,
    Run,
    missed_targets,
    print_comparison,
    print_run,
    read_run,
    write_run,
)
from loadtests.bench.rows import Row
from loadtests.bench.sdk_consumer_rows import measure_consumer
from loadtests.bench.sdk_rows import measure_sdk
from loadtests.bench.storage_rows import measure_storage
from loadtests.bench.transaction_rows import measure_transactions
from ottla_ops.local_cluster import LocalCluster, LocalClusterError

Measure: TypeAlias = Callable[[Environment, LocalCluster], Awaitable[list[Row]]]


async def _memory_when_idle(environment: Environment, cluster: LocalCluster) -> list[Row]:
    return [await measure_memory(environment, cluster, "an idle")]


async def _memory_when_loaded(environment: Environment, cluster: LocalCluster) -> list[Row]:
    return [await measure_memory(environment, cluster, "a loaded")]


STEPS: tuple[tuple[str, Measure], ...] = (
    ("memory", _memory_when_idle),
    ("json", measure_json),
    ("lines", measure_lines),
    ("latency", measure_latency),
    ("hostile", measure_hostile),
    ("produce", measure_produce),
    ("sdk", measure_sdk),
    ("transactions", measure_transactions),
    ("consumer", measure_consumer),
    ("groups", measure_groups),
    ("disk", measure_disk),
    ("memory", _memory_when_loaded),
    ("fetch", measure_fetch),
    ("filter", measure_filter),
    ("follow", measure_follow),
    ("compaction", measure_compaction),
    ("restart", measure_restart),
    ("storage", measure_storage),
    ("idle", measure_idle),
)
"""What is measured on the brokers that all rows share, in this order."""

GROUPS = ("start", *dict.fromkeys(group for group, _ in STEPS))
WHEN_ASKED = frozenset({"storage", "idle"})
"""What takes minutes or gigabytes, and is measured only when it is asked for."""
RESULTS = Path("bench-results")
RUN_TIMEOUT_S = 600.0
STORAGE_TIMEOUT_S = 3_600.0
READY_TIMEOUT_S = 30.0
TABLE_WIDTH_MIN = 200


async def measure(
    environment: Environment, groups: Sequence[str]
) -> tuple[dict[str, str | int | float], list[Row]]:
    """Run the groups in their order; returns the machine's facts and the rows.

    Raises:
        BenchError, LocalClusterError, TimeoutError, ExceptionGroup: a row could not be measured.
    """
    rows: list[Row] = []
    if "start" in groups:
        rows += await measure_cold_starts(environment)
    cluster = environment.cluster("main")
    try:
        await asyncio.to_thread(cluster.start)
        await asyncio.to_thread(cluster.wait_ready, READY_TIMEOUT_S)
        facts = await machine_facts(cluster.urls[0])
        for group, step in STEPS:
            if group in groups:
                rows += await step(environment, cluster)
    finally:
        await asyncio.to_thread(cluster.stop)
    return facts, rows


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description="Throughput, latency and footprint of brokers on this machine.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: short rows")
    parser.add_argument("--seconds", type=float, help="length of each throughput row")
    parser.add_argument(
        "--only", action="append", choices=GROUPS, metavar="GROUP", help=f"{', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--storage-mb",
        type=int,
        default=STORAGE_BYTES // 1_000_000,
        help="how much `--only storage` writes; %(default)s if unset",
    )
    parser.add_argument("--json", type=Path, help="result file; bench-results/<time>.json if unset")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="ratios to an earlier result")
    parser.add_argument(
        "--profile", type=Path, metavar="DIRECTORY", help="run brokers under cProfile (slower)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; 0 when it came to its end, 1 when not. Missed targets are only told."""
    chosen = _arguments(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH_MIN)
    created = datetime.now(UTC)
    bounds = QUICK_BOUNDS if chosen.quick else FULL_BOUNDS
    if chosen.seconds is not None:
        bounds = replace(bounds, seconds=chosen.seconds)
    command = None
    if chosen.profile is not None:
        chosen.profile.mkdir(parents=True, exist_ok=True)
        module = "loadtests.bench.profiled_broker"
        command = (sys.executable, "-m", module, str(chosen.profile.resolve()))
    try:
        before = read_run(chosen.compare) if chosen.compare is not None else None
        with tempfile.TemporaryDirectory(prefix="ottla-bench-") as directory:
            environment = Environment(
                Path(directory),
                bounds,
                lambda text: print(f"  {text}", flush=True),
                command,
                storage_bytes=chosen.storage_mb * 1_000_000,
            )
            groups = chosen.only or [group for group in GROUPS if group not in WHEN_ASKED]
            timeout_s = RUN_TIMEOUT_S + STORAGE_TIMEOUT_S * ("storage" in groups)
            gc.freeze()
            facts, rows = uvloop.run(asyncio.wait_for(measure(environment, groups), timeout_s))
    except (BenchError, LocalClusterError, TimeoutError, OSError, msgspec.DecodeError) as error:
        print(f"bench: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except ExceptionGroup as group:
        print(f"bench: {group.exceptions[0]!r}", file=sys.stderr)
        return 1
    run = Run(
        format=FORMAT,
        created=created.isoformat(timespec="seconds"),
        quick=chosen.quick,
        machine=facts,
        rows=rows,
        missed_targets=missed_targets(rows),
    )
    print_run(run, console)
    if before is not None:
        print_comparison(before, run, console)
    path = chosen.json or RESULTS / f"{created:%Y%m%d-%H%M%S}.json"
    write_run(run, path)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
