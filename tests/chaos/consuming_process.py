"""One consuming process: `python -m tests.chaos.consuming_process BOOTSTRAP GROUP TOPIC JOURNAL`.

It processes records and then commits them. To process a record is to write a line of the journal,
at once and unbuffered, so that the journal tells what happened until the very moment of a SIGKILL.
Times are of CLOCK_MONOTONIC, which is one clock for all processes of the machine.

Lines, with a time first:
    assigned PARTITION           from now on it may read the partition
    revoked PARTITION            it will not any more, and says so to the group after this line
    lost PARTITION               it may not any more, and has learned it late
    took PARTITION OFFSET COUNT  a poll has handed these out, none of them is processed yet
    did PARTITION OFFSET SEQUENCE
    refused CODE                 a commit was refused: the partitions are somebody else's
"""

import os
import signal
import sys
import time

from ottla import CommitFailedError, Consumer, RebalanceListener
from ottla_protocol.errors import OttlaError

SESSION_TIMEOUT_MS = 3_000
MAX_POLL_RECORDS = 50
POLL_S = 0.5


class Journal(RebalanceListener):
    """The file; and the listener that writes to it."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words):
        os.write(self._file, f"{time.monotonic_ns()} {' '.join(map(str, words))}\n".encode())

    def on_partitions_assigned(self, partitions):
        for partition in partitions:
            self.write("assigned", partition.partition)

    def on_partitions_revoked(self, partitions):
        for partition in partitions:
            self.write("revoked", partition.partition)

    def on_partitions_lost(self, partitions):
        for partition in partitions:
            self.write("lost", partition.partition)


def consume(consumer, journal, is_ending):
    """Process, then commit, until told to end."""
    while not is_ending():
        try:
            polled = consumer.poll(POLL_S)
        except OttlaError as error:
            if not error.retriable:
                raise
            continue
        for name, records in polled.items():
            journal.write("took", name.partition, records[0].offset, len(records))
        for records in polled.values():
            for record in records:
                sequence = record.headers[0][1].decode()
                journal.write("did", record.partition, record.offset, sequence)
        if polled:
            try:
                consumer.commit()
            except CommitFailedError as error:
                journal.write("refused", error.code)
            except OttlaError as error:
                if not error.retriable:
                    raise


def main():
    bootstrap, group, topic, path = sys.argv[1:]
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    journal = Journal(path)
    with Consumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        max_poll_records=MAX_POLL_RECORDS,
    ) as consumer:
        consumer.subscribe([topic], listener=journal)
        consume(consumer, journal, lambda: bool(ending))


if __name__ == "__main__":
    main()
