# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""How a program uses the SDK, for type checkers: nothing runs this, `make lint` reads it."""

from typing import assert_type

from ottla import (
    Admin,
    ClusterUnreachableError,
    ClusterView,
    Consumer,
    ConsumerGroupMetadata,
    ConsumerRecord,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    OpenTelemetryInterceptor,
    OttlaError,
    Producer,
    ProducerFencedError,
    RebalanceListener,
    RecordMetadata,
    TopicConfigValue,
    TopicPartition,
    TransactionAbortableError,
    murmur2,
)
from ottla.aio import Admin as AsyncAdmin
from ottla.aio import Consumer as AsyncConsumer
from ottla.aio import Producer as AsyncProducer
from ottla.testing import FakeCluster


def partition_of(
    topic: str,
    key: object,
    key_bytes: bytes | None,
    value: object,
    value_bytes: bytes | None,
    cluster: ClusterView,
) -> int:
    return abs(murmur2(key_bytes or b"")) % len(cluster.partitions_for_topic(topic))


def delivered(error: Exception | None, metadata: RecordMetadata | None) -> None:
    assert error is not None or metadata is not None


def produce() -> None:
    with Producer(
        "127.0.0.1:7101",
        acks="all",
        compression="lz4",
        key_serializer=str.encode,
        value_serializer="json",
        partitioner=partition_of,
        interceptors=[OpenTelemetryInterceptor()],
    ) as producer:
        future = producer.send("flights", {"a": 1}, key="k", on_delivery=delivered)
        assert_type(future.get(timeout=5), RecordMetadata)
        assert_type(future.get(timeout=5).offset, int)
        producer.send_many("flights", [b"a"], keys=[b"k"]).get(timeout=5)
        producer.flush(timeout=5)


def administrate() -> None:
    with Admin.from_config({"bootstrap.servers": "127.0.0.1:7101"}) as admin:
        assert_type(admin.create_topic("flights").partitions[0].leader, int | None)
        assert_type(admin.describe_configs("flights"), dict[str, TopicConfigValue])
        assert_type(admin.offsets("flights", 0, "earliest").offset, int)
        admin.reassign_partitions({("flights", 0): [1, 2], ("flights", 1): None})


async def produce_and_administrate() -> None:
    async with AsyncAdmin("127.0.0.1:7101") as admin, AsyncProducer("127.0.0.1:7101") as producer:
        assert_type((await admin.describe_topic("flights")).name, str)
        assert_type(await (await producer.send("flights", b"")), RecordMetadata)


def transact() -> None:
    with (
        Producer(
            "127.0.0.1:7101", transactional_id="gates-1", transaction_timeout_ms=5_000
        ) as producer,
        Consumer(
            "flights",
            bootstrap_servers="127.0.0.1:7101",
            group_id="gates",
            isolation_level="read_committed",
        ) as consumer,
    ):
        producer.init_transactions(timeout=5)
        with producer.transaction(timeout=5):
            producer.send("gates", b"")
            member = consumer.consumer_group_metadata()
            assert_type(member, ConsumerGroupMetadata)
            producer.send_offsets_to_transaction({TopicPartition("flights", 0): 1}, member)
        try:
            producer.begin_transaction()
            producer.commit_transaction(timeout=5)
        except ProducerFencedError:
            pass
        except TransactionAbortableError:
            producer.abort_transaction(timeout=5)


async def transact_with_asyncio() -> None:
    async with AsyncProducer("127.0.0.1:7101", transactional_id="gates-1") as producer:
        await producer.init_transactions()
        async with producer.transaction():
            await producer.send("gates", b"")
            await producer.send_offsets_to_transaction(
                {TopicPartition("flights", 0): OffsetAndMetadata(1)}, ConsumerGroupMetadata("gates")
            )


def catch(producer: Producer) -> None:
    try:
        producer.flush()
    except ClusterUnreachableError as error:
        assert_type(error.reasons, dict[str, str])
    except OttlaError as error:
        assert_type((error.code, error.retriable), tuple[str, bool])


def look_into(cluster: FakeCluster) -> None:
    assert_type(cluster.records("flights")[0].value, bytes | None)


# What must not pass: each line is an error, or this comment is one.
Producer("127.0.0.1:7101", acks=2)  # pyright: ignore[reportArgumentType]
Admin("127.0.0.1:7101", clientid="x")  # pyright: ignore[reportCallIssue]


class Listener(RebalanceListener):
    def on_partitions_revoked(self, partitions: set[TopicPartition]) -> None:
        print(partitions)


def committed(error: OttlaError | None, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
    assert error is None or offsets


def consume() -> None:
    with Consumer(
        "flights",
        bootstrap_servers="127.0.0.1:7101",
        group_id="billing",
        auto_offset_reset="earliest",
        value_deserializer="json",
        key_deserializer=bytes.decode,
        enable_auto_commit=False,
    ) as consumer:
        partition = TopicPartition("flights", 0)
        consumer.subscribe(["flights"], listener=Listener())
        assert_type(consumer.poll(timeout=1), dict[TopicPartition, list[ConsumerRecord]])
        for record in consumer:
            assert_type(record, ConsumerRecord)
            consumer.commit(record)
        consumer.commit_async({partition: 5}, committed)
        consumer.seek(partition, 0)
        assert_type(consumer.position(partition), int)
        assert_type(consumer.committed(partition), dict[TopicPartition, OffsetAndMetadata | None])
        assert_type(
            consumer.offsets_for_times({partition: 0}),
            dict[TopicPartition, OffsetAndTimestamp | None],
        )
        consumer.pause(partition)


async def consume_with_asyncio() -> None:
    async with AsyncConsumer(bootstrap_servers=["127.0.0.1:7101"]) as consumer:
        consumer.assign([("flights", 0)])
        async for record in consumer:
            assert_type(record, ConsumerRecord)
        assert_type(await consumer.end_offsets([("flights", 0)]), dict[TopicPartition, int])
