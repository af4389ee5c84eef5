"""What a run of locust's users saw, second by second, and the file that tells it.

Pure, but for the file. Locust's own statistics know totals and percentiles over sliding windows; a
kill that lasts a second shows only where every second stands for itself.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import msgspec

from loadtests.deliveries import GroupDeliveries


class OperationSecond(msgspec.Struct, frozen=True, array_like=True):
    """What ended within one second of the run: how many, how many failed, and how long they took.

    Milliseconds are of all that ended, failed or not.
    """

    second: int
    count: int
    failed: int
    p50_ms: float
    p99_ms: float


class OperationTotal(msgspec.Struct, frozen=True):
    """One operation over the whole run."""

    count: int
    failed: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class LoadRun(msgspec.Struct, frozen=True):
    """One run.

    Attributes:
        started_s: Unix time.
        operations: by name, the seconds in which one ended.
        totals: by name.
        retries: by operation, how often it was sent again, by reason.
        failures: the first failed operations, in words.
        groups: what the consumer groups were given, by group.
        acknowledged: records, by the second of the run, those of second 0 first.
        users: how many there were, by the second.
    """

    started_s: float
    operations: dict[str, list[OperationSecond]]
    totals: dict[str, OperationTotal]
    retries: dict[str, dict[str, int]]
    failures: list[str]
    groups: dict[str, GroupDeliveries]
    acknowledged: list[int]
    users: list[int]


_decoder = msgspec.json.Decoder(LoadRun)

FAILURES_MAX = 20
"""How many failures are kept as text; all are counted."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of sorted values below or at which that share of them lies (nearest rank)."""
    assert values, "no values"
    return values[max(0, ceil(share * len(values)) - 1)]


class LoadRunRecorder:
    """Takes in what happens and makes the run of it.

    Args:
        started_s: Unix time of the run's begin, which second 0 begins at.
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._durations_ms: dict[str, dict[int, array[float]]] = {}
        self._failed: Counter[tuple[str, int]] = Counter()
        self._failures: list[str] = []
        self._retries: dict[str, Counter[str]] = {}
        self._acknowledged: Counter[int] = Counter()
        self._users: dict[int, int] = {}

    def ended(self, name: str, at_s: float, duration_ms: float, failure: str | None = None) -> None:
        """An operation ended; `at_s` is Unix time."""
        second = self._second(at_s)
        by_second = self._durations_ms.setdefault(name, {})
        by_second.setdefault(second, array("d")).append(duration_ms)
        if failure is not None:
            self._failed[name, second] += 1
            if len(self._failures) < FAILURES_MAX:
                self._failures.append(f"{name}, second {second}: {failure}")

    def repeated(self, name: str, reason: str) -> None:
        """An operation was sent again."""
        self._retries.setdefault(name, Counter())[reason] += 1

    def acknowledged(self, at_s: float, records: int) -> None:
        """Records were acknowledged."""
        self._acknowledged[self._second(at_s)] += records

    def users(self, at_s: float, users: int) -> None:
        """So many users there are."""
        self._users[self._second(at_s)] = users

    def run(self, groups: Mapping[str, GroupDeliveries]) -> LoadRun:
        """The run so far."""
        return LoadRun(
            started_s=self._started_s,
            operations={
                name: [
                    self._of_second(name, second, by_second[second]) for second in sorted(by_second)
                ]
                for name, by_second in sorted(self._durations_ms.items())
            },
            totals={
                name: self._total(name, by_second)
                for name, by_second in sorted(self._durations_ms.items())
            },
            retries={name: dict(reasons) for name, reasons in sorted(self._retries.items())},
            failures=list(self._failures),
            groups=dict(groups),
            acknowledged=_filled(self._acknowledged, 0),
            users=_filled(self._users, None),
        )

    def _second(self, at_s: float) -> int:
        return max(0, int(at_s - self._started_s))

    def _of_second(self, name: str, second: int, durations_ms: Sequence[float]) -> OperationSecond:
        ordered = sorted(durations_ms)
        return OperationSecond(
            second,
            len(ordered),
            self._failed[name, second],
            percentile(ordered, 0.5),
            percentile(ordered, 0.99),
        )

    def _total(self, name: str, by_second: Mapping[int, Sequence[float]]) -> OperationTotal:
        ordered = sorted(value for values in by_second.values() for value in values)
        failed = sum(self._failed[name, second] for second in by_second)
        return OperationTotal(
            len(ordered),
            failed,
            percentile(ordered, 0.5),
            percentile(ordered, 0.99),
            ordered[-1],
        )


def _filled(by_second: Mapping[int, int], missing: int | None) -> list[int]:
    """A value for every second; `missing` where there is none, or the one before it."""
    filled: list[int] = []
    for second in range(max(by_second, default=-1) + 1):
        before = filled[-1] if filled else 0
        filled.append(by_second.get(second, before if missing is None else missing))
    return filled


def write_run(path: Path, run: LoadRun) -> None:
    """Write the file."""
    path.write_bytes(msgspec.json.encode(run))


def read_run(path: Path) -> LoadRun:
    """Read the file.

    Raises:
        OSError: it is not there.
        msgspec.DecodeError: it is none of ours.
    """
    return _decoder.decode(path.read_bytes())
