"""One partition: a log whose tail is committed late, and may be lost with its leader before."""

from typing import NamedTuple

from ottla_broker.storage.policy.open_transactions import OpenTransactions
from ottla_broker.storage.policy.producer_state import Duplicate, ProducerAppend, ProducerStates
from ottla_protocol.record_batch import NO_SEQUENCE

COMMIT_MAX_MS = 80


class Header(NamedTuple):
    """What the producers' states ask of a batch; every batch here has one record."""

    producer_id: int
    producer_epoch: int
    base_sequence: int
    has_producer: bool = True
    is_transactional: bool = True

    @property
    def last_sequence(self):
        return self.base_sequence


class Entry(NamedTuple):
    header: Header
    value: object  # None for a marker
    is_commit: bool | None = None  # None for records


class SimulatedLog:
    """The leader of one partition and what it has; `failover` puts another one in its place."""

    def __init__(self, number, events, random):
        self.number = number
        self.entries = []
        self.high_watermark = 0
        self.leader_epoch = 0
        self.is_up = True
        self._events = events
        self._random = random
        self._waiting = []  # (offset, what to call with whether it is committed)
        self._last_stable_offset = 0
        self.rebuild()

    # --- the log ----------------------------------------------------------------------------

    def rebuild(self):
        """All that a leader knows beside the entries is a function of them."""
        self.producers, self.open, self.aborted = ProducerStates(), OpenTransactions(), []
        for offset, entry in enumerate(self.entries):
            self._take_in(offset, entry)

    def _take_in(self, offset, entry):
        header, is_marker = entry.header, entry.is_commit is not None
        self.producers.append(
            ProducerAppend(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                offset,
                offset,
                0,
                is_transactional=True,
                is_control=is_marker,
            )
        )
        if not is_marker:
            self.open.append_records(header.producer_id, offset)
            return
        aborted = self.open.append_marker(header.producer_id, offset, is_commit=entry.is_commit)
        if aborted is not None:
            self.aborted.append(aborted)

    def _append(self, entry, told):
        offset = len(self.entries)
        self.entries.append(entry)
        self._take_in(offset, entry)
        self._wait(offset, told)
        self._commit_later()

    def _wait(self, offset, told):
        if offset < self.high_watermark:
            told(True)
        else:
            self._waiting.append((offset, told))

    def _commit_later(self):
        delay_ms = self._random.randint(1, COMMIT_MAX_MS)
        self._events.after(delay_ms, self._commit, self.leader_epoch, len(self.entries))

    def _commit(self, leader_epoch, offset):
        if leader_epoch != self.leader_epoch or offset <= self.high_watermark:
            return
        self.high_watermark = offset
        committed = [told for at, told in self._waiting if at < offset]
        self._waiting = [each for each in self._waiting if each[0] >= offset]
        for told in committed:
            told(True)

    def failover(self, down_ms):
        """The leader is gone, and what was not committed may be."""
        self.leader_epoch += 1
        self.is_up = False
        kept = self._random.randint(self.high_watermark, len(self.entries))
        del self.entries[kept:]
        self.rebuild()
        waiting, self._waiting = self._waiting, []
        for _, told in waiting:
            told(False)
        self._events.after(down_ms, self._come_up, self.leader_epoch)

    def _come_up(self, leader_epoch):
        if leader_epoch == self.leader_epoch:
            self.is_up = True
            self._commit_later()

    # --- requests ---------------------------------------------------------------------------

    def is_in_transaction(self, header):
        return self.producers.is_in_transaction(header)

    def check(self, header):
        """Where the batch is, or None where it is new; raises what refuses it."""
        verdict = self.producers.check(header)
        return verdict.base_offset if isinstance(verdict, Duplicate) else None

    def produce(self, header, value, told):
        """Append, or find, and tell once it is committed; raises what refuses it."""
        offset = self.check(header)
        if offset is None:
            self._append(Entry(header, value), told)
        else:
            self._wait(offset, told)

    def write_marker(self, marker, is_commit, told):
        header = Header(marker.producer_id, marker.producer_epoch, NO_SEQUENCE)
        if self.producers.check_marker(marker.producer_id, marker.producer_epoch):
            self._append(Entry(header, None, is_commit), told)
        else:
            self._wait(len(self.entries) - 1, told)  # It is in there; wait for all of it.

    # --- readers ----------------------------------------------------------------------------

    def last_stable_offset(self):
        """T4: it never goes back and never passes the high watermark."""
        stable = self.open.last_stable_offset(self.high_watermark)
        assert stable <= self.high_watermark, f"partition {self.number}: stable above committed"
        assert stable >= self._last_stable_offset, f"partition {self.number}: stable went back"
        self._last_stable_offset = stable
        return stable

    def read_committed(self, from_offset=0):
        """What a reader of committed records is shown from there on, as (offset, value)."""
        end = self.last_stable_offset()
        aborted = [each for each in self.aborted if each.touches(from_offset, end)]
        return [
            (offset, entry.value)
            for offset, entry in enumerate(self.entries[from_offset:end], from_offset)
            if entry.is_commit is None and not _is_aborted(offset, entry, aborted)
        ]


def _is_aborted(offset, entry, aborted):
    return any(
        each.producer_id == entry.header.producer_id
        and each.first_offset <= offset < each.last_offset
        for each in aborted
    )
