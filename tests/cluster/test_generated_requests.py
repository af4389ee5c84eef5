"""What the API's description allows and forbids, tried by schemathesis on every operation.

The cluster is the test's own, for voters are removed, leaders change and topics go. Requests are
the same in each run: a few examples of each operation and a sample of its corner cases, and walks
along the links from one operation to the next. With OTTLA_SCHEMATHESIS_EXAMPLES there are so many
examples of each, and walks, and all corner cases.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ottla_protocol import routes

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
EXAMPLES = 1
WALKS = 16
CASES_BEFORE_THINNING = 2
TIMEOUT_S = 540
"""For machines with many other things to do."""

LONG_RUN_TIMEOUT_S = 4 * 60 * 60


def is_long_run():
    return "OTTLA_SCHEMATHESIS_EXAMPLES" in os.environ


def generated_requests(client, directory, phases, examples):
    """Have schemathesis go through these phases; what it printed."""
    for topic in ("flights", "gates"):
        client.create_topic(topic, partitions=2, replication_factor=3)
        client.wait_led(topic, partitions=2)
    ran = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli",
            "--config-file", str(HERE / "schemathesis.toml"),
            "run", client.any_url() + routes.OPENAPI,
            "--phases", phases,
            "--max-examples", os.environ.get("OTTLA_SCHEMATHESIS_EXAMPLES", str(examples)),
            "--no-color",
        ],
        cwd=directory,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(HERE.parents[1]), os.environ.get("PYTHONPATH")))
            ),
            "SCHEMATHESIS_HOOKS": "tests.cluster.schemathesis_hooks",
            "OTTLA_SCHEMATHESIS_THINNING": "0" if is_long_run() else str(CASES_BEFORE_THINNING),
        },
        capture_output=True,
        text=True,
        timeout=LONG_RUN_TIMEOUT_S if is_long_run() else TIMEOUT_S,
        check=False,
    )  # fmt: skip
    print(ran.stdout)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    # It did run: a description that cannot be read would find nothing either.
    assert " generated" in ran.stdout
    for node_id in client.node_ids:
        log = client.cluster.broker(node_id).log_tail()
        assert "request_failed" not in log, log
    return ran.stdout


@pytest.mark.timeout(LONG_RUN_TIMEOUT_S if is_long_run() else 600)
def test_every_operation_does_as_it_is_described(start_cluster, tmp_path):
    generated_requests(start_cluster(), tmp_path, "examples,coverage,fuzzing", EXAMPLES)


@pytest.mark.timeout(LONG_RUN_TIMEOUT_S if is_long_run() else 600)
def test_what_one_operation_leads_to_does_as_it_is_described(start_cluster, tmp_path):
    generated_requests(start_cluster(), tmp_path, "stateful", WALKS)
