"""Who is asked what it supports before the feature level rises, and whose answer counts."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.peer_messages import SupportedFeatureLevels
from ottla_broker.services.features import FeatureService
from ottla_cluster.controller.commands import FeatureLevelUpgradedResponse
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_protocol.errors import NotFoundError, UnsupportedFeatureLevelError
from ottla_protocol.models_features import FeatureUpgradeRequest

FORMER = LATEST_FEATURE_LEVEL - 1


class World:
    """Node 1 and its peers: `at` says which node answers where."""

    def __init__(self, *, brokers, members, at):
        self.image = SimpleNamespace(
            feature_level=FORMER,
            brokers={
                node_id: SimpleNamespace(node_id=node_id, url=url)
                for node_id, url in brokers.items()
            },
        )
        self.at = at
        self.commands = []
        self.service = FeatureService(
            node_id=1,
            is_controller=True,
            metadata=self,
            commands=self,
            peers=self,
            member_urls=lambda: members,
        )

    async def call(self, url, route, body, *, timeout_ms, answer, purpose):
        node_id = self.at[url]
        if isinstance(node_id, Exception):
            raise node_id
        return SupportedFeatureLevels(1, LATEST_FEATURE_LEVEL, node_id)

    async def change(self, command, *, repeatable):
        self.commands.append(command)
        return FeatureLevelUpgradedResponse(FORMER, command.feature_level)

    async def refusal(self):
        with pytest.raises(UnsupportedFeatureLevelError) as refused:
            await self.service.upgrade(FeatureUpgradeRequest())
        assert self.commands == []
        assert (await self.service.describe()).upgradable_to is None
        return refused.value.detail


async def test_the_level_rises_where_everybody_says_so():
    world = World(brokers={1: "a", 2: "b"}, members={1: "a", 5: "e"}, at={"b": 2, "e": 5})
    answer = await world.service.upgrade(FeatureUpgradeRequest())
    assert answer.feature_level == LATEST_FEATURE_LEVEL
    assert [each.feature_level for each in world.commands] == [LATEST_FEATURE_LEVEL]


async def test_a_node_at_anothers_address_does_not_speak_for_it():
    world = World(brokers={1: "a", 3: "c", 4: "c"}, members={1: "a"}, at={"c": 4})
    assert "Node 3 could not be asked" in await world.refusal()
    told = {each.id: each for each in (await world.service.describe()).processes}
    assert (told[3].latest, told[3].error) == (None, "c is node 4")
    assert told[4].latest == LATEST_FEATURE_LEVEL


async def test_a_version_that_does_not_say_who_it_is_speaks_for_its_address():
    world = World(brokers={1: "a", 3: "c"}, members={1: "a"}, at={"c": None})
    answer = await world.service.upgrade(FeatureUpgradeRequest())
    assert answer.feature_level == LATEST_FEATURE_LEVEL


async def test_one_of_the_quorum_that_is_nowhere_is_not_passed_over():
    world = World(brokers={1: "a"}, members={1: "a", 3: None}, at={})
    assert "Node 3 could not be asked" in await world.refusal()


async def test_a_version_without_the_question_holds_the_level():
    world = World(brokers={1: "a", 3: "c"}, members={1: "a"}, at={"c": NotFoundError("no")})
    with pytest.raises(UnsupportedFeatureLevelError, match="up to 1"):
        await world.service.upgrade(FeatureUpgradeRequest())
