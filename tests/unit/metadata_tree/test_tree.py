"""The metadata tree over an image: Kafka's paths, with values in Kafka's shape."""

import json
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.controller.commands import (
    AllocateProducerIds,
    AlterReassignments,
    CreateTopic,
    DeleteTopic,
    Reassignment,
)
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.groups.commands import (
    AssignedTopic,
    DescribeGroupResponse,
    FetchedOffset,
    MemberDescription,
)
from ottla_cluster.metadata_tree import tree as tree_module
from ottla_cluster.metadata_tree.consumers import SilentGroup
from ottla_cluster.metadata_tree.nodes import children, find, walk
from ottla_cluster.metadata_tree.tree import TreeView, metadata_tree
from ottla_protocol.tree_paths import join_path, split_path
from tests.unit.controller.metadata_under_test import MetadataUnderTest

MEMBER = MemberDescription(
    member_id="laptop/1",
    instance_id=None,
    client_id="c",
    generation=3,
    topics=("orders",),
    pattern=None,
    owned=(AssignedTopic("orders", "id", (0, 1)),),
    revoking=(),
    target=(),
    session_timeout_ms=10_000,
    rebalance_timeout_ms=10_000,
)
GROUP = DescribeGroupResponse(
    group="billing 100%/x",
    state="stable",
    generation=3,
    assignor="sticky",
    members=(MEMBER,),
    offsets=(FetchedOffset("orders", 0, 17), FetchedOffset("orders", 1, None)),
)
GROUPS = {GROUP.group: GROUP}


def view(metadata, **fields):
    known = {"controller": 2, "term": 7, "controller_since_ms": 1_700_000_000_000}
    voters = {node: f"http://voter{node}:7101" for node in (1, 2, 3)}
    return TreeView(metadata.image, **({"voters": voters, "groups": GROUPS} | known | fields))


def value(metadata, path, **fields):
    segments = split_path(path)
    found = find(metadata_tree(view(metadata, **fields)), segments)
    assert found.depth == len(segments), f"{path} ends at {segments[: found.depth]}"
    return found.node.value()


def names(metadata, path, **fields):
    return children(find(metadata_tree(view(metadata, **fields)), split_path(path)).node, 100)[0]


def has(metadata, path):
    return find(metadata_tree(view(metadata)), split_path(path)).depth == len(split_path(path))


@pytest.fixture
def metadata():
    metadata = MetadataUnderTest(racks={1: "north"})
    metadata.create("orders", partitions=2, retention_ms=86_400_000)
    return metadata


class TestPathsOfKafka:
    def test_the_root_has_what_a_kafka_user_looks_for(self, metadata):
        assert set(names(metadata, "/")) >= {
            "admin",
            "brokers",
            "cluster",
            "config",
            "consumers",
            "controller",
            "controller_epoch",
            "isr_change_notification",
            "latest_producer_id_block",
            "log_dir_event_notification",
        }
        assert names(metadata, "/admin") == [
            "delete_topics",
            "drain_brokers",
            "preferred_replica_election",
            "reassign_partitions",
        ]
        assert {"topics", "brokers", "clients", "users"} <= set(names(metadata, "/config"))

    def test_the_controller(self, metadata):
        assert value(metadata, "/controller") == {
            "version": 1,
            "brokerid": 2,
            "timestamp": "1700000000000",
        }
        assert value(metadata, "/controller_epoch") == 7
        assert value(metadata, "/controller", controller=None) is None

    def test_brokers_that_serve_are_ids_and_others_are_fenced(self, metadata):
        assert names(metadata, "/brokers/ids") == ["1", "2", "3"]
        told = value(metadata, "/brokers/ids/1")
        assert (told["host"], told["port"]) == ("broker1", 7101)
        assert told["endpoints"] == ["http://broker1:7101"]
        assert (told["rack"], told["state"]) == ("north", "active")
        metadata.fence(1)
        assert names(metadata, "/brokers/ids") == ["2", "3"]
        assert names(metadata, "/brokers/fenced") == ["1"]
        assert not has(metadata, "/brokers/ids/1")
        assert value(metadata, "/brokers/fenced/1")["state"] == "fenced"
        metadata.heartbeat(2, draining=True)
        assert value(metadata, "/brokers/ids/2")["state"] == "draining"

    def test_a_topic_and_the_state_of_its_partitions(self, metadata):
        topic = metadata.image.topic("orders")
        assert value(metadata, "/brokers/topics/orders") == {
            "version": 3,
            "topic_id": topic.topic_id,
            "partitions": {str(each.partition): list(each.replicas) for each in topic.partitions},
            "adding_replicas": {},
            "removing_replicas": {},
        }
        assert names(metadata, "/brokers/topics/orders") == ["partitions"]
        assert names(metadata, "/brokers/topics/orders/partitions") == ["0", "1"]
        partition = topic.partitions[1]
        assert value(metadata, "/brokers/topics/orders/partitions/1/state") == {
            "version": 1,
            "leader": partition.leader,
            "leader_epoch": 0,
            "isr": list(partition.isr),
            "partition_epoch": partition.partition_epoch,
        }

    def test_a_partition_without_a_leader_is_led_by_minus_one(self):
        metadata = MetadataUnderTest()
        leader = metadata.create("one", replication_factor=1).partitions[0].leader
        metadata.fence(leader)
        state = value(metadata, "/brokers/topics/one/partitions/0/state")
        assert (state["leader"], state["isr"], state["leader_epoch"]) == (-1, [leader], 1)

    @pytest.mark.parametrize(
        "number", ["2", "-1", "00", "01", "+1", "1 ", "x", "9" * 255, "\u0661"]
    )
    def test_what_is_no_number_of_a_partition_is_none(self, metadata, number):
        assert (
            find(
                metadata_tree(view(metadata)), ("brokers", "topics", "orders", "partitions", number)
            ).depth
            == 4
        )

    def test_a_number_with_a_zero_before_it_is_none_among_many_partitions_either(self):
        metadata = MetadataUnderTest()
        metadata.create("wide", partitions=12)
        assert has(metadata, "/brokers/topics/wide/partitions/1")
        assert has(metadata, "/brokers/topics/wide/partitions/11")
        assert not has(metadata, "/brokers/topics/wide/partitions/01")
        assert not has(metadata, "/brokers/topics/wide/partitions/12")

    def test_configs_are_text_and_only_what_the_topic_sets(self, metadata):
        told = value(metadata, "/config/topics/orders")
        assert told["version"] == 1
        assert told["config"]["retention.ms"] == "86400000"
        assert "segment.bytes" not in told["config"]

    def test_a_reassignment_is_seen_in_admin_and_in_its_topic(self):
        metadata = MetadataUnderTest(broker_count=4)
        metadata.create("orders", replication_factor=2)
        first, second = metadata.partition().replicas
        added = next(node for node in (1, 2, 3, 4) if node not in (first, second))
        assert value(metadata, "/admin/reassign_partitions")["partitions"] == []
        metadata.apply(AlterReassignments((Reassignment("orders", 0, (first, added)),)))
        assert value(metadata, "/admin/reassign_partitions") == {
            "version": 1,
            "partitions": [{"topic": "orders", "partition": 0, "replicas": [first, added]}],
        }
        told = value(metadata, "/brokers/topics/orders")
        assert (told["adding_replicas"], told["removing_replicas"]) == (
            {"0": [added]},
            {"0": [second]},
        )

    def test_partitions_that_wait_for_their_preferred_leader(self, metadata):
        assert value(metadata, "/admin/preferred_replica_election")["partitions"] == []
        preferred = metadata.partition().replicas[0]
        metadata.fence(preferred)
        waiting = value(metadata, "/admin/preferred_replica_election")["partitions"]
        assert {"topic": "orders", "partition": 0} in waiting

    def test_values_of_admin_are_bounded_and_say_so(self, metadata, monkeypatch):
        monkeypatch.setattr(tree_module, "MAX_LISTED_PARTITIONS", 1)
        for node_id in (1, 2, 3):
            metadata.fence(node_id)
        told = value(metadata, "/admin/preferred_replica_election")
        assert (len(told["partitions"]), told["omitted"]) == (1, 1)

    def test_the_latest_producer_id_block(self, metadata):
        assert value(metadata, "/latest_producer_id_block") is None
        for _ in range(2):
            metadata.apply(AllocateProducerIds(1, metadata.epoch(1)))
        told = value(metadata, "/latest_producer_id_block")
        assert (told["block_start"], told["block_end"]) == ("1000", "1999")

    def test_a_drain_and_a_throttle(self, metadata):
        assert value(metadata, "/config/brokers/<default>") == {"version": 1, "config": {}}
        assert value(metadata, "/admin/drain_brokers")["brokers"] == {}
        image = replace(
            metadata.image, drains={3: 9}, replication_throttle_bytes_per_second=20_000_000
        )
        told = find(metadata_tree(TreeView(image)), ("config", "brokers", "<default>")).node.value()
        assert told["config"] == {"replication.throttle.bytes.per.second": "20000000"}
        told = find(metadata_tree(TreeView(image)), ("admin", "drain_brokers")).node.value()
        assert told["brokers"] == {"3": {"partitions_at_start": 9, "partitions_left": 2}}

    def test_full_disks(self, metadata):
        metadata.heartbeat(3, is_full=True)
        assert value(metadata, "/log_dir_event_notification")["full"] == [3]

    def test_the_cluster_and_the_quorum(self, metadata):
        assert value(metadata, "/cluster/id") == {"version": "1", "id": "test"}
        told = value(metadata, "/quorum", commit_index=9)
        assert (told["leader"], told["term"], told["voters"]) == (2, 7, [1, 2, 3])
        assert (told["commit_index"], told["applied_index"]) == (9, metadata.image.version)
        assert value(metadata, "/quorum/voters/3") == {"url": "http://voter3:7101"}
        assert value(metadata, "/features")["feature_level"] == metadata.image.feature_level
        assert value(metadata, "/snapshots", snapshot_index=4)["newest_index"] == 4

    def test_where_ottla_has_no_such_thing_a_note_says_so(self, metadata):
        root = metadata_tree(view(metadata))
        for path in walk(root, 1_000).paths:
            node = find(root, path).node
            if node.value() is None and not node.names() and not node.is_live:
                assert node.note, join_path(path)


class TestConsumers:
    PATH = "/consumers/billing%20100%25%2Fx"

    def test_a_group_in_the_shape_of_kafkas_first_consumers(self, metadata):
        assert names(metadata, "/consumers") == [GROUP.group]
        assert names(metadata, self.PATH) == ["ids", "offsets", "owners"]
        assert value(metadata, self.PATH)["state"] == "stable"
        assert value(metadata, f"{self.PATH}/ids/laptop%2F1")["subscription"] == {"orders": 1}
        assert value(metadata, f"{self.PATH}/owners/orders/1") == "laptop/1"
        assert value(metadata, f"{self.PATH}/offsets/orders/0") == "17"
        assert names(metadata, f"{self.PATH}/offsets/orders") == ["0"]

    def test_groups_that_are_not_loaded_stop_a_walk(self, metadata):
        for groups, stop in ((None, ("consumers",)), ({"g": None}, ("consumers", "g"))):
            part = walk(metadata_tree(view(metadata, groups=groups)), 10_000)
            assert part.not_loaded == part.paths[-1] == stop

    def test_a_group_whose_coordinator_is_silent_stops_no_walk(self, metadata):
        groups = {"a": SilentGroup("no leader"), GROUP.group: GROUP}
        part = walk(metadata_tree(view(metadata, groups=groups)), 10_000)
        assert part.not_loaded is None
        assert ("consumers", "a") in part.paths
        assert ("consumers", GROUP.group, "ids") in part.paths
        silent = find(metadata_tree(view(metadata, groups=groups)), ("consumers", "a"))
        assert (silent.depth, silent.node.note[-9:]) == (2, "no leader")

    def test_ids_that_no_path_can_name_are_left_out(self, metadata):
        dot = msgspec.structs.replace(MEMBER, member_id="..")
        group = msgspec.structs.replace(GROUP, group="g", members=(dot, MEMBER))
        assert names(metadata, "/consumers/g/ids", groups={"g": group}) == ["laptop/1"]


# --- properties ---------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from("abcd"), st.integers(1, 4)),
        st.tuples(st.just("delete"), st.sampled_from("abcd"), st.just(0)),
        st.tuples(st.just("fence"), st.sampled_from("1234"), st.just(0)),
        st.tuples(st.just("return"), st.sampled_from("1234"), st.just(0)),
        st.tuples(st.just("full"), st.sampled_from("1234"), st.integers(0, 1)),
    ),
    max_size=12,
)


def after(steps):
    """The metadata after some changes; what is refused is left out."""
    metadata = MetadataUnderTest(broker_count=4)
    for kind, name, number in steps:
        match kind:
            case "create" if name not in metadata.image.topic_ids:
                if len(metadata.image.active_brokers()) >= 2:
                    metadata.apply(
                        CreateTopic(name=name, partitions=number, replication_factor=2, configs={})
                    )
            case "delete" if name in metadata.image.topic_ids:
                metadata.apply(DeleteTopic(name=name))
            case "fence":
                metadata.fence(int(name))
            case "return":
                metadata.heartbeat(int(name))
            case "full":
                metadata.heartbeat(int(name), is_full=bool(number))
    return metadata


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_every_path_of_a_walk_answers_with_json_and_every_child_exists(steps):
    root = metadata_tree(view(after(steps)))
    paths = walk(root, 100_000).paths
    told = set(paths)
    assert len(told) == len(paths)
    for path in ((), *paths):
        written = join_path(path)
        found = find(root, split_path(written))
        assert found.depth == len(path), written
        json.dumps(found.node.value())
        names, has_more = children(found.node, 100_000)
        assert not has_more
        for name in names:
            assert (*path, name) in told


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_values_are_those_of_the_image(steps):
    metadata = after(steps)
    for topic, partition in metadata.image.all_partitions():
        state = value(
            metadata, f"/brokers/topics/{topic.name}/partitions/{partition.partition}/state"
        )
        leader = -1 if partition.leader is None else partition.leader
        assert (state["leader"], state["isr"]) == (leader, list(partition.isr))
    serving = {str(each.node_id) for each in metadata.image.brokers.values()} - set(
        names(metadata, "/brokers/fenced")
    )
    assert set(names(metadata, "/brokers/ids")) == serving
    assert names(metadata, "/brokers/topics") == sorted(metadata.image.topic_ids)


def test_an_empty_image_has_the_whole_tree():
    root = metadata_tree(TreeView(MetadataImage(), groups={}))
    paths = walk(root, 1_000).paths
    assert ("cluster", "id") in paths
    for path in paths:
        json.dumps(find(root, path).node.value())
