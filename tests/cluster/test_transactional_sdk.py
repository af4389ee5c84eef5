"""The transactions of the SDK against real brokers: committed, aborted, fenced, too slow, torn."""

from itertools import count

import pytest

from ottla import (
    Consumer,
    ConsumerGroupMetadata,
    OffsetAndMetadata,
    Producer,
    ProducerFencedError,
    TopicPartition,
    TransactionAbortableError,
    aio,
)
from tests.cluster.awaiting import eventually
from tests.cluster.committed_reads import committed_values

pytestmark = pytest.mark.cluster

PARTITIONS = 3
WAIT_S = 60
SLOW_MS = 3_000
"""Time for a batch to be stored in, on a machine that stands still for a moment."""

_numbers = count(1)


def urls(client):
    return [client.url(node_id) for node_id in client.node_ids]


@pytest.fixture
def accounts(shared):
    """The name of a fresh topic with PARTITIONS partitions."""
    return with_accounts(shared)


@pytest.fixture
def transactional_id():
    return f"teller-{next(_numbers)}"


def with_accounts(client):
    name = f"accounts-{next(_numbers)}"
    client.create_topic(name, partitions=PARTITIONS, replication_factor=3)
    client.wait_led(name, partitions=PARTITIONS)
    return name


def producer_of(client, transactional_id, **options):
    producer = Producer(urls(client), transactional_id=transactional_id, **options)
    producer.init_transactions(timeout=WAIT_S)
    return producer


def test_all_partitions_show_a_transaction_or_none_does(shared, accounts, transactional_id):
    with producer_of(shared, transactional_id) as producer:
        for number in range(20):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.send(accounts, b"%d" % number, partition=partition)
            if number % 3:
                producer.commit_transaction(timeout=WAIT_S)
            else:
                producer.flush()
                producer.abort_transaction(timeout=WAIT_S)
    wanted = [str(number) for number in range(20) if number % 3]
    # Markers follow the answer.
    eventually(lambda: committed_values(shared, accounts) == [wanted] * PARTITIONS, WAIT_S)


async def test_asyncio_does_the_same(shared, accounts, transactional_id):
    async with aio.Producer(urls(shared), transactional_id=transactional_id) as producer:
        await producer.init_transactions(timeout=WAIT_S)
        for number in range(5):
            async with producer.transaction(timeout=WAIT_S):
                await producer.send_many(accounts, [b"%d" % number] * 10, partition=0)
    async with aio.Consumer(
        bootstrap_servers=urls(shared), isolation_level="read_committed"
    ) as consumer:
        consumer.assign([TopicPartition(accounts, 0)])
        consumer.seek_to_beginning()
        values = []
        while len(values) < 50:
            for records in (await consumer.poll(timeout=1)).values():
                values += [record.value for record in records]
    assert values == [b"%d" % number for number in range(5) for _ in range(10)]


def test_a_second_producer_fences_the_first(shared, accounts, transactional_id):
    with (
        producer_of(shared, transactional_id) as first,
        Producer(urls(shared), transactional_id=transactional_id) as second,
    ):
        first.begin_transaction()
        first.send(accounts, b"first", partition=0).get(timeout=WAIT_S)
        second.init_transactions(timeout=WAIT_S)
        with pytest.raises(ProducerFencedError):
            first.commit_transaction(timeout=WAIT_S)
        with pytest.raises(ProducerFencedError):
            first.begin_transaction()
        with second.transaction(timeout=WAIT_S):
            second.send(accounts, b"second", partition=0)
    eventually(lambda: committed_values(shared, accounts)[0] == ["second"], WAIT_S)


def test_one_that_was_too_slow_aborts_and_goes_on(shared, accounts, transactional_id):
    with producer_of(shared, transactional_id, transaction_timeout_ms=SLOW_MS) as producer:
        producer.begin_transaction()
        producer.send(accounts, b"slow", partition=0).get(timeout=WAIT_S)
        url = f"{shared.any_url()}/v1/transactions/{transactional_id}"
        eventually(lambda: shared.http.get(url).document["state"] == "CompleteAbort", WAIT_S)
        with pytest.raises(TransactionAbortableError):
            producer.commit_transaction(timeout=WAIT_S)
        producer.abort_transaction(timeout=WAIT_S)
    with (
        producer_of(shared, transactional_id) as producer,
        producer.transaction(timeout=WAIT_S),
    ):
        producer.send(accounts, b"next", partition=0)
    eventually(lambda: committed_values(shared, accounts)[0] == ["next"], WAIT_S)


def test_offsets_are_committed_with_the_records(shared, accounts, transactional_id):
    group = ConsumerGroupMetadata(f"group-of-{transactional_id}")
    first = TopicPartition(accounts, 0)

    def committed():
        with Consumer(
            bootstrap_servers=urls(shared),
            group_id=group.group_id,
            isolation_level="read_committed",
        ) as consumer:
            return consumer.committed(first, timeout=WAIT_S)[first]

    with producer_of(shared, transactional_id) as producer:
        producer.begin_transaction()
        producer.send_offsets_to_transaction({first: 5}, group, timeout=WAIT_S)
        producer.abort_transaction(timeout=WAIT_S)
        assert committed() is None
        with producer.transaction(timeout=WAIT_S):
            producer.send(accounts, b"result", partition=1)
            producer.send_offsets_to_transaction({first: 7}, group, timeout=WAIT_S)
        assert committed() == OffsetAndMetadata(7)


@pytest.mark.timeout(300)
def test_a_broker_that_is_killed_tears_no_transaction(start_cluster):
    client = start_cluster(settings={"OTTLA_SESSION_TIMEOUT_MS": "1000"})
    accounts = with_accounts(client)
    wanted = []
    with producer_of(client, "teller", retry_backoff_ms=20) as producer:
        for number in range(30):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.send(accounts, b"%d" % number, partition=partition)
            if number == 10:
                producer.flush(timeout=WAIT_S)
                client.cluster.broker(client.leader(accounts, 0)).kill()
            try:
                producer.commit_transaction(timeout=WAIT_S)
            except TransactionAbortableError:
                producer.abort_transaction(timeout=WAIT_S)
            else:
                wanted.append(str(number))
    assert len(wanted) > 20
    eventually(lambda: committed_values(client, accounts) == [wanted] * PARTITIONS, WAIT_S)
