"""When positions are asked for: once the application knows that it has the partition."""

import msgspec
import pytest

from ottla._consumer_config import ConsumerConfig
from ottla._consumer_types import TopicPartition
from ottla._position_lookups import PositionLookups
from ottla._positions import Positions, Start
from ottla_protocol.models_groups import CommittedOffset, CommittedOffsets

A = TopicPartition("t", 0)
NOW_MS = 1_000


@pytest.fixture
def positions():
    return Positions()


@pytest.fixture
def lookups(positions):
    config = ConsumerConfig(bootstrap_servers="http://127.0.0.1:7101", group_id="g")
    return PositionLookups(config, positions)


def test_what_is_assigned_waits_until_the_application_knows(positions, lookups):
    """It may have had the partition before, and commit what it read then in this moment."""
    positions.add([A], is_announced=False)
    assert lookups.next_lookups(NOW_MS) == []
    assert lookups.next_lookup_ms(NOW_MS) is None
    positions.states[A].is_announced = True
    [lookup] = lookups.next_lookups(NOW_MS)
    assert lookup.wanted == ((positions.states[A], positions.states[A].version),)
    assert lookups.next_lookups(NOW_MS) == []


def test_what_was_asked_for_counts_no_more_once_it_is_assigned_anew(positions, lookups):
    positions.add([A], is_announced=False)
    positions.states[A].is_announced = True
    [lookup] = lookups.next_lookups(NOW_MS)
    positions.add([A], is_announced=False)
    body = msgspec.json.encode(CommittedOffsets("g", [CommittedOffset("t", 0, 5, None, "", 0)]))
    lookups.on_answer(lookup, body, NOW_MS)
    state = positions.states[A]
    assert (state.position, state.start) == (None, Start.COMMITTED)
    assert lookups.next_lookups(NOW_MS) == []
