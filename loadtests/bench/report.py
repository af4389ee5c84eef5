"""The bench's table and its JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.bench.rows import TARGETS, Row, ratios

FORMAT = 1

_SHOWN = {
    "mb_per_s": ("MB/s", "{:,.1f}"),
    "records_per_s": ("records/s", "{:,.0f}"),
    "requests_per_s": ("requests/s", "{:,.0f}"),
    "p50_ms": ("p50 ms", "{:,.2f}"),
    "p99_ms": ("p99 ms", "{:,.2f}"),
    "brokers_cpu_percent": ("brokers CPU %", "{:,.0f}"),
    "brokers_cpu_us_per_request": ("CPU us/request", "{:,.0f}"),
    "client_cpu_percent": ("client CPU %", "{:,.0f}"),
}


class Run(msgspec.Struct, frozen=True):
    """One run of the bench as its file holds it."""

    format: int
    created: str
    quick: bool
    machine: dict[str, str | int | float]
    rows: list[Row]
    missed_targets: list[str]


def missed_targets(rows: Sequence[Row]) -> list[str]:
    """The targets that a row of this run has and does not keep."""
    by_name = {row.name: row for row in rows}
    return [
        f"{target.row}: {target.text}, saw {value:,.1f}"
        for target in TARGETS
        if target.row in by_name
        and (value := by_name[target.row].values.get(target.metric)) is not None
        and not target.is_met(value)
    ]


def read_run(path: Path) -> Run:
    """A run that was written before.

    Raises:
        OSError, msgspec.DecodeError: the file is missing or is no run.
    """
    return msgspec.json.decode(path.read_bytes(), type=Run)


def write_run(run: Run, path: Path) -> None:
    """Write the run, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")


def print_run(run: Run, console: Console) -> None:
    """The rows as one table, and the targets that were missed."""
    facts = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    console.print(
        _table("make bench: numbers are for comparison within one run on one machine", run.rows)
    )
    console.print(f"[dim]{facts}[/dim]", highlight=False)
    for missed in run.missed_targets:
        console.print(f"[red]target missed[/red]  {missed}", highlight=False)


def print_comparison(before: Run, now: Run, console: Console) -> None:
    """Ratios of this run to an earlier one."""
    table = Table(title=f"this run / the run of {before.created}", title_justify="left")
    table.add_column("row", no_wrap=True)
    table.add_column("ratios")
    for row in ratios(before.rows, now.rows):
        table.add_row(
            row.name,
            "  ".join(f"{metric} {value:.2f}" for metric, value in row.values.items()),
        )
    console.print(table, highlight=False)


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("row", no_wrap=True)
    for heading, _ in _SHOWN.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("more")
    for row in rows:
        shown = [
            text.format(row.values[metric]) if metric in row.values else ""
            for metric, (_, text) in _SHOWN.items()
        ]
        rest: dict[str, Any] = {
            metric: f"{value:,.1f}" for metric, value in row.values.items() if metric not in _SHOWN
        }
        rest.update(row.parameters)
        table.add_row(row.name, *shown, " ".join(f"{name}={text}" for name, text in rest.items()))
    return table
