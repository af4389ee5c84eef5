"""The shape of a run that climbs in stages; see `loadtests.load_stages`.

locust -f loadtests/locustfile.py,loadtests/scenarios/staged_ramp.py --users 32 --run-time 120s
"""

from typing import Any

from locust import LoadTestShape

from loadtests.load_stages import stages, users_at

SECONDS = 120
USERS = 32
SPAWN_RATE = 20.0


class StagedRamp(LoadTestShape):
    """`--users` at its highest, `--run-time` long; 32 and two minutes when they are not given."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """What locust asks once a second; None ends the run."""
        assert self.runner is not None, "locust sets it before it asks"
        options: Any = self.runner.environment.parsed_options
        plan = stages(options.num_users or USERS, float(options.run_time or SECONDS))
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # locust's own
        users = users_at(plan, elapsed_s)
        return None if users is None else (users, SPAWN_RATE)
