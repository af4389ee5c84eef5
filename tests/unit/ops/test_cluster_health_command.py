"""`ottla cluster health`."""

import json

import pytest

PATH = "/v1/cluster/health"

HEALTHY = {
    "status": "healthy",
    "cluster_id": "local",
    "served_by": 1,
    "controller": 2,
    "controller_term": 7,
    "metadata_version": 40,
    "metadata_is_current": True,
    "metadata_age_ms": 0,
    "counts": {
        "brokers": 3,
        "active_brokers": 3,
        "partitions": 12,
        "offline": 0,
        "under_min_isr": 0,
        "at_min_isr": 0,
        "under_replicated": 0,
        "reassigning": 0,
        "unfit_replicas": 0,
    },
    "reasons": [],
    "brokers": [],
    "voters": [],
    "unfit_replicas": [],
    "partitions": [],
    "next_cursor": None,
}
WHY = {"code": "broker_fenced", "detail": "broker 3 is fenced: it is stopped", "broker": 3}
DEGRADED = HEALTHY | {
    "status": "degraded",
    "reasons": [WHY],
    "unfit_replicas": [{"topic": "clicks", "partition": 4, "broker": 2, "reason": WHY}],
    "partitions": [
        {
            "topic": "orders",
            "partition": 5,
            "conditions": ["at_min_isr", "under_replicated"],
            "leader": 1,
            "replicas": [1, 2, 3],
            "isr": [1, 2],
            "min_insync_replicas": 2,
            "reasons": [WHY],
        }
    ],
    "next_cursor": "at_min_isr:orders:5",
}
UNAVAILABLE = HEALTHY | {
    "status": "unavailable",
    "controller": None,
    "metadata_is_current": False,
    "metadata_age_ms": 61_300,
}


@pytest.mark.parametrize(
    ("document", "code"), [(HEALTHY, 0), (DEGRADED, 1), (UNAVAILABLE, 5)], ids=["0", "1", "5"]
)
def test_the_exit_code_tells_the_status_also_with_json(cli, cluster, document, code):
    cluster.script("GET", PATH, 200, document)
    assert cli("cluster", "health", to=cluster)[0] == code
    as_json = cli("cluster", "health", "--json", to=cluster)
    assert as_json[0] == code
    assert json.loads(as_json[1]) == {"schema_version": 1, **document}
    assert as_json[2] == ""


def test_no_broker_is_unavailable_too(cli, cluster):
    cluster.stop_broker(1)
    assert cli("cluster", "health", to=cluster)[0] == 5


def test_what_is_wrong_is_listed_with_its_reason(cli, cluster):
    cluster.script("GET", PATH, 200, DEGRADED)
    _, out, err = cli("cluster", "health", to=cluster)
    lines = [line.split(maxsplit=6) for line in out.splitlines()]
    assert ["status", "degraded"] in lines
    assert ["orders", "5", "1", "1,2,3", "1,2", "at", f"min isr  {WHY['detail']}"] in lines
    assert any(line[:1] == ["broker_fenced"] for line in lines)
    assert any(line[:3] == ["clicks", "4", "2"] for line in lines)
    assert "--cursor 'at_min_isr:orders:5'" in err


def test_without_a_controller_the_age_of_what_is_told_is_shown(cli, cluster):
    cluster.script("GET", PATH, 200, UNAVAILABLE)
    out = cli("cluster", "health", to=cluster)[1]
    assert "none known" in out
    assert "confirmed by a controller 61.3 s ago" in out
    cluster.script("GET", PATH, 200, UNAVAILABLE | {"metadata_age_ms": None})
    assert "never confirmed" in cli("cluster", "health", to=cluster)[1]


def test_limit_condition_and_cursor_are_asked_for(cli, cluster):
    cluster.script("GET", PATH, 200, HEALTHY)
    arguments = ("--limit", 7, "--condition", "offline", "--cursor", "offline:a:1")
    assert cli("cluster", "health", *arguments, to=cluster)[0] == 0
    (call,) = cluster.calls()
    assert call.query == {"limit": "7", "condition": "offline", "cursor": "offline:a:1"}


@pytest.mark.parametrize("arguments", [("--condition", "bad"), ("--limit", "0"), ("--wait", "-1")])
def test_wrong_options_are_usage_errors(cli, cluster, arguments):
    assert cli("cluster", "health", *arguments, to=cluster)[0] == 2
    assert cluster.calls() == []


def test_waiting_ends_with_a_healthy_answer(cli, cluster, monkeypatch):
    cluster.script("GET", PATH, 200, DEGRADED)

    def healed(_seconds):
        cluster.script("GET", PATH, 200, HEALTHY)

    monkeypatch.setattr("ottla_ops.cli.cluster_health_command.time.sleep", healed)
    assert cli("cluster", "health", "--wait", 60, to=cluster)[0] == 0
    assert len(cluster.calls()) == 2


def test_waiting_goes_on_while_no_broker_can_tell(cli, cluster, monkeypatch):
    cluster.script("GET", PATH, 200, HEALTHY)
    cluster.refuse(503, "THROTTLING_QUOTA_EXCEEDED", times=2, retriable=True)
    monkeypatch.setattr("ottla_ops.cli.cluster_health_command.time.sleep", lambda _: None)
    assert cli("cluster", "health", "--wait", 60, to=cluster)[0] == 0
    assert len(cluster.calls()) == 3


def test_waiting_in_vain_ends_with_the_last_status(cli, cluster):
    cluster.script("GET", PATH, 200, DEGRADED)
    code, out, _ = cli("cluster", "health", "--wait", 0.6, to=cluster)
    assert code == 1
    assert "degraded" in out
    assert len(cluster.calls()) == 2
