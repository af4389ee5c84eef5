from random import Random

import pytest

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    CreateTopic,
    ElectPreferred,
    FenceBroker,
    FormCluster,
    Heartbeat,
    RegisterBroker,
    TopicPartition,
)
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import BrokerState, MetadataImage
from ottla_protocol.errors import (
    DuplicateBrokerRegistrationError,
    OttlaError,
    StaleBrokerEpochError,
    TopicAlreadyExistsError,
)
from tests.unit.controller.metadata_under_test import CLUSTER_ID, MetadataUnderTest

TIMEOUT_MS = 3_000


class Driver:
    """Proposes and commits every command at once."""

    def __init__(self, image, config, now_ms=0):
        self.active = ActiveController(image, config, Random(1), now_ms)
        self.index = image.version

    def submit(self, command, now_ms):
        submitted = self.active.submit(command, now_ms)
        if submitted.payload is None:
            return submitted.response
        self.index += 1
        self.active.appended(submitted.request_id, self.index)
        (completed,) = self.active.committed(self.index)
        if isinstance(completed.outcome, OttlaError):
            raise completed.outcome
        return completed.outcome

    def heartbeat(self, node_id, now_ms):
        epoch = self.active.speculative_image.brokers[node_id].broker_epoch
        return self.submit(Heartbeat(node_id, epoch, self.index, draining=False), now_ms)


@pytest.fixture
def metadata():
    return MetadataUnderTest()


@pytest.fixture
def driver(metadata):
    return Driver(metadata.image, metadata.config)


def test_the_first_leader_of_a_new_cluster_forms_it(metadata):
    driver = Driver(MetadataImage(), metadata.config)
    assert driver.active.due(0) == (FormCluster(CLUSTER_ID),)
    driver.submit(*driver.active.due(0), 0)
    assert driver.active.due(0) == ()
    assert driver.active.committed_image.cluster_id == CLUSTER_ID


def test_a_silent_broker_is_fenced_after_its_session(driver):
    for now_ms in (1_000, 2_000, 2_999):
        driver.heartbeat(1, now_ms)
        driver.heartbeat(3, now_ms)
        assert driver.active.due(now_ms) == ()
    (fence,) = driver.active.due(TIMEOUT_MS)
    assert (fence.node_id, fence.broker_epoch) == (2, 2)
    assert "3000 ms" in fence.reason
    driver.submit(fence, TIMEOUT_MS)
    assert driver.active.due(TIMEOUT_MS) == ()
    assert not driver.heartbeat(2, TIMEOUT_MS + 1).fenced
    assert driver.active.due(5_998) == ()


def test_a_fence_that_was_refused_is_due_again(driver):
    assert driver.active.due(TIMEOUT_MS) == driver.active.due(TIMEOUT_MS + 1)
    assert [command.node_id for command in driver.active.due(TIMEOUT_MS)] == [1, 2, 3]


def test_a_new_controller_gives_everybody_a_full_session(metadata):
    driver = Driver(metadata.image, metadata.config, now_ms=50_000)
    assert driver.active.due(50_000 + TIMEOUT_MS - 1) == ()
    assert len(driver.active.due(50_000 + TIMEOUT_MS)) == 3


def test_a_fenced_broker_has_no_session_to_lose(metadata):
    metadata.fence(2)
    driver = Driver(metadata.image, metadata.config)
    assert [command.node_id for command in driver.active.due(TIMEOUT_MS)] == [1, 3]


def test_a_former_incarnation_s_heartbeat_prolongs_nothing(metadata):
    metadata.restart(2, "second")
    driver = Driver(metadata.image, metadata.config)
    with pytest.raises(StaleBrokerEpochError):
        driver.submit(Heartbeat(2, 2, driver.index, draining=False), 2_000)
    assert 2 in [command.node_id for command in driver.active.due(TIMEOUT_MS)]


def test_a_refused_heartbeat_that_waits_prolongs_nothing(metadata):
    """With a command in flight a refusal is not raised but waits; it is a refusal all the same."""
    metadata.restart(2, "second")
    driver = Driver(metadata.image, metadata.config)
    driver.active.submit(CreateTopic("orders"), 0)
    assert driver.active.submit(Heartbeat(2, 2, 99, draining=False), 2_000).response is None
    assert 2 in [command.node_id for command in driver.active.due(TIMEOUT_MS)]


@pytest.mark.parametrize("said", [{"is_full": True}, {"draining": True}])
def test_a_heartbeat_s_answer_names_the_version_that_has_what_it_changed(metadata, said):
    """Also where the log puts something else before it: the handler can only guess its index."""
    metadata.create()
    leader = metadata.partition().leader
    active = ActiveController(metadata.image, metadata.config, Random(7), 0)
    before = metadata.image.version
    beat = Heartbeat(leader, metadata.epoch(leader), before, **{"draining": False, **said})
    submitted = active.submit(beat, 0)
    active.appended(submitted.request_id, before + 3)
    (completed,) = active.committed(before + 3)
    assert completed.outcome.version == before + 3 == active.committed_image.version
    again = active.submit(beat, 1)
    assert again.response is None or again.response.version == before + 3


def test_a_second_live_process_under_the_same_node_id_is_refused(driver):
    twin = RegisterBroker(
        2, "twin", "http://elsewhere:7101", "", CLUSTER_ID, LATEST_FEATURE_LEVEL, "disk"
    )
    driver.heartbeat(2, 2_000)
    with pytest.raises(DuplicateBrokerRegistrationError, match="broker2"):
        driver.submit(twin, 2_000 + TIMEOUT_MS - 1)
    assert driver.submit(twin, 2_000 + TIMEOUT_MS).broker_epoch == 4


def test_a_fenced_broker_may_return_elsewhere(driver):
    driver.submit(FenceBroker(2, 2, "connection refused"), 0)
    moved = RegisterBroker(
        2, "second", "http://elsewhere:7101", "", CLUSTER_ID, LATEST_FEATURE_LEVEL, "disk"
    )
    assert driver.submit(moved, 0).broker_epoch == 4


def test_a_restart_at_the_same_url_is_taken_at_once(driver):
    driver.heartbeat(2, 0)
    restarted = RegisterBroker(
        2, "second", "http://broker2:7101", "", CLUSTER_ID, LATEST_FEATURE_LEVEL, "disk"
    )
    assert driver.submit(restarted, 1).broker_epoch == 4
    assert driver.active.committed_image.brokers[2].state is BrokerState.FENCED


def test_preferred_leaders_are_due_when_one_has_waited_for_an_interval(metadata):
    """Until then its leader may give the leadership back itself."""
    metadata.create()
    leader, follower, other = metadata.partition().replicas
    metadata.restart(leader, "second")
    metadata.set_isr([leader, follower, other])
    interval_ms = metadata.config.preferred_election_interval_ms
    driver = Driver(metadata.image, metadata.config)
    for now_ms in range(1_000, 2 * interval_ms, 1_000):
        for node_id in (1, 2, 3):
            driver.heartbeat(node_id, now_ms)
        assert driver.active.due(now_ms) == ()
    (election,) = driver.active.due(2 * interval_ms)
    assert election == ElectPreferred((TopicPartition("orders", 0),))
    driver.submit(election, 2 * interval_ms)
    assert driver.active.committed_image.partition("orders", 0).leader == leader
    for node_id in (1, 2, 3):
        driver.heartbeat(node_id, 3 * interval_ms)
    assert driver.active.due(3 * interval_ms) == ()


def test_two_topics_of_one_name_in_flight_cannot_both_be_created(driver):
    first = driver.active.submit(CreateTopic("orders"), 0)
    second = driver.active.submit(CreateTopic("orders"), 0)
    assert second.payload is None
    driver.active.appended(first.request_id, driver.index + 1)
    created, refused = driver.active.committed(driver.index + 1)
    assert created.outcome.topic_id
    assert isinstance(refused.outcome, TopicAlreadyExistsError)
