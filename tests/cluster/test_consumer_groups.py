"""What consumer groups promise, in plain words, shown with the SDK on real brokers."""

import asyncio
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from itertools import count

import pytest

from ottla import (
    CommitFailedError,
    Consumer,
    OffsetAndMetadata,
    Producer,
    RebalanceListener,
    TopicPartition,
    aio,
)
from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

POLL_S = 0.02
_numbers = count(1)


def urls(client):
    return [client.url(node_id) for node_id in client.node_ids]


class Group:
    """Some consumers of one group, polled in turn, and what each of them was handed."""

    def __init__(self, client, name=None, **options):
        self.client = client
        self.name = name or f"consumers-{next(_numbers)}"
        self.options = {"auto_offset_reset": "earliest", **options}
        self.consumers = {}
        self.handed = {}
        self.open = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open.close()

    def join(self, who, *topics, **options):
        consumer = Consumer(
            *topics,
            bootstrap_servers=urls(self.client),
            group_id=self.name,
            **self.options | options,
        )
        self.consumers[who] = self.open.enter_context(consumer)
        self.handed.setdefault(who, [])
        return consumer

    def leave(self, who):
        """Closes a consumer; records count as finished with when the next poll begins."""
        self.poll()
        self.consumers.pop(who).close()

    def poll(self):
        for who, consumer in self.consumers.items():
            for records in consumer.poll(POLL_S).values():
                self.handed[who].extend(records)

    def poll_until(self, condition, timeout_s=15.0):
        def polled():
            self.poll()
            return condition()

        eventually(polled, timeout_s)

    def owned(self, who):
        return {each.partition for each in self.consumers[who].assignment()}

    def has_settled(self, *counts):
        """Whether the consumers have as many partitions as said, and no two the same."""
        owned = [self.owned(who) for who in self.consumers]
        assert not len(owned) > 1 or sum(map(len, owned)) == len(set().union(*owned))
        return sorted(map(len, owned)) == sorted(counts)

    def values(self, who=None):
        everybody = self.handed.values() if who is None else [self.handed[who]]
        return sorted(int(record.value) for records in everybody for record in records)


@pytest.fixture
def make_topic(shared):
    def make(partitions):
        name = f"flights-{next(_numbers)}"
        shared.create_topic(name, partitions=partitions, replication_factor=3)
        shared.wait_led(name, partitions=partitions)
        return name

    return make


def produce(client, topic, numbers, partitions):
    with Producer(urls(client)) as producer:
        for number in numbers:
            producer.send(topic, str(number).encode(), partition=number % partitions)


# --- the classic rules ----------------------------------------------------------------------


def test_one_consumer_may_have_several_partitions(shared, make_topic):
    topic = make_topic(3)
    produce(shared, topic, range(30), 3)
    with Group(shared) as group:
        group.join("alone", topic)
        group.poll_until(lambda: group.values() == list(range(30)))
        assert group.owned("alone") == {0, 1, 2}


def test_one_partition_has_at_most_one_consumer_of_a_group(shared, make_topic):
    topic = make_topic(6)
    with Group(shared) as group:
        for who in "abc":
            group.join(who, topic)
        group.poll_until(lambda: group.has_settled(2, 2, 2))
        produce(shared, topic, range(120), 6)
        group.poll_until(lambda: len(group.values()) >= 120)
        assert group.values() == list(range(120)), "every record is read once"
        for who in "abc":
            assert {record.partition for record in group.handed[who]} == group.owned(who)


def test_four_consumers_on_three_partitions_leave_one_idle(shared, make_topic):
    topic = make_topic(3)
    with Group(shared) as group:
        for who in "abcd":
            group.join(who, topic)
        group.poll_until(lambda: group.has_settled(0, 1, 1, 1))
        produce(shared, topic, range(30), 3)
        group.poll_until(lambda: group.values() == list(range(30)))
        (idle,) = (who for who in "abcd" if not group.owned(who))
        assert group.values(idle) == []

        busy = next(who for who in "abcd" if group.owned(who))
        group.leave(busy)
        group.poll_until(lambda: group.owned(idle))


def test_two_groups_read_everything_independently(shared, make_topic):
    topic = make_topic(2)
    produce(shared, topic, range(20), 2)
    with Group(shared) as billing, Group(shared) as shipping:
        billing.join("b", topic)
        shipping.join("s", topic)
        billing.poll_until(lambda: billing.values() == list(range(20)))
        shipping.poll_until(lambda: shipping.values() == list(range(20)))


def test_partitions_of_a_consumer_that_leaves_are_taken_over_at_once(shared, make_topic):
    topic = make_topic(4)
    produce(shared, topic, range(40), 4)
    with Group(shared, session_timeout_ms=60_000) as group:
        group.join("stays", topic)
        group.join("goes", topic)
        group.poll_until(lambda: group.has_settled(2, 2) and len(group.values()) == 40)
        group.leave("goes")
        # Far less than a session: it was told, and did not wait for silence.
        group.poll_until(lambda: len(group.owned("stays")) == 4, timeout_s=20)
        produce(shared, topic, range(40, 80), 4)
        group.poll_until(lambda: group.values() == list(range(80)))


def test_a_restarted_consumer_goes_on_where_it_was(shared, make_topic):
    topic = make_topic(2)
    produce(shared, topic, range(20), 2)
    with Group(shared) as group:
        group.join("first", topic)
        group.poll_until(lambda: len(group.values()) == 20)
        group.leave("first")
        produce(shared, topic, range(20, 30), 2)
        group.join("second", topic)
        group.poll_until(lambda: len(group.values()) >= 30)
        assert group.values("second") == list(range(20, 30))


# --- ends that nobody announced -------------------------------------------------------------


def test_a_killed_consumer_is_replaced_after_its_session(shared, make_topic):
    topic = make_topic(2)
    script = textwrap.dedent(
        """
        import sys
        from ottla import Consumer
        group, topic, *servers = sys.argv[1:]
        with Consumer(topic, bootstrap_servers=servers, group_id=group,
                      session_timeout_ms=2000, auto_offset_reset="earliest") as consumer:
            while True:
                consumer.poll(0.1)
                print(len(consumer.assignment()), flush=True)
        """
    )
    with Group(shared, session_timeout_ms=60_000) as group:
        victim = subprocess.Popen(
            [sys.executable, "-c", script, group.name, topic, *urls(shared)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert victim.stdout is not None
            while victim.stdout.readline().strip() != "2":
                pass
            group.join("stays", topic)
            group.poll_until(lambda: len(group.owned("stays")) == 1)
        finally:
            victim.kill()
            victim.communicate()
        # The victim's own session, far below that of those who stay.
        group.poll_until(lambda: len(group.owned("stays")) == 2, timeout_s=20)


def test_consumers_go_on_when_their_coordinator_dies(start_cluster):
    client = start_cluster()
    client.create_topic("flights", partitions=4, replication_factor=3)
    client.wait_led("flights", partitions=4)
    with Group(client, session_timeout_ms=10_000) as group:
        group.join("a", "flights")
        group.join("b", "flights")
        group.poll_until(lambda: group.has_settled(2, 2))
        before = {who: group.owned(who) for who in "ab"}
        produce(client, "flights", range(40), 4)
        group.poll_until(lambda: group.values() == list(range(40)))

        path = f"{routes.GROUPS}/{group.name}"
        coordinator = client.http.get(client.any_url() + path).expect(200).document["coordinator"]
        client.cluster.broker(coordinator).kill()

        produce(client, "flights", range(40, 80), 4)
        group.poll_until(lambda: set(group.values()) == set(range(80)), timeout_s=40)
        assert {who: group.owned(who) for who in "ab"} == before, "nobody had to move"
        for who in "ab":
            group.consumers[who].commit(timeout=20)


def test_a_consumer_that_works_for_too_long_is_replaced(shared, make_topic):
    topic = make_topic(1)
    produce(shared, topic, range(3), 1)
    with Group(shared, enable_auto_commit=False) as group:
        slow = group.join("slow", topic, max_poll_interval_ms=1_500, max_poll_records=1)
        group.poll_until(lambda: group.values("slow") == [0])
        group.consumers.pop("slow")

        group.join("other", topic)
        group.poll_until(lambda: group.values("other") == [0, 1, 2])
        with pytest.raises(CommitFailedError):
            slow.commit({TopicPartition(topic, 0): OffsetAndMetadata(1)}, timeout=10)
        group.consumers["other"].commit()
        group.leave("other")
        group.consumers["slow"] = slow
        produce(shared, topic, [3], 1)
        group.poll_until(lambda: 3 in group.values("slow"))


# --- more -----------------------------------------------------------------------------------


def test_only_partitions_that_move_stop(shared, make_topic):
    topic = make_topic(4)

    class Listener(RebalanceListener):
        def __init__(self):
            self.told = []

        def on_partitions_assigned(self, partitions):
            self.told.append(("assigned", {each.partition for each in partitions}))

        def on_partitions_revoked(self, partitions):
            self.told.append(("revoked", {each.partition for each in partitions}))

    listener = Listener()
    with Group(shared) as group:
        first = group.join("first")
        first.subscribe([topic], listener=listener)
        group.poll_until(lambda: len(group.owned("first")) == 4)
        group.join("second", topic)
        group.poll_until(lambda: group.has_settled(2, 2))
        assert listener.told == [("assigned", {0, 1, 2, 3}), ("revoked", group.owned("second"))]


def test_a_static_consumer_restarts_without_a_rebalance(shared, make_topic):
    topic = make_topic(4)
    with Group(shared) as group:
        group.join("stays", topic)
        group.join("till", topic, group_instance_id="till-1")
        group.poll_until(lambda: group.has_settled(2, 2))
        before = {who: group.owned(who) for who in ("stays", "till")}
        group.leave("till")
        group.join("till", topic, group_instance_id="till-1")
        group.poll_until(lambda: group.owned("till"))
        assert {who: group.owned(who) for who in ("stays", "till")} == before


def test_topics_that_match_are_read_when_they_come(shared):
    prefix = f"matching-{next(_numbers)}"
    with Group(shared) as group:
        group.join("reader").subscribe(pattern=f"{prefix}-.*")
        group.poll()
        for number in range(2):
            shared.create_topic(f"{prefix}-{number}", partitions=1, replication_factor=3)
            shared.wait_led(f"{prefix}-{number}")
            produce(shared, f"{prefix}-{number}", [number], 1)
        group.poll_until(lambda: group.values() == [0, 1])


def test_commits_keep_metadata_and_are_read_by_others(shared, make_topic):
    topic = make_topic(1)
    produce(shared, topic, range(5), 1)
    partition = TopicPartition(topic, 0)
    with Group(shared, enable_auto_commit=False) as group:
        first = group.join("first", topic)
        group.poll_until(lambda: len(group.values()) == 5)
        first.commit({partition: OffsetAndMetadata(3, "half way")})
        group.leave("first")
        second = group.join("second", topic)
        assert second.committed(partition)[partition].metadata == "half way"
        group.poll_until(lambda: group.values("second") == [3, 4])


async def test_asyncio_consumers_share_too(shared, make_topic):
    topic = make_topic(2)
    name = f"consumers-{next(_numbers)}"
    seen = set()
    is_done = asyncio.Event()

    async def read(consumer):
        async for record in consumer:
            seen.add(int(record.value))
            if len(seen) == 20:
                is_done.set()

    async with (
        aio.Consumer(
            topic, bootstrap_servers=urls(shared), group_id=name, auto_offset_reset="earliest"
        ) as first,
        aio.Consumer(
            topic, bootstrap_servers=urls(shared), group_id=name, auto_offset_reset="earliest"
        ) as second,
    ):
        while not (first.assignment() and second.assignment()):
            await first.poll(POLL_S)
            await second.poll(POLL_S)
        produce(shared, topic, range(20), 2)
        readers = [asyncio.ensure_future(read(each)) for each in (first, second)]
        async with asyncio.timeout(20):
            await is_done.wait()
        for each in readers:
            each.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
