"""The README's curl lines, run as a newcomer would paste them, in order, in one shell."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.cluster.cluster_client import ClusterClient

pytestmark = pytest.mark.cluster

README = Path(__file__).parents[2] / "README.md"
SECTIONS = (
    "Write and read with curl",
    "Follow a topic",
    "Consume with nothing but curl",
    "More ways to write",
    "Share the work in a consumer group",
    "Clients of a REST proxy",
)
TIMEOUT_S = 60

CURL = """
curl() {
    case "$1" in
    -sN) command curl "$@" | grep -m2 "^data: " | sed "s/^data: //" ;;
    *) command curl --fail-with-body "$@" ;;
    esac
}
"""
"""An error status is an error here: curl alone would only print it. What never ends is followed for
two events; the next sign of life ends curl."""


@pytest.fixture
def client(tmp_path, http):
    """Brokers of its own, since the README begins with an empty cluster."""
    with LocalCluster(tmp_path, settings={"OTTLA_FOLLOWER_KEEP_ALIVE_MS": "300"}) as cluster:
        cluster.wait_ready()
        yield ClusterClient(cluster, http)


def script(client):
    """The shell blocks of the sections, then the lines for curl of all others.

    Only the brokers' addresses differ from the README.
    """
    sections = dict(
        re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL)
    )
    whole = [block for section in SECTIONS for block in shell_blocks(sections.pop(section))]
    others = [
        line
        for body in sections.values()
        for block in shell_blocks(body)
        for line in block.splitlines(keepends=True)
        if line.startswith("curl ")
    ]
    lines = "".join(whole + others)
    for node_id in client.node_ids:
        lines = lines.replace(f"http://127.0.0.1:710{node_id}", client.url(node_id))
    assert "127.0.0.1:710" not in lines
    return "set -e\n" + CURL + lines


def shell_blocks(body):
    return re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)


def test_each_line_runs_and_says_what_it_should(client):
    ran = subprocess.run(
        ["sh", "-c", script(client)], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    decoder, rest, answers = json.JSONDecoder(), ran.stdout.strip(), []
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].strip()
    *answers, streamed, health, controller, segments = answers
    answers, proxied = answers[:-5], answers[-5:]
    answers, shared_out = answers[:-4], answers[-4:]
    answers, written = answers[:-6], answers[-6:]
    created, produced, read, repeated, at_a_time, offset, line, *answers = answers
    described, topic_read, *followed, polled, polled_again, sought = answers
    assert created["name"] == "flights"
    assert produced["results"][0]["partition"] == 2
    assert [record["key"] for record in read["records"]] == ["N14228"]
    assert repeated["results"][0]["duplicate"] is False
    assert [record["key"] for record in at_a_time["records"]] == ["N14228"]
    assert (offset["offset"], offset["timestamp"]) == (0, read["records"][0]["timestamp"])
    assert line == {"offset": 0, "value": {"dest": "IAH"}}
    assert sorted(record["key"] for record in topic_read["records"]) == ["N14228", "N24211"]
    assert sorted(record["key"] for record in followed) == ["N14228", "N24211"]
    assert routes.TOPIC_RECORDS in described["paths"]
    assert polled["member_id"] == "laptop"
    assert sorted(record["key"] for record in polled["records"]) == ["N14228", "N24211"]
    assert (polled_again["records"], polled_again["ack"]) == ([], None)
    # Everything was acknowledged, and the records are younger than the time.
    assert {each["offset"] for each in sought["offsets"]} == {0}
    assert sum(each["committed"] or 0 for each in sought["offsets"]) == 2
    landings, *lines, raw, event, many = written
    assert landings["name"] == "landings"
    assert [line["offset"] for line in lines] == [0, 1]
    assert raw["records"][0]["partition"] == lines[0]["partition"]
    assert len(event["records"]) == 1
    assert [record["topic"] for record in many["records"]] == ["landings", "landings"]
    joined, beaten, committed_to, committed = shared_out
    assert (joined["member_id"], joined["session_timeout_ms"]) == ("desk", 60_000)
    assert joined["assignment"] == [{"topic": "flights", "partitions": [0, 1, 2, 3, 4, 5]}]
    assert (beaten["generation"], beaten["assignment"]) == (joined["generation"], None)
    assert [each["offset"] for each in committed_to["offsets"]] == [1]
    assert [each["partition"] for each in committed["offsets"]] == [2]
    _, stored, instance, [consumed], committed = proxied
    assert (consumed["key"], consumed["value"], committed) == ("Anna", {"cups": 2}, [])
    assert consumed["partition"] == stored["offsets"][0]["partition"]
    assert instance["base_uri"] == client.url(2) + "/consumers/dashboards/instances/one"
    assert (streamed["error_code"], streamed["topic_name"]) == (200, "orders")
    assert (health["status"], health["partitions"]) == ("healthy", [])
    assert controller["path"] == "/controller"
    assert (segments["topic"], segments["partition"], segments["replica"]) == ("flights", 2, 3)
