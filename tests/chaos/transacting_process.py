"""Clients with transactions: `python -m tests.chaos.transacting_process ROLE BOOTSTRAP NAME ...`.

    transfer BOOTSTRAP NAME SEED JOURNAL ID...     one client for each transactional id
    transform BOOTSTRAP NAME JOURNAL ID...

`transfer` moves money between accounts, which lie in different partitions: all legs of a transfer
are one transaction, and now and then it is thought better of. `transform` writes an invoice for
each order that it reads as a member of a group; its position and the invoices are one transaction.
Each client is a thread with a producer of its own; the journal is written at once and unbuffered,
so that it tells what happened until the very moment of a SIGKILL:

    began ID, committed ID, aborted ID, unknown ID    a transfer
    took SPAN TIME WHO                                a transformer was given these orders
    turned COUNT TIME WHO                             a transaction of a transformer is committed
    retried CODE NAME                                 one that was not
    holds NAME                                        the client has its transactional id
    fenced NAME                                       somebody else holds the transactional id

It ends with 0 when it is told to by SIGTERM, and with FENCED where a client of it was fenced.
"""

import json
import os
import random
import signal
import sys
import threading
import time

from ottla import Consumer, OffsetAndMetadata, Producer, ProducerFencedError
from ottla_protocol.errors import OttlaError

ACCOUNTS_TOPIC = "accounts"
ORDERS_TOPIC = "orders"
INVOICES_TOPIC = "invoices"
GROUP = "billing"
PARTITIONS = 6
ACCOUNTS = 60
"""Account n is in partition n % PARTITIONS."""

TRANSACTION_TIMEOUT_MS = 5_000
SESSION_TIMEOUT_MS = 3_000
LEGS_MAX = 5
ABORTED_SHARE = 0.1
CHANGE_MAX = 100
MAX_POLL_RECORDS = 20
POLL_S = 0.5
THINK_S = 0.05
SETTLE_TIMEOUT_S = 60.0
"""How long a client tries to find out how its transaction ended."""
RETRY_S = 0.1
FENCED = 3


class Journal:
    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words):
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())


class Client(threading.Thread):
    """One client; `failure` is what ended it against its will."""

    def __init__(self, bootstrap, transactional_id, journal, ending):
        super().__init__(name=transactional_id)
        self.failure = None
        self.is_fenced = False
        self.transactional_id = transactional_id
        self.bootstrap = bootstrap
        self.journal = journal
        self.ending = ending

    def run(self):
        try:
            while not self.ending.is_set():
                self._live()
        except ProducerFencedError:
            self.is_fenced = True
            self.journal.write("fenced", self.transactional_id)
        except Exception as error:
            self.failure = error

    def _live(self):
        """Work with one producer until told to end, or until only another one can go on."""
        with Producer(
            bootstrap_servers=self.bootstrap,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            key_serializer="string",
            value_serializer="json",
            request_timeout_ms=5_000,
        ) as producer:
            self._until_answered(producer.init_transactions)
            self.journal.write("holds", self.transactional_id)
            self.work(producer)

    def _until_answered(self, call):
        """Call until there is an answer; what may be tried again is, until it is time to end."""
        give_up_s = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            try:
                return call()
            except OttlaError as error:
                if not error.retriable or time.monotonic() > give_up_s:
                    raise
            time.sleep(RETRY_S)

    def commit(self, producer):
        """Commit, or abort what cannot be committed; whether it was committed, None if unknown.

        Raises:
            ProducerFencedError: somebody else holds the transactional id.
        """
        try:
            self._until_answered(producer.commit_transaction)
        except ProducerFencedError:
            raise
        except OttlaError as error:
            self.journal.write("retried", error.code, self.transactional_id)
        else:
            return True
        return self.abort(producer)

    def abort(self, producer):
        """Abort; False once it is aborted, None where it is not known how it ended."""
        try:
            self._until_answered(producer.abort_transaction)
        except ProducerFencedError:
            raise
        except OttlaError as error:
            self.journal.write("retried", error.code, self.transactional_id)
            return None
        return False

    def work(self, producer):
        raise NotImplementedError


class Transferrer(Client):
    """Moves money about."""

    def __init__(self, *arguments, name, numbers):
        super().__init__(*arguments)
        self._prefix = f"{name}/{self.transactional_id}"
        self._numbers = numbers
        self._count = 0

    def work(self, producer):
        while not self.ending.is_set():
            self._count += 1
            transfer = f"{self._prefix}/{self._count}"
            is_committed = self._transfer(producer, transfer)
            if is_committed is None:
                self.journal.write("unknown", transfer)
                return
            self.journal.write("committed" if is_committed else "aborted", transfer)
            time.sleep(self._numbers.uniform(0, THINK_S))

    def _transfer(self, producer, transfer):
        self.journal.write("began", transfer)
        accounts = self._numbers.sample(range(ACCOUNTS), self._numbers.randint(2, LEGS_MAX))
        changes = [self._numbers.randint(1, CHANGE_MAX) for _ in accounts[1:]]
        changes.append(-sum(changes))
        producer.begin_transaction()
        try:
            for leg, (account, change) in enumerate(zip(accounts, changes, strict=True)):
                value = {"transfer": transfer, "leg": leg, "legs": len(changes), "change": change}
                producer.send(
                    ACCOUNTS_TOPIC, value, key=str(account), partition=account % PARTITIONS
                )
            if self._numbers.random() < ABORTED_SHARE:
                producer.flush()
                return self.abort(producer)
        except ProducerFencedError:
            raise
        except OttlaError as error:
            self.journal.write("retried", error.code, self.transactional_id)
            return self.abort(producer)
        return self.commit(producer)


class Transformer(Client):
    """Reads orders and writes invoices."""

    def work(self, producer):
        with Consumer(
            bootstrap_servers=self.bootstrap,
            group_id=GROUP,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_records=MAX_POLL_RECORDS,
        ) as consumer:
            consumer.subscribe([ORDERS_TOPIC])
            while not self.ending.is_set():
                try:
                    polled = consumer.poll(POLL_S)
                except OttlaError as error:
                    if not error.retriable:
                        raise
                    continue
                if polled and not self._turn(producer, consumer, polled):
                    # Its positions are ahead of what is committed: another consumer begins anew.
                    return

    def _by(self, consumer):
        """Who turns an order, for whoever finds two invoices."""
        as_member = consumer.consumer_group_metadata()
        return f"{self.transactional_id} as {as_member.member_id} in {as_member.generation}"

    def _turn(self, producer, consumer, polled):
        """One transaction; False where it did not come to be."""
        for name, records in polled.items():
            span = f"{name.partition}@{records[0].offset}-{records[-1].offset}"
            self.journal.write("took", span, time.monotonic_ns(), self._by(consumer))
        producer.begin_transaction()
        try:
            for records in polled.values():
                for record in records:
                    order = f"{record.partition}@{record.offset}"
                    invoice = {"order": order, "by": self._by(consumer)}
                    producer.send(INVOICES_TOPIC, invoice, key=order)
            producer.send_offsets_to_transaction(
                {
                    name: OffsetAndMetadata(records[-1].offset + 1)
                    for name, records in polled.items()
                },
                consumer.consumer_group_metadata(),
            )
        except ProducerFencedError:
            raise
        except OttlaError as error:
            self.journal.write("retried", error.code, self.transactional_id)
            self.abort(producer)
            return False
        is_committed = self.commit(producer)
        if is_committed:
            count = sum(map(len, polled.values()))
            self.journal.write("turned", count, time.monotonic_ns(), self._by(consumer))
        return bool(is_committed)


def main():
    role, bootstrap, name, *rest = sys.argv[1:]
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    if role == "transfer":
        seed, path, *ids = rest
        journal = Journal(path)
        clients = [
            Transferrer(
                bootstrap,
                each,
                journal,
                ending,
                name=name,
                numbers=random.Random(f"{seed}/{name}/{each}"),
            )
            for each in ids
        ]
    else:
        path, *ids = rest
        journal = Journal(path)
        clients = [Transformer(bootstrap, each, journal, ending) for each in ids]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    failures = [repr(client.failure) for client in clients if client.failure is not None]
    if failures:
        print(json.dumps(failures), file=sys.stderr, flush=True)
        sys.exit(1)
    sys.exit(FENCED if any(client.is_fenced for client in clients) else 0)


if __name__ == "__main__":
    main()
