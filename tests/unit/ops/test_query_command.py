"""`ottla query`: SQL over topics, from files and from a cluster."""

import json
import signal
import sqlite3
import subprocess
import sys

import pytest

from ottla.testing import FakeCluster
from ottla_ops.cli import query_command
from ottla_ops.query.statement import prepare
from ottla_ops.query.topic_tables import temporary_database
from ottla_ops.records.cluster_records import ClusterRecords
from ottla_ops.records.selection import Bounds, Selection
from ottla_ops.records.stored_records import StoredRecords
from ottla_ops.segments.found_segments import find_replicas
from tests.unit.ops.stored_topic import DataDirectory, record

FLIGHTS = [
    # partition, timestamp, key, origin, delay
    (partition, 1_000 * (number % 7) + partition, f"N{number % 4}", origin, number)
    for number in range(30)
    for partition, origin in ((0, "JFK"), (1, "LGA"), (2, "EWR"))
]


def flight(timestamp, key, origin, delay):
    return record(timestamp, key, {"origin": origin, "delay": delay}, (("n", b"%d" % delay),))


@pytest.fixture
def files(tmp_path):
    """The flights in three partitions, each of several segments."""
    data = DataDirectory(tmp_path / "data", segment_bytes=500)
    for number in range(3):
        rows = [flight(*rest) for partition, *rest in FLIGHTS if partition == number]
        data.write("flights", *(rows[i : i + 4] for i in range(0, len(rows), 4)), partition=number)
    return data


@pytest.fixture
def online():
    """The same in a cluster in memory."""
    cluster = FakeCluster()
    cluster.create_topic("flights", partitions=3)
    with cluster.producer() as producer:
        for partition, timestamp, key, origin, delay in FLIGHTS:
            made = flight(timestamp, key, origin, delay)
            producer.send(
                "flights",
                made.value,
                key=made.key,
                partition=partition,
                timestamp=timestamp,
                headers=list(made.headers),
            )
    return cluster


@pytest.fixture(params=["files", "cluster"])
def ask(request, cli, files, online, monkeypatch):
    """Runs `ottla query SQL ...`; from files and from a cluster."""
    if request.param == "files":
        return lambda *arguments: cli("query", *arguments, "--data-dir", files.root)
    monkeypatch.setattr(
        "ottla_ops.records.cluster_records.ClusterRecords",
        lambda _, **options: cluster_records(online, **options),
    )
    return lambda *arguments: cli("query", *arguments)


def cluster_records(online, **options):
    return ClusterRecords(
        tuple(online.bootstrap_servers),
        transport=online.transport(),
        **{"timeout_s": 5, **options},
    )


def rows(answer):
    code, out, err = answer
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_a_topic_is_a_table(ask):
    sql = "select * from flights where partition = 1 and offset = 9"
    assert rows(ask(sql, "--json")) == [
        {
            "offset": 9,
            "partition": 1,
            "timestamp": 2_001,
            "key": "N1",
            "value": '{"origin": "LGA", "delay": 9}',
            "headers": '{"n":"9"}',
        }
    ]


def test_grouping_by_a_field_of_the_value(ask):
    sql = (
        "select value->>'$.origin' as origin, count(*) as flights, sum(value->>'$.delay') as delay "
        "from flights group by origin order by origin"
    )
    assert rows(ask(sql, "--json")) == [
        {"origin": origin, "flights": 30, "delay": sum(range(30))}
        for origin in ("EWR", "JFK", "LGA")
    ]


def test_a_table_for_people_and_a_note_of_what_was_read(ask):
    code, out, err = ask("select key, count(*) from flights where offset < 4 group by key")
    assert code == 0
    assert out.splitlines() == [
        "key  count(*)",
        "N0   3",
        "N1   3",
        "N2   3",
        "N3   3",
    ]
    assert err.startswith("4 rows from 12 records of flights (3 partitions); read in ")


def test_csv(ask):
    sql = "select key, null as none, 'a,\"b' as text from flights limit 1"
    assert ask(sql, "--format", "csv")[1] == 'key,none,text\nN0,,"a,""b"\n'


def test_a_topic_with_itself(ask):
    sql = (
        "with jfk as (select * from flights where partition = 0) "
        "select count(*) as n from jfk join flights f on f.offset = jfk.offset and f.partition = 1"
    )
    assert rows(ask(sql, "--json")) == [{"n": 30}]


def test_timestamps_bound_what_is_read_whatever_their_order(ask):
    condition = "timestamp >= 5000 and timestamp < 6001"
    expected = sum(5_000 <= timestamp < 6_001 for _, timestamp, *_ in FLIGHTS)
    code, out, err = ask(f"select count(*) from flights where {condition}")
    assert (code, out.splitlines()[1]) == (0, str(expected))
    assert f"from {expected} records" in err


@pytest.mark.parametrize(
    ("sql", "code", "message"),
    [
        ("select * from nowhere", 3, "there is no topic nowhere"),
        ("select missing from flights", 2, "no such column: missing"),
        ("select origin from flights", 2, "value ->> '$.origin'"),
        ("select f.origin from flights f", 2, "value ->> '$.origin'"),
        ("select from flights", 2, "syntax error"),
        ("", 2, "empty"),
        ("/* nothing */", 2, "empty"),
        ("select 1; select 2", 2, "one statement"),
        ("delete from flights", 2, "only reading"),
        ("create table t (a)", 2, "only reading"),
        ("attach 'x.db' as x", 2, "only reading"),
        ("pragma user_version = 3", 2, "only reading"),
        ("with a as (select 1) delete from flights", 2, "only reading"),
        ("explain select 1", 2, "only reading"),
        ("vacuum into 'x.db'", 2, "only reading"),
        ("select ? from flights", 2, "parameters"),
        ("select * from other.flights", 3, "no topic other.flights"),
        ("select json_extract(key, '$.a') from flights", 1, "malformed JSON"),
        ("select * from sqlite_nothing", 2, "SQLite's own"),
    ],
)
def test_what_does_not_work_is_told(ask, sql, code, message):
    found, out, err = ask(sql)
    assert (found, out) == (code, "")
    assert message in err, err


def test_nothing_is_written_where_the_command_runs(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    ask("attach 'x.db' as x")
    ask("vacuum into 'x.db'")
    ask("select * from flights")
    assert sorted(tmp_path.rglob("*")) == before


def test_too_much_to_read_is_refused(ask):
    code, _, err = ask("select value from flights", "--max-bytes", "1000")
    assert code == 1
    assert "more than 1,000 bytes" in err
    assert "--max-bytes" in err
    assert ask("select value from flights where offset = 1", "--max-bytes", "1000")[0] == 0


def test_columns_that_are_not_asked_for_take_no_room(ask):
    assert ask("select count(*) from flights", "--max-bytes", "3000")[0] == 0
    assert ask("select count(value) from flights", "--max-bytes", "3000")[0] == 1


def test_bytes_that_are_no_text_stay_bytes(cli, tmp_path):
    data = DataDirectory(tmp_path)
    data.write("t", [record(1, None, b"\xff\x00"), record(2, None, None), record(3, None, "é")])
    sql = "select value, typeof(value) as kind from t order by offset"
    answer = cli("query", sql, "--data-dir", tmp_path, "--json")
    assert rows(answer) == [
        {"value": {"b64": "/wA="}, "kind": "blob"},
        {"value": None, "kind": "null"},
        {"value": "é", "kind": "text"},
    ]
    assert cli("query", sql, "--data-dir", tmp_path)[1].splitlines()[1] == "X'ff00'  blob"


def test_names_with_dots_and_dashes_are_quoted(cli, tmp_path):
    DataDirectory(tmp_path).write("a.b-c", [record(1, "k", "v")])
    sql = 'select key from "a.b-c"'
    assert cli("query", sql, "--data-dir", tmp_path)[1] == "key\nk\n"
    assert cli("query", 'select key from main."a.b-c"', "--data-dir", tmp_path)[1] == "key\nk\n"


def test_topics_that_only_case_tells_apart_are_not_mixed_up(cli, tmp_path):
    data = DataDirectory(tmp_path)
    data.write("orders", [record(1, "small", "v")])
    data.write("Orders", [record(1, "large", "v")])
    assert cli("query", "select key from Orders", "--data-dir", tmp_path)[1] == "key\nlarge\n"
    code, _, err = cli("query", "select * from orders, Orders o", "--data-dir", tmp_path)
    assert (code, "one name to SQLite" in err) == (2, True)


def test_an_unreachable_cluster_is_told_with_what_to_do(cli):
    code, _, err = cli(
        "query", "select * from t", "--timeout", "0.3", "--bootstrap", "http://127.0.0.1:9"
    )
    assert code == 5
    assert "connection refused" in err
    assert "--data-dir" in err


def test_a_damaged_batch_ends_the_query(cli, tmp_path):
    data = DataDirectory(tmp_path, segment_bytes=1)
    path = data.write("t", [record(1, "k", "v")], [record(1, "k", "v")])
    segment = min(path.glob("*.sqlite"))
    segment.chmod(0o600)
    with sqlite3.connect(segment) as connection:
        connection.execute("UPDATE batches SET max_timestamp = 9")
    connection.close()
    segment.chmod(0o400)
    code, out, err = cli("query", "select * from t", "--data-dir", tmp_path)
    assert (code, out) == (1, "")
    assert "damaged at offset 0" in err
    assert "segment verify" in err


SELECTIONS = [
    Selection(),
    Selection(partition=Bounds(1, 1)),
    Selection(partition=Bounds(among=frozenset({0, 2}))),
    Selection(offset=Bounds(5, 17)),
    Selection(offset=Bounds(among=frozenset({3, 11, 40}))),
    Selection(timestamp=Bounds(low=4_001)),
    Selection(timestamp=Bounds(high=1_000)),
    Selection(Bounds(high=1), Bounds(low=9), Bounds(2_000, 3_000)),
    Selection(offset=Bounds(low=1_000)),
    Selection(offset=Bounds(9, 3)),
    Selection(timestamp=Bounds(low=100_000)),
]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("kind", ["files", "cluster"])
def test_a_source_gives_what_is_selected_and_nothing_else(files, online, kind, selection):
    source = (
        StoredRecords(find_replicas(files.root)) if kind == "files" else cluster_records(online)
    )
    read = source.read("flights", selection)
    found = [(each.partition, each.offset) for run in read.records for each in run]
    counts = {0: 0, 1: 0, 2: 0}
    expected = []
    for partition, timestamp, *_ in FLIGHTS:
        offset = counts[partition]
        counts[partition] += 1
        if (
            partition in selection.partition
            and offset in selection.offset
            and timestamp in selection.timestamp
        ):
            expected.append((partition, offset))
    assert sorted(found) == sorted(expected)
    assert read.offsets >= len(found)
    for number in counts:
        offsets = [offset for partition, offset in found if partition == number]
        assert offsets == sorted(offsets)
    if kind == "cluster":
        source.close()


def test_bounds_leave_segments_closed(files, monkeypatch):
    from ottla_ops.records import stored_records

    opened = []
    real = stored_records.open_segment

    def open_segment(path):
        opened.append(path)
        return real(path)

    monkeypatch.setattr(stored_records, "open_segment", open_segment)
    source = StoredRecords(find_replicas(files.root))
    with temporary_database() as database:
        sql = "select * from flights where partition = 2 and offset < 3"
        [use] = prepare(database, sql, source.has_topic)
    list(source.read("flights", use.selection).records)
    segments = sorted(files.path("flights", 2).glob("*.sqlite"))
    assert len(segments) > 3
    # The newest tells where the log ends.
    assert opened == [segments[-1], segments[0]]


def test_only_columns_that_the_statement_reads_are_named():
    with temporary_database() as database:
        sql = "select f.key from flights f where f.value is not null order by timestamp"
        [use] = prepare(database, sql, lambda name: name == "flights")
    assert use.columns == {"key", "value", "timestamp"}


def test_ctrl_c_ends_a_statement_that_runs(files):
    endless = (
        "with recursive some(n) as (select 1 union all select n + 1 from some limit 600), "
        "endless(n) as (select 1 union all select n + 1 from endless) "
        "select n from some union all select count(*) from endless"
    )
    command = "from ottla._entry import main; import sys; sys.exit(main())"
    query = subprocess.Popen(
        [sys.executable, "-c", command, "query", endless, "--data-dir", str(files.root), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        for number in range(500):
            assert json.loads(query.stdout.readline()) == {"n": number + 1}
        query.send_signal(signal.SIGINT)
        assert query.communicate(timeout=30) == (b"", b"")
        assert query.returncode == 130
    finally:
        query.kill()
        query.communicate()


def test_the_default_budget_is_what_the_help_says(cli):
    assert "2147483648" in cli("query", "--help")[1]
    assert query_command.query.__doc__
