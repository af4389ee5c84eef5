"""`ottla transaction`: what it asks of the cluster, and what it shows."""

import json

import pytest

from ottla_ops.cli.transaction_commands import _span

LISTED = {
    "transactional_id": "pay/out",
    "state": "Ongoing",
    "producer_id": 7001,
    "producer_epoch": 3,
    "timeout_ms": 60_000,
    "partitions": 2,
    "age_ms": 95_000,
}

DESCRIBED = {
    "transactional_id": "pay/out",
    "coordinator": 2,
    "state": "Ongoing",
    "producer_id": 7001,
    "producer_epoch": 3,
    "timeout_ms": 60_000,
    "partitions": [{"topic": "orders", "partition": 4}],
    "started_timestamp": 5,
    "age_ms": 1_500,
    "updated_timestamp": 6,
    "ended": {"producer_id": 7001, "producer_epoch": 2, "state": "aborted", "by": "timeout"},
}

OPEN = {
    "topic": "orders",
    "partition": 4,
    "leader": 1,
    "last_stable_offset": 10,
    "high_watermark": 50,
    "transactions": [
        {
            "producer_id": 7001,
            "producer_epoch": 3,
            "first_offset": 10,
            "last_timestamp": 5,
            "idle_ms": 7_200_000,
        }
    ],
}

HANGING = {
    "transactions": [
        {
            "topic": "orders",
            "partition": 4,
            "producer_id": 7001,
            "producer_epoch": 3,
            "first_offset": 10,
            "last_timestamp": 5,
            "idle_ms": 7_200_000,
            "transactional_id": None,
        }
    ],
    "unavailable": [{"topic": "orders", "partition": 5}],
}

ABORT = ("transaction", "abort")
HANGS = ("--partition", "orders:4", "--producer-id", 7001, "--producer-epoch", 3)


def rows_of(out):
    return [line.split() for line in out.splitlines()]


def test_the_list_has_a_row_for_each_id(cli, cluster):
    cluster.script("GET", "/v1/transactions", 200, {"transactions": [LISTED]})
    code, out, err = cli("transaction", "list", to=cluster)
    assert (code, err) == (0, "")
    assert rows_of(out)[1] == ["pay/out", "Ongoing", "7001", "3", "2", "1m35s", "1m"]


def test_the_list_goes_on_for_as_long_as_there_is_more(cli, cluster):
    listed = [{**LISTED, "transactional_id": f"pay/{number}"} for number in range(3)]
    pages = [
        {"transactions": listed[:2], "next_cursor": "1"},
        {"transactions": listed[2:], "next_cursor": None},
    ]
    cluster.script("GET", "/v1/transactions", 200, pages)
    document = json.loads(cli("transaction", "list", "--json", to=cluster)[1])
    assert document["transactions"] == listed
    assert "next_cursor" not in document
    assert [each.query.get("cursor") for each in cluster.calls("GET")] == [None, "1"]


@pytest.mark.parametrize(
    "states",
    [
        ("--state", "Ongoing", "--state", "prepareabort"),
        ("--state", "ONGOING,PrepareAbort"),
        ("--state", "Ongoing,PrepareAbort", "--state", "ongoing"),
    ],
)
def test_the_list_may_be_of_some_states_and_ages(cli, cluster, states):
    cluster.script("GET", "/v1/transactions", 200, {"transactions": []})
    code, out, err = cli("transaction", "list", *states, "--older-than", "90s", to=cluster)
    assert (code, len(rows_of(out)), err) == (0, 1, "no transactional id is like that\n")
    assert cluster.calls("GET")[0].query == {
        "state": "Ongoing,PrepareAbort",
        "older_than_ms": "90000",
        "limit": "1000",
    }
    code, _, err = cli("transaction", "list", "--state", "Ongoing,open", to=cluster)
    assert (code, "not 'open'" in err) == (2, True)
    assert cli("transaction", "list", "--older-than", "soon", to=cluster)[0] == 2


def test_an_id_is_shown_with_its_partitions(cli, cluster):
    cluster.script("GET", "/v1/transactions/pay/out", 200, DESCRIBED)
    rows = rows_of(cli("transaction", "describe", "pay/out", to=cluster)[1])
    assert ["producer", "7001", "epoch", "3"] in rows
    assert ["open", "for", "1s"] in rows
    assert ["last", "aborted", "by", "timeout,", "epoch", "2"] in rows
    assert rows[-1] == ["orders", "4"]
    document = json.loads(cli("transaction", "describe", "pay/out", "--json", to=cluster)[1])
    assert document["ended"] == DESCRIBED["ended"]


def test_a_partition_shows_what_holds_its_readers_back(cli, cluster):
    cluster.script("GET", "/v1/topics/orders/partitions/4/transactions", 200, OPEN)
    code, out, err = cli("transaction", "open", "orders:4", to=cluster)
    assert code == 0
    assert rows_of(out)[-1] == ["7001", "3", "10", "2h"]
    assert err == "last stable offset 10, high watermark 50\n"
    assert cli("transaction", "open", "orders", to=cluster)[0] == 2


@pytest.mark.parametrize(
    ("command", "path", "answer", "told"),
    [
        (["list"], "transactions", {"transactions": []}, ["there is no transactional id"]),
        (
            ["open", "orders:4"],
            "topics/orders/partitions/4/transactions",
            OPEN | {"transactions": []},
            [
                "no transaction is open in orders-4",
                "last stable offset 10, high watermark 50",
            ],
        ),
        (
            ["find-hanging"],
            "hanging-transactions",
            {"transactions": [], "unavailable": []},
            ["no transaction hangs"],
        ),
        (
            ["find-hanging"],
            "hanging-transactions",
            HANGING | {"transactions": []},
            ["the leader of orders-5 did not tell"],
        ),
    ],
)
def test_where_there_is_nothing_that_is_said(cli, cluster, command, path, answer, told):
    cluster.script("GET", f"/v1/{path}", 200, answer)
    code, out, err = cli("transaction", *command, to=cluster)
    assert (code, len(rows_of(out)), err.splitlines()) == (0, 1, told)
    assert cli("transaction", *command, "--quiet", to=cluster)[1:] == (out, "")


def test_what_hangs_is_told_with_what_it_takes_to_abort_it(cli, cluster):
    cluster.script("GET", "/v1/hanging-transactions", 200, HANGING)
    arguments = ("--topic", "orders", "--idle", "30m")
    code, out, err = cli("transaction", "find-hanging", *arguments, to=cluster)
    assert code == 0
    assert rows_of(out)[-1] == ["orders", "4", "7001", "3", "10", "2h", "none"]
    assert err == "the leader of orders-5 did not tell\n"
    assert cluster.calls("GET")[0].query == {"topic": "orders", "idle_ms": "1800000"}


def test_an_operator_aborts_by_id(cli, cluster):
    ended = {
        "transactional_id": "pay/out",
        "transaction": "7001.4.pay%2Fout",
        "producer_id": 7001,
        "producer_epoch": 4,
        "state": "aborted",
    }
    cluster.script("POST", "/v1/transactions/pay/out/abort", 200, ended)
    code, out, err = cli(*ABORT, "pay/out", "--yes", to=cluster)
    assert (code, out, err) == (0, "", "the transaction of pay/out is aborted\n")
    assert cluster.calls("POST")[0].body == {}


@pytest.mark.parametrize("aborted", [True, False])
def test_an_operator_aborts_what_hangs(cli, cluster, aborted):
    answer = {
        "topic": "orders",
        "partition": 4,
        "producer_id": 7001,
        "producer_epoch": 3,
        "aborted": aborted,
    }
    path = "/v1/topics/orders/partitions/4/transactions/7001/abort"
    cluster.script("POST", path, 200, answer)
    code, _, err = cli(*ABORT, *HANGS, "--yes", to=cluster)
    assert code == 0
    assert err.startswith("aborted" if aborted else "nothing")
    assert cluster.calls("POST")[0].body == {"producer_epoch": 3}


@pytest.mark.parametrize(
    "arguments", [(), ("a", *HANGS), HANGS[:2], HANGS[:4], ("a", *HANGS[2:]), HANGS[2:]]
)
def test_an_abort_says_one_thing_or_the_other(cli, cluster, arguments):
    assert cli(*ABORT, *arguments, "--yes", to=cluster)[0] == 2
    assert cluster.calls("POST") == []


def test_an_abort_is_confirmed(cli, cluster):
    assert cli(*ABORT, "pay/out", to=cluster)[0] != 0
    assert cli(*ABORT, *HANGS, to=cluster)[0] != 0
    assert cluster.calls("POST") == []


@pytest.mark.parametrize(
    ("span_ms", "told"),
    [(None, "none"), (0, "0ms"), (999, "999ms"), (1_000, "1s"), (3_600_000, "1h"),
     (93_784_005, "26h3m"), (3_605_000, "1h5s")],
)  # fmt: skip
def test_spans_are_told_by_their_two_largest_units(span_ms, told):
    assert _span(span_ms) == told
