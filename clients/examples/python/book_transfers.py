"""Books transfers exactly once: reads them, writes two postings for each, and says how far it is.

    python book_transfers.py TRANSFERS POSTINGS GROUP INSTANCE

The postings and the group's offsets are one transaction, so whoever reads committed records sees
each transfer booked once and whole, however often this program is killed and started again. Run
several at once and they share the work. Each needs an INSTANCE of its own, the same when it starts
again: by that it fences what is left of its former self, and takes its partitions over.

It ends when everything is booked. OTTLA_BOOTSTRAP names brokers, with commas between them.
"""

import os
import sys

from ottla import (
    CommitFailedError,
    ConflictError,
    Consumer,
    ConsumerRecord,
    OffsetAndMetadata,
    Producer,
    ProducerFencedError,
    TopicPartition,
)

BOOTSTRAP = os.environ.get("OTTLA_BOOTSTRAP", "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103")


def main(transfers: str, postings: str, group: str, instance: str) -> None:
    """Book until nothing is left."""
    with (
        Consumer(
            transfers,
            bootstrap_servers=BOOTSTRAP,
            group_id=group,
            group_instance_id=instance,  # It gets its partitions back when it starts again.
            auto_offset_reset="earliest",
            enable_auto_commit=False,  # The transaction commits the offsets.
            isolation_level="read_committed",
            value_deserializer="json",
        ) as consumer,
        Producer(
            BOOTSTRAP,
            transactional_id=instance,
            key_serializer="string",
            value_serializer="json",
        ) as producer,
    ):
        producer.init_transactions()
        while batches := next_batches(consumer):
            try:
                with producer.transaction():
                    for records in batches.values():
                        for record in records:
                            book(producer, postings, record)
                    producer.send_offsets_to_transaction(
                        {partition: next_offset(records) for partition, records in batches.items()},
                        consumer.consumer_group_metadata(),
                    )
            except ProducerFencedError:
                sys.exit(f"another {instance} has started, so this one ends")
            except (ConflictError, CommitFailedError) as error:
                # It is aborted, so nothing of it is there. Read the same records again, or leave
                # them to whoever has their partitions now.
                print(f"again: {error}", file=sys.stderr)
                rewind(consumer)
            else:
                print(f"booked {sum(map(len, batches.values()))}", flush=True)


def book(producer: Producer, postings: str, record: ConsumerRecord) -> None:
    """One account loses what the other gets."""
    transfer = record.value
    for account, amount in (
        (transfer["from"], -transfer["amount"]),
        (transfer["to"], transfer["amount"]),
    ):
        producer.send(postings, {"id": transfer["id"], "amount": amount}, key=account)


def next_batches(consumer: Consumer) -> dict[TopicPartition, list[ConsumerRecord]]:
    """The next records by partition; none once everything is read."""
    while True:
        batches = consumer.poll(timeout=1, max_records=20)
        lags = [consumer.current_lag(partition) for partition in consumer.assignment()]
        if batches or (lags and not any(lag is None or lag > 0 for lag in lags)):
            return batches


def next_offset(records: list[ConsumerRecord]) -> OffsetAndMetadata:
    """Where the group goes on behind these."""
    return OffsetAndMetadata(records[-1].offset + 1)


def rewind(consumer: Consumer) -> None:
    """Go back to what is committed."""
    for partition, committed in consumer.committed(*consumer.assignment()).items():
        if committed is None:
            consumer.seek_to_beginning(partition)
        else:
            consumer.seek(partition, committed.offset)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
