"""Whom a log tells what happens to it."""

from collections.abc import Callable
from dataclasses import dataclass

from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.group_commit import Group, OnCommit
from ottla_broker.storage.log_damage import OnDamage
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import StorageError


def _nobody_is_told(_error: DamagedSegmentError, _found_by: str) -> None:
    pass


def _nobody_measures(_group: Group, _seconds: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class LogListeners:
    """What one log calls, on the event loop.

    Attributes:
        on_durable: told `log_end_offset` after every commit.
        on_failure: told once when a write fails; the broker must then stop.
        on_damage: told of each damaged place that a read comes upon, and what found it.
        on_held: told when a write finds no room; it is held and tried again.
        on_commit: told after every commit what it held and how many seconds it took.
    """

    on_durable: Callable[[int], None]
    on_failure: Callable[[StorageError], None]
    on_damage: OnDamage = _nobody_is_told
    on_held: Callable[[DiskFullError], None] = lambda _: None
    on_commit: OnCommit = _nobody_measures
