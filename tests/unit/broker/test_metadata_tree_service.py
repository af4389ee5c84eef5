"""The metadata tree where coordinators of groups do not answer."""

from types import SimpleNamespace

import pytest

from ottla_broker.services.metadata_tree import Look, MetadataTreeService
from ottla_cluster.groups.commands import (
    DescribeGroup,
    DescribeGroupResponse,
    GroupListing,
    ListGroupsResponse,
)
from ottla_protocol.errors import CoordinatorNotAvailableError
from tests.unit.controller.metadata_under_test import MetadataUnderTest

LOST = CoordinatorNotAvailableError("it has no leader")


def listed(*names):
    return ListGroupsResponse(tuple(GroupListing(name, "empty", 0, "range", 0) for name in names))


class World:
    """A broker whose coordinators give these answers; a group without one is silent."""

    def __init__(self, answers, described=()):
        self.answers, self.described = answers, described
        self.image = MetadataUnderTest().image
        self.service = MetadataTreeService(
            metadata=self,
            controller=self,
            raft=SimpleNamespace(
                term=1,
                leader_id=1,
                voter_ids=(1, 2),
                member_urls={1: "http://one", 2: None},
                node=SimpleNamespace(
                    configuration=SimpleNamespace(learners=()), commit_index=1, snapshot_index=0
                ),
            ),
            tenure=SimpleNamespace(since_ms=lambda term, leader_id: None),
            calls=self,
        )

    async def catch_up(self):
        return True

    async def ask_each(self, command, *, timeout_ms):
        if isinstance(self.answers, Exception):
            raise self.answers
        return dict(enumerate(self.answers))

    async def decide(self, group, command, *, repeatable, timeout_ms):
        assert command == DescribeGroup(group)
        if group not in self.described:
            raise CoordinatorNotAvailableError("it has no leader")
        return DescribeGroupResponse(group, "empty", 0, "range", (), ()), 1

    async def look(self, *path, recursive=False):
        return await self.service.look(Look(path, recursive=recursive, limit=1_000))


async def test_the_groups_that_are_told_are_shown_and_the_others_named():
    told = await World([listed("b"), LOST, listed("a")]).look("consumers")
    assert told.children == ["a", "b"]
    assert "__consumer_offsets-1," in told.missing
    assert "it has no leader" in told.missing
    assert (await World([listed("b")]).look("consumers")).missing == ""


async def test_a_walk_goes_on_past_what_does_not_answer():
    world = World([listed("a", "b"), LOST], described=("b",))
    told = await world.look(recursive=True)
    assert told.next_cursor is None
    assert "/consumers/a" in told.paths
    assert "/consumers/a/ids" not in told.paths
    assert "/consumers/b/ids" in told.paths
    assert told.paths[-1].startswith("/snapshots")
    assert "__consumer_offsets-1," in told.missing
    assert "below 1 consumer group," in told.missing
    world.answers, world.described = [listed("a", "b")], ("a", "b")
    assert (await world.look(recursive=True)).missing == ""


@pytest.mark.parametrize("answers", [[LOST, LOST], LOST])
async def test_without_any_answer_only_paths_of_groups_fail(answers):
    world = World(answers)
    for recursive in (False, True):
        with pytest.raises(CoordinatorNotAvailableError):
            await world.look("consumers", recursive=recursive)
    told = await world.look(recursive=True)
    assert "/brokers/ids/1" in told.paths
    assert "no leader" in told.missing


async def test_a_group_whose_coordinator_is_silent_is_not_unknown():
    with pytest.raises(CoordinatorNotAvailableError):
        await World([listed("a")]).look("consumers", "a", "ids")


async def test_many_are_counted():
    missing = (await World([LOST] * 16 + [listed()]).look("consumers")).missing
    assert "__consumer_offsets-4 and 11 more" in missing


async def test_a_voter_that_is_nowhere_is_a_voter():
    world = World([])
    assert (await world.look("quorum")).value["voters"] == [1, 2]
    assert (await world.look("quorum", "voters", "2")).value == {"url": None}
