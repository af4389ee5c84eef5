"""One flight a request: what most services do."""

from locust import task

from loadtests.scenarios.http_user import OttlaHttpUser
from loadtests.scenarios.run_state import RUN


class SingleProduceUser(OttlaHttpUser):
    """A service that writes its flights one by one."""

    weight = 4

    @task
    def produce_one(self) -> None:
        """One flight."""
        self.produce("produce one", [RUN.next_flight(self.number)])
