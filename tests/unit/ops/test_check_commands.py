"""`ottla check`: what monitoring systems are told."""

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_ops.cli.main import command_of
from ottla_ops.cli.monitoring import Figure, State, Verdict, group_verdict, topic_verdict
from ottla_protocol.models import PartitionDescription, TopicDescription
from ottla_protocol.models_groups import GroupDescription, PartitionLag
from tests.unit.ops.test_cluster_health_command import DEGRADED, HEALTHY, UNAVAILABLE

PATH = "/v1/cluster/health"


def group_of(*lags, members=()):
    offsets = [
        PartitionLag(
            topic="t" if partition < 2 else "u",
            partition=partition,
            committed=committed,
            end=None,
            lag=lag,
            member_id=None,
            metadata="",
        )
        for partition, (committed, lag) in enumerate(lags)
    ]
    return GroupDescription(
        group="g",
        state="empty",
        coordinator=1,
        generation=1,
        assignor="range",
        members=list(members),
        offsets=offsets,
    )


def topic_of(*partitions):
    return TopicDescription(
        name="t",
        topic_id="x",
        partitions=[
            PartitionDescription(
                partition=number, leader=leader, leader_epoch=0, replicas=[1, 2, 3], isr=list(isr)
            )
            for number, (leader, isr) in enumerate(partitions)
        ],
        configs={},
    )


@pytest.mark.parametrize(
    ("document", "code", "state"),
    [(HEALTHY, 0, "OK"), (DEGRADED, 1, "WARNING"), (UNAVAILABLE, 2, "CRITICAL")],
    ids=["0", "1", "2"],
)
def test_the_cluster(cli, cluster, document, code, state):
    cluster.script("GET", PATH, 200, document)
    found, out, err = cli("check", "cluster", to=cluster)
    assert (found, err) == (code, "")
    assert out.startswith(f"OTTLA {state} - ")
    assert re.fullmatch(r"[^|\n]+ \| active_brokers=3;;;0 (\w+=\d+;\d*;\d*;0 ?)+\n", out)
    as_json = json.loads(cli("check", "cluster", "--json", to=cluster)[1])
    assert (as_json["state"], as_json["exit_code"]) == (state, code)
    assert as_json["figures"]["offline"] == {"value": 0, "warning": None, "critical": 0}


@pytest.mark.parametrize(
    ("partitions", "state"),
    [
        ([(1, (1, 2, 3))], State.OK),
        ([(1, (1, 2, 3)), (1, (1, 2))], State.WARNING),
        ([(1, (1, 2)), (1, (1,))], State.CRITICAL),
        ([(None, (1, 2, 3))], State.CRITICAL),
    ],
)
def test_a_topic(partitions, state):
    assert topic_verdict(topic_of(*partitions), 2).state is state


def test_a_partition_of_few_replicas_needs_no_more_than_it_has():
    assert topic_verdict(topic_of((1, (1, 2, 3))), 9).state is State.OK


@pytest.mark.parametrize(
    ("replicas", "adding", "isr", "state"),
    [
        ([1, 2, 3], [2, 3], [1], State.OK),
        ([1, 2, 3], [2, 3], [1, 2], State.OK),
        ([1, 2, 3, 4], [4], [1, 2, 3], State.OK),
        ([1, 2, 3, 4], [4], [1, 2], State.WARNING),
        ([1, 2, 3, 4], [4], [1], State.CRITICAL),
        ([1, 2, 3], [], [1], State.CRITICAL),
    ],
)
def test_what_a_reassignment_adds_is_not_missing(replicas, adding, isr, state):
    topic = topic_of((1, isr))
    moved = msgspec.structs.replace(topic.partitions[0], replicas=replicas, adding_replicas=adding)
    found = msgspec.structs.replace(topic, partitions=[moved])
    assert topic_verdict(found, 2).state is state


def test_a_topic_is_held_against_its_config(cli, cluster):
    cluster.script(
        "GET",
        "/v1/topics/t",
        200,
        {
            "name": "t",
            "topic_id": "x",
            "partitions": [
                {"partition": 0, "leader": 1, "leader_epoch": 0, "replicas": [1, 2], "isr": [1]}
            ],
            "configs": {},
        },
    )
    for value, code in (1, 1), (2, 2):
        configs = {"min.insync.replicas": {"value": value, "source": "topic"}}
        cluster.script("GET", "/v1/topics/t/configs", 200, {"topic": "t", "configs": configs})
        assert cli("check", "topic", "t", to=cluster)[0] == code


@pytest.mark.parametrize(
    ("lags", "state"),
    [
        ([(5, 10), (5, 0)], State.OK),
        ([(5, 10), (5, 1)], State.WARNING),
        ([(5, 20), (5, 1)], State.CRITICAL),
        ([(5, 0), (5, None)], State.UNKNOWN),
        ([(5, 21), (5, None)], State.CRITICAL),
        ([(None, None)], State.OK),
        ([], State.OK),
    ],
)
def test_a_groups_lag_is_held_against_both_thresholds(lags, state):
    assert group_verdict(group_of(*lags), warning=10, critical=20).state is state


def test_only_the_topics_that_were_named_count():
    group = group_of((0, 1), (0, 1), (0, 99))
    assert group_verdict(group, warning=2, critical=None, topics=["t"]).state is State.OK
    assert group_verdict(group, warning=2, critical=None, topics=["u"]).state is State.WARNING
    assert group_verdict(group, warning=2, critical=None, topics=["v"]).state is State.UNKNOWN


def test_too_few_members_are_critical():
    verdict = group_verdict(group_of((0, 0)), warning=None, critical=None, min_members=1)
    assert verdict.state is State.CRITICAL


def test_what_should_be_there_and_is_not_is_critical(cli, cluster):
    assert cli("check", "topic", "nope", to=cluster)[0] == 2
    cluster.stop_broker(1)
    code, out, err = cli("check", "cluster", to=cluster)
    assert (code, err) == (2, "")
    assert out.startswith("OTTLA CRITICAL - no broker can be reached")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "group", "g"],
        ["check", "group", "g", "--warning", "2", "--critical", "1"],
        ["check", "group", "g", "--warning", "many"],
        ["check", "nothing"],
        ["check", "cluster", "--context", "nope", "--bootstrap", "h:1"],
        ["--bootstrap", "ftp://h", "check", "cluster"],
    ],
)
def test_who_asks_wrongly_is_told_unknown_not_critical(cli, arguments):
    assert cli(*arguments)[0] == 3


def test_the_command_is_behind_the_global_options():
    assert command_of(["--json", "--bootstrap", "check", "topic", "list"]) == "topic"
    assert command_of(["--context=x", "check"]) == "check"
    assert command_of(["--help"]) is None


@given(st.text(), st.integers(0), st.sampled_from(State))
def test_the_line_is_one_line_with_one_bar(message, value, state):
    line = Verdict(state, message, (Figure("lag", value, 1, None),)).line()
    assert len(line.splitlines()) == 1
    assert line.count("|") == 1
    assert line.endswith(f"| lag={value};1;;0")
