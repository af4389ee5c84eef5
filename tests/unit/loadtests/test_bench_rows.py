"""The bench's arithmetic: percentiles, targets, ratios, its result file."""

import asyncio
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loadtests.bench.closed_loop import run_lanes
from loadtests.bench.produce_rows import make_batch
from loadtests.bench.report import (
    FORMAT,
    Run,
    missed_targets,
    print_comparison,
    print_run,
    read_run,
    write_run,
)
from loadtests.bench.rows import TARGETS, Latencies, Row, Target, percentile, ratios
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import decode_batch


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 1, 7.0),
        ([7.0], 100, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 51, 3.0),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 101)), 100, 100),
        (list(range(1, 1001)), 99.9, 999),
    ],
)
def test_percentile_is_the_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


@given(values=st.lists(st.integers(0, 50), min_size=1, max_size=60), percent=st.integers(1, 100))
def test_at_least_so_many_percent_are_at_or_below_the_percentile(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert 100 * sum(value <= found for value in values) >= percent * len(values)
    assert 100 * sum(value < found for value in values) < percent * len(values)


def test_latencies_are_told_in_milliseconds_and_not_at_all_without_any():
    assert Latencies([0.001, 0.002, 0.003]).values() == {"p50_ms": 2.0, "p99_ms": 3.0}
    assert Latencies().values() == {}


def test_a_target_bounds_from_below_or_above():
    assert Target("r", "m", at_least=5).is_met(5)
    assert not Target("r", "m", at_least=5).is_met(4.9)
    assert Target("r", "m", at_most=5).is_met(5)
    assert not Target("r", "m", at_most=5).is_met(5.1)


def test_only_measured_rows_miss_their_targets():
    target = TARGETS[0]
    assert missed_targets([]) == []
    assert missed_targets([Row(target.row, {}, {target.metric: 1e9})]) == []
    (missed,) = missed_targets([Row(target.row, {}, {target.metric: 0.5})])
    assert target.row in missed
    assert target.text in missed


def test_ratios_are_this_run_over_the_earlier_one_for_what_both_have():
    before = [Row("a", {}, {"x": 2.0, "y": 0.0, "z": 1.0}), Row("gone", {}, {"x": 1.0})]
    now = [Row("a", {}, {"x": 3.0, "y": 5.0, "new": 1.0}), Row("new", {}, {"x": 1.0})]
    assert ratios(before, now) == [Row("a", {}, {"x": 1.5})]


def test_a_run_survives_its_file_and_is_shown(tmp_path):
    row = Row("some row", {"in_flight": 3}, {"mb_per_s": 12.5, "other_ms": 1.0})
    run = Run(FORMAT, "2013-01-01T00:00:00+00:00", True, {"cores": 2}, [row], ["some: miss"])
    path = tmp_path / "results" / "run.json"
    write_run(run, path)
    assert read_run(path) == run
    shown = Console(file=io.StringIO(), width=200)
    print_run(run, shown)
    print_comparison(run, run, shown)
    text = shown.file.getvalue()
    assert all(part in text for part in ("some row", "12.5", "in_flight=3", "some: miss", "1.00"))


@pytest.mark.parametrize(("record_bytes", "batch_bytes"), [(100, 16_384), (1024, 65_536), (1, 500)])
def test_a_batch_is_as_full_as_it_can_be(record_bytes, batch_bytes):
    batch, count = make_batch(record_bytes, batch_bytes)
    assert batch_bytes - 2 * record_bytes - 16 < len(batch) <= batch_bytes
    assert validate_batch(batch, on_append=True).record_count == count
    records = decode_batch(batch, max_inflated_bytes=1 << 20)
    assert {len(record.value or b"") for record in records} == {record_bytes}


async def test_lanes_stop_at_the_number_of_requests():
    sent = []

    async def lane():
        sent.append(1)
        await asyncio.sleep(0)

    done = await run_lanes([lane] * 3, seconds_max=30, requests_max=10)
    assert (done.requests, len(sent), len(done.latencies.seconds)) == (10, 10, 10)


async def test_lanes_stop_when_the_time_is_up():
    async def lane():
        await asyncio.sleep(0.001)

    done = await run_lanes([lane], seconds_max=0.05, requests_max=1_000_000)
    assert 0 < done.requests <= 50
    assert done.seconds >= 0.05


async def test_a_refused_request_ends_the_row():
    async def lane():
        raise ValueError("refused")

    with pytest.raises(ExceptionGroup):
        await run_lanes([lane], seconds_max=1, requests_max=10)
