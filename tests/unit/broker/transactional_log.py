"""A log with transactions, which knows what is true of them: a slow and simple model."""

from dataclasses import dataclass

from hypothesis import strategies as st

from ottla_broker.storage.policy.open_transactions import OpenTransactions
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_protocol.control_records import EndMarker, encode_end_marker
from ottla_protocol.record_batch import patch_batch
from ottla_protocol.record_codec import RecordData, encode_batch

PRODUCERS = 3
EPOCH = 4

STEPS = st.lists(
    st.tuples(
        st.integers(0, PRODUCERS - 1), st.sampled_from(["plain", "records", "commit", "abort"])
    ),
    max_size=30,
)


@dataclass
class Entry:
    """One batch of the log; `fate` is that of its transaction, None for a batch of none."""

    batch: StoredBatch
    kind: str
    producer_id: int
    fate: str | None = None


class TransactionalLog:
    """A log, with what it says of its transactions and what is true."""

    def __init__(self):
        self.entries = []
        self.transactions = OpenTransactions()
        self.aborted = []
        self.next_offset = 0

    def step(self, producer_id, kind):
        is_open = any(known == producer_id for known, _ in self.transactions.open_since())
        if kind == "plain":
            # Producers write such batches before, between and behind their transactions.
            if not is_open:
                self._append(kind, producer_id, _records(producer_id, is_transactional=False))
        elif kind == "records":
            self.transactions.append_records(producer_id, self.next_offset)
            self._append(kind, producer_id, _records(producer_id, is_transactional=True))
        else:
            is_commit = kind == "commit"
            found = self.transactions.append_marker(
                producer_id, self.next_offset, is_commit=is_commit
            )
            if found is not None:
                self.aborted.append(found)
            for entry in self.entries:
                if (entry.kind, entry.producer_id, entry.fate) == ("records", producer_id, None):
                    entry.fate = kind
            self._append(
                kind,
                producer_id,
                encode_end_marker(
                    EndMarker(is_commit, 0),
                    producer_id=producer_id,
                    producer_epoch=EPOCH,
                    timestamp_ms=1,
                ),
            )

    def _append(self, kind, producer_id, data):
        patch_batch(data, base_offset=self.next_offset, leader_epoch=0)
        count = 1 if kind in {"commit", "abort"} else 2
        last_offset = self.next_offset + count - 1
        batch = StoredBatch(self.next_offset, last_offset, 0, bytes(data))
        self.entries.append(Entry(batch, kind, producer_id))
        self.next_offset = last_offset + 1

    @property
    def last_stable_offset(self):
        return self.transactions.last_stable_offset(self.next_offset)

    def stable(self):
        limit = self.last_stable_offset
        return [entry for entry in self.entries if entry.batch.last_offset < limit]


def shown(entries):
    """Their batches, as far as readers of committed records are to see them."""
    return [each.batch for each in entries if each.kind == "plain" or each.fate == "commit"]


def _records(producer_id, *, is_transactional):
    return encode_batch(
        [RecordData(1, None, b"a"), RecordData(1, None, b"b")],
        producer_id=producer_id,
        producer_epoch=EPOCH,
        base_sequence=0,
        is_transactional=is_transactional,
    )
