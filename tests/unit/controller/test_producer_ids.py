from dataclasses import replace

import pytest

from ottla_cluster.controller.commands import AllocateProducerIds
from ottla_cluster.controller.limits import MAX_PRODUCER_ID, PRODUCER_ID_BLOCK_SIZE
from ottla_cluster.controller.records import ProducerIdsAllocated
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import InvalidRequestError, StaleBrokerEpochError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def allocate(metadata, node_id):
    response = metadata.apply(AllocateProducerIds(node_id, metadata.epoch(node_id)))
    return range(response.first_producer_id, response.first_producer_id + response.count)


def test_blocks_follow_one_another_whoever_takes_them(metadata):
    blocks = [allocate(metadata, node_id) for node_id in (1, 2, 1, 3)]
    taken = [producer_id for block in blocks for producer_id in block]
    assert taken == list(range(4 * PRODUCER_ID_BLOCK_SIZE))
    assert metadata.image.next_producer_id == len(taken)
    assert metadata.last_records == (ProducerIdsAllocated(3, metadata.epoch(3), len(taken)),)


def test_a_restarted_broker_gets_another_block(metadata):
    before = allocate(metadata, 1)
    metadata.restart(1, "second")
    assert not set(before) & set(allocate(metadata, 1))


def test_a_former_incarnation_gets_none(metadata):
    former = metadata.epoch(1)
    metadata.restart(1, "second")
    with pytest.raises(StaleBrokerEpochError):
        metadata.apply(AllocateProducerIds(1, former))
    assert metadata.image.next_producer_id == 0


def test_the_next_block_survives_a_snapshot(metadata):
    allocate(metadata, 1)
    metadata.image = decode_image(encode_image(metadata.image))
    assert allocate(metadata, 2).start == PRODUCER_ID_BLOCK_SIZE


def test_ids_that_a_record_batch_cannot_hold_are_not_given(metadata):
    last = MAX_PRODUCER_ID - PRODUCER_ID_BLOCK_SIZE
    metadata.image = replace(metadata.image, next_producer_id=last)
    assert allocate(metadata, 1)[-1] < MAX_PRODUCER_ID
    with pytest.raises(InvalidRequestError, match="No producer id"):
        allocate(metadata, 1)


def test_an_id_given_twice_is_a_programmer_error(metadata):
    allocate(metadata, 1)
    with pytest.raises(AssertionError):
        replay(metadata.image, metadata.last_records, metadata.image.version + 1)
