"""What a client is told of a topic's partitions."""

from types import SimpleNamespace

from ottla_broker.services.topics import TopicService, describe
from ottla_cluster.controller.commands import AlterReassignments, Reassignment
from ottla_protocol.models import AddPartitionsRequest
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def test_what_a_reassignment_adds_is_told_from_what_was_there():
    metadata = MetadataUnderTest()
    (only,) = metadata.create(replication_factor=1).partitions[0].replicas
    (told,) = describe(metadata.image.topic("orders")).partitions
    assert (told.replicas, told.adding_replicas) == ([only], [])
    added = [node_id for node_id in (1, 2, 3) if node_id != only]
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (only, *added)),)))
    (told,) = describe(metadata.image.topic("orders")).partitions
    assert (told.replicas, told.adding_replicas) == ([only, *added], added)


async def test_more_partitions_do_not_hide_what_is_added_to_the_first():
    metadata = MetadataUnderTest()
    (only,) = metadata.create(replication_factor=1).partitions[0].replicas
    added = next(node_id for node_id in (1, 2, 3) if node_id != only)
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (only, added)),)))

    async def change(command, **_):
        return metadata.apply(command)

    service = TopicService(
        metadata=metadata, controller=None, commands=SimpleNamespace(change=change), raft=None
    )
    told = await service.add_partitions("orders", AddPartitionsRequest(partitions=2))
    assert [each.adding_replicas for each in told.partitions] == [[added], []]
