"""`ottla cluster quorum`."""

import json

import pytest

URL = "/v1/cluster/quorum"
VOTERS = f"{URL}/voters"
TRANSFER = f"{URL}/transfer"


def member(node_id, role="voter", **fields):
    return {
        "id": node_id,
        "role": role,
        "url": f"http://node-{node_id}",
        "directory_id": f"of-{node_id}",
        "log_end_index": 9,
        "lag": 0,
        "last_contact_ms": 20,
        **fields,
    }


def described(*learners, voters=(1, 2, 3), leader=1, **fields):
    return {
        "leader": leader,
        "term": 4,
        "commit_index": 9,
        "log_end_index": 9,
        "configuration_committed": True,
        "voters": [member(each, "leader" if each == leader else "voter") for each in voters],
        "learners": list(learners),
        "observers": [],
        **fields,
    }


def lines_of(out):
    return [" ".join(line.split()) for line in out.splitlines()]


def test_it_shows_who_votes_who_leads_and_how_far_each_is(cli, cluster):
    silent = {"log_end_index": None, "lag": None, "last_contact_ms": None, "directory_id": None}
    observer = member(7, "observer", url=None, lag=2)
    answer = described(member(4, "learner", **silent), observers=[observer])
    cluster.script("GET", URL, 200, answer)
    code, out, err = cli("cluster", "quorum", to=cluster)
    assert (code, err) == (0, "")
    assert lines_of(out) == [
        "leader 1 (term 4)",
        "commit index 9 of 9",
        "",
        "NODE ROLE LAG LAST CONTACT DIRECTORY URL",
        "1 leader 0 20 ms ago of-1 http://node-1",
        "2 voter 0 20 ms ago of-2 http://node-2",
        "3 voter 0 20 ms ago of-3 http://node-3",
        "4 learner - never - http://node-4",
        "7 observer 2 20 ms ago of-7 -",
    ]


def test_it_says_that_a_change_is_under_way(cli, cluster):
    cluster.script("GET", URL, 200, described(configuration_committed=False))
    out = cli("cluster", "quorum", to=cluster)[1]
    assert "a change of the voters is being committed" in out.splitlines()


def test_as_json_it_is_the_answer_itself(cli, cluster):
    cluster.script("GET", URL, 200, described())
    code, out, err = cli("cluster", "quorum", "--json", to=cluster)
    assert (code, err) == (0, "")
    assert json.loads(out)["voters"] == described()["voters"]


def test_add_voter_waits_until_the_node_votes(cli, cluster):
    cluster.script("POST", VOTERS, 202, described(member(4, "learner")))
    cluster.script("GET", URL, 200, described(voters=(1, 2, 3, 4)))
    code, out, err = cli("cluster", "quorum", "add-voter", 4, "--url", "http://n:1", to=cluster)
    assert (code, err) == (0, "")
    assert "4 voter 0 20 ms ago of-4 http://node-4" in lines_of(out)
    (call,) = cluster.calls("POST")
    assert call.body == {"node_id": 4, "url": "http://n:1"}
    assert URL in [asked.path for asked in cluster.calls("GET")]


def test_add_voter_that_does_not_wait_shows_the_learner(cli, cluster):
    cluster.script("POST", VOTERS, 202, described(member(4, "learner")))
    code, out, _ = cli("cluster", "quorum", "add-voter", 4, "--wait", 0, to=cluster)
    assert code == 0
    assert "4 learner 0 20 ms ago of-4 http://node-4" in lines_of(out)
    (call,) = cluster.calls("POST")
    assert call.body == {"node_id": 4, "url": None}


def test_add_voter_says_when_the_node_takes_longer(cli, cluster):
    cluster.script("POST", VOTERS, 202, described(member(4, "learner")))
    cluster.script("GET", URL, 200, described(member(4, "learner")))
    code, out, err = cli("cluster", "quorum", "add-voter", 4, "--wait", 0.1, to=cluster)
    assert (code != 0, out) == (True, "")
    assert "node 4 has not caught up within 0.1 s; it votes as soon as it has" in err


def test_remove_voter(cli, cluster):
    cluster.script("DELETE", f"{VOTERS}/3", 200, described(voters=(1, 2)))
    code, out, err = cli("cluster", "quorum", "remove-voter", 3, to=cluster)
    assert (code, err) == (0, "")
    assert [line[0] for line in lines_of(out)[4:]] == ["1", "2"]
    assert [call.path for call in cluster.calls("DELETE")] == [f"{VOTERS}/3"]


def test_remove_voter_by_force(cli, cluster):
    cluster.script("DELETE", f"{VOTERS}/3", 200, described(voters=(1, 2)))
    assert cli("cluster", "quorum", "remove-voter", 3, "--force", to=cluster)[0] == 0
    (call,) = cluster.calls("DELETE")
    assert (call.path, call.query) == (f"{VOTERS}/3", {"force": "true"})


@pytest.mark.parametrize(("arguments", "target"), [((), None), ((2,), 2)])
def test_transfer_shows_who_leads_then(cli, cluster, arguments, target):
    cluster.script("POST", TRANSFER, 200, described(leader=2))
    code, out, err = cli("cluster", "quorum", "transfer", *arguments, to=cluster)
    assert (code, err) == (0, "")
    assert lines_of(out)[0] == "leader 2 (term 4)"
    (call,) = cluster.calls("POST")
    assert call.body == {"target": target}


@pytest.mark.parametrize(
    ("arguments", "method", "path", "status", "code"),
    [
        (("add-voter", 1), "POST", VOTERS, 409, "DUPLICATE_VOTER"),
        (("remove-voter", 9), "DELETE", f"{VOTERS}/9", 404, "VOTER_NOT_FOUND"),
        (("remove-voter", 2), "DELETE", f"{VOTERS}/2", 409, "QUORUM_AT_RISK"),
        (("transfer", 9), "POST", TRANSFER, 404, "VOTER_NOT_FOUND"),
    ],
)
def test_a_refusal_is_told_and_fails(cli, cluster, arguments, method, path, status, code):
    problem = {
        "type": f"urn:ottla:error:{code}",
        "title": code,
        "status": status,
        "detail": "the leader's rule",
        "code": code,
        "retriable": False,
    }
    cluster.script(method, path, status, problem)
    exit_code, out, err = cli("cluster", "quorum", *arguments, to=cluster)
    assert (exit_code != 0, out) == (True, "")
    assert "the leader's rule" in err
