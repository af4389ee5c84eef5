"""`make load` for a few seconds: users of several kinds, a broker that is killed, a whole check.

In a process of its own, as users start it: locust's gevent must not patch this one.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 270

PROGRAM = """
    import sys
    from loadtests import load
    from loadtests.history import Acknowledged, HistoryCheck

    check_topic = load.check_topic

    async def check_twice(check, urls, topic, *, timeout_s):
        # Once with another record acknowledged where the first one is: nobody holds that one.
        known = check.acknowledgements()
        planted = HistoryCheck(check.sent + 1)
        for record in [*known, planted_beside(known[0], check.sent)]:
            planted.acknowledge(record)
        await check_topic(planted, urls, topic, timeout_s=timeout_s)
        verdict = planted.verdict()
        print(f"with a planted loss: lost {verdict.lost}, clean {verdict.is_clean}")
        await check_topic(check, urls, topic, timeout_s=timeout_s)

    def planted_beside(record, sequence):
        return Acknowledged(
            sequence, record.key, record.fingerprint, record.partition, record.offset
        )

    load.check_topic = check_twice
    sys.exit(load.main(sys.argv[1:]))
"""


@pytest.mark.timeout(300)
def test_a_short_run_with_a_kill_is_clean_and_a_planted_loss_is_found(tmp_path):
    scenarios = ["mixed", "sdk-produce", "event-streams", "group-polls"]
    arguments = ["--users", "6", "--seconds", "6", "--no-ramp", "--results", str(tmp_path)]
    for scenario in scenarios:
        arguments += ["--scenario", scenario]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    told = run.stdout + run.stderr
    assert run.returncode == 0, told
    assert "with a planted loss: lost 1, clean False" in run.stdout, told
    report = json.loads((tmp_path / "load.json").read_bytes())
    assert report["passed"], told
    assert report["kill"]["broker"] in (1, 2, 3)
    assert report["verdict"]["acknowledged"] > 0
    assert set(report["verdict"]["read"]) == {"1", "2", "3"}
    counts = {name: total["count"] for name, total in report["run"]["totals"].items()}
    assert counts["produce one"] > 0, told
    assert counts["SDK send"] > 0, told
    written = {path.name for path in tmp_path.iterdir()}
    assert {"locust.html", "locust.json", "overview.png", "latency.png"} <= written
