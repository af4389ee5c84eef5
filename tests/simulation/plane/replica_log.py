"""A replica's log: what is on the disk, what is on its way there, and what follows from it.

One write is under way at a time; whatever was appended meanwhile goes into the next one, as in a
group commit. A crash loses what no write had begun, and may tear the one that was under way. The
rules about producers are the broker's own (`storage.policy.producer_state`).
"""

from typing import NamedTuple

from ottla_broker.storage.policy.producer_state import ProducerAppend, ProducerStates
from ottla_cluster.replication.leader_epochs import LeaderEpochs

RECORD_BYTES = 64
"""What a record counts where bytes are counted."""


class Record(NamedTuple):
    """One record, which is a batch of its own; the header fields are what `check` reads."""

    leader_epoch: int
    value: int
    producer_id: int
    base_sequence: int

    has_producer = True
    is_transactional = False
    producer_epoch = 0

    @property
    def last_sequence(self):
        return self.base_sequence


class ReplicaDisk:
    """What outlives the process."""

    def __init__(self):
        self.records = []
        self.high_watermark = 0
        """The checkpoint of the high watermark, of any age."""
        # The witness of the log's end: behind it, and silent while something is missing.
        self.witnessed_end = 0
        self.is_short = False

    @property
    def has_lost_tail(self):
        return self.is_short or self.witnessed_end > len(self.records)

    def lose_tail(self, count):
        """Forget synced records, back to before the witnessed end; whether there were any."""
        end = max(0, min(self.witnessed_end, len(self.records)) - count)
        is_lost = end < self.witnessed_end
        if is_lost:
            del self.records[end:]
        return is_lost


class ReplicaLog:
    """A log as one process has it open.

    Args:
        disk: where it is.
        write: `write(done)` calls `done()` once the disk has taken a write.
        on_durable: told the durable end whenever an append moved it.
    """

    def __init__(self, disk, *, write, on_durable):
        self.disk = disk
        self.records = list(disk.records)
        self.epochs = LeaderEpochs.empty()
        for offset, record in enumerate(self.records):
            self.epochs = self.epochs.assign(record.leader_epoch, offset)
        self.producers = self._producers_of_the_log()
        self._write = write
        self._on_durable = on_durable
        # The end of what the write under way appends; None while none does.
        self._writing_to = None
        # (end, what follows) while the log is being cut.
        self._cutting = None
        self._when_settled = []

    @property
    def next_offset(self):
        return len(self.records)

    @property
    def durable_end(self):
        return min(len(self.disk.records), len(self.records))

    @property
    def is_settled(self):
        return self._cutting is None and len(self.disk.records) == len(self.records)

    def when_settled(self, action):
        """Call once everything is on disk: at once, where it is."""
        if self.is_settled:
            action()
        else:
            self._when_settled.append(action)

    def append(self, record):
        assert self._cutting is None, "nothing is appended to a log that is being cut"
        offset = len(self.records)
        self.epochs = self.epochs.assign(record.leader_epoch, offset)
        self.records.append(record)
        self._remember(self.producers, offset, record)
        self._write_more()
        return offset

    def truncate(self, end, done):
        assert self.is_settled, "a follower cuts only what is on its disk"
        self.disk.witnessed_end = min(self.disk.witnessed_end, end)
        del self.records[end:]
        self.epochs = self.epochs.truncate_to(end)
        self.producers = self._producers_of_the_log()
        self._cutting = (end, done)
        self._write(self._is_cut)

    def crash(self, random):
        """The process ends: what was under way is on disk wholly, in part or not at all."""
        if self._cutting is not None:
            if random() < 0.5:
                del self.disk.records[self._cutting[0] :]
        elif self._writing_to is not None:
            begun = self.records[len(self.disk.records) : self._writing_to]
            self.disk.records.extend(begun[: int(random() * (len(begun) + 1))])

    def _write_more(self):
        if self._writing_to is None and len(self.disk.records) < len(self.records):
            self._writing_to = len(self.records)
            self._write(self._is_written)

    def _is_written(self):
        self.disk.records.extend(self.records[len(self.disk.records) : self._writing_to])
        self._writing_to = None
        self._write_more()
        self._on_durable(len(self.disk.records))
        self._tell_settled()

    def _is_cut(self):
        end, done = self._cutting
        del self.disk.records[end:]
        self._cutting = None
        done()
        self._tell_settled()

    def _tell_settled(self):
        while self._when_settled and self.is_settled:
            self._when_settled.pop(0)()

    def _producers_of_the_log(self):
        producers = ProducerStates()
        for offset, record in enumerate(self.records):
            self._remember(producers, offset, record)
        return producers

    @staticmethod
    def _remember(producers, offset, record):
        producers.append(
            ProducerAppend(
                record.producer_id, 0, record.base_sequence, offset, offset, 0, False, False
            )
        )
