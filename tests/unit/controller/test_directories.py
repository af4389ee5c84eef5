"""What the controller makes of a broker that comes back with another data directory."""

import msgspec
import pytest

from ottla_cluster.controller.commands import (
    AlterReassignments,
    ElectPreferred,
    ElectUnclean,
    FormCluster,
    Reassignment,
    RegisterBroker,
    ReplicaEnd,
    UncleanElection,
    UpgradeFeatureLevel,
)
from ottla_cluster.controller.features import (
    BROKER_DIRECTORIES,
    LATEST_FEATURE_LEVEL,
)
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.replica_reasons import KnownReplicas, partition_reasons
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.controller.topic_configs import UNCLEAN_LEADER_ELECTION_ENABLE
from ottla_cluster.controller.unclean_election_handlers import may_be_elected_uncleanly
from ottla_protocol.errors import UnsupportedFeatureLevelError
from tests.unit.controller.metadata_under_test import CLUSTER_ID, MetadataUnderTest


@pytest.fixture
def metadata():
    """A partition of which the first replica is the last one in sync, and dead like the others."""
    return alone_in_sync()


def alone_in_sync(**configs):
    made = MetadataUnderTest()
    made.create(replication_factor=2, **configs)
    made.set_isr([made.partition().leader])
    for node_id in made.partition().replicas:
        made.fence(node_id)
    return made


def last_member(metadata):
    [node_id] = metadata.partition().isr
    return node_id


def other_replica(metadata):
    return next(n for n in metadata.partition().replicas if n not in metadata.partition().isr)


def test_the_last_member_leads_again_with_its_directory(metadata):
    node_id = last_member(metadata)
    metadata.restart(node_id, "second")
    assert metadata.partition().leader == node_id
    assert metadata.partition().awaited_directory_id is None


def test_the_last_member_does_not_lead_with_another_directory(metadata):
    node_id = last_member(metadata)
    before = metadata.partition()
    metadata.restart(node_id, "second", directory_id="new")
    after = metadata.partition()
    assert (after.leader, after.isr, after.awaited_directory_id) == (None, (node_id,), "disk")
    assert after.partition_epoch > before.partition_epoch
    assert metadata.image.brokers[node_id].directory_id == "new"
    metadata.restart(other_replica(metadata), "second")
    metadata.apply(ElectPreferred())
    assert metadata.partition().leader is None


def test_one_that_leads_gives_its_leadership_up(metadata):
    """It was restarted before anybody missed it."""
    node_id = last_member(metadata)
    metadata.restart(node_id, "second")
    assert metadata.partition().leader == node_id
    metadata.register(node_id, "third", directory_id="new")
    after = metadata.partition()
    assert (after.leader, after.isr, after.awaited_directory_id) == (None, (node_id,), "disk")


def test_later_starts_and_other_controllers_do_not_forget_it(metadata):
    node_id = last_member(metadata)
    metadata.restart(node_id, "second", directory_id="new")
    metadata.image = decode_image(encode_image(metadata.image))
    metadata.restart(node_id, "third", directory_id="new")
    metadata.restart(node_id, "fourth", directory_id="newer")
    after = metadata.partition()
    assert (after.leader, after.awaited_directory_id) == (None, "disk")


def test_it_leads_when_it_brings_its_directory_back(metadata):
    node_id = last_member(metadata)
    metadata.restart(node_id, "second", directory_id="new")
    metadata.restart(node_id, "third", directory_id="disk")
    after = metadata.partition()
    assert (after.leader, after.isr, after.awaited_directory_id) == (node_id, (node_id,), None)


def test_where_others_are_in_sync_it_only_leaves():
    metadata = MetadataUnderTest()
    metadata.create()
    leader, second, third = metadata.partition().replicas
    metadata.register(leader, "second", directory_id="new")
    after = metadata.partition()
    assert (after.leader, after.isr) == (second, (second, third))
    assert after.awaited_directory_id is None


def test_the_only_replica_leads_with_what_it_has():
    metadata = MetadataUnderTest()
    metadata.create(replication_factor=1)
    node_id = last_member(metadata)
    response = metadata.register(node_id, "second", directory_id="new")
    assert response.former_directory_id == "disk"
    metadata.heartbeat(node_id)
    assert metadata.partition().leader == node_id


def test_the_only_replica_that_is_left_leads_when_it_brings_its_directory_back():
    """It was waited for when others were being added."""
    metadata = MetadataUnderTest()
    metadata.create(replication_factor=1)
    node_id = last_member(metadata)
    added = next(n for n in (1, 2, 3) if n != node_id)
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (node_id, added)),)))
    metadata.restart(node_id, "second", directory_id="new")
    metadata.apply(AlterReassignments((Reassignment("orders", 0, None),)))
    after = metadata.partition()
    assert (after.replicas, after.leader) == ((node_id,), None)
    metadata.restart(node_id, "third", directory_id="newer")
    assert metadata.partition().leader is None
    metadata.restart(node_id, "fourth", directory_id="disk")
    after = metadata.partition()
    assert (after.leader, after.awaited_directory_id) == (node_id, None)


def test_a_former_directory_does_not_count_once_its_log_was_given_up():
    """The directory that was new has the newer history then."""
    metadata = alone_in_sync(**{UNCLEAN_LEADER_ELECTION_ENABLE: True})
    node_id = last_member(metadata)
    metadata.restart(node_id, "second", directory_id="new")
    metadata.apply(ElectUnclean((UncleanElection("orders", 0),)))
    assert metadata.partition().leader == node_id
    assert metadata.partition().awaited_directory_id is None
    metadata.restart(node_id, "third", directory_id="disk")
    after = metadata.partition()
    assert (after.leader, after.awaited_directory_id) == (None, "new")


def test_an_unclean_election_prefers_whoever_has_a_log():
    metadata = alone_in_sync(**{UNCLEAN_LEADER_ELECTION_ENABLE: True})
    empty, other = last_member(metadata), other_replica(metadata)
    metadata.restart(empty, "second", directory_id="new")
    # Nothing is gained by one whose log is known to be gone.
    assert list(may_be_elected_uncleanly(metadata.image)) == []
    metadata.restart(other, "second")
    assert list(may_be_elected_uncleanly(metadata.image)) == [metadata.partition()]
    # The other did not tell in time how long its log is.
    ends = (ReplicaEnd(empty, metadata.epoch(empty), 0, 0),)
    metadata.apply(ElectUnclean((UncleanElection("orders", 0, ends),)))
    after = metadata.partition()
    assert (after.leader, after.isr, after.awaited_directory_id) == (other, (other,), None)


def test_health_names_the_directory(metadata):
    metadata.restart(last_member(metadata), "second", directory_id="new")
    reasons = partition_reasons(metadata.image, metadata.partition(), KnownReplicas.of(()))
    told = [each for each in reasons if each.code == "directory_awaited"]
    assert [each.broker for each in told] == [last_member(metadata)]
    assert "disk" in told[0].detail
    assert "election_pending" not in [each.code for each in reasons]


def test_a_registration_without_a_directory_is_refused_at_this_level():
    metadata = MetadataUnderTest()
    with pytest.raises(UnsupportedFeatureLevelError, match="data directory"):
        metadata.register(1, "second", directory_id="")


def test_below_the_level_nothing_is_told_that_an_older_version_would_refuse():
    metadata = MetadataUnderTest(0)
    metadata.image = MetadataImage()
    metadata.apply(FormCluster(CLUSTER_ID, BROKER_DIRECTORIES.level - 1))
    metadata.register(1, directory_id="")
    metadata.heartbeat(1)
    metadata.create(replication_factor=1)
    assert decode_image(encode_image(metadata.image)) == metadata.image
    _, rows = msgspec.msgpack.decode(encode_image(metadata.image))
    assert len(rows) == 9
    assert len(rows[3][0]) == 8
    metadata.register(1, "second", directory_id="disk")
    assert metadata.image.brokers[1].directory_id == ""


def test_who_registered_before_the_level_tells_it_without_a_new_epoch():
    metadata = MetadataUnderTest(0)
    metadata.image = MetadataImage()
    metadata.apply(FormCluster(CLUSTER_ID, BROKER_DIRECTORIES.level - 1))
    metadata.register(1, directory_id="")
    metadata.heartbeat(1)
    metadata.apply(UpgradeFeatureLevel(LATEST_FEATURE_LEVEL))
    before = metadata.image.brokers[1]
    metadata.register(1, directory_id="disk")
    after = metadata.image.brokers[1]
    assert after.directory_id == "disk"
    assert (after.broker_epoch, after.state) == (before.broker_epoch, before.state)
    metadata.register(1, directory_id="disk")
    assert metadata.last_records == ()


def test_a_registration_without_a_directory_has_nothing_of_it_on_the_wire():
    command = RegisterBroker(1, "first", "http://b", "", CLUSTER_ID, LATEST_FEATURE_LEVEL)
    assert "directory_id" not in msgspec.to_builtins(command)
