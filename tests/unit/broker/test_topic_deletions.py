"""Which topic a broker has the controller delete."""

from types import SimpleNamespace

import pytest

from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.commands import DeleteTopic
from ottla_cluster.controller.features import NAMED_DELETIONS
from ottla_protocol.errors import ControllerNotAvailableError, Outcome


class Cluster:
    """A broker that knows an old topic, until it catches up with the controller."""

    def __init__(self):
        self.image = SimpleNamespace(
            feature_level=NAMED_DELETIONS.level, topic_ids={"orders": "old"}
        )
        self.news = {"orders": "new"}
        self.commands = []

    async def catch_up(self, *, outcome, patience_ms):
        if self.news is None:
            raise ControllerNotAvailableError("none", outcome=outcome)
        self.image.topic_ids = self.news

    async def change(self, command):
        self.commands.append(command)


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def service(cluster):
    return TopicService(metadata=cluster, controller=None, commands=cluster, raft=None)


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


async def test_without_a_controller_to_say_which_one_it_is_nothing_is_deleted(service, cluster):
    cluster.news = None
    with pytest.raises(ControllerNotAvailableError) as refused:
        await service.delete("orders")
    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert cluster.commands == []
