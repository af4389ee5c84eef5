"""Consumer groups on real brokers: who may read what, and where a group goes on."""

import json
import time
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.group_member import GroupMember

pytestmark = pytest.mark.cluster

SESSION_TIMEOUT_MS = 4_000
"""Of a member that falls silent: a stall of the machine before that must not end it."""

TAKEOVER_LIMIT_S = SESSION_TIMEOUT_MS / 1000 + 10.0
"""A silent member's partitions are with others within its session and what a busy machine takes."""

FAILOVER_LIMIT_S = 12.0
"""A broker's session of three seconds, a call's own patience, and a busy machine."""


@pytest.fixture(scope="module")
def client(tmp_path_factory, http, launch):
    """Three brokers for the tests that harm nobody; apart from those of other modules, because the
    first group creates a topic."""
    with LocalCluster(tmp_path_factory.mktemp("groups"), launch=launch) as cluster:
        yield ClusterClient(cluster, http)


@pytest.fixture
def group(request):
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def orders(client, group):
    """A topic of three partitions."""
    name = f"orders-{group}"[:200]
    client.create_topic(name, partitions=3)
    client.wait_led(name, partitions=3)
    return name


def all_partitions(topic, count):
    return {(topic, number) for number in range(count)}


def settle(members, wanted, timeout_s=10.0):
    """Heartbeat until the members hold all of `wanted` between them; never one twice."""

    def settled():
        for member in members:
            member.heartbeat()
            held = [partition for each in members for partition in each.partitions]
            assert_no_partition_twice(held)
        found = {partition for member in members for partition in member.partitions}
        return found == wanted

    eventually(settled, timeout_s)


def assert_no_partition_twice(held):
    # Not an AssertionError: `eventually` would take it for something that passes.
    if len(set(held)) != len(held):
        raise RuntimeError(f"a partition has two owners: {sorted(held)}")


def committed(client, group, *, via=None):
    """What the group has committed, by topic and partition."""
    url = client.any_url() if via is None else client.url(via)
    document = client.http.get(url + routes.GROUP_OFFSETS.format(group=group)).expect(200).document
    return {(each["topic"], each["partition"]): each["offset"] for each in document["offsets"]}


def commit_alone(client, group, topic, offsets, *, via=None):
    """Commit without a member; the bare answer."""
    url = client.any_url() if via is None else client.url(via)
    named = [
        {"topic": topic, "partition": partition, "offset": offset}
        for partition, offset in offsets.items()
    ]
    return client.http.post(url + routes.GROUP_OFFSETS.format(group=group), {"offsets": named})


def describe(client, group, *, via=None):
    url = client.any_url() if via is None else client.url(via)
    return client.http.get(url + routes.GROUP.format(group=group)).expect(200).document


class TestMembership:
    def test_one_consumer_has_all_partitions(self, client, group, orders):
        member = GroupMember(client, group, [orders])
        settle([member], all_partitions(orders, 3))

    def test_a_partition_has_at_most_one_consumer_of_a_group(self, client, group, orders):
        first = GroupMember(client, group, [orders], via=1)
        settle([first], all_partitions(orders, 3))
        second = GroupMember(client, group, [orders], via=2)
        settle([first, second], all_partitions(orders, 3))
        assert sorted(len(each.partitions) for each in (first, second)) == [1, 2]

    def test_four_consumers_on_three_partitions_leave_one_idle(self, client, group, orders):
        members = [GroupMember(client, group, [orders], via=1 + n % 3) for n in range(4)]

        def shared_out():
            settle(members, all_partitions(orders, 3))
            return sorted(len(each.partitions) for each in members) == [0, 1, 1, 1]

        eventually(shared_out)
        idle = next(each for each in members if not each.partitions)
        leaver = next(each for each in members if each.partitions)
        taken = set(leaver.partitions)
        leaver.leave()
        members.remove(leaver)
        settle(members, all_partitions(orders, 3))
        assert idle.partitions == taken

    def test_a_silent_consumers_partitions_are_taken_over(self, client, group, orders):
        silent = GroupMember(client, group, [orders], session_timeout_ms=SESSION_TIMEOUT_MS)
        living = GroupMember(client, group, [orders], session_timeout_ms=60_000)

        def both_read():
            settle([silent, living], all_partitions(orders, 3))
            return silent.partitions and living.partitions

        eventually(both_read)
        started_s = time.monotonic()
        settle([living], all_partitions(orders, 3), TAKEOVER_LIMIT_S)
        took_s = time.monotonic() - started_s
        assert SESSION_TIMEOUT_MS / 2000 < took_s < TAKEOVER_LIMIT_S, took_s
        refused = silent.try_heartbeat()
        assert (refused.status, refused.document["code"]) == (409, "UNKNOWN_MEMBER_ID")

    def test_two_groups_read_everything_independently(self, client, group, orders):
        one = GroupMember(client, f"{group}-1", [orders])
        two = GroupMember(client, f"{group}-2", [orders])
        settle([one], all_partitions(orders, 3))
        settle([two], all_partitions(orders, 3))
        one.commit(orders, 0, 5).expect(200)
        assert committed(client, f"{group}-1") == {(orders, 0): 5}
        assert committed(client, f"{group}-2") == {}

    def test_added_partitions_are_given_out(self, client, group, orders):
        member = GroupMember(client, group, [orders])
        settle([member], all_partitions(orders, 3))
        url = client.any_url() + routes.TOPIC.format(topic=orders)
        client.http.call("PATCH", url, {"partitions": 5}).expect(200)
        settle([member], all_partitions(orders, 5))


class TestOffsets:
    def test_a_restarted_consumer_goes_on_from_the_committed_offset(self, client, group, orders):
        member = GroupMember(client, group, [orders])
        settle([member], all_partitions(orders, 3))
        member.commit(orders, 1, 7).expect(200)
        member.leave()
        again = GroupMember(client, group, [orders], via=2)
        settle([again], all_partitions(orders, 3))
        assert [committed(client, group, via=node) for node in client.node_ids] == [
            {(orders, 1): 7}
        ] * 3

    def test_a_stale_commit_is_refused(self, client, group, orders):
        first = GroupMember(client, group, [orders], session_timeout_ms=60_000)
        settle([first], all_partitions(orders, 3))
        stale_generation = first.generation
        second = GroupMember(client, group, [orders], session_timeout_ms=60_000)

        def both_read():
            settle([first, second], all_partitions(orders, 3))
            return second.partitions

        eventually(both_read)
        moved = min(second.partitions)
        kept = min(first.partitions)
        refused = first.commit(*moved, 3, generation=stale_generation)
        assert (refused.status, refused.document["code"]) == (409, "FENCED")
        assert refused.document["outcome"] == "not_applied"
        # The rebalance elsewhere does not fence what did not move.
        first.commit(*kept, 4, generation=stale_generation).expect(200)
        second.commit(*moved, 5).expect(200)
        assert committed(client, group) == {moved: 5, kept: 4}

    def test_a_commit_of_nobody_known_is_refused(self, client, group, orders):
        member = GroupMember(client, group, [orders])
        settle([member], all_partitions(orders, 3))
        assert commit_alone(client, group, orders, {0: 1}).status == 409
        member.leave()
        refused = member.commit(orders, 0, 1)
        assert (refused.status, refused.document["code"]) == (409, "UNKNOWN_MEMBER_ID")
        assert committed(client, group) == {}

    def test_a_group_without_members_commits_at_any_broker(self, client, group, orders):
        for node in client.node_ids:
            commit_alone(client, group, orders, {node - 1: 10 * node}, via=node).expect(200)
        for node in client.node_ids:
            assert committed(client, group, via=node) == {
                (orders, 0): 10,
                (orders, 1): 20,
                (orders, 2): 30,
            }

    def test_an_unknown_topic_is_refused(self, client, group):
        refused = commit_alone(client, group, "no-such-topic", {0: 1})
        assert (refused.status, refused.document["code"]) == (404, "UNKNOWN_TOPIC_OR_PARTITION")

    def test_a_new_topic_can_be_committed_at_once_everywhere(self, client, group):
        for number in range(3):
            client.create_topic(f"{group}-{number}", partitions=1, via=1 + number)
            topic = f"{group}-{number}"
            commit_alone(client, group, topic, {0: 1}, via=1 + (number + 1) % 3).expect(200)


class TestAdministration:
    def test_a_group_tells_its_lag(self, client, group, orders):
        client.append(orders, "a", "b", "c", partition=0)
        member = GroupMember(client, group, [orders])
        settle([member], all_partitions(orders, 3))
        member.commit(orders, 0, 1).expect(200)
        for node in client.node_ids:
            told = describe(client, group, via=node)
            assert told["group"] == group
            assert told["state"] == "stable"
            assert [each["member_id"] for each in told["members"]] == [member.member_id]
            lags = {each["partition"]: each for each in told["offsets"]}
            assert (lags[0]["committed"], lags[0]["end"], lags[0]["lag"]) == (1, 3, 2)
            assert (lags[1]["committed"], lags[1]["end"], lags[1]["lag"]) == (None, 0, None)
            assert {each["member_id"] for each in told["offsets"]} == {member.member_id}
        for name in ("ottla_group_lag_records", "ottla_group_lag_largest_records"):
            sample = f'{name}{{group="{group}"}}'
            eventually(lambda sample=sample: client.metric(told["coordinator"], sample) == 2, 30)

    def test_every_broker_lists_all_groups(self, client, group, orders):
        names = {f"{group}-{number}" for number in range(8)}
        for name in names:
            commit_alone(client, name, orders, {0: 0}).expect(200)
        for node in client.node_ids:
            listed = client.http.get(client.url(node) + routes.GROUPS).expect(200).document
            found = [each["group"] for each in listed["groups"]]
            assert names <= set(found)
            assert found == sorted(found)

    def test_seek_shows_first_and_then_moves(self, client, group, orders):
        client.append(orders, *range(10), partition=0)
        commit_alone(client, group, orders, {0: 4, 1: 0}).expect(200)
        url = client.any_url() + routes.GROUP_SEEK.format(group=group)
        shift = {"to": "shift", "value": -3, "topics": [orders], "partitions": [0]}
        told = client.http.post(url, {**shift, "dry_run": True}).expect(200).document
        moved = {
            "topic": orders, "partition": 0, "committed": 4, "offset": 1, "clamped_to": None,
        }  # fmt: skip
        assert told == {"group": group, "dry_run": True, "offsets": [moved]}
        assert committed(client, group)[orders, 0] == 4
        client.http.post(url, shift).expect(200)
        assert committed(client, group) == {(orders, 0): 1, (orders, 1): 0}
        client.http.post(url, {"to": "offset", "value": 99}).expect(200)
        assert committed(client, group) == {(orders, 0): 10, (orders, 1): 0}
        client.http.post(url, {"to": "earliest", "topics": [orders]}).expect(200)
        assert committed(client, group) == dict.fromkeys(all_partitions(orders, 3), 0)
        client.http.post(url, {"to": "latest", "partitions": [0]}).expect(200)
        assert committed(client, group)[orders, 0] == 10

    def test_a_group_with_members_is_neither_moved_nor_deleted(self, client, group, orders):
        member = GroupMember(client, group, [orders])
        base = client.any_url()
        sought = client.http.post(
            base + routes.GROUP_SEEK.format(group=group), {"to": "earliest", "topics": [orders]}
        )
        deleted = client.http.delete(base + routes.GROUP.format(group=group))
        for refused in (sought, deleted):
            assert (refused.status, refused.document["code"]) == (409, "NON_EMPTY_GROUP")
        member.leave()
        client.http.delete(base + routes.GROUP.format(group=group)).expect(204)
        gone = client.http.get(base + routes.GROUP.format(group=group))
        assert (gone.status, gone.document["code"]) == (404, "GROUP_ID_NOT_FOUND")

    def test_nobody_writes_what_the_coordinators_keep(self, client, group, orders):
        commit_alone(client, group, orders, {0: 1}).expect(200)
        refused = client.produce("__consumer_offsets", [{"value": 1}])
        assert (refused.status, refused.document["code"]) == (422, "INVALID_TOPIC_EXCEPTION")
        assert len(client.describe("__consumer_offsets")["partitions"]) == 16
        configs = client.describe("__consumer_offsets")["configs"]
        assert configs["max.message.bytes"] == 16 << 20, "room for a decision on a large group"


class TestFailover:
    @pytest.fixture
    def own(self, start_cluster):
        client = start_cluster()
        client.create_topic("orders", partitions=3)
        client.wait_led("orders", partitions=3)
        return client

    def test_a_commit_survives_the_kill_of_its_coordinator(self, own):
        """Three times in a row, the moment that the commit is answered."""
        for offset in (1, 2, 3):
            commit_alone(own, "g", "orders", {0: offset}).expect(200)
            coordinator = describe(own, "g")["coordinator"]
            commit_alone(own, "g", "orders", {1: offset}, via=coordinator).expect(200)
            own.cluster.broker(coordinator).kill()
            survivor = own.live_node_ids[0]
            assert committed(own, "g", via=survivor) == {
                ("orders", 0): offset,
                ("orders", 1): offset,
            }
            assert describe(own, "g", via=survivor)["coordinator"] != coordinator
            own.cluster.broker(coordinator).start()
            own.cluster.wait_ready()
            own.wait_isr("__consumer_offsets", 3)

    def test_a_coordinator_that_stood_still_neither_answers_nor_expires_from_memory(self, own):
        """It wakes in the belief that it coordinates, after others have gone on without it."""
        member = GroupMember(own, "g", ["orders"], session_timeout_ms=4_000)
        settle([member], all_partitions("orders", 3))
        member.commit("orders", 0, 1).expect(200)
        coordinator = describe(own, "g")["coordinator"]
        survivor = own.others(coordinator)[0]
        member.via = survivor
        paused = own.cluster.broker(coordinator)
        paused.pause()

        def taken_over():
            member.heartbeat()
            return describe(own, "g", via=survivor)["coordinator"] != coordinator

        eventually(taken_over, FAILOVER_LIMIT_S)
        member.commit("orders", 0, 2).expect(200)
        # The kernel keeps the question until the process runs again: it is what it wakes to.
        asking = HTTPConnection(urlsplit(own.url(coordinator)).netloc, timeout=FAILOVER_LIMIT_S)
        asking.request("GET", routes.GROUP_OFFSETS.format(group="g"))
        paused.resume()
        with closing(asking), asking.getresponse() as answer:
            assert [each["offset"] for each in json.load(answer)["offsets"]] == [2]

        def back_in_sync():
            # It may take longer than the member's session, which heartbeats alone keep.
            member.heartbeat()
            own.wait_isr("__consumer_offsets", 3, timeout_s=0)
            return True

        eventually(back_in_sync, 2 * FAILOVER_LIMIT_S)
        member.via = coordinator
        member.heartbeat()
        assert member.partitions == all_partitions("orders", 3)
        assert committed(own, "g") == {("orders", 0): 2}

    def test_too_few_brokers_for_the_first_group_is_nobodys_mistake(self, own):
        """The topic of the coordinators must not be made less durable than the cluster promises."""
        absent = own.others(own.controller())[0]
        own.cluster.broker(absent).kill()

        def fenced():
            brokers = own.http.get(own.any_url() + routes.BROKERS).expect(200).document["brokers"]
            return [each["id"] for each in brokers if each["state"] == "fenced"] == [absent]

        eventually(fenced)
        refused = commit_alone(own, "g", "orders", {0: 1})
        assert (refused.status, refused.document["code"]) == (503, "COORDINATOR_NOT_AVAILABLE")
        assert refused.document["outcome"] == "not_applied"
        own.cluster.broker(absent).start()
        own.cluster.wait_ready()
        commit_alone(own, "g", "orders", {0: 1}).expect(200)

    def test_members_outlive_their_coordinator(self, own):
        """Nobody expires or loses a partition because the coordinator died."""
        members = [GroupMember(own, "g", ["orders"], session_timeout_ms=6_000) for _ in range(3)]

        def shared_out():
            settle(members, all_partitions("orders", 3))
            return all(len(each.partitions) == 1 for each in members)

        eventually(shared_out)
        before = {each.member_id: set(each.partitions) for each in members}
        coordinator = describe(own, "g")["coordinator"]
        own.cluster.broker(coordinator).kill()
        for member in members:
            member.heartbeat()
        assert {each.member_id: each.partitions for each in members} == before
        for member in members:
            member.commit(*min(member.partitions), 9).expect(200)
        assert set(committed(own, "g").values()) == {9}
