"""`ottla segment`: what lies in files, and what is damaged in them."""

import asyncio
import json
import sqlite3
import threading
from contextlib import closing

import pytest

from ottla_broker.storage import sqlite
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.segment import segment_path
from ottla_ops.segments import segment_snapshot
from ottla_ops.segments.segment_snapshot import SegmentBusyError, open_segment
from ottla_protocol.control_records import EndMarker
from ottla_protocol.record_batch import Compression, read_header
from ottla_protocol.record_codec import encode_batch
from tests.unit.ops.stored_topic import DataDirectory, append, record


@pytest.fixture
def data(tmp_path):
    return DataDirectory(tmp_path / "data")


@pytest.fixture
def orders(data):
    """A partition of three segments: ten batches of three records."""
    data.segment_bytes = 500
    batches = [
        [record(1_000 * number + index, "k", {"n": number}) for index in range(3)]
        for number in range(10)
    ]
    data.write("orders", *batches)
    return data


@pytest.fixture
def transfers(data):
    """A partition with an aborted and a committed transaction."""

    async def write():
        handles = HandlePool(4)
        log = await data.open_log("transfers", 0, handles)
        for producer_id in (1, 2):
            batch = encode_batch(
                [record(1_000, "k", "v")],
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=0,
                is_transactional=True,
            )
            log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=0)
        for producer_id, is_commit in ((1, False), (2, True)):
            log.append_marker(
                EndMarker(is_commit, 0),
                producer_id=producer_id,
                producer_epoch=1,
                leader_epoch=0,
                now_ms=2_000,
            )
            log._appender.roll()
        await append(log, [record(3_000, "k", "v")])
        await log.close()
        await handles.close_all()

    asyncio.run(write())
    return data


def segment_files(data, topic="orders", partition=0):
    return sorted(data.path(topic, partition).glob("*.sqlite"))


def change(path, *statements):
    """Change a segment behind its broker's back, as a failing disk does."""
    mode = path.stat().st_mode
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    path.chmod(mode)


def snapshot(directory):
    return {path: (path.read_bytes(), path.stat().st_mode) for path in directory.rglob("*.sqlite*")}


def test_segments_are_listed_oldest_first(cli, orders):
    code, out, _ = cli("segment", "list", orders.root, "--json")
    found = json.loads(out)["segments"]
    assert code == 0
    assert len(found) > 2
    assert [each["state"] for each in found] == ["sealed"] * (len(found) - 1) + ["active"]
    assert [each["end_offset"] for each in found[:-1]] == [
        each["base_offset"] for each in found[1:]
    ]
    assert found[-1]["end_offset"] == 30
    assert sum(each["records"] for each in found) == 30
    assert sum(each["batches"] for each in found) == 10
    assert found[0]["first_timestamp"] == 2
    assert found[-1]["last_timestamp"] == 9_002


def test_the_size_of_an_active_segment_counts_its_write_ahead_log(cli, orders):
    active = segment_files(orders)[-1]
    with closing(sqlite3.connect(active)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA user_version=7")
        wal = active.with_name(active.name + "-wal")
        assert wal.stat().st_size > 0
        expected = active.stat().st_size + wal.stat().st_size
        found = json.loads(cli("segment", "list", orders.root, "--json")[1])["segments"]
    assert found[-1]["size_bytes"] == expected


def test_the_table_shows_the_same_to_a_person(cli, orders):
    code, out, _ = cli("segment", "list", orders.root)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:3] == ["TOPIC", "PARTITION", "STATE"]
    assert lines[1].split()[:4] == ["orders", "0", "sealed", "0"]
    assert lines[1].split()[-3] == "1970-01-01T00:00:00.002Z"


@pytest.mark.parametrize("what", ["data directory", "partition", "segment"])
def test_a_path_may_be_any_of_three(cli, orders, what):
    paths = {
        "data directory": orders.root,
        "partition": orders.path("orders"),
        "segment": segment_files(orders)[0],
    }
    code, out, _ = cli("segment", "list", paths[what], "--json")
    found = json.loads(out)["segments"]
    assert code == 0
    assert {(each["topic"], each["partition"]) for each in found} == {("orders", 0)}
    assert len(found) == (1 if what == "segment" else len(segment_files(orders)))


def test_topic_and_partition_choose(cli, data):
    data.write("a", [record(1, "k", "v")])
    data.write("b", [record(1, "k", "v")])
    data.write("b", [record(1, "k", "v")], partition=1)
    listed = json.loads(cli("segment", "list", data.root, "--topic", "b", "--json")[1])
    assert [(each["topic"], each["partition"]) for each in listed["segments"]] == [
        ("b", 0),
        ("b", 1),
    ]
    code, _, err = cli("segment", "list", data.root, "--topic", "b", "--partition", "2")
    assert (code, "topic b partition 2" in err) == (3, True)


def test_a_path_without_segments_is_not_found(cli, tmp_path):
    assert cli("segment", "list", tmp_path)[0] == 3
    assert cli("segment", "list", tmp_path / "nowhere")[0] == 3
    (tmp_path / "some.txt").touch()
    assert cli("segment", "list", tmp_path / "some.txt")[0] == 3


def test_a_dump_has_every_batch(cli, orders):
    code, out, _ = cli("segment", "dump", orders.root, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [each["base_offset"] for each in found] == list(range(0, 30, 3))
    assert {each["record_count"] for each in found} == {3}
    assert "records" not in found[0]


@pytest.mark.parametrize("compression", list(Compression))
def test_a_dump_with_records_decodes_them(cli, data, compression):
    headers = (("trace", b"1"), ("trace", b"\xff"))
    data.write("t", [record(5, "k", {"n": 1}, headers)] * 2, compression=compression)
    [batch] = cli("segment", "dump", data.root, "--records", "--json")[1].splitlines()
    found = json.loads(batch)
    assert found["compression"] == compression.name.lower()
    assert found["records"] == [
        {
            "offset": offset,
            "timestamp": 5,
            "key": "k",
            "value": {"n": 1},
            "headers": [["trace", "1"], ["trace", {"b64": "/w=="}]],
        }
        for offset in range(2)
    ]
    lines = cli("segment", "dump", data.root, "--records")[1].splitlines()
    assert lines[0].startswith("t-0 0-1 epoch 0 records 2 ")
    assert json.loads(lines[1])["offset"] == 0


def test_a_dump_tells_which_markers_end_transactions(cli, transfers):
    code, out, _ = cli("segment", "dump", transfers.root, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [each["marker"] for each in found] == [None, None, "abort", "commit", None]
    assert [each["transactional"] for each in found] == [True, True, True, True, False]
    lines = cli("segment", "dump", transfers.root)[1].splitlines()
    assert lines[2].endswith(" transactional control marker=abort")


def test_aborted_transactions_are_counted_and_held_against_the_batches(cli, transfers):
    listed = json.loads(cli("segment", "list", transfers.root, "--json")[1])["segments"]
    assert [each["aborted_transactions"] for each in listed] == [1, 0, 0]
    assert cli("segment", "verify", transfers.root)[0] == 0
    path = segment_files(transfers, "transfers")[0]
    change(path, "UPDATE aborted_transactions SET first_offset = 1")
    code, out, _ = cli("segment", "verify", transfers.root, "--json")
    [finding] = [each for found in json.loads(out)["segments"] for each in found["findings"]]
    assert code == 1
    assert "aborted transactions are damaged" in finding["reason"]
    change(path, "DELETE FROM aborted_transactions", "DELETE FROM meta WHERE name = 'aborted_crc'")
    code, out, _ = cli("segment", "verify", transfers.root, "--json")
    [finding] = [each for found in json.loads(out)["segments"] for each in found["findings"]]
    assert "not those of its batches" in finding["reason"]


@pytest.mark.parametrize(
    ("arguments", "bases"),
    [
        (["--from", "9"], list(range(9, 30, 3))),
        (["--from", "10"], list(range(9, 30, 3))),
        (["--to", "9"], [0, 3, 6, 9]),
        (["--from", "4", "--to", "8"], [3, 6]),
        (["--from", "30"], []),
    ],
)
def test_a_dump_of_some_offsets(cli, orders, arguments, bases):
    code, out, _ = cli("segment", "dump", orders.root, "--json", *arguments)
    assert code == 0
    assert [json.loads(line)["base_offset"] for line in out.splitlines()] == bases


def test_sound_segments_verify(cli, orders):
    before = snapshot(orders.root)
    code, out, err = cli("segment", "verify", orders.root, "--decode")
    assert (code, out) == (0, "")
    assert "10 batches, 30 records: all as they were written" in err
    assert snapshot(orders.root) == before


@pytest.mark.parametrize(
    ("statements", "offset", "reason"),
    [
        (["UPDATE batches SET max_timestamp = 7 WHERE base_offset = 3"], 3, "columns differ"),
        (["UPDATE batches SET leader_epoch = 1 WHERE base_offset = 3"], 3, "columns differ"),
        (["UPDATE batches SET data = substr(data, 1, 70) WHERE base_offset = 3"], 3, "claims"),
        (
            ["UPDATE batches SET data = CAST(substr(data, 1, 80) || x'00' || substr(data, 82) "
             "AS BLOB) WHERE base_offset = 3"],
            3,
            "CRC-32C",
        ),
        (["DELETE FROM batches WHERE base_offset = 3"], 3, "offsets 3 to 5 are missing"),
        (["UPDATE batches SET last_offset = 3 WHERE base_offset = 0"], 3, "overlaps"),
        (["UPDATE leader_epochs SET epoch = 4"], 0, "leader epoch 0, where"),
        (
            ["INSERT INTO producer_snapshot VALUES (0, 1, 0, x'90', NULL, 0)"],
            0,
            "the snapshot is damaged",
        ),
        (["UPDATE meta SET value = 'other' WHERE name = 'topic'"], None, "belongs to"),
        (["UPDATE meta SET value = 99 WHERE name = 'format_version'"], None, "format version 99"),
        (["DELETE FROM meta WHERE name = 'topic_id'"], None, "meta has no"),
    ],
)  # fmt: skip
def test_damage_is_told_with_file_and_offset(cli, orders, statements, offset, reason):
    path = segment_files(orders)[0]
    change(path, *statements)
    code, out, err = cli("segment", "verify", orders.root, "--json")
    document = json.loads(out)
    findings = [finding for each in document["segments"] for finding in each["findings"]]
    assert code == 1
    assert json.loads(err)["code"] == "CORRUPT_MESSAGE"
    assert document["damaged_segments"] >= 1
    assert {finding["path"] for finding in findings} == {str(path)}
    found = next(each for each in findings if reason in each["reason"])
    assert found["offset"] == offset
    shown = cli("segment", "verify", orders.root)[1]
    where = f"{path}:" if offset is None else f"{path}: offset {offset}:"
    assert f"{where} {found['reason']}" in shown.splitlines()


def test_it_goes_on_behind_the_first_damage(cli, orders):
    path = segment_files(orders)[0]
    change(path, "UPDATE batches SET record_count = 9 WHERE base_offset IN (0, 6)")
    document = json.loads(cli("segment", "verify", orders.root, "--json")[1])
    assert [finding["offset"] for finding in document["segments"][0]["findings"]] == [0, 6]
    assert sum(each["batches"] for each in document["segments"]) == 8


def test_findings_are_bounded(cli, orders, monkeypatch):
    monkeypatch.setattr("ottla_broker.storage.segment_verification.FINDINGS_MAX", 1)
    change(segment_files(orders)[0], "UPDATE batches SET record_count = 9")
    code, out, _ = cli("segment", "verify", orders.path("orders"))
    assert code == 1
    assert out.splitlines()[1].endswith("not read beyond offset 2")


def test_a_missing_segment_is_a_gap(cli, orders):
    first, second, third, *_ = segment_files(orders)
    second.unlink()
    code, out, _ = cli("segment", "verify", orders.root)
    assert code == 1
    assert out.startswith(f"{third}: offset {int(second.stem)}: offsets")
    assert first.name in out


def test_batches_that_were_verified_and_are_gone_are_told(cli, orders):
    newest = segment_files(orders)[-1]
    change(newest, "DELETE FROM batches WHERE base_offset = (SELECT max(base_offset) FROM batches)")
    code, out, _ = cli("segment", "verify", orders.root)
    assert (code, "batches up to offset 30 were here once" in out) == (1, True)


def test_a_flipped_bit_in_any_page_is_found(cli, data):
    """Whatever byte of the batches' own pages changes, one of the checks sees it."""
    path = data.write("t", *([record(n, "k", "v" * 200)] for n in range(200)))
    data.segment_bytes = 1
    data.write("t", [record(1, "k", "v")])
    sealed = segment_path(path, 0)
    whole = sealed.read_bytes()
    page_bytes = 16_384
    sealed.chmod(0o600)
    for position in range(page_bytes * 7 + 900, len(whole), 5_557):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        if not damaged[position] or not whole[position]:
            continue
        sealed.write_bytes(damaged)
        sealed.chmod(0o400)
        assert cli("segment", "verify", sealed)[0] == 1, position
        sealed.chmod(0o600)


def test_a_file_that_is_no_database_is_unreadable_and_damaged(cli, orders):
    path = segment_files(orders)[0]
    path.chmod(0o600)
    path.write_bytes(b"not a database " * 4_000)
    path.chmod(0o400)
    listed = json.loads(cli("segment", "list", orders.root, "--json")[1])["segments"]
    assert listed[0]["state"] == "unreadable"
    assert listed[1]["state"] == "sealed"
    code, out, _ = cli("segment", "verify", orders.root)
    assert code == 1
    assert out.startswith(f"{path}: offset 0: SQLite: file is not a database")


def test_a_file_put_aside_is_listed(cli, orders):
    aside = orders.path("orders") / f"{0:020d}.sqlite.damaged"
    aside.write_bytes(b"x")
    listed = json.loads(cli("segment", "list", orders.root, "--json")[1])["segments"]
    assert [each["path"] for each in listed if each["state"] == "put-aside"] == [str(aside)]


async def test_the_active_segment_of_a_running_broker_is_seen_whole(data):
    """Every copy ends with a batch that was committed, and never misses an acknowledged one."""
    handles = HandlePool(4)
    log = await data.open_log("t", 0, handles)
    path = segment_path(data.path("t"), 0)
    seen = []

    def read():
        with open_segment(path) as opened:
            found = opened.connection.execute(
                "SELECT count(*), coalesce(max(last_offset) + 1, 0) FROM batches"
            ).fetchall()
            assert opened.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert not opened.sealed
            seen.append(found[0])

    for number in range(120):
        before = log.log_end_offset
        reading = asyncio.create_task(asyncio.to_thread(read)) if number % 10 == 5 else None
        # So few that the write-ahead log begins anew at most once meanwhile, and the file stays
        # small enough to be copied before it does so again, however slow the reader is.
        for _ in range(30):
            await append(log, [record(number, "k", "v" * 60_000)] * 2)
            if reading is None or reading.done():
                break
        if reading is not None:
            await reading
            assert seen[-1][1] >= before
            assert seen[-1][0] * 2 == seen[-1][1]
    assert len(seen) == 12
    await log.close()
    await handles.close_all()


def test_a_segment_that_never_rests_is_told(data, monkeypatch):
    path = segment_path(data.write("t", [record(1, "k", "v")]), 0)
    monkeypatch.setattr(segment_snapshot, "COPY_ATTEMPTS_MAX", 3)
    monkeypatch.setattr(segment_snapshot, "ATTEMPT_PAUSE_S", 0.001)
    monkeypatch.setattr(segment_snapshot, "REST_NS", 1 << 62)
    with pytest.raises(SegmentBusyError, match="read from the cluster"), open_segment(path):
        pytest.fail("it must not open")


def before_sidecars(monkeypatch, action):
    """Do something between the first copy of a database and that of its log; returns all copies."""
    copies = []
    copy_sidecars = segment_snapshot._copy_sidecars

    def act_and_copy(source, directory):
        copies.append(source)
        if len(copies) == 1:
            action()
        copy_sidecars(source, directory)

    monkeypatch.setattr(segment_snapshot, "_copy_sidecars", act_and_copy)
    return copies


def test_a_change_during_the_copy_is_seen(data, monkeypatch):
    path = segment_path(data.write("t", [record(1, "k", "v")]), 0)
    copies = before_sidecars(monkeypatch, lambda: path.write_bytes(path.read_bytes()))
    with open_segment(path) as opened:
        assert opened.connection.execute("SELECT count(*) FROM batches").fetchall() == [(1,)]
    assert copies == [path] * 2


def test_a_log_that_begins_during_the_copy_is_seen(data, monkeypatch):
    path = segment_path(data.write("t", [record(1, "k", "v")]), 0)
    wal = path.with_name(path.name + "-wal")
    copies = before_sidecars(monkeypatch, lambda: wal.write_bytes(b"another header"))
    with open_segment(path) as opened:
        assert opened.connection.execute("SELECT count(*) FROM batches").fetchall() == [(1,)]
    assert copies == [path] * 2


@pytest.mark.parametrize(
    ("statements", "attempts", "seen"),
    [
        ([], 1, 7),
        (["PRAGMA wal_checkpoint(PASSIVE)"], 1, 7),
        (["PRAGMA wal_checkpoint(PASSIVE)", "UPDATE batches SET max_timestamp = 8"], 2, 8),
        (
            ["UPDATE batches SET max_timestamp = 8", "PRAGMA wal_checkpoint(PASSIVE)"],
            1,
            8,
        ),
        (["PRAGMA wal_checkpoint(TRUNCATE)"], 2, 7),
        (["PRAGMA journal_mode=DELETE", "UPDATE batches SET max_timestamp = 8"], 2, 8),
    ],
)
def test_a_checkpoint_during_the_copy_mixes_nothing(data, monkeypatch, statements, attempts, seen):
    """Half of the database is copied before a checkpoint has changed all of it, half after."""
    path = segment_path(data.write("t", *([record(n, "k", "v" * 5_000)] for n in range(20))), 0)
    looks, begun = [], []
    look, copy = segment_snapshot._wal_header, segment_snapshot._copy_while

    def copy_while(is_unchanged, source, target):
        begun.append(source)
        return copy(is_unchanged, source, target)

    with closing(sqlite.connect_active(path, sqlite.Durability.OS)) as writer:
        writer.execute("UPDATE batches SET max_timestamp = 7")
        chunks = path.stat().st_size // sqlite.PAGE_BYTES
        assert chunks > 6, "the batches fill some pages"

        def look_and_write(of):
            looks.append(of)
            if len(looks) == chunks // 2:
                for statement in statements:
                    writer.execute(statement).fetchall()
            return look(of)

        monkeypatch.setattr(segment_snapshot, "COPY_CHUNK_BYTES", sqlite.PAGE_BYTES)
        monkeypatch.setattr(segment_snapshot, "_wal_header", look_and_write)
        monkeypatch.setattr(segment_snapshot, "_copy_while", copy_while)
        with open_segment(path) as opened:
            found = opened.connection.execute("SELECT DISTINCT max_timestamp FROM batches")
            assert found.fetchall() == [(seen,)]
            assert opened.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(begun) == attempts
    assert len(looks) > chunks // 2


def test_a_sealed_segment_that_is_truncated_meanwhile_is_told(orders):
    path = segment_files(orders)[0]
    with pytest.raises(SegmentBusyError, match="truncated"), open_segment(path):
        change(path, "DELETE FROM batches WHERE base_offset = 3")


def test_a_sealed_segment_that_retention_removes_meanwhile_is_read_to_its_end(orders):
    path = segment_files(orders)[0]
    with open_segment(path) as opened:
        connection = opened.connection
        connection.execute("SELECT 1 FROM meta").fetchall()
        path.unlink()
        assert connection.execute("SELECT count(*) FROM batches").fetchall()[0][0] > 1


def test_no_thread_is_left_behind(cli, orders):
    before = threading.active_count()
    cli("segment", "list", orders.root)
    assert threading.active_count() == before
