"""The producers of the demo: order per key, repetition with the same key and body, the gap."""

import time

import msgspec
import pytest

from loadtests.flight_stream import FlightStream, PartitionGap, StreamError, split_by_key
from loadtests.flights import Flight
from loadtests.history import HistoryCheck
from tests.unit.loadtests.http_server import http_server, response


def flights(count, keys=4):
    return [
        Flight(sequence, f"key-{sequence % keys}" if keys else None, msgspec.Raw(b"%d" % sequence))
        for sequence in range(count)
    ]


def appended(asked, *, failed_partitions=()):
    """An answer that appends every record at the offset of its sequence, in partition 0."""
    records = msgspec.json.decode(asked.body)["records"]
    positions = [
        {"partition": 0, "offset": -1 if 0 in failed_partitions else int(r["headers"]["sequence"])}
        for r in records
    ]
    error = {"code": "NOT_LEADER_OR_FOLLOWER"} if failed_partitions else None
    result = {
        "partition": 0,
        "base_offset": positions[0]["offset"],
        "count": len(records),
        "timestamp": 1,
        "error": error,
    }
    body = msgspec.json.encode({"topic": "t", "results": [result], "records": positions})
    return response(body, 207 if error else 200)


def problem(status, *, retriable):
    body = {"code": "SOME_CODE", "detail": "because", "retriable": retriable}
    return response(msgspec.json.encode(body), status)


def stream(urls, check, *, seconds=10.0, producers=1):
    return FlightStream(
        urls,
        "t",
        check,
        run_id="run",
        producers=producers,
        records_per_request=5,
        deadline_s=time.monotonic() + seconds,
    )


def test_all_flights_of_a_key_are_in_one_share_and_in_order():
    split = split_by_key(flights(200, keys=17), 4)
    assert sorted(f.sequence for share in split for f in share) == list(range(200))
    for share in split:
        assert [f.sequence for f in share] == sorted(f.sequence for f in share)
    shares_of = {}
    for number, share in enumerate(split):
        for flight in share:
            shares_of.setdefault(flight.key, set()).add(number)
    assert all(len(numbers) == 1 for numbers in shares_of.values())
    assert len({next(iter(numbers)) for numbers in shares_of.values()}) > 1


async def test_everything_is_acknowledged_once_and_in_order():
    check = HistoryCheck(23)
    async with http_server(appended) as server:
        await stream([server.url], check, producers=3).run(flights(23))
    assert check.acknowledged == 23
    assert check.end_offsets() == {0: 23}
    keys = [asked.fields["idempotency-key"] for asked in server.asked]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "refusal",
    [
        lambda _: None,
        lambda _: problem(503, retriable=True),
        lambda _: problem(504, retriable=True),
        lambda asked: appended(asked, failed_partitions=(0,)),
    ],
    ids=["closed connection", "503", "504", "207"],
)
async def test_a_failed_request_goes_to_the_next_broker_with_the_same_key_and_body(refusal):
    check = HistoryCheck(7)
    async with http_server(refusal) as bad, http_server(appended) as good:
        run = stream([bad.url, good.url], check)
        await run.run(flights(7))
    assert check.acknowledged == 7
    assert check.verdict().duplicated == 0
    assert sum(run.progress.retries.values()) == len(bad.asked) > 0
    for failed in bad.asked:
        key = failed.fields["idempotency-key"]
        (again,) = [a for a in good.asked if a.fields["idempotency-key"] == key]
        assert again.body == failed.body


async def test_a_request_that_is_refused_for_good_ends_the_stream():
    async with http_server(lambda _: problem(422, retriable=False)) as server:
        with pytest.raises(StreamError, match="SOME_CODE: because"):
            await stream([server.url], HistoryCheck(3)).run(flights(3))
    assert len(server.asked) == 1


async def test_the_stream_gives_up_at_its_deadline():
    async with http_server(lambda _: problem(503, retriable=True)) as server:
        with pytest.raises(StreamError, match="not acknowledged in time: SOME_CODE"):
            await stream([server.url], HistoryCheck(3), seconds=1.0).run(flights(3))


def test_the_gap_ends_with_the_first_answer_to_what_was_sent_after_the_kill():
    gap = PartitionGap(partition=1, killed_s=10.0, gone_s=10.1)
    gap.observe(sent_s=9.9, answered_s=10.2)
    gap.observe(sent_s=10.05, answered_s=10.3)
    assert gap.gap_ms is None
    gap.observe(sent_s=10.15, answered_s=10.5)
    gap.observe(sent_s=10.2, answered_s=10.4)
    gap.observe(sent_s=10.6, answered_s=10.7)
    assert gap.gap_ms == pytest.approx(400)


async def test_only_the_observed_partition_ends_the_gap():
    check = HistoryCheck(10)
    async with http_server(appended) as server:
        run = stream([server.url], check)
        now_s = time.monotonic()
        run.progress.gap = PartitionGap(partition=3, killed_s=now_s, gone_s=now_s)
        await run.run(flights(5))
        assert run.progress.gap.gap_ms is None
        run.progress.gap = PartitionGap(partition=0, killed_s=now_s, gone_s=now_s)
        await run.run(flights(5))
        assert run.progress.gap.gap_ms is not None
