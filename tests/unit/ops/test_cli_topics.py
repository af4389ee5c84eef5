"""`ottla topic` and `ottla cluster`: tables for people, JSON for programs, codes for scripts."""

import json

import pytest

from ottla_ops.cli import confirmation
from ottla_ops.cli.library_failures import command_error
from ottla_protocol.errors import UnknownTopicOrPartitionError
from ottla_protocol.missing_partitions import missing_partition


def test_a_topic_is_created_with_what_was_asked_for(cli, cluster):
    code, out, err = cli(
        *("topic", "create", "orders", "--partitions", 6, "--replication-factor", 1),
        *("--config", "retention.ms=1000", "--config", "cleanup.policy=compact,delete"),
        to=cluster,
    )
    assert (code, out) == (0, "")
    assert err == "orders created with 6 partitions\n"
    assert cluster.calls("POST")[0].body == {
        "name": "orders",
        "partitions": 6,
        "replication_factor": 1,
        "configs": {"retention.ms": "1000", "cleanup.policy": "compact,delete"},
    }


def test_what_is_not_asked_for_is_left_to_the_broker(cli, cluster):
    assert cli("topic", "create", "orders", to=cluster)[0] == 0
    assert cluster.calls("POST")[0].body == {"name": "orders"}


def test_warnings_of_a_creation_are_told(cli, cluster):
    assert "warning: a name with dots" in cli("topic", "create", "a.b", to=cluster)[2]


def test_a_validated_topic_is_not_created(cli, cluster):
    code, _, err = cli("topic", "create", "orders", "--validate-only", to=cluster)
    assert code == 0
    assert "could be created" in err
    assert cluster.state.topics == {}


def test_the_list_is_a_table_with_a_row_for_each_topic(cli, cluster):
    cluster.create("orders", 6)
    cluster.create("a", 1)
    code, out, err = cli("topic", "list", to=cluster)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][:3] == ["TOPIC", "PARTITIONS", "REPLICATION"]
    assert [row[:2] for row in rows[1:]] == [["a", "1"], ["orders", "6"]]


def test_an_empty_list_still_has_its_headers(cli, cluster):
    assert cli("topic", "list", to=cluster)[1].startswith("TOPIC")


def test_the_list_as_json_has_everything_and_a_schema_version(cli, cluster):
    cluster.create("orders", 2)
    document = json.loads(cli("topic", "list", "--json", to=cluster)[1])
    assert document["schema_version"] == 1
    assert document["topics"][0]["partitions"][1]["isr"] == [1]


def test_a_description_shows_each_partition(cli, cluster):
    cli("topic", "create", "orders", "--partitions", 2, "--config", "a=b", to=cluster)
    code, out, _ = cli("topic", "describe", "orders", to=cluster)
    assert code == 0
    assert "config       a=b" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["0", "1", "0", "1", "1"],
        ["1", "1", "0", "1", "1"],
    ]


@pytest.mark.parametrize(("command", "what"), [("topic", "no topic"), ("group", "no group")])
def test_a_list_without_entries_says_so(cli, cluster, command, what):
    if command == "group":
        cluster.script("GET", "/v1/groups", 200, {"groups": []})
    code, out, err = cli(command, "list", to=cluster)
    assert (code, out.count("\n"), what in err) == (0, 1, True)


def test_names_are_quoted_in_paths(cli, cluster):
    cluster.create("a b", 1)
    assert cli("topic", "describe", "a b", to=cluster)[0] == 0


def test_an_unknown_topic_is_not_found_and_a_hint_says_what_to_do(cli, cluster):
    code, out, err = cli("topic", "describe", "nope", to=cluster)
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert err.startswith("ottla: there is no topic nope (`ottla topic list`")


def test_a_partition_that_a_topic_does_not_have_is_told_otherwise_than_a_topic(cli, cluster):
    cluster.create("orders", 3)
    missing = missing_partition("orders", 7, 3)
    cluster.refuse(404, missing.code, detail=missing.detail, **missing.members)
    code, _, err = cli("topic", "describe", "orders", to=cluster)
    assert code == 3
    assert err == (
        "ottla: topic 'orders' has partitions 0 to 2, not 7 "
        "(`ottla topic describe NAME` shows its partitions)\n"
    )
    # And the SDK's error is told alike.
    assert command_error(missing).hint == "`ottla topic describe NAME` shows its partitions"
    assert "ottla topic list" in command_error(UnknownTopicOrPartitionError("no topic")).hint


def test_an_error_as_json_has_its_four_members(cli, cluster):
    code, _, err = cli("--json", "topic", "describe", "nope", to=cluster)
    assert code == 3
    document = json.loads(err)
    assert set(document) == {"code", "message", "hint", "retriable"}
    assert document["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert document["retriable"] is False


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, 6), (403, 6), (404, 3), (409, 4), (412, 4), (422, 1), (500, 1), (503, 5), (504, 5)],
)
def test_the_exit_code_follows_the_status(cli, cluster, status, code):
    cluster.refuse(status, "WHATEVER")
    assert cli("topic", "list", to=cluster)[0] == code


def test_a_topic_that_exists_is_a_conflict(cli, cluster):
    cluster.create("orders")
    assert cli("topic", "create", "orders", to=cluster)[0] == 4


def test_deleting_without_a_terminal_needs_yes(cli, cluster):
    cluster.create("orders")
    code, _, err = cli("topic", "delete", "orders", to=cluster)
    assert code == 2
    assert "add --yes" in err
    assert "orders" in cluster.state.topics
    assert cli("topic", "delete", "orders", "--yes", to=cluster)[0] == 0
    assert cluster.state.topics == {}


@pytest.mark.parametrize(("answer", "code", "is_left"), [(True, 0, False), (False, 1, True)])
def test_deleting_on_a_terminal_asks(cli, cluster, monkeypatch, answer, code, is_left):
    cluster.create("orders")
    monkeypatch.setattr(confirmation, "has_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    assert cli("topic", "delete", "orders", to=cluster)[0] == code
    assert ("orders" in cluster.state.topics) == is_left


@pytest.mark.parametrize("config", ["a", "=b"])
def test_a_config_that_is_no_pair_is_a_usage_error(cli, cluster, config):
    assert cli("topic", "create", "t", "--config", config, to=cluster)[0] == 2
    assert cluster.calls() == []


def test_a_config_given_twice_is_a_usage_error(cli, cluster):
    arguments = ("--config", "a=b", "--config", "a=c")
    assert cli("topic", "create", "t", *arguments, to=cluster)[0] == 2


def test_cluster_info_shows_the_controller_and_the_brokers(cli, cluster):
    code, out, _ = cli("cluster", "info", to=cluster)
    assert code == 0
    assert "controller  1 (term 7)" in out
    assert out.splitlines()[-1].split() == ["1", "http://a", "active", "-", "3"]


def test_cluster_info_as_json_is_what_the_broker_said(cli, cluster):
    document = json.loads(cli("cluster", "info", "--json", to=cluster)[1])
    assert document["metadata_version"] == 9


@pytest.mark.parametrize("verb", ["create", "describe", "alter", "delete"])
def test_the_topic_may_be_named_as_kafka_topics_takes_it(cli, cluster, verb):
    if verb != "create":
        cluster.create("orders", 1)
    options = {"alter": ["--partitions", 2], "delete": ["--yes"]}.get(verb, [])
    code, _, err = cli("topic", verb, "--topic", "orders", *options, to=cluster)
    assert code == 0, err
    assert ("orders" in cluster.state.topics) == (verb != "delete")


@pytest.mark.parametrize("arguments", [[], ["a", "--topic", "b"]])
def test_exactly_one_topic_is_named(cli, cluster, arguments):
    assert cli("topic", "create", *arguments, to=cluster)[0] == 2
    assert cluster.calls() == []


def test_a_topic_that_exists_may_be_left_as_it_is(cli, cluster):
    cluster.create("orders", 2)
    arguments = ("topic", "create", "orders", "--partitions", 5)
    assert cli(*arguments, to=cluster)[0] == 4
    code, out, err = cli(*arguments, "--if-not-exists", to=cluster)
    assert (code, out) == (0, "")
    assert "left as it is" in err
    code, out, _ = cli(*arguments, "--if-not-exists", "--json", to=cluster)
    assert (code, len(json.loads(out)["partitions"])) == (0, 2)


def test_partitions_are_added_to_those_there_are(cli, cluster):
    cluster.create("orders", 2)
    code, out, err = cli("topic", "add-partitions", "orders", 3, to=cluster)
    assert (code, out) == (0, "")
    assert err == "orders had 2 partitions and has 5 now\n"
    assert len(cluster.state.topics["orders"]) == 5
    assert cli("topic", "add-partitions", "orders", 0, to=cluster)[0] == 2
    assert cli("topic", "add-partitions", "none", 1, to=cluster)[0] == 3
