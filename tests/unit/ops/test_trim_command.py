"""`ottla topic trim`: what goes is told first, asked about, and no more than that goes."""

import json

import pytest

from ottla_ops.cli import confirmation

TIME_OF_3 = 1_700_000_000_003
"""When the fake cluster has its record 3."""


@pytest.fixture
def orders(cluster):
    cluster.create("orders", 2)
    cluster.append("orders", 0, *"abcde")
    cluster.append("orders", 1, *"xy")
    return cluster


def rows(out):
    return [[int(each) for each in line.split()[:4]] for line in out.splitlines()[1:]]


def test_one_partition_begins_at_an_offset(cli, orders):
    code, out, err = cli(
        *("topic", "trim", "orders", "--partition", 0, "--before-offset", 3, "--yes"), to=orders
    )
    assert (code, err) == (0, "")
    assert out.split()[:6] == ["PARTITION", "BEFORE", "AFTER", "RECORDS", "SEGMENTS", "BYTES"]
    assert rows(out) == [[0, 0, 3, 3]]
    assert orders.state.starts == {("orders", 0): 3}


def test_again_it_changes_nothing(cli, orders):
    trim = ("topic", "trim", "orders", "--partition", 0, "--before-offset", 3, "--yes")
    cli(*trim, to=orders)
    code, out, _ = cli(*trim, to=orders)
    assert (code, rows(out)) == (0, [[0, 3, 3, 0]])


def test_all_partitions_begin_where_a_time_or_their_end_is(cli, orders):
    trim = ("topic", "trim", "orders", "--all-partitions", "--yes")
    code, out, _ = cli(*trim, "--before", TIME_OF_3, to=orders)
    assert (code, rows(out)) == (0, [[0, 0, 3, 3], [1, 0, 2, 2]])
    code, out, _ = cli(*trim, "--before", "end", to=orders)
    assert rows(out) == [[0, 3, 5, 2], [1, 2, 2, 0]]


@pytest.mark.parametrize(
    ("before", "end"),
    [("end", {"before_end": True}), (TIME_OF_3, {"before_timestamp": TIME_OF_3})],
)
def test_a_trim_that_may_be_sent_twice_names_an_offset(cli, orders, before, end):
    """Records that came between two attempts stay, for nobody was told that they would go."""
    trim = ("topic", "trim", "orders", "--partition", 1, "--before", before, "--yes")
    assert cli(*trim, to=orders)[0] == 0
    assert [call.body for call in orders.calls("POST")] == [
        {**end, "dry_run": True},
        {"before_offset": 2, "dry_run": False},
    ]


def test_a_dry_run_tells_and_changes_nothing(cli, orders):
    code, out, err = cli(
        *("topic", "trim", "orders", "--all-partitions", "--before", "end", "--dry-run"), to=orders
    )
    assert (code, rows(out)) == (0, [[0, 0, 5, 5], [1, 0, 2, 2]])
    assert err == "nothing was deleted\n"
    assert orders.state.starts == {}


def test_json_is_for_programs(cli, orders):
    trim = ("topic", "trim", "orders", "--partition", 0, "--before", "end", "--json")
    document = json.loads(cli(*trim, "--dry-run", to=orders)[1])
    assert (document["schema_version"], document["topic"], document["dry_run"]) == (
        *(1, "orders", True),
    )
    assert document["partitions"][0]["log_start_offset"] == 5
    assert document["partitions"][0]["size_bytes"] == 16_384


def test_without_a_terminal_to_ask_on_it_needs_a_yes(cli, orders):
    code, _, err = cli(*("topic", "trim", "orders", "--partition", 0, "--before", "end"), to=orders)
    assert code == 2
    assert "--yes" in err
    assert orders.state.starts == {}


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 1)])
def test_what_was_shown_is_what_goes(cli, orders, monkeypatch, answer, code):
    """Records that came between the question and the answer stay."""
    asked = []

    def confirm(question, **_):
        asked.append(question)
        orders.append("orders", 0, "late")
        return answer

    monkeypatch.setattr(confirmation, "has_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    trim = ("topic", "trim", "orders", "--partition", 0, "--before", "end")
    assert cli(*trim, to=orders)[0] == code
    assert asked == ["Delete 5 records of orders in 1 partition?"]
    assert orders.state.starts == ({("orders", 0): 5} if answer else {})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--all-partitions"], "--before-offset or --before"),
        (["--all-partitions", "--before", "end", "--before-offset", 1], "not both"),
        (["--before", "end"], "--all-partitions"),
        (["--before", "end", "--partition", 0, "--all-partitions"], "not both"),
        (["--before-offset", 1, "--all-partitions"], "one --partition"),
        (["--before-offset", 1, "--partition", 0, "--partition", 1], "one --partition"),
        (["--before", "yesterday", "--partition", 0], "RFC 3339"),
        (["--before", "yesterday", "--partition", 0], "how long ago"),
        (["--before", "yesterday", "--partition", 0], "ms since the epoch; or `end`"),
        (["--before", "2999-01-01", "--partition", 0], "must not be in the future; `--before end`"),
        (["--before", 2**62, "--all-partitions"], "must not be in the future"),
    ],
)
def test_what_is_not_clear_is_refused(cli, orders, options, told):
    code, _, err = cli("topic", "trim", "orders", *options, "--yes", to=orders)
    assert code == 2
    assert told in err
    assert orders.calls("POST") == []


def test_a_refusal_names_what_is_done_already(cli, orders, monkeypatch):
    def confirm(_question, **_):
        orders.state.topics["orders"].pop()
        return True

    monkeypatch.setattr(confirmation, "has_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    code, _, err = cli("topic", "trim", "orders", "--all-partitions", "--before", "end", to=orders)
    assert code == 3
    assert "orders-0 begins at 5 now" in err


def test_a_partition_that_is_not_there_is_told_before_anything_goes(cli, orders):
    trim = ("topic", "trim", "orders", "--partition", 0, "--partition", 5, "--before", "end")
    assert cli(*trim, "--yes", to=orders)[0] == 3
    assert orders.state.starts == {}


def test_an_offset_above_the_end_is_refused(cli, orders):
    code, _, err = cli(
        *("topic", "trim", "orders", "--partition", 0, "--before-offset", 9, "--yes"), to=orders
    )
    assert code != 0
    assert "the log ends at 5" in err
