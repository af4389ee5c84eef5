"""`ottla segment export`: every record, in files that other programs open."""

import base64
import csv
import io
import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from pyarrow import parquet

from ottla.testing import FakeCluster
from ottla_ops.cli.failures import ExitCode
from ottla_ops.records import parquet_export
from ottla_ops.records.cluster_records import ClusterRecords
from tests.unit.ops.stored_topic import DataDirectory, record

HEADERS = (("trace", b"1"), ("trace", b"\xff"), ("none", None))

# partition, timestamp, key, value, headers
RECORDS = [
    (0, 1_000, "a", b'{"n": 1}', ()),
    (0, 3_000, "b", b"text, with \"quotes\"\nand lines", (("h", b"v"),)),
    (0, 2_000, "c", b"\xff\x00", HEADERS),
    (1, 4_000, None, None, ()),
    (1, 5_000, "é", b"", ()),
]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    data = DataDirectory(tmp_path / "data", segment_bytes=150)
    for number in range(2):
        batches = [[record(*rest)] for partition, *rest in RECORDS if partition == number]
        data.write("t", *batches, partition=number)
    return data


@pytest.fixture
def online():
    cluster = FakeCluster()
    cluster.create_topic("t", partitions=2)
    with cluster.producer() as producer:
        for partition, timestamp, key, value, headers in RECORDS:
            producer.send(
                "t",
                value,
                key=None if key is None else key.encode(),
                partition=partition,
                timestamp=timestamp,
                headers=list(headers),
            )
    return cluster


@pytest.fixture(params=["files", "cluster"])
def export(request, cli, files, online, monkeypatch):
    """Runs `ottla segment export --topic t ...`; from files and from a cluster."""
    if request.param == "files":
        return lambda *arguments: cli("segment", "export", files.root, "--topic", "t", *arguments)
    monkeypatch.setattr(
        "ottla_ops.records.cluster_records.ClusterRecords",
        lambda _, **options: ClusterRecords(
            tuple(online.bootstrap_servers), transport=online.transport(), **options
        ),
    )
    return lambda *arguments: cli("segment", "export", "--topic", "t", *arguments)


def expected_rows():
    """(partition, offset, timestamp, key, value, headers) of every record."""
    counts = {0: 0, 1: 0}
    rows = []
    for partition, timestamp, key, value, headers in RECORDS:
        rows.append((partition, counts[partition], timestamp, key, value, headers))
        counts[partition] += 1
    return rows


def test_ndjson_is_what_a_read_gives(export, tmp_path):
    target = tmp_path / "t.ndjson"
    code, out, err = export("-o", target)
    assert (code, out) == (0, "")
    assert err.startswith(f"5 records of t (2 partitions) written to {target} in ")
    found = [json.loads(line) for line in target.read_bytes().splitlines()]
    found.sort(key=lambda each: (each["partition"], each["offset"]))
    assert [each["value"] for each in (found[0], found[3])] == [{"n": 1}, None]
    assert found[1]["value_text"] == RECORDS[1][3].decode()
    assert base64.b64decode(found[2]["value_b64"]) == RECORDS[2][3]
    assert found[1]["headers"] == {"h": "v"}
    assert found[2]["headers"] == [["trace", "1"], ["trace", {"b64": "/w=="}], ["none", None]]
    assert [
        (each["topic"], each["partition"], each["offset"], each["timestamp"], each["key"])
        for each in found
    ] == [("t", *row[:4]) for row in expected_rows()]


def test_csv_keeps_text_and_bytes_apart(export, tmp_path):
    target = tmp_path / "t.csv"
    assert export("-o", target)[0] == 0
    found = list(csv.DictReader(io.StringIO(target.read_text(), newline="")))
    found.sort(key=lambda each: (each["partition"], int(each["offset"])))
    for row, expected in zip(found, expected_rows(), strict=True):
        partition, offset, timestamp, key, value, _ = expected
        assert (row["partition"], row["offset"], row["timestamp"]) == (
            str(partition),
            str(offset),
            str(timestamp),
        )
        assert row["key"] == (key or "")
        stored = row["value"].encode() or base64.b64decode(row["value_b64"])
        assert stored == (value or b"")
    assert json.loads(found[1]["headers"]) == {"h": "v"}


def test_sqlite_has_a_row_per_record(export, tmp_path):
    target = tmp_path / "t.sqlite"
    assert export("-o", target)[0] == 0
    with closing(sqlite3.connect(target)) as connection:
        found = connection.execute(
            "SELECT partition, offset, timestamp, key, CAST(value AS BLOB), typeof(value) "
            "FROM t ORDER BY partition, offset"
        ).fetchall()
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM t WHERE partition = 1 AND offset = 1"
        ).fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [row[:5] for row in found] == [row[:5] for row in expected_rows()]
    assert [row[5] for row in found] == ["text", "text", "blob", "null", "text"]
    assert "USING INDEX" in plan[0][-1]


def test_parquet_keeps_every_part(export, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_export, "ROWS_PER_GROUP", 2)
    target = tmp_path / "t.parquet"
    assert export("-o", target)[0] == 0
    table = parquet.read_table(target).sort_by(
        [("partition", "ascending"), ("offset", "ascending")]
    )
    found = [
        (
            row["partition"],
            row["offset"],
            int(row["timestamp"].timestamp() * 1000),
            row["key"],
            row["value_bytes"] if row["value"] is None else row["value"].encode(),
            tuple((header["name"], header["value"]) for header in row["headers"]),
        )
        for row in table.to_pylist()
    ]
    assert found == expected_rows()
    assert parquet.ParquetFile(target).num_row_groups > 1


def test_parquet_without_pyarrow_names_the_extra(export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = export("-o", tmp_path / "t.parquet")
    assert code == ExitCode.USAGE
    assert "pip install 'ottla[server,parquet]'" in err
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == []


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--partition", "1"], lambda row: row[0] == 1),
        (["--partition", "0", "--partition", "1"], lambda _: True),
        (["--from", "1"], lambda row: row[1] >= 1),
        (["--to", "0"], lambda row: row[1] == 0),
        (["--since", "2000", "--until", "4000"], lambda row: 2_000 <= row[2] < 4_000),
    ],
)
def test_some_records(export, tmp_path, arguments, wanted):
    target = tmp_path / "t.ndjson"
    code, out, _ = export("-o", target, "--json", *arguments)
    found = [json.loads(line) for line in target.read_bytes().splitlines()]
    expected = [row[:2] for row in expected_rows() if wanted(row)]
    assert code == 0
    assert sorted((each["partition"], each["offset"]) for each in found) == expected
    document = json.loads(out)
    assert (document["records"], document["format"]) == (len(expected), "ndjson")


def test_stdout_takes_lines(export):
    code, out, _ = export("-o", "-", "--format", "ndjson", "--quiet")
    assert code == 0
    assert len(out.splitlines()) == 5
    assert export("-o", "-", "--format", "csv")[1].startswith("partition,offset,")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "-", "--format", "sqlite"], 2, "needs a file"),
        (["-o", "-"], 2, "--format"),
        (["-o", "t.txt"], 2, ".parquet"),
        (["-o", "t.csv", "--topic", "nowhere"], 3, "no topic nowhere"),
    ],
)
def test_what_does_not_work_is_told(export, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    found, out, err = export(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert [each for each in tmp_path.iterdir() if each.is_file()] == []


@pytest.mark.parametrize("name", ["t.ndjson", "t.csv", "t.sqlite", "t.parquet"])
def test_a_file_that_is_there_is_kept(export, tmp_path, name):
    target = tmp_path / name
    target.write_text("mine")
    code, _, err = export("-o", target)
    assert (code, "--overwrite" in err) == (4, True)
    assert target.read_text() == "mine"
    assert export("-o", target, "--overwrite")[0] == 0
    assert target.stat().st_size > 100


@pytest.mark.parametrize("name", ["t.ndjson", "t.csv", "t.sqlite", "t.parquet"])
def test_a_failure_leaves_no_file(cli, files, tmp_path, name):
    segment = min(files.path("t", 1).glob("*.sqlite"))
    segment.chmod(0o600)
    with closing(sqlite3.connect(segment)) as connection:
        connection.execute("UPDATE batches SET max_timestamp = 9")
        connection.commit()
    segment.chmod(0o400)
    code, _, err = cli("segment", "export", files.root, "-o", tmp_path / name)
    assert (code, "damaged at offset 0" in err) == (1, True)
    assert [each for each in tmp_path.iterdir() if each.is_file()] == []


def test_one_topic_need_not_be_named(cli, files, tmp_path):
    assert cli("segment", "export", files.root, "-o", tmp_path / "t.csv")[0] == 0
    files.write("u", [record(1, "k", "v")])
    code, _, err = cli("segment", "export", files.root, "-o", tmp_path / "u.csv")
    assert (code, "t, u" in err) == (2, True)
    assert cli("segment", "export", files.path("u"), "-o", tmp_path / "u.csv")[0] == 0
    assert cli("segment", "export", "-o", tmp_path / "v.csv")[0] == 2


def test_a_closed_pipe_ends_quietly(tmp_path):
    data = DataDirectory(tmp_path / "data")
    data.write("t", *([record(n, "k", "v" * 1_000) for n in range(100)] for _ in range(20)))
    command = "from ottla._entry import main; import sys; sys.exit(main())"
    arguments = ["segment", "export", str(data.root), "-o", "-", "--format", "ndjson"]
    export = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert export.stdout.readline().startswith(b'{"offset":0')
    export.stdout.close()
    assert export.stderr.read() == b""
    export.stderr.close()
    assert export.wait(30) == 0
