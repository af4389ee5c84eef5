"""`ottla bench`, against the SDK's cluster in memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla.testing import FakeCluster
from ottla_ops.benchmark import BATCH_RECORDS, Benchmark, BenchmarkPlan, percentile
from ottla_ops.cli import bench_command


@pytest.fixture
def brokers():
    return FakeCluster()


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_smallest_that_so_many_do_not_exceed(values, percent):
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


def test_nothing_has_no_percentile():
    assert percentile([], 50) is None


@pytest.mark.parametrize("records", [1, BATCH_RECORDS, BATCH_RECORDS * 10 + 1])
def test_all_that_was_produced_is_consumed_and_the_topic_is_gone(brokers, records):
    told = dict.fromkeys(("single", "produce", "consume"), 0)

    def on_progress(step, count):
        told[step] += count

    plan = BenchmarkPlan(records=records, seconds=60, record_bytes=8)
    measured = Benchmark(brokers, plan, on_progress).run()
    assert measured.produce.records == records
    assert measured.consume.records >= measured.single.records + records
    assert told["produce"] == records
    assert measured.single.p50_ms <= measured.single.p99_ms <= measured.single.max_ms
    assert measured.produce.mb_per_second > 0
    with brokers.admin() as admin:
        assert admin.list_topics() == []


def test_it_ends_by_time_too(brokers):
    ticks = iter(range(10**9))
    plan = BenchmarkPlan(records=10**8, seconds=20, record_bytes=1)
    measured = Benchmark(brokers, plan, clock=lambda: float(next(ticks))).run()
    assert 0 < measured.single.records < 20
    assert 0 < measured.produce.records <= 20 * BATCH_RECORDS


def test_the_topic_is_deleted_when_it_is_interrupted(brokers):
    def interrupt(step, _records):
        if step == "produce":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Benchmark(brokers, BenchmarkPlan(records=10), interrupt).run()
    with brokers.admin() as admin:
        assert admin.list_topics() == []


def test_the_command_prints_a_table_or_more_as_json(cli, brokers, monkeypatch):
    monkeypatch.setattr(bench_command, "_SdkClients", lambda _urls: brokers)
    code, out, _ = cli("bench", "--records", "10")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "STEP",
        "single",
        "produce",
        "consume",
    ]
    document = json.loads(cli("bench", "--records", "10", "--json")[1])
    assert document["plan"]["acks"] == "all"
    assert set(document["produce"]) >= {"p50_ms", "p99_ms", "mb_per_second"}


def test_too_much_is_a_usage_error(cli):
    assert cli("bench", "--records", "100000000", "--record-bytes", "1000000")[0] == 2
