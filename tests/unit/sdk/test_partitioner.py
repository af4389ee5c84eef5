"""Partitioners: Kafka's default, the sticky one, and those of users."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._errors import ConfigError, InvalidRecordError
from ottla._partitioner import (
    MAX_CACHED_KEY_BYTES,
    ClusterView,
    DefaultPartitioner,
    RoundRobinPartitioner,
    keyed_partition,
    resolve_partitioner,
)
from ottla_protocol.models import PartitionDescription, TopicDescription
from ottla_protocol.partitioning import murmur2, partition_for_key


def topic(name, partitions, leaderless=()):
    described = [
        PartitionDescription(number, None if number in leaderless else 1, 0, [1, 2], [1])
        for number in reversed(range(partitions))
    ]
    return TopicDescription(name, f"id-of-{name}", described, {})


def view(partitions=6, leaderless=()):
    return ClusterView([topic("flights", partitions, leaderless)])


def choose(partitioner, key_bytes, cluster, key=None):
    return partitioner.partition("flights", key or key_bytes, key_bytes, None, b"v", cluster)


class TestClusterView:
    def test_partitions_are_in_order_and_those_with_a_leader_are_available(self):
        cluster = view(3, leaderless={1})
        assert [each.partition for each in cluster.partitions_for_topic("flights")] == [0, 1, 2]
        available = cluster.available_partitions_for_topic("flights")
        assert [each.partition for each in available] == [0, 2]
        assert available[0] == ("flights", 0, 1, (1, 2), (1,))
        assert cluster.topics() == {"flights"}
        assert cluster.partition_count_for_topic("flights") == 3

    def test_an_unknown_topic_is_empty(self):
        assert view().partitions_for_topic("trains") == ()
        assert view().available_partitions_for_topic("trains") == ()
        assert view().partition_count_for_topic("trains") is None

    def test_kafkas_names_work(self):
        cluster = view(3, leaderless={1})
        assert cluster.partitionsForTopic("flights") == cluster.partitions_for_topic("flights")
        assert len(cluster.availablePartitionsForTopic("flights")) == 2
        assert cluster.partitionCountForTopic("flights") == 3


class TestKeys:
    @given(st.binary(max_size=2 * MAX_CACHED_KEY_BYTES), st.integers(1, 100))
    def test_a_key_goes_where_every_client_puts_it(self, key, partitions):
        cluster = view(partitions)
        partitioner = DefaultPartitioner(Random(0))
        expected = partition_for_key(key, partitions)
        assert choose(partitioner, key, cluster) == keyed_partition(key, partitions) == expected

    def test_a_partition_without_a_leader_keeps_its_keys(self):
        everywhere = view(6, leaderless=range(6))
        assert choose(DefaultPartitioner(Random(0)), b"abc", everywhere) == 479470107 % 6

    def test_long_keys_are_not_remembered(self):
        from ottla._partitioner import _cached_partition_for_key

        before = _cached_partition_for_key.cache_info()
        keyed_partition(b"x" * (MAX_CACHED_KEY_BYTES + 1), 7)
        assert _cached_partition_for_key.cache_info() == before

    def test_an_unknown_topic_is_an_error(self):
        with pytest.raises(InvalidRecordError, match="flights"):
            choose(DefaultPartitioner(Random(0)), b"key", ClusterView([]))
        with pytest.raises(InvalidRecordError, match="flights"):
            choose(DefaultPartitioner(Random(0)), None, ClusterView([]))


class TestSticky:
    def test_it_sticks_until_a_new_batch_and_then_moves(self):
        partitioner = DefaultPartitioner(Random(0))
        cluster = view()
        stuck = {choose(partitioner, None, cluster) for _ in range(20)}
        assert len(stuck) == 1
        [previous] = stuck
        assert partitioner.on_new_batch("flights", cluster, previous) != previous
        assert choose(partitioner, None, cluster) != previous

    def test_only_the_batch_of_the_current_partition_moves_it(self):
        partitioner = DefaultPartitioner(Random(0))
        cluster = view()
        current = choose(partitioner, None, cluster)
        other = (current + 1) % 6
        assert partitioner.on_new_batch("flights", cluster, other) == current

    def test_all_partitions_get_their_share(self):
        partitioner = DefaultPartitioner(Random(0))
        cluster = view()
        chosen = [choose(partitioner, None, cluster)]
        for _ in range(600):
            chosen.append(partitioner.on_new_batch("flights", cluster, chosen[-1]))
        assert all(50 < chosen.count(number) < 150 for number in range(6))

    def test_partitions_without_a_leader_are_avoided(self):
        partitioner = DefaultPartitioner(Random(0))
        cluster = view(3, leaderless={0, 2})
        assert choose(partitioner, None, cluster) == 1
        assert partitioner.on_new_batch("flights", cluster, 1) == 1

    def test_with_no_leader_at_all_there_is_still_a_partition(self):
        everywhere = view(3, leaderless=range(3))
        assert choose(DefaultPartitioner(Random(0)), None, everywhere) in range(3)

    def test_a_topic_made_anew_with_fewer_partitions_is_noticed(self):
        partitioner = DefaultPartitioner(Random(0))
        for _ in range(30):
            choose(partitioner, None, view(100))
            assert choose(partitioner, None, view(1)) == 0

    def test_topics_stick_on_their_own(self):
        cluster = ClusterView([topic("flights", 1), topic("trains", 50)])
        partitioner = DefaultPartitioner(Random(1))
        assert choose(partitioner, None, cluster) == 0
        assert partitioner.sticky_partition("trains", cluster) > 0


def test_round_robin_takes_every_partition_in_turn_whatever_the_key():
    partitioner = RoundRobinPartitioner()
    cluster = view(4, leaderless={2})
    assert [choose(partitioner, b"key", cluster) for _ in range(6)] == [0, 1, 3, 0, 1, 3]


class BananaPartitioner:
    """The well-known example: one customer is so large that it gets a partition of its own."""

    def configure(self, options):
        self.options = options

    def partition(self, topic, key, key_bytes, value, value_bytes, cluster):
        partitions = cluster.partitions_for_topic(topic)
        if key_bytes is None or not isinstance(key, str):
            raise InvalidRecordError("We expect all messages to have customer name as key")
        if key == "Banana":
            return 0
        return abs(murmur2(key_bytes)) % (len(partitions) - 1) + 1

    def close(self):
        self.closed = True


class TestCustom:
    def partition(self, spec, key, cluster=None):
        partitioner = resolve_partitioner(spec, random=Random(0))
        encoded = None if key is None else key.encode()
        return choose(partitioner, encoded, cluster or view(), key)

    @pytest.mark.parametrize("spec", [BananaPartitioner, BananaPartitioner()])
    def test_one_key_has_a_partition_of_its_own_and_no_key_is_an_error(self, spec):
        assert self.partition(spec, "Banana") == 0
        others = {self.partition(spec, f"customer-{number}") for number in range(200)}
        assert others == {1, 2, 3, 4, 5}
        with pytest.raises(InvalidRecordError, match="customer name as key"):
            self.partition(spec, None)

    def test_a_function_sees_all_of_the_record(self):
        seen = []

        def function(*arguments):
            seen.append(arguments)
            return 3

        cluster = view()
        partitioner = resolve_partitioner(function, random=Random(0))
        assert partitioner.partition("flights", "k", b"k", {"v": 1}, b"v", cluster) == 3
        assert seen == [("flights", "k", b"k", {"v": 1}, b"v", cluster)]

    def test_configure_gets_the_options_and_close_is_passed_on(self):
        banana = BananaPartitioner()
        partitioner = resolve_partitioner(banana, random=Random(0), options={"client_id": "a"})
        assert banana.options == {"client_id": "a"}
        partitioner.close()
        assert banana.closed

    @pytest.mark.parametrize("chosen", [-1, 6, 1.0, True, None, "0"])
    def test_a_partition_that_is_none_is_an_error(self, chosen):
        with pytest.raises(InvalidRecordError, match="partitions 0 to 5"):
            self.partition(lambda *arguments: chosen, "key")

    def test_what_it_raises_passes_through(self):
        def fails(*arguments):
            raise KeyError("customer")

        with pytest.raises(KeyError, match="customer"):
            self.partition(fails, "key")

    @pytest.mark.parametrize(
        ("spec", "kind"),
        [
            (None, DefaultPartitioner),
            ("default", DefaultPartitioner),
            ("round_robin", RoundRobinPartitioner),
            ("org.apache.kafka.clients.producer.RoundRobinPartitioner", RoundRobinPartitioner),
            (RoundRobinPartitioner, RoundRobinPartitioner),
        ],
    )
    def test_the_ones_that_are_there_have_names(self, spec, kind):
        assert type(resolve_partitioner(spec, random=Random(0))) is kind

    @pytest.mark.parametrize("spec", ["random", 5, object()])
    def test_what_is_no_partitioner_is_refused(self, spec):
        with pytest.raises(ConfigError, match="partitioner"):
            resolve_partitioner(spec, random=Random(0))
