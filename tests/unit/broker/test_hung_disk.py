"""What a broker gives up while its disk hangs, and when it may have it again."""

import asyncio
from types import SimpleNamespace

import pytest
import structlog

from ottla_broker.drivers import hung_disk as hung_disk_module
from ottla_broker.drivers.disk_watch import DiskWatch
from ottla_broker.drivers.hung_disk import SURRENDER_TIMEOUT_MS, HungDisk
from ottla_broker.drivers.lifecycle import BrokerLifecycle
from ottla_broker.drivers.metadata import MetadataCache
from ottla_cluster.controller.commands import (
    BrokerFencedResponse,
    FenceBroker,
    Heartbeat,
    HeartbeatResponse,
)
from ottla_cluster.controller.image import BrokerRegistration, BrokerState, MetadataImage
from ottla_protocol.errors import ControllerNotAvailableError, StaleBrokerEpochError
from tests.unit.awaiting import until

LOCAL, OTHER = 1, 2
EPOCH = 7


def image(version, *node_ids):
    brokers = {
        node_id: BrokerRegistration(node_id, EPOCH, "i", "u", "", BrokerState.ACTIVE, 0)
        for node_id in node_ids
    }
    return MetadataImage(version=version, brokers=brokers)


class Cluster:
    """This broker's voter, its way to the others, and what it was told."""

    def __init__(self, *node_ids):
        self.metadata = MetadataCache(image(1, *node_ids))
        self.stands_aside = []
        self.asked = []
        self.answers = []
        self.told = []
        self.disk = HungDisk(
            node_id=LOCAL,
            voter=SimpleNamespace(
                stand_aside=lambda *, stands_aside: self.stands_aside.append(stands_aside)
            ),
            controller=SimpleNamespace(execute_elsewhere=self._execute),
            broker_epoch=lambda: EPOCH,
            metadata=self.metadata,
            on_change=self.told.append,
            on_failure=lambda error: pytest.fail(str(error)),
        )

    async def _execute(self, command, *, timeout_ms):
        self.asked.append(command)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(hung_disk_module, "RETRY_INTERVAL_MS", 1)


async def test_it_leaves_the_quorums_lead_and_is_fenced_by_whoever_is_the_controller(quick):
    cluster = Cluster(LOCAL, OTHER)
    cluster.answers = [ControllerNotAvailableError("electing"), BrokerFencedResponse(False)]
    cluster.disk.changed(True)
    await until(lambda: len(cluster.asked) == 2)
    assert cluster.disk.gives_up
    assert cluster.stands_aside == [True]
    assert set(cluster.asked) == {FenceBroker(LOCAL, EPOCH, "its disk hangs")}
    await until(lambda: cluster.disk._is_fenced)
    cluster.disk.changed(False)
    assert not cluster.disk.gives_up
    assert cluster.stands_aside == [True, False]
    assert cluster.told == [0, 0]


async def test_a_call_that_was_not_answered_may_still_fence_it(quick):
    cluster = Cluster(LOCAL, OTHER)
    cluster.disk.changed(True)
    await until(lambda: cluster.asked)
    cluster.disk.changed(False)
    assert cluster.told == [0, SURRENDER_TIMEOUT_MS]


async def test_without_others_nothing_is_given_up_until_one_is_there(quick):
    cluster = Cluster(LOCAL)
    cluster.disk.changed(True)
    await asyncio.sleep(0)
    assert not cluster.disk.gives_up
    assert cluster.stands_aside == []
    cluster.metadata.publish(image(2, LOCAL, OTHER))
    await until(lambda: cluster.disk.gives_up)
    await cluster.disk.stop()


async def test_another_incarnation_ends_the_asking(quick):
    cluster = Cluster(LOCAL, OTHER)
    cluster.answers = [StaleBrokerEpochError("another")]
    cluster.disk.changed(True)
    await until(lambda: cluster.asked)
    await asyncio.sleep(0.01)
    assert len(cluster.asked) == 1
    await cluster.disk.stop()


def test_the_watch_tells_of_a_hang_once_and_of_its_end():
    now = SimpleNamespace(ms=0)
    told = []
    watch = DiskWatch(
        hang_timeout_ms=1_000,
        on_change=told.append,
        on_failure=lambda error: pytest.fail(str(error)),
        clock_ms=lambda: now.ms,
    )

    def pass_time(duration_ms):
        for _ in range(duration_ms // 100):
            now.ms += 100
            watch.look()

    with structlog.testing.capture_logs() as lines:
        watch.look()
        with watch.writing():
            pass_time(3_000)
            assert watch.is_hung
            assert watch.oldest_write_ms == 3_000
        pass_time(3_000)
    assert told == [True, False]
    assert [line["event"] for line in lines] == ["disk_hangs", "disk_works_again"]
    assert lines[0]["write_under_way_ms"] == 1_000


class Controller:
    """Answers heartbeats when the test says so."""

    def __init__(self):
        self.beats = []

    async def execute(self, command, *, timeout_ms):
        assert isinstance(command, Heartbeat)
        answer = asyncio.get_running_loop().create_future()
        self.beats.append(answer)
        return await answer


class Replicas:
    applied_version = 5

    async def wait_applied(self, _version):
        return


async def test_a_heartbeat_from_before_a_hang_confirms_nothing_after_it():
    """The broker was fenced in between, and others may lead what it led."""
    gives_up = False
    controller = Controller()
    lifecycle = BrokerLifecycle(
        node_id=LOCAL,
        url="u",
        rack="",
        cluster_id="c",
        directory_id=lambda: "disk",
        session_timeout_ms=60_000,
        controller=controller,
        metadata=MetadataCache(image(1, LOCAL, OTHER)),
        replicas=lambda: Replicas(),
        is_full=lambda: False,
        gives_up=lambda: gives_up,
        on_fatal=lambda error: pytest.fail(str(error)),
    )
    taken = HeartbeatResponse(fenced=False, version=5, may_shut_down=False)

    async def beats():
        while True:
            await lifecycle._beat()

    beating = asyncio.create_task(beats())
    await until(lambda: len(controller.beats) == 1)
    controller.beats[0].set_result(taken)
    await until(lambda: lifecycle.lease_is_valid)
    lifecycle.hurry()
    await until(lambda: len(controller.beats) == 2)
    gives_up = True
    lifecycle.give_up_changed(0)
    assert not lifecycle.lease_is_valid
    gives_up = False
    lifecycle.give_up_changed(0)
    assert not lifecycle.lease_is_valid
    controller.beats[1].set_result(taken)
    await until(lambda: len(controller.beats) == 3)
    assert not lifecycle.lease_is_valid
    assert lifecycle.fenced

    def later_ones_confirm():
        for beat in controller.beats[2:]:
            if not beat.done():
                beat.set_result(taken)
        return lifecycle.lease_is_valid

    await until(later_ones_confirm)
    beating.cancel()
