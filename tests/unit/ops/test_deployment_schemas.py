"""Unit, images and manifests are what those who read them understand: by their own words.

Each is held against the grammar or the schema of its kind, and so is one with a fault, because a
check that finds nothing anywhere says nothing.
"""

import subprocess
import sys
from pathlib import Path
from shutil import which

import kubernetes_validate
import pytest
import yaml

from ottla_ops.generate.container_files import compose, dockerfile
from ottla_ops.generate.kubernetes_manifests import kubernetes_manifests
from ottla_ops.generate.systemd_unit import systemd_unit

KUBERNETES_VERSIONS = ("1.25", kubernetes_validate.latest_version())
"""The oldest that the manifests are told to be for, and the newest that is known."""


def complaints(command, *arguments):
    """What a tool of this environment says about a file; nothing if it is content."""
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.skipif(which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_the_unit(tmp_path):
    def told(text):
        path = tmp_path / "ottla@.service"
        path.write_text(text)
        command = ["systemd-analyze", "verify", path]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr

    # It looks for the program.
    unit = systemd_unit(sys.prefix)
    assert told(unit) == ""
    assert "Unknown key" in told(unit.replace("KillMode=", "KilMode="))
    assert "strct" in told(unit.replace("=strict", "=strct"))


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_kubernetes_understands_the_manifests(version):
    documents = list(yaml.safe_load_all(kubernetes_manifests()))
    assert len(documents) == 5
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    (stateful_set,) = (each for each in documents if each["kind"] == "StatefulSet")
    stateful_set["spec"]["minReadySecond"] = 30
    with pytest.raises(kubernetes_validate.ValidationError, match="minReadySecond"):
        kubernetes_validate.validate(stateful_set, version, strict=True)


def test_compose_understands_the_services(tmp_path):
    def told(text):
        path = tmp_path / "compose.yaml"
        path.write_text(text)
        return complaints("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)

    assert told(compose()) == ""
    assert "stop_grace" in told(compose().replace("stop_grace_period", "stop_grace", 1))


def test_an_image_can_be_made_of_the_dockerfile(tmp_path):
    def told(text):
        path = tmp_path / "Dockerfile"
        path.write_text(text)
        return complaints("hadolint", "--no-color", path)

    assert told(dockerfile()) == ""
    assert "unexpected" in told(dockerfile().replace("COPY --from", "COPPY --from"))
    assert "DL3022" in told(dockerfile().replace("--from=build", "--from=builder"))
    assert "SC" in told(dockerfile().replace("&& /opt", "&& if /opt", 1))
