"""What a load run comes to: whether it passed, why not, and the lines and the file that tell it.

Pure, but for the file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from loadtests.history import Verdict
from loadtests.load_run import LoadRun


class BrokerKill(msgspec.Struct, frozen=True):
    """A broker that got SIGKILL, and when; Unix time.

    `ready_s` is when it was ready again after its restart.
    """

    broker: int
    killed_s: float
    ready_s: float


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """One whole run.

    Attributes:
        users: how many at most.
        seconds: how long.
        scenarios: which ones ran.
        run: what locust's users saw.
        verdict: what every broker holds against what was acknowledged.
        locust_exit_code: not 0 when a request failed, or a user raised what it should not.
        kill: None when no broker was killed.
    """

    users: int
    seconds: float
    scenarios: Sequence[str]
    run: LoadRun
    verdict: Verdict
    locust_exit_code: int
    kill: BrokerKill | None = None

    def failures(self) -> list[str]:
        """Why the run failed, one line each; empty when it passed."""
        verdict, run = self.verdict, self.run
        counted = {
            "failed requests": sum(total.failed for total in run.totals.values()),
            "acknowledged records lost": verdict.lost,
            "records duplicated": verdict.duplicated,
            "records out of order": verdict.out_of_order,
            "positions at which brokers differ": verdict.divergent,
            "records that nobody sent": verdict.foreign,
            "offsets that a group skipped": sum(group.skipped for group in run.groups.values()),
        }
        found = [f"{count} {what}" for what, count in counted.items() if count]
        if not verdict.acknowledged:
            found.append("not a single record was acknowledged")
        if self.locust_exit_code != 0 and not found:
            found.append(f"locust ended with {self.locust_exit_code}")
        return found


def report_lines(outcome: LoadOutcome) -> Iterator[str]:
    """The outcome for a person."""
    run, verdict = outcome.run, outcome.verdict
    yield f"{'operation':<18}{'count':>9}{'failed':>8}{'again':>7}{'p50 ms':>9}{'p99 ms':>9}"
    for name, total in run.totals.items():
        again = sum(run.retries.get(name, {}).values())
        yield (
            f"{name:<18}{total.count:>9}{total.failed:>8}{again:>7}"
            f"{total.p50_ms:>9.1f}{total.p99_ms:>9.1f}"
        )
    for name, reasons in run.retries.items():
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        yield f"sent again  {name}: {told}"
    for group, given in run.groups.items():
        yield (
            f"group {group}: {given.delivered} given, {given.delivered_again} of them again, "
            f"{given.skipped} skipped"
        )
    if outcome.kill is not None:
        away_s = outcome.kill.ready_s - outcome.kill.killed_s
        yield f"killed broker {outcome.kill.broker} (kill -9), ready again after {away_s:.1f} s"
    read = ", ".join(f"{count} from broker {broker}" for broker, count in verdict.read.items())
    yield f"acknowledged {verdict.acknowledged}, read {read}"
    yield (
        f"lost {verdict.lost}, duplicated {verdict.duplicated}, "
        f"out of order {verdict.out_of_order}, divergent {verdict.divergent}, "
        f"never sent {verdict.foreign}"
    )
    yield from (f"  {example}" for example in verdict.examples)
    yield from (f"  {failure}" for failure in run.failures)
    failures = outcome.failures()
    yield from (f"FAILED: {failure}" for failure in failures)
    yield "FAILED" if failures else "PASSED"


def write_report(path: Path, outcome: LoadOutcome) -> None:
    """The outcome as JSON."""
    document = {
        "passed": not outcome.failures(),
        "failures": outcome.failures(),
        "users": outcome.users,
        "seconds": outcome.seconds,
        "scenarios": list(outcome.scenarios),
        "kill": outcome.kill,
        "locust_exit_code": outcome.locust_exit_code,
        "verdict": {**asdict(outcome.verdict), "read": dict(outcome.verdict.read)},
        "run": outcome.run,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
