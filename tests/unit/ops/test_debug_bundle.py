"""`ottla debug-bundle`: what is in it, what never is, and what becomes of what cannot be had."""

import json
import stat
import tarfile

import pytest

from ottla_ops import debug_bundle
from ottla_ops.debug_bundle import (
    MASK,
    Gathering,
    Part,
    gather,
    told_settings,
    without_password,
    write_bundle,
)

SECRET = "hunter2-in-no-bundle"
TREE = {
    "/": {"paths": ["/brokers", "/consumers", "/consumers/g"], "children": []},
    "/brokers": {"value": {"count": 2}, "children": []},
    "/consumers/g": {"value": SECRET},
}


class FakeBrokers:
    """Two brokers, of which the second is down; counts what is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, url, path):
        self.asked.append((url, path))
        if url == "http://b:2":
            raise ConnectionRefusedError
        if path == "/readyz":
            return 503, b'{"ready": false}'
        if path.startswith("/v1/metadata/tree"):
            node = path.removeprefix("/v1/metadata/tree").partition("?")[0]
            return 200, json.dumps(TREE[node]).encode()
        return 200, json.dumps(self.documents().get(path, {"path": path})).encode()

    def documents(self):
        offsets = [{"topic": "t", "partition": 0, "lag": 3, "metadata": SECRET}]
        return {
            "/v1/cluster": {"brokers": [{"url": "http://a:1"}, {"url": "http://b:2"}]},
            "/v1/groups": {"groups": [{"group": "a/b"}]},
            "/v1/groups/a%2Fb": {"group": "a/b", "offsets": offsets},
        }


def gathered(**bounds):
    brokers = FakeBrokers()
    gathering = Gathering(brokers, **{"deadline_s": 1.0, "clock": lambda: 0.0, **bounds})
    parts = {part.name: part for part in gather(["http://a:1"], gathering)}
    return parts, brokers


def test_every_broker_is_asked_for_its_own_view_and_who_is_down_is_told():
    parts, _ = gathered()
    for name in ("version.json", "health.json", "metrics.txt"):
        assert parts[f"brokers/a-1/{name}"].error is None
        assert "ConnectionRefusedError" in parts[f"brokers/b-2/{name}"].error
    assert json.loads(parts["brokers/a-1/readyz.json"].content) == {"ready": False}
    tree = json.loads(parts["metadata-tree.json"].content)
    assert tree["is_whole"]
    assert tree["values"] == {"/brokers": {"count": 2}}
    for name in ("client", "settings", "topics", "transactions", "groups"):
        assert f"{name}.json" in parts


def test_neither_secrets_nor_records_nor_what_consumers_store_are_in_it(monkeypatch):
    monkeypatch.setenv("OTTLA_CLUSTER_SECRET", SECRET)
    monkeypatch.setenv("OTTLA_TOKEN", SECRET)
    monkeypatch.setenv("OTTLA_NODE_ID", "7")
    parts, brokers = gathered()
    assert not any(SECRET.encode() in part.content for part in parts.values())
    assert json.loads(parts["settings.json"].content)["OTTLA_NODE_ID"] == "7"
    assert json.loads(parts["groups/0.json"].content)["offsets"][0]["lag"] == 3
    assert not any("records" in path for _, path in brokers.asked)


def test_unknown_variables_are_secrets_and_urls_lose_their_passwords():
    settings = told_settings(
        {"OTTLA_NEW": "x", "HOME": "/h", "OTTLA_ADVERTISED_URL": "http://u:p@h:1"}
    )
    assert settings == {"OTTLA_NEW": MASK, "OTTLA_ADVERTISED_URL": f"http://{MASK}@h:1"}
    assert without_password("http://u:p@h:1,http://i:2") == f"http://{MASK}@h:1,http://i:2"
    assert without_password("1@h:2,2@i:3") == "1@h:2,2@i:3"


def test_after_the_time_nobody_is_asked():
    parts, brokers = gathered(deadline_s=0.0)
    assert brokers.asked == []
    assert parts["client.json"].error is None
    assert "--timeout" in parts["brokers/a-1/metrics.txt"].error


def test_what_is_too_large_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr(debug_bundle, "PART_BYTES_MAX", 10)
    parts, _ = gathered()
    assert "too many" in parts["client.json"].error
    assert parts["client.json"].content == b""
    parts, _ = gathered(bytes_left=0)
    assert all(part.error for part in parts.values())


def test_the_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "b.tar.gz"

    def failing():
        yield Part("a", b"1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_bundle(path, failing(), now_s=1.0, overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command(cli, cluster, tmp_path):
    path = tmp_path / "b.tar.gz"
    cluster.create("orders")
    cluster.append("orders", 0, SECRET)
    code, out, err = cli("debug-bundle", "-o", path, to=cluster)
    assert (code, out) == (0, f"{path}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        contents = {each.name: archive.extractfile(each).read() for each in archive.getmembers()}
    assert b"orders" in contents["ottla-debug/topics.json"]
    assert not any(SECRET.encode() in content for content in contents.values())
    manifest = json.loads(contents["ottla-debug/manifest.json"])
    missing = [part["name"] for part in manifest["parts"] if part["error"]]
    assert all(f"without {name}" in err for name in missing)
    assert cli("debug-bundle", "-o", path, to=cluster)[0] == 4
    code, out, _ = cli("debug-bundle", "-o", path, "--overwrite", "--json", to=cluster)
    assert json.loads(out)["bytes"] == path.stat().st_size


def test_a_cluster_that_is_down_has_a_bundle_too(cli, cluster, tmp_path):
    cluster.stop_broker(1)
    path = tmp_path / "b.tar.gz"
    assert cli("debug-bundle", "-o", path, to=cluster)[0] == 0
    assert path.exists()
