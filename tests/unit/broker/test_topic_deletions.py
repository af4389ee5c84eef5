"""Which topic a broker has the controller delete."""

from types import SimpleNamespace

import pytest

from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.commands import DeleteTopic
from ottla_cluster.controller.features import NAMED_DELETIONS
from ottla_protocol.errors import UnknownTopicIdError


class Cluster:
    """A broker that knows an old topic, until it catches up with the controller."""

    def __init__(self):
        self.image = SimpleNamespace(
            feature_level=NAMED_DELETIONS.level, topic_ids={"orders": "old"}
        )
        self.news = {"orders": "new"}
        self.commands = []

    async def catch_up(self):
        if self.news is None:
            return False
        self.image.topic_ids = self.news
        return True

    async def change(self, command):
        self.commands.append(command)
        if command.topic_id == "old":
            raise UnknownTopicIdError("gone")


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def service(cluster):
    return TopicService(metadata=cluster, controller=cluster, commands=cluster, raft=None)


async def test_the_topic_that_has_the_name_now_is_named(service, cluster):
    await service.delete("orders")
    assert cluster.commands == [DeleteTopic("orders", "new")]


async def test_what_is_not_known_here_is_the_controllers_to_find(service, cluster):
    await service.delete("flights")
    assert cluster.commands == [DeleteTopic("flights")]


async def test_below_its_feature_level_the_name_is_all(service, cluster):
    cluster.image.feature_level -= 1
    await service.delete("orders")
    assert cluster.commands == [DeleteTopic("orders")]


async def test_a_namesake_that_nobody_told_of_is_spared(service, cluster):
    cluster.news = None
    with pytest.raises(UnknownTopicIdError):
        await service.delete("orders")
    assert cluster.commands == [DeleteTopic("orders", "old")]
