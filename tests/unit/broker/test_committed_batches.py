"""What is shown to readers of committed records, against a slow and simple model of a log."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.services.committed_batches import committed_batches
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


class Log:
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

    def stable(self):
        limit = self.transactions.last_stable_offset(self.next_offset)
        return [entry for entry in self.entries if entry.batch.last_offset < limit]


def _records(producer_id, *, is_transactional):
    return encode_batch(
        [RecordData(1, None, b"a"), RecordData(1, None, b"b")],
        producer_id=producer_id,
        producer_epoch=EPOCH,
        base_sequence=0,
        is_transactional=is_transactional,
    )


def _wanted(entries):
    return [each.batch for each in entries if each.kind == "plain" or each.fate == "commit"]


@given(STEPS, st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_what_is_committed_is_shown_and_nothing_else(steps, start, length, random):
    log = Log()
    for step in steps:
        log.step(*step)
    window = log.stable()[start : start + length]
    batches = tuple(each.batch for each in window)
    aborted = []
    if batches:
        end = batches[-1].last_offset + 1
        aborted = [each for each in log.aborted if each.touches(batches[0].base_offset, end)]
    random.shuffle(aborted)
    assert list(committed_batches(batches, aborted)) == _wanted(window)
    # Whether the list is of the window alone makes no difference.
    assert list(committed_batches(batches, log.aborted)) == _wanted(window)


def test_batches_without_transactions_are_not_copied():
    log = Log()
    for producer_id in range(PRODUCERS):
        log.step(producer_id, "plain")
    batches = tuple(each.batch for each in log.entries)
    assert committed_batches(batches, ()) is batches
    assert committed_batches((), ()) == ()


def test_committed_records_without_their_marker_are_not_copied():
    log = Log()
    for step in ((0, "records"), (0, "records"), (0, "commit")):
        log.step(*step)
    *records, marker = (each.batch for each in log.entries)
    assert committed_batches(records, ()) is records
    assert committed_batches([*records, marker], ()) == records


def test_a_producer_is_shown_between_two_of_its_aborted_transactions():
    log = Log()
    for kind in ("records", "abort", "records", "commit", "plain", "records", "abort"):
        log.step(7, kind)
    batches = tuple(each.batch for each in log.entries)
    assert list(committed_batches(batches, log.aborted)) == [batches[2], batches[4]]
