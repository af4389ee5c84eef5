"""`ottla cluster drain` and `ottla cluster unregister`."""

import json
from types import SimpleNamespace

import pytest

from ottla_ops.cli import drain_commands, http_connection

URL = "/v1/brokers/3/drain"
QUORUM = "/v1/cluster/quorum"


def progress(state, left, moving=0, *, at_start=8, blocked=()):
    return {
        "broker": 3,
        "state": state,
        "partitions_left": left,
        "partitions_moving": moving,
        "partitions_at_start": at_start,
        "blocked": list(blocked),
    }


def quorum(*voters):
    return {
        "leader": 1,
        "term": 4,
        "commit_index": 9,
        "log_end_index": 9,
        "configuration_committed": True,
        "voters": [
            {
                "id": node_id,
                "role": "voter",
                "url": None,
                "directory_id": None,
                "log_end_index": None,
                "lag": None,
                "last_contact_ms": None,
            }
            for node_id in voters
        ],
        "learners": [],
        "observers": [],
    }


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(drain_commands, "POLL_INTERVAL_S", 0)


@pytest.fixture(autouse=True)
def no_vote(cluster):
    """The broker that goes does not vote, save where a test says otherwise."""
    cluster.script("GET", QUORUM, 200, quorum(1, 2, 4))


def test_a_drain_is_watched_until_nothing_is_left(cli, cluster):
    cluster.script("POST", URL, 202, progress("draining", 5, 3))
    cluster.script("GET", URL, 200, progress("drained", 0))
    code, out, err = cli("cluster", "drain", 3, to=cluster)
    assert code == 0
    assert err == "broker 3: 5 of 8 partitions left, 3 moving\n"
    assert out == "broker 3 is drained: stop it, then `ottla cluster unregister 3`\n"


def test_a_drain_that_stands_still_says_where_to_look(cli, cluster, monkeypatch):
    now_s = 0.0

    def sleep(_seconds):
        nonlocal now_s
        now_s += 10
        if now_s == 70:
            cluster.script("GET", URL, 200, progress("drained", 0))

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=sleep)
    monkeypatch.setattr(drain_commands, "time", clock)
    cluster.script("POST", URL, 202, progress("draining", 1, 1))
    cluster.script("GET", URL, 200, progress("draining", 1, 1))
    code, _, err = cli("cluster", "drain", 3, to=cluster)
    told, *others = err.splitlines()
    assert (code, told) == (0, "broker 3: 1 of 8 partitions left, 1 moving")
    assert len(others) == 2
    for other in others:
        assert other.startswith("nothing new for 30 s: ")
        assert "`ottla cluster health`" in other


def test_what_cannot_move_is_told(cli, cluster):
    blocked = [{"topic": "orders", "partition": 2, "detail": "no broker is free"}]
    cluster.script("POST", URL, 202, progress("draining", 1, blocked=blocked))
    out = cli("cluster", "drain", 3, "--no-wait", to=cluster)[1]
    assert "orders:2 cannot move: no broker is free" in out


def test_a_drain_is_called_off(cli, cluster):
    cluster.script("DELETE", URL, 200, progress("none", 4, at_start=None))
    code, out, _ = cli("cluster", "drain", 3, "--cancel", to=cluster)
    assert (code, out) == (0, "broker 3 is not being drained; it has 4 partitions\n")


def test_a_drain_that_somebody_called_off_is_not_done(cli, cluster):
    cluster.script("POST", URL, 202, progress("draining", 5, 3))
    cluster.script("GET", URL, 200, progress("none", 4, at_start=None))
    for wait in ("--wait", "--no-wait"):
        code, out, err = cli("cluster", "drain", 3, wait, to=cluster)
        assert (code, out) == (4, "")
        assert "broker 3 is not being drained" in err
        # A broker of an older version, which does not know yet what it has answered.
        cluster.script("POST", URL, 202, progress("none", 4, at_start=None))


def test_an_election_of_the_controller_does_not_end_the_watching(cli, cluster, monkeypatch):
    def sleep(_seconds):
        cluster.script("GET", URL, 200, progress("drained", 0))

    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep)
    monkeypatch.setattr(http_connection, "time", clock)
    cluster.script("POST", URL, 202, progress("draining", 5, 3))
    unavailable = {"code": "CONTROLLER_NOT_AVAILABLE", "detail": "who knows", "retriable": True}
    cluster.script("GET", URL, 503, unavailable)
    code, out, _ = cli("cluster", "drain", 3, to=cluster)
    assert (code, out) == (0, "broker 3 is drained: stop it, then `ottla cluster unregister 3`\n")


def test_the_end_as_json(cli, cluster):
    cluster.script("POST", URL, 202, progress("drained", 0))
    code, out, err = cli("cluster", "drain", 3, "--json", to=cluster)
    assert (code, err) == (0, "")
    assert json.loads(out)["state"] == "drained"


def brokers(**states):
    return {
        "brokers": [
            {"id": int(name[1:]), "url": "", "rack": "", "state": state, "broker_epoch": 1}
            for name, state in states.items()
        ]
    }


@pytest.mark.parametrize("command", [("unregister", 3), ("drain", 3, "--unregister")])
def test_a_broker_is_forgotten(cli, cluster, command):
    cluster.script("GET", "/v1/brokers", 200, brokers(b1="active", b3="fenced"))
    cluster.script("DELETE", "/v1/brokers/3", 204, {})
    code, out, err = cli("cluster", *command, to=cluster)
    assert (code, out, err) == (0, "", "broker 3 is forgotten\n")


def test_a_broker_that_counts_as_running_is_waited_for(cli, cluster, monkeypatch):
    cluster.script("GET", "/v1/brokers", 200, brokers(b3="active"))
    cluster.script("DELETE", "/v1/brokers/3", 409, {"code": "CONFLICT", "detail": "not yet"})

    def sleep(_seconds):
        cluster.script("GET", "/v1/brokers", 200, brokers(b3="fenced"))
        cluster.script("DELETE", "/v1/brokers/3", 204, {})

    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep)
    monkeypatch.setattr(drain_commands, "time", clock)
    code, _, err = cli("cluster", "unregister", 3, to=cluster)
    waiting, forgotten = err.splitlines()
    assert (code, forgotten) == (0, "broker 3 is forgotten")
    assert waiting.startswith("broker 3 is active: waiting up to 15 s")


@pytest.mark.parametrize("wait", [(), ("--wait", 0)])
def test_a_broker_that_runs_is_not_waited_for_for_ever(cli, cluster, monkeypatch, wait):
    now_s = 0.0

    def sleep(_seconds):
        nonlocal now_s
        now_s += 10

    clock = SimpleNamespace(monotonic=lambda: now_s, sleep=sleep)
    monkeypatch.setattr(drain_commands, "time", clock)
    cluster.script("GET", "/v1/brokers", 200, brokers(b3="active"))
    cluster.script("DELETE", "/v1/brokers/3", 409, {"code": "CONFLICT", "detail": "it runs"})
    code, _, err = cli("cluster", "unregister", 3, *wait, to=cluster)
    assert code == 4
    assert ("waiting" in err) == (not wait)
    assert now_s == (0 if wait else 20)


def test_that_a_drained_broker_votes_is_told(cli, cluster):
    cluster.script("GET", QUORUM, 200, quorum(1, 2, 3))
    cluster.script("POST", URL, 202, progress("drained", 0))
    code, out, err = cli("cluster", "drain", 3, to=cluster)
    assert (code, out[:19]) == (0, "broker 3 is drained")
    assert err.startswith("node 3 still votes in the metadata quorum")
    assert "remove-voter 3" in err
    cluster.script("POST", URL, 202, progress("draining", 2))
    assert "votes" not in cli("cluster", "drain", 3, "--no-wait", to=cluster)[2]


def test_that_a_forgotten_broker_votes_is_told(cli, cluster):
    cluster.script("GET", QUORUM, 200, quorum(1, 2, 3))
    cluster.script("GET", "/v1/brokers", 200, brokers(b3="fenced"))
    cluster.script("DELETE", "/v1/brokers/3", 204, {})
    code, _, err = cli("cluster", "unregister", 3, to=cluster)
    forgotten, votes = err.splitlines()
    assert (code, forgotten) == (0, "broker 3 is forgotten")
    assert votes.startswith("node 3 still votes")


def test_a_quorum_that_does_not_tell_who_votes_fails_nothing(cli, cluster):
    problem = {"code": "CONTROLLER_NOT_AVAILABLE", "detail": "no controller", "retriable": True}
    cluster.script("GET", QUORUM, 503, problem)
    cluster.script("POST", URL, 202, progress("drained", 0))
    code, _, err = cli("cluster", "drain", 3, to=cluster)
    assert (code, err) == (0, "whether node 3 votes is not known: no controller\n")


def test_to_cancel_and_to_forget_exclude_each_other(cli, cluster):
    assert cli("cluster", "drain", 3, "--cancel", "--unregister", to=cluster)[0] == 2
