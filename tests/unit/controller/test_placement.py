from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_cluster.controller.image import BrokerRegistration, BrokerState
from ottla_cluster.controller.placement import BrokerLoad, broker_load, place_partitions
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def brokers(count, racks=1):
    return [
        BrokerRegistration(n, n, "i", f"http://{n}", f"rack{n % racks}", BrokerState.ACTIVE, 0)
        for n in range(1, count + 1)
    ]


def spread(counter, nodes):
    counts = [counter[n] for n in nodes]
    return max(counts) - min(counts)


@st.composite
def topics(draw):
    count = draw(st.integers(1, 9))
    return count, draw(st.integers(1, min(count, 5))), draw(st.integers(1, 40))


@given(topics(), st.integers(0, 2**32))
def test_a_topic_is_even_in_itself(topic, seed):
    """Replicas and preferred leaders per broker differ by at most one."""
    count, replication_factor, partitions = topic
    placed = place_partitions(
        brokers(count), partitions, replication_factor, BrokerLoad(), Random(seed)
    )
    assert len(placed) == partitions
    for replicas in placed:
        assert len(set(replicas)) == len(replicas) == replication_factor
    nodes = range(1, count + 1)
    assert spread(Counter(n for replicas in placed for n in replicas), nodes) <= 1
    assert spread(Counter(replicas[0] for replicas in placed), nodes) <= 1


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**32))
def test_replicas_are_on_as_many_racks_as_there_are(per_rack, rack_count, partitions, seed):
    replication_factor = min(3, per_rack * rack_count)
    candidates = brokers(per_rack * rack_count, rack_count)
    racks = {broker.node_id: broker.rack for broker in candidates}
    for replicas in place_partitions(
        candidates, partitions, replication_factor, BrokerLoad(), Random(seed)
    ):
        assert len({racks[n] for n in replicas}) == min(rack_count, replication_factor)


def load_of_placed(placed):
    replicas = Counter(n for each in placed for n in each)
    return BrokerLoad(replicas, Counter(each[0] for each in placed))


@pytest.mark.parametrize("rack_count", [1, 2, 3, 4])
def test_new_and_grown_topics_are_spread_over_racks_brokers_and_leaders(rack_count):
    """Racks come first; what they leave uneven, and what has its place already, bounds the rest."""
    for seed in range(150):
        random = Random(1_000 * rack_count + seed)
        count = rack_count * random.randint(1, 4)
        factor = random.randint(1, min(5, count))
        candidates, nodes = brokers(count, rack_count), range(1, count + 1)
        racks = {broker.node_id: broker.rack for broker in candidates}
        new = place_partitions(candidates, random.randint(1, 40), factor, BrokerLoad(), random)
        assert spread(load_of_placed(new).leaders, nodes) <= 1
        assert spread(load_of_placed(new).replicas, nodes) <= (1 if rack_count == 1 else 2)
        before = load_of_placed(new)
        added = place_partitions(
            candidates, random.randint(1, 30), factor, before, random, of_topic=before
        )
        grown = load_of_placed(new + added)
        assert spread(grown.leaders, nodes) <= 3
        assert spread(grown.replicas, nodes) <= (1 if rack_count == 1 else 2)
        for replicas in new + added:
            assert len({racks[n] for n in replicas}) == min(rack_count, factor)


def test_what_cannot_be_even_goes_where_there_is_room():
    load = BrokerLoad(replicas={1: 10, 2: 10}, leaders={1: 10})
    for seed in range(20):
        assert place_partitions(brokers(3), 1, 1, load, Random(seed)) == ((3,),)
        assert place_partitions(brokers(2), 1, 2, load, Random(seed)) == ((2, 1),)


def test_the_partitions_of_one_leader_have_several_successors():
    placed = place_partitions(brokers(5), 100, 2, BrokerLoad(), Random(7))
    for node_id in range(1, 6):
        assert len({replicas[1] for replicas in placed if replicas[0] == node_id}) >= 3


def test_the_same_seed_places_alike():
    first = place_partitions(brokers(5), 30, 3, BrokerLoad(), Random(3))
    assert first == place_partitions(brokers(5), 30, 3, BrokerLoad(), Random(3))
    assert first != place_partitions(brokers(5), 30, 3, BrokerLoad(), Random(4))


def test_more_replicas_than_brokers_is_a_programmer_error():
    with pytest.raises(AssertionError):
        place_partitions(brokers(2), 1, 3, BrokerLoad(), Random(1))


def test_load_counts_replicas_and_preferred_leaders():
    metadata = MetadataUnderTest()
    metadata.create("a", partitions=3, replication_factor=1)
    metadata.create("b", partitions=3, replication_factor=3)
    assert broker_load(metadata.image) == BrokerLoad(
        replicas={1: 4, 2: 4, 3: 4}, leaders={1: 2, 2: 2, 3: 2}
    )
