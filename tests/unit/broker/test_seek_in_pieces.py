"""A seek over more partitions than one decision takes."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.peer_messages import PartitionBounds
from ottla_broker.services import groups
from ottla_broker.services.groups import GroupService
from ottla_cluster.groups.commands import (
    FetchOffsets,
    FetchOffsetsResponse,
    SeekOffsets,
    SoughtOffset,
)
from ottla_cluster.groups.commands import SeekOffsetsResponse as Sought
from ottla_protocol.errors import CoordinatorNotAvailableError, NonEmptyGroupError, Outcome
from ottla_protocol.models_groups import SeekGroupRequest

PARTITIONS = 5


class Coordinator:
    """Takes note of the pieces; refuses those that `refuses` names, by their number."""

    def __init__(self):
        self.pieces = []
        self.refuses = {}

    async def decide(self, group, command, *, repeatable):
        if isinstance(command, FetchOffsets):
            return FetchOffsetsResponse(()), 1
        assert isinstance(command, SeekOffsets)
        assert repeatable == command.dry_run
        self.pieces.append((command.dry_run, [each.partition for each in command.offsets]))
        error = self.refuses.get(len(self.pieces))
        if error is not None:
            raise error
        moved = tuple(SoughtOffset(e.topic, e.partition, None, e.offset) for e in command.offsets)
        return Sought(command.dry_run, moved), 1


@pytest.fixture
def coordinator():
    return Coordinator()


@pytest.fixture
def service(coordinator, monkeypatch):
    monkeypatch.setattr(groups, "MAX_OFFSETS_PER_COMMIT", 2)

    async def find(name):
        return SimpleNamespace(name=name, partitions=[None] * PARTITIONS)

    async def look_up(names, *, wait_ms):
        return {name: PartitionBounds(name.topic_id, name.partition, 7, 9) for name in names}

    return GroupService(
        metadata=SimpleNamespace(image=SimpleNamespace(topic_ids={"orders": "o"})),
        topics=SimpleNamespace(find=find),
        calls=coordinator,
        bounds=SimpleNamespace(look_up=look_up),
    )


def seek(**fields):
    return SeekGroupRequest(to="earliest", topics=["orders"], **fields)


async def test_all_pieces_are_tried_before_one_is_moved(service, coordinator):
    response = await service.seek("g", seek())
    assert [each.partition for each in response.offsets] == list(range(PARTITIONS))
    assert {each.offset for each in response.offsets} == {7}
    pieces = [[0, 1], [2, 3], [4]]
    assert coordinator.pieces == [(True, each) for each in pieces] + [
        (False, each) for each in pieces
    ]


async def test_a_dry_run_and_a_small_seek_are_decided_once(service, coordinator):
    await service.seek("g", seek(dry_run=True))
    assert [dry for dry, _ in coordinator.pieces] == [True] * 3
    coordinator.pieces.clear()
    await service.seek("g", seek(partitions=[1, 3]))
    assert coordinator.pieces == [(False, [1, 3])]


async def test_a_refusal_of_the_trial_moves_nothing(service, coordinator):
    coordinator.refuses[3] = NonEmptyGroupError("in use", outcome=Outcome.NOT_APPLIED)
    with pytest.raises(NonEmptyGroupError) as caught:
        await service.seek("g", seek())
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert all(dry for dry, _ in coordinator.pieces)


async def test_a_failure_in_between_is_no_proof_that_nothing_moved(service, coordinator):
    coordinator.refuses[5] = CoordinatorNotAvailableError("gone", outcome=Outcome.NOT_APPLIED)
    with pytest.raises(CoordinatorNotAvailableError) as caught:
        await service.seek("g", seek())
    assert caught.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("value", "offset", "clamped_to"),
    [(6, 7, "earliest"), (7, 7, None), (8, 8, None), (9, 9, None), (10, 9, "latest")],
)
async def test_what_lies_outside_is_held_to_the_nearest_end_and_told(
    service, value, offset, clamped_to
):
    wanted = SeekGroupRequest(to="offset", value=value, topics=["orders"])
    found = (await service.seek("g", wanted)).offsets
    assert [(each.offset, each.clamped_to) for each in found] == [(offset, clamped_to)] * PARTITIONS
    assert all(each.clamped_to is None for each in (await service.seek("g", seek())).offsets)
