"""`ottla query` and `ottla segment export` with `--isolation`: files and a cluster agree."""

import asyncio
import csv
import io
import json
import sqlite3
from contextlib import closing
from typing import NamedTuple

import pytest

from ottla.testing import FakeCluster
from ottla_broker.storage.handles import HandlePool
from ottla_ops.records import stored_records, stored_transactions
from ottla_ops.records.cluster_records import ClusterRecords
from ottla_protocol.control_records import EndMarker
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import encode_batch
from tests.unit.ops.stored_topic import DataDirectory, append, record

ALL = ["before", "a1", "c1", "a2", "between", "late commit", "open", "behind"]
COMMITTED = ["before", "c1", "between", "late commit"]


class Write(NamedTuple):
    """One batch of a producer's transaction, or of none."""

    producer_id: int | None
    value: str


class End(NamedTuple):
    """A marker."""

    producer_id: int
    is_commit: bool


LOG = (
    Write(None, "before"),
    Write(1, "a1"),
    Write(2, "c1"),
    Write(1, "a2"),
    End(1, is_commit=False),
    Write(None, "between"),
    Write(3, "late commit"),
    End(2, is_commit=True),
    End(3, is_commit=True),
    Write(4, "open"),
    Write(None, "behind"),
)


async def write(directory, batches=LOG):
    """These batches and markers, behind what is there."""
    handles = HandlePool(4)
    log = await directory.open_log("t", 0, handles)
    for each in batches:
        if isinstance(each, End):
            marker = EndMarker(each.is_commit, 0)
            info = log.append_marker(
                marker, producer_id=each.producer_id, producer_epoch=1, leader_epoch=0, now_ms=0
            )
            await log.wait_durable(info.next_offset)
        elif each.producer_id is None:
            await append(log, [record(1, None, each.value)])
        else:
            batch = bytearray(
                encode_batch(
                    [record(1, None, each.value)],
                    producer_id=each.producer_id,
                    producer_epoch=0,
                    is_transactional=True,
                )
            )
            info = log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=0)
            await log.wait_durable(info.next_offset)
    await log.close()
    await handles.close_all()


@pytest.fixture
def files(tmp_path):
    """LOG, in a segment for each batch."""
    directory = DataDirectory(tmp_path / "data", segment_bytes=1)
    asyncio.run(write(directory))
    return directory


@pytest.fixture
def online():
    """The same in a cluster in memory."""
    cluster = FakeCluster()
    cluster.create_topic("t")
    plain = cluster.producer()
    producers = {
        number: cluster.producer(transactional_id=f"of-{number}") for number in (1, 2, 3, 4)
    }
    begun = set()
    for producer in producers.values():
        producer.init_transactions()
    for each in LOG:
        producer = plain if each.producer_id is None else producers[each.producer_id]
        if isinstance(each, End):
            (producer.commit_transaction if each.is_commit else producer.abort_transaction)()
            continue
        if each.producer_id is not None and each.producer_id not in begun:
            begun.add(each.producer_id)
            producer.begin_transaction()
        producer.send("t", each.value.encode(), partition=0).get(timeout=10)
    yield cluster
    for producer in (plain, *producers.values()):
        producer.close(1)


@pytest.fixture(params=["files", "cluster"])
def of(request, files, online, monkeypatch):
    """The arguments of `query` and of `export` for files or for a cluster."""
    if request.param == "files":
        return ["--data-dir", files.root], [files.root]
    monkeypatch.setattr(
        "ottla_ops.records.cluster_records.ClusterRecords",
        lambda _, **options: ClusterRecords(
            tuple(online.bootstrap_servers), transport=online.transport(), **options
        ),
    )
    return [], []


def queried(cli, *arguments):
    code, out, err = cli("query", "select value from t order by offset", "--json", *arguments)
    assert (code, err) == (0, "")
    return [json.loads(line)["value"] for line in out.splitlines()]


def exported(cli, *arguments):
    code, out, _ = cli(
        "segment", "export", *arguments, "--topic", "t", "--format", "csv", "--output", "-"
    )
    assert code == 0
    return [row["value"] for row in csv.DictReader(io.StringIO(out))]


@pytest.mark.parametrize(
    ("isolation", "expected"),
    [((), ALL), (("read_uncommitted",), ALL), (("read_committed",), COMMITTED)],
)
def test_what_is_shown_and_never_a_marker(cli, of, isolation, expected):
    chosen = [word for each in isolation for word in ("--isolation", each)]
    of_query, of_export = of
    assert queried(cli, *of_query, *chosen) == expected
    assert exported(cli, *of_export, *chosen) == expected


def test_what_is_no_isolation_is_refused(cli, files):
    code, _, err = cli(
        "query", "select * from t", "--data-dir", files.root, "--isolation", "serializable"
    )
    assert code == 2
    assert "read_committed" in err


def committed_files(cli, files):
    return queried(cli, "--data-dir", files.root, "--isolation", "read_committed")


def test_a_damaged_table_of_aborted_transactions_is_not_needed(cli, files):
    path = next(
        each for each in files.path("t").glob("*.sqlite") if count(each, "aborted_transactions")
    )
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM aborted_transactions")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    path.chmod(0o400)
    assert committed_files(cli, files) == COMMITTED


def count(path, table):
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        [(found,)] = connection.execute(f"SELECT count(*) FROM {table}")
        return found


def test_one_file_ends_before_what_is_decided_in_another(cli, files):
    """Its end is not known there: a transaction that is open in it may have been aborted later."""
    paths = sorted(files.path("t").glob("*.sqlite"))
    assert queried(cli, "--data-dir", paths[1]) == ["a1"]
    assert queried(cli, "--data-dir", paths[1], "--isolation", "read_committed") == []
    assert queried(cli, "--data-dir", paths[5], "--isolation", "read_committed") == []


def test_files_that_are_taken_away_are_looked_for_again(cli, files, monkeypatch):
    real, gone = stored_transactions.open_segment, []

    def open_segment(path):
        if not gone:
            gone.append(path)
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(stored_transactions, "open_segment", open_segment)
    assert committed_files(cli, files) == COMMITTED
    assert gone
    assert stored_records.open_segment is not open_segment


def test_what_begins_while_the_files_are_read_is_not_committed(cli, tmp_path, monkeypatch):
    """Its broker goes on writing, and what was open or aborted then has been looked up before."""
    directory = DataDirectory(tmp_path / "data")
    asyncio.run(write(directory, LOG[:1]))
    real = stored_records.committed_view

    def committed_view(paths):
        view = real(paths)
        meanwhile = (Write(1, "aborted"), End(1, is_commit=False), Write(2, "open"))
        asyncio.run(write(directory, meanwhile))
        return view

    monkeypatch.setattr(stored_records, "committed_view", committed_view)
    assert committed_files(cli, directory) == ["before"]
    assert queried(cli, "--data-dir", directory.root) == ["before", "aborted", "open"]
