"""Many flights a request: what a collector does that gathers for a moment."""

from locust import task

from loadtests.scenarios.http_user import OttlaHttpUser
from loadtests.scenarios.run_state import RUN

BATCH_RECORDS = (2, 50)


class BatchProduceUser(OttlaHttpUser):
    """A collector."""

    weight = 2

    @task
    def produce_batch(self) -> None:
        """A batch of flights, of some partitions each."""
        records = self.random.randint(*BATCH_RECORDS)
        self.produce("produce a batch", [RUN.next_flight(self.number) for _ in range(records)])
