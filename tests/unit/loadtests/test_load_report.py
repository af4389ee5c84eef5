"""What a load run saw, and what it comes to: with planted losses it must fail."""

import json
from dataclasses import replace

import msgspec
import pytest

from loadtests import load
from loadtests.deliveries import GroupDeliveries
from loadtests.history import Acknowledged, HistoryCheck, StoredRecord, fingerprint
from loadtests.load_report import BrokerKill, LoadOutcome, report_lines, write_report
from loadtests.load_run import (
    LoadRunRecorder,
    OperationSecond,
    OperationTotal,
    percentile,
    read_run,
    write_run,
)


def recorded():
    recorder = LoadRunRecorder(1_000.0)
    for number in range(100):
        recorder.ended("produce one", 1_000.2, float(number + 1))
    recorder.ended("produce one", 1_002.9, 500.0)
    recorder.repeated("produce one", "LEADER_NOT_AVAILABLE")
    recorder.repeated("produce one", "LEADER_NOT_AVAILABLE")
    recorder.acknowledged(1_000.5, 100)
    recorder.acknowledged(1_002.5, 1)
    recorder.users(1_000.1, 8)
    recorder.users(1_002.1, 16)
    return recorder


def verdict(*, lose=(), store_again=()):
    """The verdict on three records, of which the broker has not got some, or has got some twice."""
    check = HistoryCheck(3)
    prints = [fingerprint(b"%d" % number) for number in range(3)]
    for number in range(3):
        check.acknowledge(Acknowledged(number, "a", prints[number], 0, number))
    log = [StoredRecord(n, n, "a", prints[n]) for n in range(3) if n not in lose]
    log += [StoredRecord(3 + n, n, "a", prints[n]) for n in store_again]
    check.check_partition(0, {1: log})
    return check.verdict()


def outcome(**changes):
    run = recorded().run({"billing": GroupDeliveries(10, 1, 0)})
    made = LoadOutcome(8, 3.0, ["mixed"], run, verdict(), 0, BrokerKill(2, 1_001.0, 1_002.0))
    return replace(made, **changes)


def test_percentiles_are_by_nearest_rank():
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert percentile([7.0], 0.0) == 7.0


def test_a_run_is_told_by_the_second():
    run = recorded().run({})
    assert run.operations["produce one"] == [
        OperationSecond(0, 100, 0, 50.0, 99.0),
        OperationSecond(2, 1, 0, 500.0, 500.0),
    ]
    assert run.totals["produce one"] == OperationTotal(101, 0, 51.0, 100.0, 500.0)
    assert run.retries == {"produce one": {"LEADER_NOT_AVAILABLE": 2}}
    assert run.acknowledged == [100, 0, 1]
    assert run.users == [8, 8, 16]


def test_a_failed_operation_is_counted_in_its_second_and_told_in_words():
    recorder = recorded()
    recorder.ended("produce one", 1_002.5, 30_000.0, "not settled")
    run = recorder.run({})
    assert run.operations["produce one"][1].failed == 1
    assert run.totals["produce one"].failed == 1
    assert run.failures == ["produce one, second 2: not settled"]


def test_what_happened_just_before_the_begin_counts_as_its_first_second():
    recorder = LoadRunRecorder(1_000.0)
    recorder.ended("produce one", 999.9, 1.0)
    assert recorder.run({}).operations["produce one"][0].second == 0


def test_the_run_comes_back_from_its_file(tmp_path):
    run = recorded().run({"billing": GroupDeliveries(10, 1, 0)})
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json") == run
    (tmp_path / "run.json").write_bytes(b"{}")
    with pytest.raises(msgspec.ValidationError):
        read_run(tmp_path / "run.json")


def test_a_clean_run_passes_with_repeated_requests_and_a_kill(tmp_path):
    assert outcome().failures() == []
    lines = list(report_lines(outcome()))
    assert lines[-1] == "PASSED"
    assert "sent again  produce one: 2 LEADER_NOT_AVAILABLE" in lines
    write_report(tmp_path / "load.json", outcome())
    written = json.loads((tmp_path / "load.json").read_bytes())
    assert written["passed"]
    assert written["verdict"]["acknowledged"] == 3
    assert written["kill"]["broker"] == 2


def failed_request():
    recorder = recorded()
    recorder.ended("produce one", 1_001.0, 1.0, "500")
    return recorder.run({})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": verdict(lose=[1])}, "1 acknowledged records lost"),
        ({"verdict": verdict(store_again=[0])}, "1 records duplicated"),
        ({"run": failed_request()}, "1 failed requests"),
        (
            {"run": recorded().run({"g": GroupDeliveries(5, 0, 2)})},
            "2 offsets that a group skipped",
        ),
        ({"locust_exit_code": 1}, "locust ended with 1"),
        ({"verdict": HistoryCheck(0).verdict()}, "not a single record was acknowledged"),
    ],
)
def test_a_run_with_a_planted_fault_fails(changes, said):
    failed = outcome(**changes)
    assert said in failed.failures()
    lines = list(report_lines(failed))
    assert lines[-1] == "FAILED"
    assert f"FAILED: {said}" in lines


def test_a_run_that_cannot_be_made_fails(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise load.LoadError("no partition has a leader to kill")

    monkeypatch.setattr(load, "run_load", fail)
    monkeypatch.setattr(load.signal, "signal", lambda *_: None)
    assert load.main(["--results", str(tmp_path)]) == 1
    assert "no partition has a leader" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_outcome(monkeypatch, tmp_path, capsys, code):
    made = outcome(verdict=verdict(lose=[0] if code else []))
    monkeypatch.setattr(load, "run_load", lambda *_: made)
    monkeypatch.setattr(load, "write_plots_of", lambda *_: None)
    monkeypatch.setattr(load.signal, "signal", lambda *_: None)
    assert load.main(["--results", str(tmp_path)]) == code
    assert (tmp_path / "load.json").exists()
    assert ("FAILED" in capsys.readouterr().out) == bool(code)


@pytest.mark.parametrize(
    "arguments",
    [["--scenario", "offset-reads"], ["--scenario", "none"], ["--users", "0"], ["--seconds", "0"]],
)
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        load.main(arguments)
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err
