"""What the active controller's driver refuses that the image alone does not tell."""

from random import Random
from types import SimpleNamespace

import pytest

from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_cluster.controller.commands import UnregisterBroker
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.raft.configuration import Configuration, Voter
from ottla_protocol.errors import ConflictError, NotFoundError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def raft_of(configuration, *, settings, registered):
    """A driver whose node knows this configuration; it never starts."""
    unused = SimpleNamespace(
        config=None, store=None, peers=None, random=None, state_machine=None, on_committed=None,
        snapshot_schedule=None, on_leadership=None, on_refused=None, on_failure=None,
        renew_directory=None, writes_configurations=None,
    )  # fmt: skip
    driver = RaftDriver(
        **vars(unused), voter_urls=settings, broker_url=registered.get, directory_id="here"
    )
    driver._node = SimpleNamespace(configuration=configuration)
    return driver


CONFIGURATION = Configuration(
    (Voter(1), Voter(2, url="http://log"), Voter(3)), (Voter(4), Voter(5, url="http://log"))
)


def test_a_member_of_the_quorum_that_is_nowhere_is_a_member():
    raft = raft_of(CONFIGURATION, settings={1: "http://set"}, registered={})
    assert raft.voter_ids == (1, 2, 3)
    assert raft.voter_urls == {1: "http://set", 2: "http://log"}
    assert raft.member_urls == {
        1: "http://set", 2: "http://log", 3: None, 4: None, 5: "http://log",
    }  # fmt: skip


def test_before_its_start_the_settings_say_who_votes():
    raft = raft_of(CONFIGURATION, settings={2: "http://b", 1: "http://a"}, registered={})
    raft._node = None
    assert raft.voter_ids == (1, 2)
    assert raft.voter_urls == raft.member_urls == {1: "http://a", 2: "http://b"}


def test_who_is_reached_by_its_registration_alone():
    registered = dict.fromkeys(range(1, 7), "http://registered")
    raft = raft_of(CONFIGURATION, settings={1: "http://set"}, registered=registered)
    assert [each for each in range(1, 7) if raft.needs_registration(each)] == [3, 4]


@pytest.fixture
async def driver():
    """An active controller; the only URL of voter 3 is that of its registration."""
    confirmed = []

    async def read_index():
        confirmed.append(True)
        return 1

    raft = SimpleNamespace(
        read_index=read_index, needs_registration=lambda node_id: node_id == 3, confirmed=confirmed
    )
    made = ControllerDriver(
        config=ControllerConfig(cluster_id="test"),
        raft=raft,
        metadata=SimpleNamespace(image=MetadataUnderTest().image),
        random=Random(1),
        survey=None,
        on_failure=None,
    )
    made.leadership_changed(1, 1, True)
    made.applied([SimpleNamespace(term=1, index=1)])
    yield made
    await made.stop()


async def test_a_voter_that_only_its_registration_finds_is_not_forgotten(driver):
    with pytest.raises(ConflictError, match="lose its vote"):
        await driver.execute(UnregisterBroker(3))
    assert driver._raft.confirmed == [True], "a deposed controller refuses nothing"


async def test_others_are_the_images_to_refuse(driver):
    with pytest.raises(ConflictError, match="must be stopped"):
        await driver.execute(UnregisterBroker(2))
    with pytest.raises(NotFoundError):
        await driver.execute(UnregisterBroker(8))
