"""Plots of a load run: throughput, and p50 and p99, second by second, with the kill in them.

`python -m loadtests.load_plots RESULTS` draws those of an earlier run again, from its `load.json`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from loadtests.load_report import BrokerKill
from loadtests.load_run import LoadRun, OperationSecond

OVERVIEW = "overview.png"
THROUGHPUT = "throughput.png"
LATENCY = "latency.png"

THROUGHPUT_LINES = {
    "writes over HTTP": ("produce one", "produce a batch"),
    "writes by the SDK": ("SDK send",),
    "reads by offset": ("read by offset", "read on", "long-poll"),
    "group polls": ("group poll",),
    "SDK polls": ("SDK poll",),
}
"""Operations that are counted together."""

LATENCY_LINES = ("produce one", "produce a batch", "SDK send", "read by offset", "event")
"""Operations that do not wait on purpose; `event` is how long after its timestamp one arrives."""

OVERVIEW_LINES = ("produce one", "read by offset", "SDK send")

COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#b5762a", "#6b4e9b")
"""By the number of a line; they differ in brightness too."""

DOTS_PER_INCH = 90
PICTURE_COLOURS = 64
LEGEND_COLUMNS = 6
WIDTH_INCHES = 9.0
PANEL_HEIGHT_INCHES = 2.5


class LoadResult(msgspec.Struct):
    """What the plots need of `load.json`."""

    run: LoadRun
    kill: BrokerKill | None


def per_second(operations: Sequence[Sequence[OperationSecond]], seconds: int) -> list[int]:
    """How many ended in each of the first `seconds`, all of these operations together."""
    counts = [0] * seconds
    for operation in operations:
        for entry in operation:
            if entry.second < seconds:
                counts[entry.second] += entry.count
    return counts


def seconds_of(run: LoadRun) -> int:
    """How many seconds the run has; the last may be a part of one."""
    last = [entries[-1].second for entries in run.operations.values() if entries]
    return max([*last, len(run.acknowledged) - 1, len(run.users) - 1], default=-1) + 1


def draw_overview(run: LoadRun, kill: BrokerKill | None) -> Figure:
    """Records written, users, and the percentiles of three operations."""
    figure, (top, bottom) = _panels(2)
    _records(top, run)
    _users(top, run)
    _percentiles(bottom, run, OVERVIEW_LINES)
    _finish((top, bottom), run, kill)
    return figure


def draw_throughput(run: LoadRun, kill: BrokerKill | None) -> Figure:
    """Records written, and operations by kind."""
    figure, (top, bottom) = _panels(2)
    _records(top, run)
    _users(top, run)
    seconds = seconds_of(run)
    for colour, (label, names) in zip(COLOURS, THROUGHPUT_LINES.items(), strict=True):
        present = [run.operations[name] for name in names if name in run.operations]
        if present:
            bottom.plot(range(seconds), per_second(present, seconds), color=colour, label=label)
    bottom.set_ylabel("operations/s")
    bottom.set_ylim(bottom=0)
    _finish((top, bottom), run, kill)
    return figure


def draw_latency(run: LoadRun, kill: BrokerKill | None) -> Figure:
    """A panel for each operation."""
    names = [name for name in LATENCY_LINES if name in run.operations]
    figure, panels = _panels(max(1, len(names)))
    for panel, name in zip(panels, names, strict=False):
        _percentiles(panel, run, (name,))
    _finish(panels, run, kill)
    return figure


def write_plots(directory: Path, run: LoadRun, kill: BrokerKill | None) -> list[Path]:
    """Draw all into this directory; returns the files."""
    figures = {OVERVIEW: draw_overview, THROUGHPUT: draw_throughput, LATENCY: draw_latency}
    paths = []
    for name, draw in figures.items():
        paths.append(directory / name)
        _write(draw(run, kill), paths[-1])
    return paths


def _write(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours: a third of the size, and nobody sees it."""
    canvas: Any = FigureCanvasAgg(figure)  # Half of its methods have no types.
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(PICTURE_COLOURS).save(path, optimize=True)


def _panels(count: int) -> tuple[Figure, list[Any]]:
    # Without pyplot: no window, and nothing that outlives the figure.
    size = (WIDTH_INCHES, PANEL_HEIGHT_INCHES * count)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)
    return figure, [row[0] for row in panels]


def _records(panel: Any, run: LoadRun) -> None:
    seconds = range(len(run.acknowledged))
    panel.fill_between(seconds, run.acknowledged, color=COLOURS[0], alpha=0.35, linewidth=0)
    panel.plot(seconds, run.acknowledged, color=COLOURS[0], label="records acknowledged/s")
    panel.set_ylabel("records/s")
    panel.set_ylim(bottom=0)


def _users(panel: Any, run: LoadRun) -> None:
    right = panel.twinx()
    right.step(range(len(run.users)), run.users, color="#777777", linewidth=1, where="post")
    right.set_ylabel("users", color="#777777")
    right.set_ylim(0, max(run.users, default=1) * 1.25)


def _percentiles(panel: Any, run: LoadRun, names: Sequence[str]) -> None:
    for colour, name in zip(COLOURS, names, strict=False):
        entries = run.operations.get(name, [])
        seconds = [entry.second for entry in entries]
        p50_ms = [entry.p50_ms for entry in entries]
        p99_ms = [entry.p99_ms for entry in entries]
        panel.plot(seconds, p99_ms, color=colour, linewidth=1, label=f"{name}, p99")
        panel.plot(seconds, p50_ms, color=colour, linewidth=1, linestyle=":", label=f"{name}, p50")
    panel.set_yscale("log")
    panel.set_ylabel("ms")


def _finish(panels: Sequence[Any], run: LoadRun, kill: BrokerKill | None) -> None:
    for panel in panels:
        if kill is not None:
            killed_s, ready_s = kill.killed_s - run.started_s, kill.ready_s - run.started_s
            panel.axvspan(killed_s, ready_s, color="#d1495b", alpha=0.15, linewidth=0)
            panel.axvline(killed_s, color="#d1495b", linewidth=1)
        panel.grid(visible=True, alpha=0.3)
        panel.set_xlim(0, max(1, seconds_of(run) - 1))
        if panel.get_legend_handles_labels()[0]:
            # Above the panel, where no line is.
            panel.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1),
                fontsize="x-small",
                ncols=LEGEND_COLUMNS,
                frameon=False,
            )
    label = "seconds"
    if kill is not None:
        label += f"; red: broker {kill.broker} after kill -9, until it is ready again"
    panels[-1].set_xlabel(label)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plots of a directory again."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.load_plots")
    parser.add_argument("results", type=Path, help="directory with a load.json")
    chosen = parser.parse_args(arguments)
    try:
        written = (chosen.results / "load.json").read_bytes()
        result = msgspec.json.decode(written, type=LoadResult)
    except (OSError, msgspec.DecodeError) as error:
        print(f"load_plots: {error}", file=sys.stderr)
        return 1
    for path in write_plots(chosen.results, result.run, result.kill):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
