"""Unit, images and manifests start brokers with settings that exist, and give them time to stop."""

import configparser
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from ottla_broker.http.operation_tables import OPERATIONS
from ottla_broker.settings import SettingsError, load_settings
from ottla_ops.generate.broker_process import BROKER_STOPS_WITHIN_S, PORT
from ottla_ops.generate.container_files import compose, dockerfile, dockerignore
from ottla_ops.generate.kubernetes_manifests import REPLICAS_ALLOWED, kubernetes_manifests
from ottla_ops.generate.systemd_unit import systemd_unit
from ottla_ops.supervise import EXITS_PASSED_THROUGH

ROOT = Path(__file__).parents[3]
NAMESPACE = "logs"
GETS = {operation.path for operation in OPERATIONS if operation.method == "GET"}


def settings_of(monkeypatch, environment, *flags):
    """What a broker makes of an environment; raises what it would refuse to start with."""
    for name in list(os.environ):
        if name.startswith("OTTLA_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings(flags, os.environ)


# --- systemd --------------------------------------------------------------------------------


@pytest.fixture
def unit():
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(systemd_unit("/srv/ottla/"))
    return parser


def test_a_unit_starts_a_broker_by_its_node_id(unit, monkeypatch):
    program, dash_m, module, *flags = shlex.split(unit["Service"]["ExecStart"])
    assert (program, dash_m, module) == ("/srv/ottla/bin/python", "-m", "ottla_broker")
    name, _, value = unit["Service"]["Environment"].partition("=")
    settings = settings_of(monkeypatch, {name: value}, *(flag.replace("%i", "7") for flag in flags))
    assert settings.node_id == 7
    state = unit["Service"]["StateDirectory"].replace("%i", "7")
    assert settings.data_directory == Path("/var/lib") / state


def test_the_settings_that_a_unit_tells_to_write_work(unit, monkeypatch):
    lines = re.findall(r"^#   (OTTLA_\w+)=(.+)$", systemd_unit(), re.MULTILINE)
    settings = settings_of(monkeypatch, dict(lines), "--node-id", "1")
    assert settings.listen == f"127.0.0.1:{PORT}"
    assert len(settings.voters) == 3


def test_a_unit_lets_a_broker_stop_and_starts_it_when_it_crashed(unit):
    service = unit["Service"]
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    assert int(service["TimeoutStopSec"]) > 2 * BROKER_STOPS_WITHIN_S
    # systemd knows that 0 is no failure.
    assert service["Restart"] == "on-failure"
    assert {0, int(service["RestartPreventExitStatus"])} == EXITS_PASSED_THROUGH


# --- Kubernetes -----------------------------------------------------------------------------


def manifests_by_kind(**options):
    documents = list(yaml.safe_load_all(kubernetes_manifests(**options)))
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


@pytest.fixture
def stateful_set():
    return manifests_by_kind()["StatefulSet/ottla"]


def expanded(text, variables):
    """What Kubernetes makes of $(NAME) and $$."""
    return re.sub(
        r"\$\$|\$\(([A-Za-z_]\w*)\)",
        lambda found: "$" if found.group() == "$$" else variables[found.group(1)],
        text,
    )


def pod_environment(container, index):
    variables = {"POD_NAME": f"ottla-{index}", "POD_NAMESPACE": NAMESPACE}
    for entry in container["env"]:
        if "value" in entry:
            variables[entry["name"]] = expanded(entry["value"], variables)
    variables["OTTLA_CLUSTER_SECRET"] = "x"
    return variables


@pytest.mark.parametrize("replicas", REPLICAS_ALLOWED)
def test_each_pod_is_a_broker_that_votes_under_its_own_name(replicas, monkeypatch):
    manifests = manifests_by_kind(replicas=replicas)
    stateful_set = manifests["StatefulSet/ottla"]
    assert stateful_set["spec"]["replicas"] == replicas
    peers = manifests[f"Service/{stateful_set['spec']['serviceName']}"]
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["spec"]["publishNotReadyAddresses"] is True
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    for index in range(replicas):
        environment = pod_environment(container, index)
        shell, dash_c, command = container["command"]
        told = expanded(command, environment).replace("exec python -m ottla_broker", "echo")
        flags = subprocess.run(
            [shell, dash_c, told], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        settings = settings_of(monkeypatch, environment, *flags)
        assert settings.node_id == index + 1
        assert len(settings.voters) == replicas
        assert settings.voter_urls[settings.node_id] == settings.url
        host = f"ottla-{index}.{peers['metadata']['name']}.{NAMESPACE}.svc"
        assert settings.url == f"http://{host}:{PORT}"
        for called in (host, "ottla", f"ottla.{NAMESPACE}.svc.cluster.local", "10.0.0.7"):
            assert settings.site_policy.allows_host(f"{called}:{PORT}")


def test_no_variables_of_services_reach_a_broker_which_would_refuse_them(stateful_set, monkeypatch):
    assert stateful_set["spec"]["template"]["spec"]["enableServiceLinks"] is False
    with pytest.raises(SettingsError, match="OTTLA_PORT"):
        settings_of(monkeypatch, {"OTTLA_PORT": "tcp://10.0.0.1:7101"}, "--node-id", "1")


def test_a_pod_is_probed_where_there_is_something_and_has_time(stateful_set):
    pod = stateful_set["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "http"
        paths[probe] = container[probe]["httpGet"]["path"]
    assert paths == {
        "startupProbe": "/startupz",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {*paths.values(), pod["metadata"]["annotations"]["prometheus.io/path"]} <= GETS
    assert pod["spec"]["terminationGracePeriodSeconds"] == 30 > 2 * BROKER_STOPS_WITHIN_S


def test_what_selects_pods_selects_these(stateful_set):
    manifests = manifests_by_kind()
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    budget = manifests["PodDisruptionBudget/ottla"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert stateful_set["spec"]["selector"]["matchLabels"] == labels
    for service in ("ottla", "ottla-peers"):
        assert manifests[f"Service/{service}"]["spec"]["selector"] == labels
        (port,) = manifests[f"Service/{service}"]["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (PORT, "http")
    policy = manifests["NetworkPolicy/ottla"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["ingress"][0]["ports"][0]["port"] == PORT


def test_what_is_written_is_mounted(stateful_set, monkeypatch):
    spec = stateful_set["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    settings = settings_of(monkeypatch, pod_environment(container, 0), "--node-id", "1")
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (claim,) = spec["volumeClaimTemplates"]
    assert settings.data_directory.is_relative_to(mounts[claim["metadata"]["name"]])
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert mounts.keys() == volumes | {claim["metadata"]["name"]}


# --- containers -----------------------------------------------------------------------------


def test_an_image_starts_a_broker_that_hears_sigterm():
    text = dockerfile()
    assert 'ENTRYPOINT ["python", "-m", "ottla_broker"]' in text
    assert "STOPSIGNAL SIGTERM" in text
    assert f"EXPOSE {PORT}\n" in text
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    (probed,) = re.findall(rf"127\.0\.0\.1:{PORT}(/\w+)", text)
    assert probed in GETS


def test_an_image_is_built_from_all_that_the_package_is_made_of():
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile(), re.MULTILINE))
    copied = {name for names in copied for name in names.split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {package.split("/")[0] for package in packages}
    needed |= {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    assert copied == needed
    assert set(re.findall(r"^!(\S+)$", dockerignore(), re.MULTILINE)) == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_services_of_a_compose_file_are_one_cluster(monkeypatch):
    document = yaml.safe_load(compose())
    listened = set()
    for name, service in document["services"].items():
        settings = settings_of(monkeypatch, service["environment"])
        assert settings.url == f"http://{name}:{PORT}" == settings.voter_urls[settings.node_id]
        assert len(settings.voters) == len(document["services"]) == 3
        assert service["stop_grace_period"] == "30s"
        (port,) = service["ports"]
        address, outside, inside = port.split(":")
        assert (address, inside) == ("127.0.0.1", str(PORT))
        listened.add(outside)
        (volume,) = service["volumes"]
        assert volume.split(":")[0] in document["volumes"]
        assert f"OTTLA_DATA_DIR={volume.split(':')[1]}" in dockerfile()
        built = service["build"]
        container = ROOT / "ops" / "container"
        assert (container / built["context"]).resolve() == ROOT.resolve()
        assert (ROOT / built["dockerfile"]).is_file()
    assert len(listened) == 3


# --- commands -------------------------------------------------------------------------------


def test_the_commands_print_them(cli):
    assert cli("generate", "systemd")[1] == systemd_unit()
    assert cli("generate", "dockerfile")[1] == dockerfile()
    assert cli("generate", "compose")[1] == compose()
    code, out, _ = cli(
        "generate", "kubernetes", "--brokers", "5", "--image", "it's", "--storage", "1Ti"
    )
    assert code == 0
    stateful_set = list(yaml.safe_load_all(out))[-1]
    assert stateful_set["spec"]["replicas"] == 5
    assert stateful_set["spec"]["template"]["spec"]["containers"][0]["image"] == "it's"
    claim = stateful_set["spec"]["volumeClaimTemplates"][0]["spec"]
    assert claim["resources"]["requests"]["storage"] == "1Ti"


@pytest.mark.parametrize(
    "arguments",
    [
        ["kubernetes", "--brokers", "2"],
        ["systemd", "--prefix", "opt"],
        ["systemd", "--prefix", "/a b"],
    ],
)
def test_what_cannot_be_is_refused(cli, arguments):
    code, out, err = cli("generate", *arguments)
    assert (code, out) == (2, "")
    assert "must be" in err
