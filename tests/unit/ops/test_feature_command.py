"""`ottla cluster features`."""

import json

URL = "/v1/cluster/features"
FEATURE = {"name": "wheels", "level": 2, "enabled": False, "description": "Rolling"}
NODE = {"id": 1, "url": "http://a", "oldest": 1, "latest": 2, "error": None}
SILENT = {"id": 2, "url": "http://b", "oldest": None, "latest": None, "error": "no answer"}


def described(level, upgradable_to, *processes):
    return {
        "feature_level": level,
        "upgradable_to": upgradable_to,
        "features": [FEATURE],
        "processes": list(processes),
    }


def test_it_shows_the_level_and_who_supports_what(cli, cluster):
    cluster.script("GET", URL, 200, described(1, None, NODE, SILENT))
    code, out, err = cli("cluster", "features", to=cluster)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == [
        "feature level 1",
        "can rise to unknown: not all processes could be asked",
    ]
    assert "1 http://a 1 to 2" in lines
    assert "2 http://b unknown: no answer" in lines
    assert "wheels 2 no Rolling" in lines


def test_it_says_when_there_is_nothing_to_raise(cli, cluster):
    cluster.script("GET", URL, 200, described(2, 2, NODE))
    out = cli("cluster", "features", to=cluster)[1]
    assert "nothing: it is the highest that all processes support" in out


def test_an_upgrade_says_from_where_to_where(cli, cluster):
    cluster.script("POST", URL, 200, {"former_level": 1, "feature_level": 2})
    code, out, err = cli("cluster", "features", "--upgrade", to=cluster)
    assert (code, out, err) == (0, "", "the feature level rose from 1 to 2\n")
    (call,) = cluster.calls("POST")
    assert call.body == {"feature_level": None, "validate_only": False}


def test_a_dry_run_asks_and_changes_nothing(cli, cluster):
    cluster.script("POST", URL, 200, {"former_level": 1, "feature_level": 2})
    arguments = ("--upgrade", "--level", 2, "--dry-run")
    err = cli("cluster", "features", *arguments, to=cluster)[2]
    assert err == "the feature level would rise from 1 to 2\n"
    (call,) = cluster.calls("POST")
    assert call.body == {"feature_level": 2, "validate_only": True}


def test_an_upgrade_as_json(cli, cluster):
    cluster.script("POST", URL, 200, {"former_level": 2, "feature_level": 2})
    code, out, err = cli("cluster", "features", "--upgrade", "--json", to=cluster)
    assert (code, err) == (0, "")
    assert json.loads(out)["feature_level"] == 2


def test_a_level_without_upgrade_is_a_mistake(cli, cluster):
    code, _, err = cli("cluster", "features", "--level", 2, to=cluster)
    assert code == 2
    assert "--upgrade" in err
