"""`ottla group`: what it asks of the cluster, and what it shows."""

import json

import pytest

DESCRIBED = {
    "group": "billing",
    "state": "stable",
    "coordinator": 2,
    "generation": 7,
    "assignor": "sticky",
    "members": [
        {
            "member_id": "m-1",
            "instance_id": None,
            "generation": 7,
            "topics": ["orders"],
            "pattern": None,
            "assignment": [{"topic": "orders", "partitions": [0]}],
            "revoking": [],
            "session_timeout_ms": 10_000,
        }
    ],
    "offsets": [
        {
            "topic": "orders", "partition": 0, "committed": 3, "end": 5, "lag": 2,
            "member_id": "m-1", "metadata": "",
        },
        {
            "topic": "orders", "partition": 1, "committed": None, "end": None, "lag": None,
            "member_id": None, "metadata": "",
        },
    ],
}  # fmt: skip

SOUGHT = {
    "group": "billing",
    "dry_run": True,
    "offsets": [
        {"topic": "orders", "partition": 0, "committed": 3, "offset": 0},
        {"topic": "orders", "partition": 1, "committed": None, "offset": 0},
    ],
}


def rows_of(out):
    return [line.split() for line in out.splitlines()]


def test_the_list_has_a_row_for_each_group(cli, cluster):
    groups = [{"group": "billing", "state": "stable", "members": 2}]
    cluster.script("GET", "/v1/groups", 200, {"groups": groups})
    code, out, err = cli("group", "list", to=cluster)
    assert (code, err) == (0, "")
    assert rows_of(out) == [["GROUP", "STATE", "MEMBERS"], ["billing", "stable", "2"]]


def test_the_list_tells_lags_where_they_are_asked_for(cli, cluster):
    names = ("billing", "gone", "half", "new")
    groups = [{"group": name, "state": "stable", "members": 2} for name in names]
    known, unknown = DESCRIBED["offsets"]
    cluster.script("GET", "/v1/groups", 200, {"groups": groups})
    cluster.script("GET", "/v1/groups/billing", 200, DESCRIBED)
    # Without the end of one partition the sum is not known.
    half = DESCRIBED | {"offsets": [known, unknown | {"committed": 1}]}
    cluster.script("GET", "/v1/groups/half", 200, half)
    cluster.script("GET", "/v1/groups/new", 200, DESCRIBED | {"offsets": [unknown]})
    cluster.script("GET", "/v1/groups/gone", 404, {"code": "GROUP_ID_NOT_FOUND", "detail": "gone"})
    code, out, err = cli("group", "list", "--lag", to=cluster)
    assert (code, err) == (0, "")
    lags = {"billing": "2", "gone": "none", "half": "none", "new": "none"}
    assert rows_of(out) == [
        ["GROUP", "STATE", "MEMBERS", "LAG"],
        *([name, "stable", "2", lags[name]] for name in names),
    ]
    document = json.loads(cli("group", "list", "--lag", "--json", to=cluster)[1])
    assert {each["group"]: each["lag"] for each in document["groups"]} == {
        "billing": 2,
        "gone": None,
        "half": None,
        "new": None,
    }


def test_a_group_is_shown_with_its_lag(cli, cluster):
    cluster.script("GET", "/v1/groups/billing", 200, DESCRIBED)
    rows = rows_of(cli("group", "describe", "billing", to=cluster)[1])
    assert ["coordinator", "2"] in rows
    assert ["state", "stable"] in rows
    assert rows[-2] == ["orders", "0", "3", "5", "2", "m-1"]
    assert rows[-1] == ["orders", "1", "none", "none", "none", "none"]


def test_what_waits_for_transactions_is_shown(cli, cluster):
    pending = {
        "producer_id": 7,
        "producer_epoch": 3,
        "offsets": [{"topic": "orders", "partition": 1, "offset": 9}],
    }
    cluster.script("GET", "/v1/groups/billing", 200, DESCRIBED | {"pending": [pending]})
    rows = rows_of(cli("group", "describe", "billing", to=cluster)[1])
    assert rows[-2] == ["TOPIC", "PARTITION", "PENDING", "PRODUCER", "EPOCH"]
    assert rows[-1] == ["orders", "1", "9", "7", "3"]


def test_a_group_as_json_has_everything(cli, cluster):
    cluster.script("GET", "/v1/groups/billing", 200, DESCRIBED)
    document = json.loads(cli("group", "describe", "billing", "--json", to=cluster)[1])
    assert document["offsets"] == DESCRIBED["offsets"]
    assert document["schema_version"] == 1


def test_a_dry_run_asks_for_no_confirmation_and_shows_what_would_be(cli, cluster):
    cluster.script("POST", "/v1/groups/billing/seek", 200, SOUGHT)
    code, out, err = cli(
        *("group", "seek", "billing", "--to", "shift", "--value", -3, "--dry-run"),
        *("--topic", "orders", "--partition", 0, "--partition", 1),
        to=cluster,
    )
    assert (code, err) == (0, "nothing was changed\n")
    assert cluster.calls("POST")[0].body == {
        "to": "shift", "value": -3, "topics": ["orders"], "partitions": [0, 1], "dry_run": True,
    }  # fmt: skip
    assert rows_of(out)[1:] == [["orders", "0", "3", "0"], ["orders", "1", "none", "0"]]


def test_a_seek_by_time_sends_it_in_milliseconds(cli, cluster):
    cluster.script("POST", "/v1/groups/billing/seek", 200, SOUGHT)
    cli(
        *("group", "seek", "billing", "--to", "timestamp", "--value", 1_700_000_000_000, "--yes"),
        to=cluster,
    )
    assert cluster.calls("POST")[0].body == {
        "to": "timestamp", "value": 1_700_000_000_000, "dry_run": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "sent"),
    [("2023-11-14T22:13:20Z", 1_700_000_000_000), ("2h", 1_699_992_800_000)],
)
def test_a_time_may_be_written_as_people_do(cli, cluster, monkeypatch, value, sent):
    monkeypatch.setattr("ottla_ops.cli.moments.now_ms", lambda: 1_700_000_000_000)
    cluster.script("POST", "/v1/groups/billing/seek", 200, SOUGHT)
    arguments = ("group", "seek", "billing", "--to", "timestamp", "--value", value, "--yes")
    assert cli(*arguments, to=cluster)[0] == 0
    assert cluster.calls("POST")[0].body["value"] == sent


@pytest.mark.parametrize(
    ("to", "value", "told"),
    [
        ("timestamp", "yesterday", "not a moment"),
        ("offset", "2h", "not a whole number"),
        ("shift", "1.5", "not a whole number"),
    ],
)
def test_a_value_that_makes_no_sense_is_told(cli, cluster, to, value, told):
    arguments = ("group", "seek", "billing", "--to", to, "--value", value, "--yes")
    code, _, err = cli(*arguments, to=cluster)
    assert (code, told in err) == (2, True)
    assert cluster.calls("POST") == []


def test_what_lies_outside_a_partition_is_told(cli, cluster):
    offsets = [
        {"topic": "orders", "partition": number, "committed": 3, "offset": 7, "clamped_to": end}
        for number, end in enumerate(("latest", None, "earliest"))
    ]
    answer = {**SOUGHT, "dry_run": False, "offsets": offsets}
    cluster.script("POST", "/v1/groups/billing/seek", 200, answer)
    arguments = ("group", "seek", "billing", "--to", "offset", "--value", "99", "--yes")
    code, out, err = cli(*arguments, to=cluster)
    assert (code, len(rows_of(out))) == (0, 4)
    assert err.splitlines() == [
        "orders-0: what was asked for lies behind the end, which is offset 7",
        "orders-2: what was asked for lies before the first record that is kept, which is offset 7",
    ]
    document = json.loads(cli(*arguments, "--json", to=cluster)[1])
    assert [each["clamped_to"] for each in document["offsets"]] == ["latest", None, "earliest"]


def test_a_seek_needs_a_confirmation(cli, cluster):
    code, _, err = cli("group", "seek", "billing", "--to", "earliest", to=cluster)
    assert code == 2
    assert "--yes" in err
    assert cluster.calls("POST") == []


@pytest.mark.parametrize(
    ("to", "meaning"),
    [("offset", "the offset"), ("shift", "how many records"), ("timestamp", "ms since the epoch")],
)
def test_a_value_that_is_missing_is_told_with_its_meaning(cli, cluster, to, meaning):
    code, _, err = cli("group", "seek", "billing", "--yes", "--to", to, to=cluster)
    assert code == 2
    assert f"--to {to} needs --value" in err
    assert meaning in err
    assert cluster.calls("POST") == []


@pytest.mark.parametrize("to", ["earliest", "latest"])
def test_a_value_goes_with_offset_shift_and_timestamp_only(cli, cluster, to):
    arguments = ("group", "seek", "billing", "--yes", "--to", to, "--value", 0)
    code, _, err = cli(*arguments, to=cluster)
    assert code == 2
    assert f"--to {to} takes no --value" in err
    assert cluster.calls("POST") == []


def test_a_target_that_does_not_exist_is_told_with_those_that_do(cli, cluster):
    code, _, err = cli("group", "seek", "billing", "--to", "yesterday", to=cluster)
    assert code == 2
    assert "'--to': 'yesterday' is not one of 'earliest'" in err


def test_a_group_with_members_is_not_moved_and_what_to_do_is_told(cli, cluster):
    refused = {"code": "NON_EMPTY_GROUP", "detail": "The group 'billing' has 2 members."}
    cluster.script("POST", "/v1/groups/billing/seek", 409, refused)
    code, _, err = cli("group", "seek", "billing", "--yes", "--to", "earliest", to=cluster)
    assert code == 4
    assert "The group 'billing' has 2 members." in err
    assert "group describe" in err


def test_a_deleted_group_is_told(cli, cluster):
    cluster.script("DELETE", "/v1/groups/billing", 204, {})
    code, _, err = cli("group", "delete", "billing", "--yes", to=cluster)
    assert (code, err) == (0, "billing deleted\n")
