"""`ottla bench`: how fast a cluster is for one client here."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla import Admin, Consumer, Producer


class Acks(StrEnum):
    """Who must have a record before it is acknowledged."""

    ALL = "all"
    ONE = "1"


def bench(
    context: typer.Context,
    *,
    records: Annotated[
        int,
        typer.Option("--records", "-n", min=1, metavar="N", help="How many at most."),
    ] = 100_000,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="How long each of the three steps may take.")
    ] = 10.0,
    record_bytes: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="BYTES", help="Size of a value.")
    ] = 100,
    partitions: Annotated[
        int, typer.Option(min=1, max=1_000, metavar="N", help="Partitions of the topic.")
    ] = 3,
    replication_factor: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Copies of each; the broker's default without."),
    ] = None,
    acks: Annotated[Acks, typer.Option(help="Who must have a record.")] = Acks.ALL,
) -> None:
    """Produce to a topic of its own, consume it, delete it: records and MB per second, p50, p99.

    It measures one client in Python on this machine. Latencies are those of a record sent alone
    (single), of a batch (produce) and of a poll (consume).
    """
    from dataclasses import asdict

    from ottla_ops.benchmark import RECORDS_MAX, TOTAL_BYTES_MAX, Benchmark, BenchmarkPlan
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.read_progress import ReadProgress

    session = session_of(context)
    if records > RECORDS_MAX or records * record_bytes > TOTAL_BYTES_MAX:
        raise usage_error(
            f"--records {records} of {record_bytes} bytes: at most {RECORDS_MAX} records and "
            f"{TOTAL_BYTES_MAX} bytes are produced"
        )
    plan = BenchmarkPlan(
        records=records,
        seconds=seconds,
        record_bytes=record_bytes,
        partitions=partitions,
        replication_factor=replication_factor,
        acks=acks.value,
    )
    clients = _SdkClients(session.connect().urls)
    with failures_told(), ReadProgress(session.output, 2 * records) as progress:
        measured = Benchmark(
            clients, plan, on_progress=lambda _step, count: progress.advance(count)
        ).run()
    if session.output.as_json:
        session.output.document({"plan": asdict(plan), **asdict(measured)})
        return
    rows = [
        (
            name,
            step.records,
            f"{step.seconds:.2f}",
            f"{step.records_per_second:,.0f}",
            f"{step.mb_per_second:.2f}",
            _ms(step.p50_ms),
            _ms(step.p99_ms),
            _ms(step.max_ms),
        )
        for name, step in (
            ("single", measured.single),
            ("produce", measured.produce),
            ("consume", measured.consume),
        )
    ]
    headers = ("STEP", "RECORDS", "SECONDS", "RECORDS/S", "MB/S", "P50-MS", "P99-MS", "MAX-MS")
    session.output.table(headers, rows)
    session.output.note(f"topic {measured.topic} deleted")


class _SdkClients:
    """Clients of the cluster that is meant."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls

    def admin(self) -> "Admin":
        from ottla import Admin

        return Admin(self._urls)

    def producer(self, **options: Any) -> "Producer":
        from ottla import Producer

        return Producer(self._urls, **options)

    def consumer(self, *topics: str, **options: Any) -> "Consumer":
        from ottla import Consumer

        return Consumer(*topics, bootstrap_servers=self._urls, **options)


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
