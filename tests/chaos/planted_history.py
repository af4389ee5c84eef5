"""A run that never was, for tests of the checks: all is well in it until one of them lies."""

from dataclasses import replace

from tests.chaos.evidence import Evidence
from tests.chaos.final_reads import FinalRead, StoredBatch
from tests.chaos.history import END_OFFSET, OK, POLL, SEND, Operation

BROKERS = (1, 2, 3)


class Planted:
    """A run of one partition in which everything is as it should be, until a test changes it."""

    def __init__(self, records=5):
        self.now_ns = 0
        self.operations = []
        self.log_starts = {}
        self.log = []
        self.copies = {broker: FinalRead(broker, 0, 0, 0, ()) for broker in BROKERS}
        self.batches = {broker: [] for broker in BROKERS}
        for number in range(records):
            self.send("a" if number % 2 else "b", f"v{number}", number)
            self.store(f"v{number}", leader_epoch=number // 2)
        self.poll("reader", [0, 1], high_watermark=2)
        self.poll("reader", range(2, records), high_watermark=records)
        self.did(END_OFFSET, offset=records)

    def did(self, function, outcome=OK, process="asker", takes_ns=5, **fields):
        self.now_ns += 10
        operation = Operation(
            process,
            function,
            outcome,
            self.now_ns,
            self.now_ns + takes_ns,
            **{"partition": 0, **fields},
        )
        self.operations.append(operation)
        return operation

    def send(self, process, value, offset, outcome=OK):
        self.did(SEND, outcome, process, value=value, offset=offset)

    def poll(self, process, offsets, **fields):
        records = tuple((offset, f"v{offset}") for offset in offsets)
        self.did(POLL, process=process, records=records, **fields)

    def store(self, value, *, markers=0, timestamp=None, leader_epoch=2):
        """The next record, in a batch of its own on every broker; after so many markers."""
        base = self.batches[BROKERS[0]][-1].last_offset + 1 if self.log else 0
        offset = base + markers
        self.log.append((offset, value, 1000 + offset if timestamp is None else timestamp))
        for broker in BROKERS:
            self.batches[broker].append(
                StoredBatch(broker, 0, base, offset, leader_epoch, 1000 + offset, (self.log[-1],))
            )
        self.change_copies(high_watermark=offset + 1, records=tuple(self.log))

    def change_copy(self, broker, **fields):
        self.copies[broker] = replace(self.copies[broker], **fields)

    def change_copies(self, **fields):
        for broker in BROKERS:
            self.change_copy(broker, **fields)

    def evidence(self):
        batches = [batch for stored in self.batches.values() for batch in stored]
        return Evidence(
            self.operations,
            list(self.copies.values()),
            batches,
            self.log_starts,
            brokers=BROKERS,
            replicas={0: BROKERS},
        )
