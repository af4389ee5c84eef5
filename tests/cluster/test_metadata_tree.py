"""`GET /v1/metadata/tree/...` on real brokers: every path answers, with its value of now."""

import subprocess
import sys
from itertools import count
from urllib.parse import quote

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

LIMIT_S = 30.0
RUN = "import sys; from ottla_ops.cli.main import run; sys.exit(run())"

_numbers = count(1)


def look(client, path, *, via=None, **query):
    """The bare answer for a path as the tree writes it."""
    url = client.url(via) if via is not None else client.any_url()
    return client.http.get(url + routes.METADATA_TREE + quote(path, safe="/%"), **query)


def node(client, path, **arguments):
    return look(client, path, **arguments).expect(200).document


def all_paths(client, path, limit):
    cursor, found = {}, []
    while True:
        document = node(client, path, recursive="true", limit=limit, **cursor)
        assert len(document["paths"]) <= limit
        found += document["paths"]
        if document["next_cursor"] is None:
            return found
        cursor = {"cursor": quote(document["next_cursor"], safe="")}


@pytest.fixture
def group(shared, topic):
    """A group with one member and one committed offset, whose name is hard to write."""
    name = f"a b/100%-{next(_numbers)}"
    url = f"{shared.any_url()}/v1/groups/{quote(name, safe='')}"
    shared.http.post(f"{url}/members", {"topics": [topic]}).expect(201)
    offsets = [{"topic": topic, "partition": 0, "offset": 0}]
    other = f"{url}-idle"
    shared.http.post(f"{other}/offsets", {"offsets": offsets}).expect(200)
    return name


class TestThePaths:
    def test_every_path_of_a_walk_answers_on_every_broker(self, shared, topic, group):
        paths = all_paths(shared, "/", 40)
        assert len(paths) == len(set(paths))
        assert f"/brokers/topics/{topic}/partitions/0/state" in paths
        written = quote(group).replace("/", "%2F")
        assert f"/consumers/{written}/owners/{topic}/0" in paths
        assert f"/consumers/{written}-idle/offsets/{topic}/0" in paths
        # One of each kind: all of them are hundreds of requests. Members of earlier tests' groups
        # may expire meanwhile, and their paths go with them.
        kinds = {
            path.count("/"): path
            for path in paths
            if "__consumer_offsets" not in path and not path.startswith("/consumers/")
        }
        mine = [path for path in paths if topic in path or written in path]
        for number, path in enumerate([*kinds.values(), *mine]):
            document = node(shared, path, via=1 + number % 3)
            assert document["path"] == path
            parent, _, name = path.rpartition("/")
            assert quote(document["path"].rpartition("/")[2], safe="%") == quote(name, safe="%")
            assert node(shared, parent or "/")["children"]

    def test_children_come_in_pages(self, shared, topic):
        first = node(shared, "/brokers/ids", limit=2)
        assert (first["children"], first["next_cursor"]) == (["1", "2"], "/brokers/ids/2")
        rest = node(shared, "/brokers/ids", limit=2, cursor="/brokers/ids/2")
        assert (rest["children"], rest["next_cursor"]) == (["3"], None)

    def test_a_path_that_is_not_there_names_its_nearest_ancestor(self, shared, topic):
        answer = look(shared, f"/brokers/topics/{topic}/partitions/7/state").expect(404)
        assert answer.code == "UNKNOWN_METADATA_PATH"
        assert answer.document["nearest"] == f"/brokers/topics/{topic}/partitions"
        assert look(shared, "/consumers/nobody/ids").expect(404).document["nearest"] == "/consumers"
        assert look(shared, "/brokerz").expect(404).document["nearest"] == "/"

    @pytest.mark.parametrize(
        "path", ["/%2e%2e/x", "/a//b", "/a%00", "/%ff", "/a%0d%0aX: y", "/" + "a" * 300]
    )
    def test_names_are_checked_after_decoding(self, shared, path):
        answer = look(shared, path).expect(422)
        assert (answer.code, answer.document["field"]) == ("INVALID_REQUEST", "path")
        assert "X" not in answer.headers

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ({"cursor": "/config"}, "cursor"),
            ({"cursor": "/brokers"}, "cursor"),
            ({"cursor": "/brokers/ids/1"}, "cursor"),
            ({"limit": 0}, "limit"),
            ({"limit": 2_001}, "limit"),
            ({"recursive": "yes"}, "recursive"),
        ],
    )
    def test_a_wrong_parameter_is_named(self, shared, query, named):
        answer = look(shared, "/brokers", **query).expect(422)
        assert answer.document["parameter"] == named

    def test_the_tree_is_read_only(self, shared):
        url = shared.any_url() + routes.METADATA_TREE + "/controller"
        assert shared.http.delete(url).expect(405).headers["Allow"].startswith("GET")

    def test_a_topic_that_another_broker_made_is_there_at_once(self, shared):
        for number in range(3):
            name = f"in-the-tree-{next(_numbers)}"
            shared.create_topic(name, partitions=1, via=1 + number)
            via = 1 + (number + 1) % 3
            assert node(shared, f"/config/topics/{name}", via=via)["value"]["version"] == 1


def test_values_follow_a_killed_leader_and_controller(start_cluster):
    client = start_cluster()
    victim = client.controller()
    survivor = client.others(victim)[0]
    name = client.create_topic_led_by(victim)
    state = f"/brokers/topics/{name}/partitions/0/state"
    before = node(client, state, via=survivor)["value"]
    assert (before["leader"], sorted(before["isr"])) == (victim, [1, 2, 3])
    epoch = node(client, "/controller_epoch", via=survivor)["value"]
    client.cluster.broker(victim).kill()

    def moved():
        now = node(client, state, via=survivor)["value"]
        assert now["leader"] in client.others(victim)
        assert victim not in now["isr"]
        assert now["leader_epoch"] > before["leader_epoch"]
        controller = node(client, "/controller", via=survivor)["value"]
        assert controller["brokerid"] in client.others(victim)
        assert node(client, "/controller_epoch", via=survivor)["value"] > epoch
        assert node(client, "/brokers/fenced", via=survivor)["children"] == [str(victim)]
        assert str(victim) not in node(client, "/brokers/ids", via=survivor)["children"]

    eventually(moved, LIMIT_S)
    shell = subprocess.run(
        [sys.executable, "-c", RUN, "--bootstrap", client.url(survivor), "metadata", "shell"],
        input=f"cd {state}\nget\ncd /brokers/ids/{victim}\n",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f'"leader":{node(client, state, via=survivor)["value"]["leader"]}' in shell.stdout
    assert shell.returncode == 3
    assert f"there is no /brokers/ids/{victim}" in shell.stderr


def test_a_lost_coordinator_hides_its_own_groups_and_nothing_else(start_cluster):
    """With one copy of each offsets partition, those of a broker that is gone have no leader."""
    client = start_cluster(settings={"OTTLA_DEFAULT_REPLICATION_FACTOR": "1"})
    client.create_topic("read", partitions=1)
    names = [f"group-{number}" for number in range(12)]
    offsets = {"offsets": [{"topic": "read", "partition": 0, "offset": 0}]}
    for name in names:
        client.http.post(f"{client.any_url()}/v1/groups/{name}/offsets", offsets).expect(200)
    assert node(client, "/consumers")["children"] == sorted(names)
    coordinators = {
        name: client.http.get(f"{client.any_url()}/v1/groups/{name}").document["coordinator"]
        for name in names
    }
    lost = max(coordinators.values())
    assert len(set(coordinators.values())) > 1, coordinators
    survivor = client.others(lost)[0]
    client.cluster.broker(lost).kill()
    eventually(
        lambda: str(lost) in node(client, "/brokers/fenced", via=survivor)["children"], LIMIT_S
    )
    kept = {name for name in names if coordinators[name] != lost}

    def shown():
        document = node(client, "/consumers", via=survivor)
        assert set(document["children"]) == kept
        assert "__consumer_offsets-" in document["missing"]

    eventually(shown, LIMIT_S)
    gone = next(iter(set(names) - kept))
    answer = look(client, f"/consumers/{gone}/offsets", via=survivor).expect(503)
    assert answer.code == "COORDINATOR_NOT_AVAILABLE"
    walk = subprocess.run(
        [sys.executable, "-c", RUN, "--bootstrap", client.url(survivor), "metadata", "ls", "-R"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    paths = walk.stdout.splitlines()
    assert walk.returncode == 0, walk.stderr
    assert f"/brokers/ids/{survivor}" in paths
    assert {f"/consumers/{name}/offsets" for name in kept} <= set(paths)
    assert "missing here: the consumer groups of __consumer_offsets-" in walk.stderr
