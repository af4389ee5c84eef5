"""The sample, the records made of it, the hand-over file, and the demo's own verdict."""

import gzip
import json

import msgspec
import pytest

from loadtests import demo
from loadtests.acknowledgements import (
    IncompleteFileError,
    read_acknowledged,
    write_acknowledged,
    write_end,
)
from loadtests.data.make_sample import EVERY_NTH, SAMPLE_BYTES_MAX, SAMPLE_PATH, make_sample
from loadtests.flight_stream import PartitionGap
from loadtests.flights import produce_body, read_flights, repeat_flights
from loadtests.history import Acknowledged, Verdict, fingerprint
from loadtests.progress import PlainProgress


def test_the_sample_is_in_order_of_departure_and_small_enough():
    assert SAMPLE_PATH.stat().st_size < SAMPLE_BYTES_MAX
    departures = []
    for flight in read_flights():
        fields = json.loads(bytes(flight.value))
        assert fields["tailnum"] == flight.key
        departures.append((fields["time_hour"], fields["minute"]))
    assert departures == sorted(departures)
    assert len(departures) == 48_111


def test_a_sample_depends_on_its_source_alone(tmp_path):
    source = tmp_path / "year.ndjson.gz"
    lines = [
        b'{"time_hour":"2013-01-%02dT10:00:00Z","minute":%d,"n":%d}' % (n % 5 + 1, n % 3, n)
        for n in range(40)
    ]
    source.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    sample = make_sample(source)
    assert sample == make_sample(source)
    kept = gzip.decompress(sample).splitlines()
    ordered = sorted(lines, key=lambda line: (json.loads(line)["time_hour"], line[-20:]))
    assert len(kept) == -(-len(ordered) // EVERY_NTH)
    assert set(kept) <= set(lines)
    hours = [json.loads(line)["time_hour"] for line in kept]
    assert hours == sorted(hours)


def test_a_body_has_key_value_and_sequence_of_each_flight():
    flights = list(read_flights(limit=3))
    records = json.loads(produce_body(flights))["records"]
    assert [r["key"] for r in records] == [f.key for f in flights]
    assert [r["headers"] for r in records] == [{"sequence": str(n)} for n in range(3)]
    assert [r["value"] for r in records] == [json.loads(bytes(f.value)) for f in flights]


def test_repeated_flights_are_numbered_on():
    repeated = repeat_flights(list(read_flights(limit=3)), 7)
    assert [f.sequence for f in repeated] == list(range(7))
    assert [f.key for f in repeated[3:6]] == [f.key for f in repeated[:3]]


def test_acknowledgements_survive_their_file(tmp_path):
    path = tmp_path / "acknowledged.ndjson"
    records = [
        Acknowledged(sequence, None if sequence % 2 else "k", fingerprint(b"v"), 1, sequence)
        for sequence in range(5)
    ]
    with path.open("wb") as file:
        write_acknowledged(file, records)
        write_end(file, 6)
    check = read_acknowledged(path)
    assert check.acknowledged == 5
    assert check.end_offsets() == {1: 5}


@pytest.mark.parametrize("kept_bytes", [0, 10, -2])
def test_a_file_that_breaks_off_is_told_from_a_whole_one(tmp_path, kept_bytes):
    path = tmp_path / "acknowledged.ndjson"
    with path.open("wb") as file:
        write_acknowledged(file, [Acknowledged(0, "k", b"12345678", 0, 0)])
        write_end(file, 1)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(IncompleteFileError):
        read_acknowledged(path)


def verdict(**counts):
    clean = dict.fromkeys(("lost", "duplicated", "out_of_order", "divergent", "foreign"), 0)
    return Verdict(acknowledged=5, read={1: 5}, examples=(), **{**clean, **counts})


def gap(seconds):
    return PartitionGap(0, 0.0, 0.0, seconds)


@pytest.mark.parametrize("fault", ["lost", "duplicated", "out_of_order", "divergent", "foreign"])
def test_the_demo_fails_on_any_fault(fault):
    assert not demo.is_passed(verdict(**{fault: 1}), gap(0.1), kill=True)
    assert not demo.is_passed(verdict(**{fault: 1}), None, kill=False)


def test_the_demo_fails_when_writes_stood_still_too_long_or_never_went_on():
    assert demo.is_passed(verdict(), gap(1.999), kill=True)
    assert not demo.is_passed(verdict(), gap(2.0), kill=True)
    assert not demo.is_passed(verdict(), gap(None), kill=True)
    assert not demo.is_passed(verdict(), None, kill=True)
    assert demo.is_passed(verdict(), None, kill=False)


def test_the_demo_tells_its_counts():
    result = {
        **msgspec.to_builtins(verdict(lost=3)),
        "sent": 5,
        "killed_broker": 2,
        "killed_partition": 4,
        "gap_ms": None,
        "records_per_s": 100.0,
        "retries": {"ConnectionRefusedError": 2},
        "passed": False,
    }
    text = "\n".join(demo.report_lines(result))
    for part in ("5 of 5", "lost                  3", "no record was acknowledged again", "FAILED"):
        assert part in text


@pytest.mark.parametrize("arguments", [["--records", "10"], ["--no-kill", "--records", "0"]])
def test_the_demo_refuses_too_few_records(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(arguments)
    assert exit_.value.code == 2
    assert "--records must be at least" in capsys.readouterr().err


def test_plain_progress_tells_each_tenth_once(capsys):
    progress = PlainProgress(20)
    for _ in range(20):
        progress.advance(1)
    assert capsys.readouterr().out.splitlines() == [
        f"acknowledged {done} of 20" for done in range(2, 21, 2)
    ]
