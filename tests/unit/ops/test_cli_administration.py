"""`ottla topic alter`, `ottla cluster elect` and `ottla cluster reassign`."""

import json

import pytest

REFUSED = {"code": "PREFERRED_LEADER_NOT_AVAILABLE", "detail": "Broker 2 is away.", "status": 503}
ELECTED = {"topic": "orders", "partition": 0, "leader": 1, "elected": True, "error": None}
LED = {"topic": "orders", "partition": 1, "leader": 2, "elected": False, "error": None}
LOST = {"topic": "clicks", "partition": 0, "leader": None, "elected": False, "error": REFUSED}


# --- topic alter --------------------------------------------------------------------------------


def test_configs_are_set_and_reset(cli, cluster):
    cluster.create("orders")
    cluster.state.configs["orders"] = {"durability": "os"}
    code, out, err = cli(
        *("topic", "alter", "orders", "--config", "segment.bytes=4096", "--reset", "durability"),
        to=cluster,
    )
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "orders: durability=0 (the default)",
        "orders: segment.bytes=4096",
    ]
    (call,) = cluster.calls("PATCH")
    assert call.path == "/v1/topics/orders/configs"
    assert call.body == {"configs": {"segment.bytes": "4096", "durability": None}}


def test_partitions_are_added(cli, cluster):
    cluster.create("orders", 2)
    code, out, err = cli("topic", "alter", "orders", "--partitions", 5, to=cluster)
    assert (code, out, err) == (0, "", "orders has 5 partitions now\n")
    (call,) = cluster.calls("PATCH")
    assert (call.path, call.body) == ("/v1/topics/orders", {"partitions": 5})


def test_configs_come_before_partitions_and_stay_when_those_are_refused(cli, cluster):
    cluster.create("orders", 2)
    arguments = ("--partitions", 1, "--config", "a=b")
    code, _, err = cli("topic", "alter", "orders", *arguments, to=cluster)
    assert code == 2
    assert err.splitlines() == ["orders: a=b", "ottla: they can only become more"]
    assert cluster.state.configs["orders"] == {"a": "b"}


def test_an_alteration_as_json_has_what_was_changed(cli, cluster):
    cluster.create("orders", 2)
    arguments = ("--config", "a=b", "--partitions", 3, "--json")
    code, out, err = cli("topic", "alter", "orders", *arguments, to=cluster)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["schema_version"], document["name"]) == (1, "orders")
    assert document["configs"] == {"a": {"value": "b", "source": "topic"}}
    assert [each["partition"] for each in document["partitions"]] == [0, 1, 2]
    only = json.loads(cli("topic", "alter", "orders", "--reset", "a", "--json", to=cluster)[1])
    assert "partitions" not in only


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to change"),
        (("--config", "a"), "NAME=VALUE"),
        (("--config", "a=1", "--reset", "a"), "twice"),
        (("--partitions", "0"), "--partitions"),
    ],
)
def test_an_alteration_that_makes_no_sense_is_a_usage_error(cli, cluster, arguments, words):
    cluster.create("orders")
    code, _, err = cli("topic", "alter", "orders", *arguments, to=cluster)
    assert code == 2
    assert words in err
    assert cluster.calls() == []


def test_setting_configs_is_repeated_after_a_lost_answer_and_adding_partitions_is_not(
    cli, three_brokers
):
    three_brokers.create("orders", 2)
    three_brokers.lose_answers(1)
    assert cli("topic", "alter", "orders", "--config", "a=b", to=three_brokers)[0] == 0
    assert len(three_brokers.calls("PATCH")) == 2
    three_brokers.lose_answers(1)
    code, _, err = cli("topic", "alter", "orders", "--partitions", 4, to=three_brokers)
    assert code == 5
    assert "may have been carried out" in err
    assert len(three_brokers.calls("PATCH")) == 3


def test_altering_an_unknown_topic_is_not_found(cli, cluster):
    assert cli("topic", "alter", "nope", "--partitions", 4, to=cluster)[0] == 3


# --- cluster elect ------------------------------------------------------------------------------


def test_all_preferred_leaders_are_elected(cli, cluster):
    cluster.script("POST", "/v1/elections", 200, {"results": [ELECTED]})
    code, out, _ = cli("cluster", "elect", to=cluster)
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["TOPIC", "PARTITION", "LEADER", "RESULT"],
        ["orders", "0", "1", "elected"],
    ]
    assert cluster.calls("POST")[0].body == {"type": "preferred", "partitions": None}


def test_named_partitions_are_elected_and_one_failure_is_a_failure(cli, cluster):
    cluster.script("POST", "/v1/elections", 207, {"results": [ELECTED, LED, LOST]})
    code, out, _ = cli("cluster", "elect", "orders:0", "orders:1", "clicks:0", to=cluster)
    assert code == 1
    rows = [line.split(maxsplit=3) for line in out.splitlines()[1:]]
    assert rows[1:] == [
        ["orders", "1", "2", "led already"],
        ["clicks", "0", "none", "Broker 2 is away."],
    ]
    assert cluster.calls("POST")[0].body["partitions"] == [
        {"topic": "orders", "partition": 0},
        {"topic": "orders", "partition": 1},
        {"topic": "clicks", "partition": 0},
    ]


def test_who_an_election_made_whose_answer_was_lost_led_not_already(cli, three_brokers):
    three_brokers.script("POST", "/v1/elections", 200, {"results": [ELECTED, LED]})
    three_brokers.lose_answers(1)
    code, out, err = cli("cluster", "elect", "--unclean", to=three_brokers)
    assert code == 0
    assert [line.split(maxsplit=3)[3] for line in out.splitlines()[1:]] == ["elected", "leads"]
    assert "did not answer: it may have elected leaders" in err
    assert len(three_brokers.calls("POST")) == 2


def test_elections_as_json_are_what_the_broker_said(cli, cluster):
    cluster.script("POST", "/v1/elections", 207, {"results": [ELECTED, LOST]})
    code, out, _ = cli("cluster", "elect", "--json", to=cluster)
    assert code == 1
    document = json.loads(out)
    assert document == {"schema_version": 1, "results": [ELECTED, LOST]}


def test_elections_that_all_fail_have_their_own_exit_code(cli, cluster):
    cluster.refuse(503, "PREFERRED_LEADER_NOT_AVAILABLE", retriable=True)
    code, _, err = cli("cluster", "elect", "orders:0", to=cluster)
    assert code == 5
    assert "ottla topic describe" in err


@pytest.mark.parametrize("partition", ["orders", "orders:", ":1", "orders:x", "orders:-1"])
def test_what_is_no_partition_is_a_usage_error(cli, cluster, partition):
    assert cli("cluster", "elect", partition, to=cluster)[0] == 2
    assert cli("cluster", "reassign", "--cancel", partition, to=cluster)[0] == 2
    assert cli("cluster", "reassign", f"{partition}=1", to=cluster)[0] == 2
    assert cluster.calls() == []


# --- cluster reassign ---------------------------------------------------------------------------


def test_reassignments_are_begun_and_called_off(cli, cluster):
    results = [
        {"topic": "orders", "partition": 0, "error": None},
        {"topic": "orders", "partition": 1, "error": REFUSED},
        {"topic": "clicks", "partition": 0, "error": None},
    ]
    cluster.script("POST", "/v1/reassignments", 207, {"results": results})
    code, out, _ = cli(
        *("cluster", "reassign", "orders:0=2,3,1", "orders:1=4", "--cancel", "clicks:0"),
        to=cluster,
    )
    assert code == 1
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [
        ["TOPIC", "PARTITION", "RESULT"],
        ["orders", "0", "begun"],
        ["orders", "1", "Broker 2 is away."],
        ["clicks", "0", "called off"],
    ]
    assert cluster.calls("POST")[0].body == {
        "reassignments": [
            {"topic": "orders", "partition": 0, "replicas": [2, 3, 1]},
            {"topic": "orders", "partition": 1, "replicas": [4]},
            {"topic": "clicks", "partition": 0, "replicas": None},
        ]
    }


def test_without_arguments_what_is_under_way_is_shown(cli, cluster):
    ongoing = {
        "topic": "orders",
        "partition": 3,
        "replicas": [1, 2, 3],
        "target_replicas": [3, 1],
        "adding_replicas": [3],
        "removing_replicas": [2],
        "isr": [1, 2],
    }
    cluster.script("GET", "/v1/reassignments", 200, {"reassignments": [ongoing]})
    code, out, _ = cli("cluster", "reassign", to=cluster)
    assert code == 0
    row = ["orders", "3", "3,1", "3", "2", "1,2"]
    headers, shown = out.splitlines()
    assert headers.split()[:6] == ["TOPIC", "PARTITION", "TARGET", "ADDING", "REMOVING", "ISR"]
    assert headers.split()[6:] == ["COPIED", "REMAINING", "RATE", "TIME", "LEFT"]
    assert shown.split() == row + 4 * ["-"]
    document = json.loads(cli("cluster", "reassign", "--json", to=cluster)[1])
    assert document == {"schema_version": 1, "reassignments": [ongoing]}
    progress = {
        "replica": 3,
        "copied_bytes": 1_500_000,
        "copied_offsets": 10,
        "remaining_bytes": 2_500,
        "remaining_offsets": 7,
        "bytes_per_second": 999,
        "remaining_seconds": 4_000,
    }
    found = {"reassignments": [ongoing | {"progress": [progress]}]}
    cluster.script(
        "GET", "/v1/reassignments", 200, found | {"throttle_bytes_per_second": 20_000_000}
    )
    lines = cli("cluster", "reassign", to=cluster)[1].splitlines()
    assert " ".join(lines[1].split()[6:]) == "1.5 MB to 3 2.5 kB, 7 records 999 B/s 1 h 6 min"
    assert lines[2] == "throttle  20.0 MB/s from each broker"


@pytest.mark.parametrize(
    ("text", "rate", "told"),
    [
        ("5000", 5000, "5.0 kB/s from each broker"),
        ("500k", 500_000, "500.0 kB/s from each broker"),
        ("20M", 20_000_000, "20.0 MB/s from each broker"),
        ("none", None, "none"),
    ],
)
def test_a_throttle_goes_with_the_moves_or_alone(cli, cluster, text, rate, told):
    results = [{"topic": "orders", "partition": 0, "error": None}]
    cluster.script("POST", "/v1/reassignments", 200, {"results": results})
    assert cli("cluster", "reassign", "orders:0=1", "--throttle", text, to=cluster)[0] == 0
    assert cluster.calls("POST")[0].body["throttle_bytes_per_second"] == rate
    cluster.script("POST", "/v1/reassignments", 200, {"results": []})
    code, out, _ = cli("cluster", "reassign", "--throttle", text, to=cluster)
    assert (code, cluster.calls("POST")[1].body) == (
        0, {"reassignments": [], "throttle_bytes_per_second": rate},
    )  # fmt: skip
    assert out.splitlines() == [f"throttle  {told}"]


@pytest.mark.parametrize("text", ["", "fast", "-1", "1.5M", "k", "10 M"])
def test_what_is_no_rate_is_a_usage_error(cli, cluster, text):
    code, _, err = cli("cluster", "reassign", "--throttle", text, to=cluster)
    assert code == 2
    assert "--throttle" in err
    assert cluster.calls() == []


@pytest.mark.parametrize(
    "move", ["orders:0", "orders:0=", "orders:0=1,", "orders:0=a", "o:0=-1", "o=1"]
)
def test_a_move_of_another_form_is_a_usage_error(cli, cluster, move):
    code, _, err = cli("cluster", "reassign", move, to=cluster)
    assert code == 2
    assert f"{move}: not of the form TOPIC:PARTITION=ID,ID,..." in err
    assert cluster.calls() == []


def test_beginning_is_repeated_after_a_lost_answer_and_calling_off_is_not(cli, three_brokers):
    results = [{"topic": "orders", "partition": 0, "error": None}]
    three_brokers.script("POST", "/v1/reassignments", 200, {"results": results})
    three_brokers.lose_answers(1)
    assert cli("cluster", "reassign", "orders:0=1", to=three_brokers)[0] == 0
    assert len(three_brokers.calls("POST")) == 2
    three_brokers.lose_answers(1)
    assert cli("cluster", "reassign", "--cancel", "orders:0", to=three_brokers)[0] == 5
    assert len(three_brokers.calls("POST")) == 3


# --- where there is nothing to show -------------------------------------------------------------


def test_an_empty_table_is_explained(cli, cluster):
    cluster.script("POST", "/v1/elections", 200, {"results": []})
    code, out, err = cli("cluster", "elect", to=cluster)
    assert (code, len(out.splitlines())) == (0, 1)
    assert "led by its first replica" in err
    err = cli("cluster", "elect", "--unclean", to=cluster)[2]
    assert err == "no partition whose topic allows it is without a leader\n"
    cluster.script("GET", "/v1/reassignments", 200, {"reassignments": []})
    code, out, err = cli("cluster", "reassign", to=cluster)
    assert (code, len(out.splitlines()), err) == (0, 1, "no reassignment is under way\n")
    assert cli("cluster", "reassign", "--json", to=cluster)[2] == ""


def test_without_a_controller_info_says_that_states_may_be_old(cli, cluster):
    document = {
        "cluster_id": "local",
        "controller": None,
        "controller_term": 3,
        "metadata_version": 9,
        "feature_level": 1,
        "brokers": [],
        "topics": 0,
        "partitions": 0,
    }
    cluster.script("GET", "/v1/cluster", 200, document)
    code, out, err = cli("cluster", "info", to=cluster)
    assert code == 0
    assert "none elected" in out
    assert "ottla cluster health" in err
    cluster.script("GET", "/v1/cluster", 200, document | {"controller": 2})
    assert cli("cluster", "info", to=cluster)[2] == ""


def test_truth_values_are_shown_as_they_are_set(cli, cluster):
    cluster.create("orders")
    cluster.state.configs["orders"] = {"unclean.leader.election.enable": True}
    assert (
        "unclean.leader.election.enable=true" in cli("topic", "describe", "orders", to=cluster)[1]
    )
