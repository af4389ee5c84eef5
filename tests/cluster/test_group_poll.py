"""A consumer group in one call, on real brokers: nothing is lost, nothing comes twice."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from ottla_ops.local_cluster import LocalCluster
from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.polling_client import PollingClient

pytestmark = pytest.mark.cluster

SHORT_SESSION_MS = 1_500


@pytest.fixture(scope="module")
def client(tmp_path_factory, http, launch):
    """Three brokers for the tests that harm nobody."""
    with LocalCluster(tmp_path_factory.mktemp("polls"), launch=launch) as cluster:
        yield ClusterClient(cluster, http)


@pytest.fixture
def group(request):
    return "".join(c if c.isalnum() else "-" for c in request.node.name)[:150]


@pytest.fixture
def orders(client, group):
    """A topic of three partitions."""
    name = f"orders-{group}"[:200]
    client.create_topic(name, partitions=3)
    client.wait_led(name, partitions=3)
    return name


def produce(client, topic, values, **arguments):
    """Values in turn to three partitions."""
    for partition in range(3):
        records = [{"value": value} for value in values if value % 3 == partition]
        if records:
            client.produce(topic, records, partition=partition, **arguments).expect(200)


def drain(consumer, count, timeout_s=15.0, **fields):
    """Poll until `count` different values have come."""

    def enough():
        consumer.poll(**fields)
        return len(set(consumer.values)) >= count

    eventually(enough, timeout_s)


def committed(client, group, via=None):
    url = client.any_url() if via is None else client.url(via)
    document = client.http.get(url + routes.GROUP_OFFSETS.format(group=group)).expect(200).document
    return {each["partition"]: each["offset"] for each in document["offsets"]}


def members(client, group):
    url = client.any_url() + routes.GROUP.format(group=group)
    answer = client.http.get(url)
    return [] if answer.status == 404 else answer.expect(200).document["members"]


class TestPolling:
    def test_one_client_gets_everything_once_and_through_any_broker(self, client, group, orders):
        produce(client, orders, range(30))
        consumer = PollingClient(client, group, [orders], max_records=7)
        for turn in range(40):
            consumer.poll(via=1 + turn % 3)
        assert sorted(consumer.values) == list(range(30))
        assert sum(committed(client, group).values()) == 30
        assert len(members(client, group)) == 1

    def test_a_record_tells_where_it_comes_from(self, client, group, orders):
        records = [{"key": "k", "value": {"n": 1}, "headers": {"h": "x"}, "timestamp": 7}]
        client.produce(orders, records, partition=2).expect(200)
        document = PollingClient(client, group, [orders]).try_poll().expect(200).document
        assert document["records"] == [
            {
                "topic": orders, "partition": 2, "offset": 0, "timestamp": 7, "key": "k",
                "value": {"n": 1}, "headers": {"h": "x"},
            }
        ]  # fmt: skip

    def test_records_of_a_partition_come_in_order_and_no_partition_starves(
        self, client, group, orders
    ):
        produce(client, orders, range(300))
        consumer = PollingClient(client, group, [orders], max_records=9)
        first = consumer.poll()
        assert {value % 3 for value in first} == {0, 1, 2}
        drain(consumer, 300)
        for partition in range(3):
            mine = [value for value in consumer.values if value % 3 == partition]
            assert mine == sorted(mine)

    def test_nothing_there_is_an_empty_answer_without_an_ack(self, client, group, orders):
        document = PollingClient(client, group, [orders]).try_poll().expect(200).document
        assert (document["records"], document["ack"]) == ([], None)

    @pytest.mark.parametrize("via", [1, 2, 3])
    def test_a_waiting_poll_wakes_when_a_record_comes(self, client, group, orders, via):
        consumer = PollingClient(client, group, [orders], via=via)
        assert consumer.poll() == []
        found = []
        waiting = threading.Thread(target=lambda: found.extend(consumer.poll(max_wait_ms=20_000)))
        waiting.start()
        time.sleep(0.5)  # Nothing tells from outside that the reads are parked at all leaders.
        assert found == []
        produce(client, orders, [4])
        # Far less than it would wait.
        waiting.join(10)
        assert found == [4]

    def test_a_pattern_reads_all_topics_that_it_matches(self, client, group, orders):
        produce(client, orders, [0, 1, 2])
        consumer = PollingClient(client, group, None, pattern=f"{orders[:-1]}.")
        drain(consumer, 3)

    def test_another_subscription_is_taken_at_the_next_poll(self, client, group, orders):
        other = f"{orders}-other"
        client.create_topic(other, partitions=1)
        client.wait_led(other)
        client.append(other, 100)
        consumer = PollingClient(client, group, [orders])
        assert consumer.poll() == []
        assert consumer.poll(topics=[other], max_wait_ms=5_000) == [100]

    def test_latest_begins_at_the_end_and_skips_nothing_afterwards(self, client, group, orders):
        produce(client, orders, [0, 1, 2])
        consumer = PollingClient(client, group, [orders], auto_offset_reset="latest")
        assert consumer.poll() == []
        produce(client, orders, [3, 4, 5])
        drain(consumer, 3)
        assert sorted(consumer.values) == [3, 4, 5]

    def test_none_refuses_to_begin_anywhere(self, client, group, orders):
        consumer = PollingClient(client, group, [orders], auto_offset_reset="none")
        answer = consumer.try_poll().expect(416)
        assert answer.code == "OFFSET_OUT_OF_RANGE"
        eventually(lambda: members(client, group) == [])

    def test_an_offset_beyond_the_end_is_reset(self, client, group, orders):
        produce(client, orders, [0, 1, 2])
        offsets = [{"topic": orders, "partition": n, "offset": 99} for n in range(3)]
        url = client.any_url() + routes.GROUP_OFFSETS.format(group=group)
        client.http.post(url, {"offsets": offsets}).expect(200)
        consumer = PollingClient(client, group, [orders])
        drain(consumer, 3)


class TestAcks:
    def test_a_poll_without_an_ack_gives_the_same_again(self, client, group, orders):
        produce(client, orders, [0])
        consumer = PollingClient(client, group, [orders])
        assert [consumer.poll(ack=None) for _ in range(3)] == [[0]] * 3
        assert committed(client, group) == {}
        consumer.poll()
        assert committed(client, group) == {0: 1}

    def test_an_ack_may_come_again_also_when_the_group_has_gone_on(self, client, group, orders):
        produce(client, orders, [0])
        consumer = PollingClient(client, group, [orders])
        consumer.poll()
        old = consumer.ack
        for _ in range(2):
            consumer.try_poll(ack=old).expect(200)
        assert committed(client, group) == {0: 1}
        produce(client, orders, [3, 6])
        drain(consumer, 3)
        consumer.poll()
        assert committed(client, group) == {0: 3}
        consumer.try_poll(ack=old).expect(200)
        assert committed(client, group) == {0: 3}

    def test_acks_that_cross_take_nothing_back(self, client, group, orders):
        """Two polls of one member at a time, as a client has that gave up waiting for the first."""
        rounds, batch = 15, 10
        produce(client, orders, [3 * number for number in range(rounds * 2 * batch)])
        consumer = PollingClient(client, group, [orders])
        with ThreadPoolExecutor(2) as threads:
            for number in range(rounds):
                less = consumer.try_poll(ack=None, max_records=batch).expect(200).document
                consumer.member_id = less["member_id"]
                more = consumer.try_poll(ack=None, max_records=2 * batch).expect(200).document
                crossing = [
                    threads.submit(consumer.try_poll, ack=each["ack"], via=1 + number % 3)
                    for each in (more, less)
                ]
                for answer in crossing:
                    answer.result().expect(200)
                assert committed(client, group) == {0: (number + 1) * 2 * batch}

    def test_an_ack_names_the_member_by_itself(self, client, group, orders):
        produce(client, orders, [0])
        consumer = PollingClient(client, group, [orders])
        consumer.poll()
        document = consumer.try_poll(member_id=None).expect(200).document
        assert document["member_id"] == consumer.member_id
        assert committed(client, group) == {0: 1}

    def test_the_ack_of_a_lost_partition_is_fenced_and_commits_nothing(self, client, group, orders):
        produce(client, orders, [0, 1, 2])
        lost = PollingClient(client, group, [orders], session_timeout_ms=SHORT_SESSION_MS)
        drain(lost, 3, ack=None)
        other = PollingClient(client, group, [orders])
        # Its client is silent until the session ends; whoever has the partitions reads them again.
        drain(other, 3, max_wait_ms=500)
        refused = lost.try_poll().expect(409)
        assert (refused.code, refused.document["retriable"]) == ("FENCED", False)
        assert refused.document["outcome"] == "not_applied"
        other.poll()
        assert sum(committed(client, group).values()) == 3
        # The other one has committed as much meanwhile, and still the ack is a stranger's.
        assert lost.try_poll().expect(409).code == "FENCED"
        assert lost.try_poll(ack=None).expect(200).document["member_id"] == lost.member_id

    def test_a_partition_on_its_way_to_another_member_is_acknowledged_first(
        self, client, group, orders
    ):
        produce(client, orders, [0, 1, 2])
        first = PollingClient(client, group, [orders])
        drain(first, 3, ack=None)
        second = PollingClient(client, group, [orders])
        # What the first one has not acknowledged is not given to anybody else.
        assert second.poll(max_wait_ms=1_000) == []
        assert first.poll() == []
        assert sum(committed(client, group).values()) == 3
        assert second.poll(max_wait_ms=1_000) == []
        produce(client, orders, range(3, 30))

        def all_came():
            first.poll()
            second.poll()
            return len(set(first.values + second.values)) == 30

        eventually(all_came)
        assert second.values, "the second member has no partition"
        assert len(first.values) + len(second.values) == 30

    @pytest.mark.parametrize("ack", ["x", "", "????", "AAAA", "é", "a" * 1000])
    def test_what_is_no_ack_is_refused(self, client, group, orders, ack):
        answer = PollingClient(client, group, [orders]).try_poll(ack=ack).expect(422)
        assert answer.document["field"] == "ack"
        assert members(client, group) == []

    def test_an_ack_of_another_group_or_member_is_refused(self, client, group, orders):
        produce(client, orders, [0])
        consumer = PollingClient(client, group, [orders])
        consumer.poll()
        other = PollingClient(client, f"{group}-other", [orders])
        assert other.try_poll(ack=consumer.ack).expect(422).document["field"] == "ack"
        answer = consumer.try_poll(member_id="somebody").expect(422)
        assert answer.document["field"] == "ack"


class TestMembership:
    def test_two_clients_share_the_partitions(self, client, group, orders):
        first = PollingClient(client, group, [orders], via=1)
        second = PollingClient(client, group, [orders], via=2)

        def shared_out():
            first.poll()
            second.poll()
            held = [len(member["assignment"]) for member in members(client, group)]
            return len(held) == 2 and all(held)

        eventually(shared_out)
        produce(client, orders, range(60))

        def all_came():
            first.poll()
            second.poll()
            return len(first.values) + len(second.values) >= 60

        eventually(all_came)
        assert sorted(first.values + second.values) == list(range(60))
        assert first.values
        assert second.values

    def test_a_waiting_poll_keeps_its_member_alive(self, client, group, orders):
        # It is heard of three times in a session, so a stall may cost two thirds of one.
        consumer = PollingClient(client, group, [orders], session_timeout_ms=4_000)
        consumer.poll()
        [before] = members(client, group)
        assert consumer.poll(max_wait_ms=7_000) == []
        [after] = members(client, group)
        assert (after["member_id"], after["generation"]) == (
            before["member_id"], before["generation"],
        )  # fmt: skip

    def test_a_waiting_poll_gives_a_partition_up_at_once(self, client, group, orders):
        first = PollingClient(client, group, [orders])
        first.poll()
        waiting = threading.Thread(target=lambda: first.poll(max_wait_ms=8_000))
        waiting.start()
        time.sleep(0.3)  # Nothing tells from outside that the poll is parked.
        second = PollingClient(client, group, [orders])
        produce_later = threading.Timer(1.0, lambda: produce(client, orders, range(30)))
        produce_later.start()
        assert second.poll(max_wait_ms=6_000) != []
        waiting.join(10)
        produce_later.join(10)

    def test_a_silent_client_loses_its_partitions_when_its_session_ends(
        self, client, group, orders
    ):
        produce(client, orders, [0, 1, 2])
        silent = PollingClient(client, group, [orders], session_timeout_ms=SHORT_SESSION_MS)
        drain(silent, 3, ack=None)
        eventually(lambda: members(client, group) == [])

    @pytest.mark.parametrize("named", [False, True])
    @pytest.mark.parametrize("via", [1, 2, 3])
    def test_a_client_that_goes_away_in_its_first_poll_leaves_no_ghost(
        self, client, group, orders, via, named
    ):
        request = {"topics": [orders], "max_wait_ms": 30_000}
        if named:
            request["member_id"] = "me"
        with raw_poll(client.url(via), group, request):
            eventually(lambda: len(members(client, group)) == 1)
        # Far less than the session, which is 30 seconds.
        eventually(lambda: members(client, group) == [])

    def test_a_client_that_goes_away_later_stays_a_member(self, client, group, orders):
        consumer = PollingClient(client, group, [orders])
        consumer.poll()
        request = {"topics": [orders], "max_wait_ms": 30_000, "member_id": consumer.member_id}
        with raw_poll(client.any_url(), group, request):
            time.sleep(0.5)  # Nothing tells from outside that the poll is parked.
        produce(client, orders, [0])
        assert consumer.poll(max_wait_ms=5_000) == [0]
        assert [each["member_id"] for each in members(client, group)] == [consumer.member_id]

    def test_a_member_that_leaves_makes_room(self, client, group, orders):
        produce(client, orders, [0, 1, 2])
        first = PollingClient(client, group, [orders])
        drain(first, 3, ack=None)
        first.leave()
        second = PollingClient(client, group, [orders])
        drain(second, 3)


class TestBadRequests:
    @pytest.mark.parametrize(
        "fields",
        [
            {"topics": None},
            {"pattern": "x"},
            {"max_records": 0},
            {"max_records": 10_001},
            {"max_wait_ms": 60_001},
            {"session_timeout_ms": 1},
            {"auto_offset_reset": "middle"},
            {"format": "xml"},
            {"assignor": "fair"},
            {"surprise": 1},
        ],
    )
    def test_a_wrong_field_is_refused_and_leaves_no_member(self, client, group, orders, fields):
        PollingClient(client, group, [orders]).try_poll(**fields).expect(422)
        if fields == {"topics": None}:
            request = {"max_wait_ms": 0}
            url = client.any_url() + routes.GROUP_POLL.format(group=group)
            client.http.post(url, request).expect(422)
        assert members(client, group) == []

    def test_a_value_that_is_no_json_is_told_and_leaves_no_member(self, client, group, orders):
        client.produce(orders, [{"value_text": "not json"}], partition=0).expect(200)
        PollingClient(client, group, [orders], format="json").try_poll().expect(422)
        eventually(lambda: members(client, group) == [])


class raw_poll:  # noqa: N801  used as a context manager alone
    """A poll whose client closes the connection without an answer."""

    def __init__(self, url, group, request):
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        body = json.dumps(request).encode()
        head = (
            f"POST {routes.GROUP_POLL.format(group=group)} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()


def test_polls_go_on_while_coordinators_and_leaders_die(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    consumer = PollingClient(client, "g", ["t"], max_records=5)
    consumer.poll()
    expected = 0
    for _ in range(3):
        produce(client, "t", range(expected, expected + 30))
        expected += 30
        drain(consumer, expected - 20)
        url = client.any_url() + routes.GROUP.format(group="g")
        coordinator = client.http.get(url).expect(200).document["coordinator"]
        client.cluster.broker(coordinator).kill()

        def goes_on(expected=expected):
            answer = consumer.try_poll(max_wait_ms=500)
            if answer.status != 200:
                assert answer.document["retriable"] is True, answer.document
                return False
            document = answer.document
            consumer.ack = document["ack"]
            consumer.values += [record["value"] for record in document["records"]]
            return len(set(consumer.values)) == expected

        eventually(goes_on, 30.0)
        client.cluster.broker(coordinator).start()
        client.cluster.wait_ready()
        client.wait_isr("__consumer_offsets", 3)
        client.wait_isr("t", 3)
    consumer.poll()
    assert sum(committed(client, "g").values()) == expected
    # Every ack was heard of, so nothing was given twice.
    assert sorted(consumer.values) == list(range(expected))
