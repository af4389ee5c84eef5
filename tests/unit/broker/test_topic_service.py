"""What a broker refuses of the brokers' own topics before it asks the controller."""

from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.commands import AlterTopicConfigs, CreateTopic
from ottla_protocol.errors import InvalidTopicError
from ottla_protocol.models import AddPartitionsRequest, AlterTopicConfigsRequest
from tests.unit.controller.metadata_under_test import MetadataUnderTest

NAME = "__transaction_state"


class Service:
    """The service, with a controller that takes whatever it is asked for."""

    def __init__(self):
        metadata = MetadataUnderTest()
        metadata.apply(CreateTopic(NAME, partitions=1, internal=True))
        self.change = AsyncMock()
        self.topics = TopicService(
            metadata=SimpleNamespace(image=metadata.image),
            controller=None,
            commands=SimpleNamespace(change=self.change),
            raft=None,
        )

    async def alter(self, configs):
        await self.topics.alter_configs(NAME, AlterTopicConfigsRequest(configs))


async def test_configs_of_the_brokers_own_are_refused_whatever_the_controller_would_say():
    service = Service()
    with pytest.raises(InvalidTopicError, match=r"not cleanup\.policy"):
        await service.alter({"min.insync.replicas": 1, "cleanup.policy": "delete"})
    with pytest.raises(InvalidTopicError, match=r"not segment\.bytes"):
        await service.alter({"segment.bytes": None})
    assert not service.change.called


async def test_those_of_operators_go_to_the_controller():
    service = Service()
    configs = {"min.insync.replicas": 1, "unclean.leader.election.enable": True}
    await service.alter(configs)
    service.change.assert_awaited_once_with(AlterTopicConfigs(NAME, configs), repeatable=True)


async def test_nobody_gives_an_internal_topic_more_partitions_or_deletes_it():
    service = Service()
    with pytest.raises(InvalidTopicError):
        await service.topics.add_partitions(NAME, AddPartitionsRequest(99))
    with pytest.raises(InvalidTopicError):
        await service.topics.delete(NAME)
    assert not service.change.called
