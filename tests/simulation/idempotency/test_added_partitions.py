"""A keyed request is stored once, whenever partitions are added, and planted bugs are found out."""

import asyncio
import os

import pytest

from ottla_broker.services import idempotency, produce, record_produce
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.produce import ProduceService
from tests.simulation.idempotency.keyed_requests import (
    BROKERS,
    LEADS_NOTHING,
    LINES,
    World,
    send_request,
    send_stream,
)

SEEDS = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "1200")) // 10
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))

each_way = pytest.mark.parametrize("send", [send_request, send_stream])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (produce, idempotency):
        monkeypatch.setattr(module, "RETRY_INTERVAL_MS", 1)


@each_way
def test_every_record_is_stored_once(send):
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        world = World(seed)
        asyncio.run(world.run(send))
        assert world.stored == list(range(LINES)), seed


def play_late_first_attempt(send, *, all_know=True, asked_id=LEADS_NOTHING, begins_at=0, seed=0):
    async def run():
        world = World(seed)
        await world.play_a_late_first_attempt(
            send, all_know=all_know, asked_id=asked_id, begins_at=begins_at
        )
        return world.stored

    return asyncio.run(run())


@each_way
@pytest.mark.parametrize("all_know", [True, False])
def test_a_first_attempt_that_comes_late_is_not_stored_beside_the_next_one(send, all_know):
    assert play_late_first_attempt(send, all_know=all_know) == list(range(LINES))


PARTLY_STORED = range(40)
"""Seeds of requests of which the broker that is asked first leads a part."""


@each_way
@pytest.mark.parametrize("begins_at", [0, 1])
def test_what_is_stored_in_part_tells_among_how_many_it_was_divided(send, begins_at):
    for seed in PARTLY_STORED:
        stored = play_late_first_attempt(send, asked_id=BROKERS[0], begins_at=begins_at, seed=seed)
        assert stored == list(range(LINES)), seed


def test_a_guess_from_how_much_is_stored_is_found_out(monkeypatch):
    monkeypatch.setattr(record_produce, "divided_key", lambda key, _: key)
    assert any(
        play_late_first_attempt(send_request, asked_id=BROKERS[0], begins_at=1, seed=seed)
        != list(range(LINES))
        for seed in PARTLY_STORED
    )


@each_way
def test_leaders_that_take_what_was_divided_among_fewer_are_found_out(send, monkeypatch):
    monkeypatch.setattr(ProduceService, "_check_topic", lambda *_: None)
    assert play_late_first_attempt(send, all_know=True) != list(range(LINES))


@each_way
def test_look_ups_at_leaders_that_know_of_fewer_are_found_out(send, monkeypatch):
    look_up = IdempotencyService.look_up

    async def hasty(self, *args, for_good=False):
        return await look_up(self, *args)

    monkeypatch.setattr(IdempotencyService, "look_up", hasty)
    assert play_late_first_attempt(send, all_know=False) != list(range(LINES))
