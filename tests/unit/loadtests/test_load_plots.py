"""The plots of a load run: what they are drawn from, and that they are pictures."""

import msgspec
import pytest

from loadtests import load_plots
from loadtests.load_plots import (
    OVERVIEW,
    draw_latency,
    draw_overview,
    draw_throughput,
    per_second,
    seconds_of,
    write_plots,
)
from loadtests.load_report import BrokerKill
from loadtests.load_run import LoadRunRecorder, OperationSecond

# Each picture is a second of processor time, which a busy machine makes a minute of.
pytestmark = pytest.mark.timeout(300)

KILL = BrokerKill(2, 1_004.0, 1_006.5)
PNG = b"\x89PNG\r\n\x1a\n"
README_BYTES_MAX = 60_000


def a_run(seconds=10):
    recorder = LoadRunRecorder(1_000.0)
    for second in range(seconds):
        at_s = 1_000.0 + second + 0.5
        for name in ("produce one", "SDK send", "read by offset", "event", "group poll"):
            for number in range(5):
                recorder.ended(name, at_s, 5.0 + number + second)
        recorder.acknowledged(at_s, 100 + second)
        recorder.users(at_s, 8)
    return recorder.run({})


def lines_of(panel):
    return {line.get_label(): line for line in panel.get_lines()}


def test_operations_are_counted_together_by_the_second():
    first = [OperationSecond(0, 3, 0, 1.0, 1.0), OperationSecond(2, 1, 0, 1.0, 1.0)]
    second = [OperationSecond(2, 5, 0, 1.0, 1.0), OperationSecond(9, 7, 0, 1.0, 1.0)]
    assert per_second([first, second], 4) == [3, 0, 6, 0]


def test_a_run_is_as_long_as_the_last_that_is_known_of_it():
    assert seconds_of(LoadRunRecorder(0.0).run({})) == 0
    assert seconds_of(a_run(10)) == 10
    recorder = LoadRunRecorder(1_000.0)
    recorder.users(1_020.0, 3)
    assert seconds_of(recorder.run({})) == 21


def test_the_overview_shows_records_percentiles_and_the_kill():
    top, bottom, _users = draw_overview(a_run(), KILL).axes
    records = lines_of(top)["records acknowledged/s"]
    assert list(records.get_ydata()) == [100 + second for second in range(10)]
    drawn = lines_of(bottom)
    assert list(drawn["produce one, p50"].get_ydata()) == [7.0 + second for second in range(10)]
    assert list(drawn["produce one, p99"].get_ydata()) == [9.0 + second for second in range(10)]
    for panel in (top, bottom):
        assert any(list(line.get_xdata()) == [4.0, 4.0] for line in panel.get_lines())
    assert "broker 2" in bottom.get_xlabel()


def test_without_a_kill_nothing_is_red():
    bottom = draw_overview(a_run(), None).axes[1]
    assert bottom.get_xlabel() == "seconds"


def test_throughput_and_latency_have_a_line_for_what_there_was():
    _, operations, _ = draw_throughput(a_run(), None).axes
    assert list(lines_of(operations)["group polls"].get_ydata()) == [5] * 10
    assert "SDK polls" not in lines_of(operations)
    assert len(draw_latency(a_run(), None).axes) == 4


def test_all_plots_are_pictures_and_the_overview_is_small(tmp_path):
    paths = write_plots(tmp_path, a_run(60), KILL)
    assert len(paths) == 3
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    assert (tmp_path / OVERVIEW).stat().st_size < README_BYTES_MAX


def test_a_run_without_anything_has_plots_too():
    empty = LoadRunRecorder(0.0).run({})
    for draw in (draw_overview, draw_throughput, draw_latency):
        assert draw(empty, None).axes


def test_plots_are_drawn_again_from_a_report(monkeypatch, tmp_path, capsys):
    drawn = []

    def write(directory, run, kill):
        drawn.append((run, kill))
        return [directory / OVERVIEW]

    monkeypatch.setattr(load_plots, "write_plots", write)
    report = {"run": a_run(), "kill": KILL, "passed": True}
    (tmp_path / "load.json").write_bytes(msgspec.json.encode(report))
    assert load_plots.main([str(tmp_path)]) == 0
    assert drawn == [(a_run(), KILL)]
    assert OVERVIEW in capsys.readouterr().out
    (tmp_path / "load.json").unlink()
    assert load_plots.main([str(tmp_path)]) == 1
