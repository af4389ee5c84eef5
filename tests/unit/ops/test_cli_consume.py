"""`ottla consume`: every record once, in order within its partition, byte for byte."""

import json
import subprocess
import sys

import pytest

from ottla_ops.cli import consuming
from ottla_ops.cli.consuming import ReadRequest, TopicReader
from ottla_ops.cli.http_connection import HttpConnection


@pytest.fixture
def orders(cluster):
    """A topic of two partitions with three and two records."""
    cluster.create("orders", 2)
    cluster.append("orders", 0, "a", "b", "c")
    cluster.append("orders", 1, "d", "e")
    return cluster


def test_all_partitions_are_printed_one_after_the_other(cli, orders):
    assert cli("consume", "orders", to=orders) == (0, "a\nb\nc\nd\ne\n", "")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--partition", "1"], "d\ne\n"),
        (["--from", "latest"], ""),
        (["--from", "-1"], "c\ne\n"),
        (["--from", "-100"], "a\nb\nc\nd\ne\n"),
        (["--from", "1"], "b\nc\ne\n"),
        (["--partition", "0", "--from", "3"], ""),
        (["--max-records", "4"], "a\nb\nc\nd\n"),
        (["-n", "2", "--from", "1"], "b\nc\n"),
        (["--until-end"], "a\nb\nc\nd\ne\n"),
        (["--from", "2023-11-14T22:13:20.001Z"], "b\nc\ne\n"),
        (["--from", "2023-11-14T22:13:20.002Z"], "c\n"),
        (["--from", "1h"], ""),
    ],
)
def test_where_to_start_and_to_stop(cli, orders, arguments, printed):
    assert cli("consume", "orders", *arguments, to=orders) == (0, printed, "")


@pytest.mark.parametrize(
    ("arguments", "isolation"),
    # A broker of the version before knows no such parameter.
    [(["--isolation", "read_committed"], "read_committed"), ([], None)],
)
def test_ends_and_records_are_those_of_the_isolation(cli, orders, arguments, isolation):
    assert cli("consume", "orders", "--from", "-1", *arguments, to=orders) == (0, "c\ne\n", "")
    asked = [call.query for call in orders.calls("GET") if "/partitions/" in call.path]
    assert len(asked) == 4
    assert {query.get("isolation") for query in asked} == {isolation}


def test_an_empty_topic_prints_nothing(cli, cluster):
    cluster.create("orders", 3)
    assert cli("consume", "orders", to=cluster) == (0, "", "")


def test_more_than_one_answer_is_needed_for_many_records(cli, cluster, monkeypatch):
    monkeypatch.setattr(consuming, "READ_RECORDS_MAX", 10)
    cluster.create("orders")
    lines = [str(number) for number in range(95)]
    cluster.append("orders", 0, *lines)
    assert cli("consume", "orders", to=cluster)[1].splitlines() == lines


def test_what_was_produced_is_consumed_byte_for_byte(cli, cluster):
    cluster.create("t")
    data = b'text\n\n  {"a" : 1.10}\n\xff\xfe\x00binary\n"quoted"\n'
    assert cli("produce", "t", stdin=data, to=cluster)[0] == 0
    assert cli("consume", "t", to=cluster)[1].encode(errors="surrogateescape") == data


def test_keys_and_values(cli, cluster):
    cluster.create("t")
    assert cli("produce", "t", "--key-separator", ":", stdin=b"k:v:w\n:x\n", to=cluster)[0] == 0
    printed = cli("consume", "t", "--format", "key-value", "--key-separator", "=", to=cluster)[1]
    assert printed == "k=v:w\n=x\n"


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        (r"%t-%p@%o %k: %s\n", "t-0@0 k: v\nt-0@1 : \n"),
        (r"%T %K %S;", "1700000000000 1 1;1700000000001 -1 -1;"),
        (r"%h|\t\x41\\%%\r\n", "a=1,b=x\u00e9|\tA\\%\r\n|\tA\\%\r\n"),
        (r"%s\0", "v\0\0"),
        ("\u00e9%o", "\u00e90\u00e91"),
    ],
)
def test_templates_print_what_they_name_and_nothing_else(cli, cluster, template, printed):
    cluster.create("t")
    headers = ["--header", "a=1", "--header", "b=x\u00e9"]
    assert cli("produce", "t", "--key", "k", *headers, stdin=b"v", to=cluster)[0] == 0
    assert cli("produce", "t", "--ndjson", stdin=b"null", to=cluster)[0] == 0
    assert cli("consume", "t", "--format", template, to=cluster) == (0, printed, "")


def test_templates_print_bytes_as_they_were_stored(cli, cluster):
    cluster.create("t")
    cli("produce", "t", stdin=b"\xff\xfe \x00\n", to=cluster)
    out = cli("consume", "t", "--format", "%S:%s", to=cluster)[1]
    assert out.encode(errors="surrogateescape") == b"4:\xff\xfe \x00"
    assert cli("tail", "t", "--format", "%S", to=cluster)[1] == "4"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("xml", "neither value, key-value, json nor a template"),
        ("%q", "'%q' means nothing"),
        ("%s%", "'%' means nothing"),
        (r"\q", r"'\q' means nothing"),
        (r"\x4", r"'\x' means nothing"),
        ("\\", "'\\' means nothing"),
    ],
)
def test_what_no_template_says_is_refused(cli, orders, template, told):
    code, out, err = cli("consume", "orders", "--format", template, to=orders)
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize("flags", [["--json"], ["--format", "json"]])
def test_json_has_everything(cli, cluster, flags):
    cluster.create("t")
    cli("produce", "t", "--ndjson", "--key", "k", stdin=b'{"n":1}', to=cluster)
    code, out, _ = cli("consume", "t", *flags, to=cluster)
    assert code == 0
    assert json.loads(out) == {
        "topic": "t",
        "partition": 0,
        "offset": 0,
        "timestamp": 1_700_000_000_000,
        "key": "k",
        "value": {"n": 1},
        "headers": {},
    }


def test_a_tombstone_is_an_empty_line_and_null_in_json(cli, cluster):
    cluster.create("t")
    cli("produce", "t", "--ndjson", stdin=b"null", to=cluster)
    assert cli("consume", "t", to=cluster)[1] == "\n"
    assert json.loads(cli("consume", "t", "--json", to=cluster)[1])["value"] is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["orders", "--from", "5", "--partition", "0"], 1),
        (["nope"], 3),
        (["orders", "--partition", "7"], 3),
        (["orders", "--from", "yesterday"], 2),
        (["orders", "--follow", "--until-end"], 2),
    ],
)
def test_failures_have_their_exit_codes(cli, orders, arguments, code):
    assert cli("consume", *arguments, to=orders)[0] == code


def test_an_offset_out_of_range_says_what_to_do(cli, orders):
    _, _, err = cli("consume", "orders", "--from", "5", "--partition", "0", to=orders)
    assert "`--from earliest`" in err


def test_a_failover_repeats_no_record_and_skips_none(cli, three_brokers, monkeypatch):
    monkeypatch.setattr(consuming, "READ_RECORDS_MAX", 2)
    three_brokers.create("t")
    three_brokers.append("t", 0, *"abcdefg")
    three_brokers.refuse(503, "LEADER_NOT_AVAILABLE", times=5, retriable=True)
    assert cli("consume", "t", to=three_brokers)[1] == "a\nb\nc\nd\ne\nf\ng\n"
    assert {call.broker for call in three_brokers.calls()} > {1}


def test_a_partition_that_does_not_get_on_is_told(cluster, monkeypatch):
    monkeypatch.setattr(consuming, "READ_WAIT_MS", 10)
    cluster.create("t")
    reader = TopicReader(HttpConnection(cluster.bootstrap), ReadRequest("t", timeout_s=0.1))
    reads = reader._read_partition_until(5, 0)
    with pytest.raises(consuming.CommandError, match="stuck at offset 0 of 5"):
        list(reads)


def test_following_prints_what_is_still_to_come_from_every_partition(cluster):
    cluster.create("t", 2)
    cluster.append("t", 0, "before")
    program = "import sys; from ottla._entry import main; sys.exit(main())"
    arguments = ["consume", "t", "--follow", "-n", "3", "--bootstrap", cluster.bootstrap]
    consume = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert consume.stdout.readline() == "before\n"
        cluster.append("t", 1, "one")
        assert consume.stdout.readline() == "one\n"
        cluster.append("t", 0, "two")
        assert consume.stdout.readline() == "two\n"
        assert consume.wait(20) == 0
    finally:
        consume.kill()
        consume.communicate()


def test_a_follower_that_fails_for_good_ends_the_command(cli, cluster):
    cluster.create("t", 2)
    assert cli("consume", "t", "--follow", "--from", "9", to=cluster)[0] == 1


def test_too_many_partitions_to_follow_is_told(cli, cluster):
    cluster.create("t", consuming.FOLLOWED_PARTITIONS_MAX + 1)
    code, _, err = cli("consume", "t", "--follow", to=cluster)
    assert code == 2
    assert "--partition" in err


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [(["--where", "$ == 7"], ["7", "7"]), (["--where", "$ == 7", "-n", "1"], ["7"]), ([], None)],
)
def test_the_broker_filters_and_pages_without_a_match_are_passed(
    cli, cluster, monkeypatch, arguments, printed
):
    monkeypatch.setattr(consuming, "READ_RECORDS_MAX", 2)
    values = [*"0123456789", "7", "8", "9"]
    cluster.create("numbers")
    cluster.append("numbers", 0, *values)
    code, out, _ = cli("consume", "numbers", *arguments, to=cluster)
    assert (code, out.splitlines()) == (0, values if printed is None else printed)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [([], "a\nb\nc\nd\ne\n"), (["-n", 1], "c\ne\n"), (["-n", 2, "--partition", 0], "b\nc\n")],
)
def test_tail_prints_the_last_records_of_each_partition(cli, orders, arguments, printed):
    assert cli("tail", "orders", *arguments, to=orders) == (0, printed, "")


def test_tail_of_no_records_prints_none(cli, orders):
    assert cli("tail", "orders", "-n", 0, to=orders) == (0, "", "")
