"""Disks of a chosen size, for what asks before it writes."""

from pathlib import Path
from types import SimpleNamespace

from ottla_broker.drivers.disk_space import DiskRoom

RESERVE_BYTES = 1000


class Ballast:
    """Remembers whether it is kept."""

    is_kept = False

    def keep(self):
        self.is_kept = True

    def release(self):
        self.is_kept = False


class DiskOf(DiskRoom):
    """A disk whose free space, queue and clock the test holds."""

    def __init__(self, free_bytes=0):
        self.free_bytes = free_bytes
        self.queued_bytes = 0
        self.now_ms = 0
        self.changes = []
        super().__init__(
            Path("/data"),
            reserve_bytes=RESERVE_BYTES,
            pending_bytes=lambda: self.queued_bytes,
            on_change=lambda: self.changes.append(self.is_full),
            on_failure=lambda error: None,
            clock_ms=lambda: self.now_ms,
            look=self.answer,
        )
        # As after start().
        self._free_bytes = free_bytes
        self._ballast = Ballast()

    def answer(self, path):
        assert path == Path("/data")
        return SimpleNamespace(f_bavail=self.free_bytes, f_frsize=1)
