"""ISR, catching up, health and metrics of a cluster whose followers stall and return."""

import json
import re
import time
from itertools import pairwise

import pytest

from ottla_ops.generate.metrics_reference import FOOTER, metrics_reference
from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

FAST_LAG = {"OTTLA_REPLICA_LAG_TIME_MAX_MS": "1000"}


class TestStalledFollower:
    def test_it_leaves_the_isr_and_returns_when_it_has_caught_up(self, start_cluster):
        client = start_cluster(settings=FAST_LAG)
        client.create_topic("t", partitions=1)
        client.append("t", "before")
        leader = client.leader("t")
        controller = client.controller()
        follower = next(node for node in client.others(leader) if node != controller)
        stalled = client.cluster.broker(follower)
        stalled.pause()

        started_s = time.monotonic()
        assert client.append("t", "during", via=leader) == 1  # Waits until the follower is out.
        assert time.monotonic() - started_s < 6
        eventually(lambda: follower not in client.partition("t", via=leader)["isr"])
        started_s = time.monotonic()
        for number in range(20):
            client.append("t", number, via=leader)
        assert time.monotonic() - started_s < 10  # Half of what they take if each waits for it.
        assert client.partition("t", via=leader)["leader_epoch"] == 0

        stalled.resume()
        client.wait_isr("t", 3)
        copies = client.wait_replicas_equal("t")
        assert len(copies[0]) == 22
        assert client.metric(leader, 'ottla_isr_changes_total{direction="expand"}') >= 1

    def test_the_high_watermark_reaches_followers_without_further_writes(self, start_cluster):
        client = start_cluster()
        client.create_topic("t", partitions=1)
        client.append("t", "only")
        for node_id in client.node_ids:
            eventually(lambda node_id=node_id: client.local_records(node_id, "t")[0] == 1)


class TestHealth:
    def test_live_ready_version(self, shared):
        for node_id in shared.node_ids:
            url = shared.url(node_id)
            assert shared.http.get(f"{url}/livez").expect(200).document == {"live": True}
            # A broker that has just stood still may have to confirm its session first.
            ready = eventually(lambda url=url: shared.http.get(f"{url}/readyz").expect(200))
            assert ready.document == {"ready": True, "reasons": [], "warnings": []}
            assert shared.http.get(f"{url}/startupz").expect(200).document == {"started": True}
            version = shared.http.get(f"{url}/version").expect(200).document
            assert set(version) == {"version", "python", "sqlite"}
            assert all(part.isdigit() for part in version["sqlite"].split("."))

    def test_a_broker_without_a_quorum_is_alive_but_not_ready_and_says_why(self, start_cluster):
        client = start_cluster()
        client.create_topic("t", partitions=1)
        client.append("t", "x")
        eventually(lambda: client.local_records(3, "t")[0] == 1)
        for node_id in (1, 2):
            client.cluster.broker(node_id).kill()
        url = client.url(3)

        def unready():
            answer = client.http.get(f"{url}/readyz")
            assert answer.status == 503
            return answer.document

        document = eventually(unready)
        assert document["ready"] is False
        assert document["reasons"]
        client.http.get(f"{url}/livez").expect(200)
        client.http.get(f"{url}/startupz").expect(200)
        text = client.http.get(f"{url}/metrics").expect(200).text
        assert 'ottla_partition_log_end_offset{partition="0",topic="t"} 1.0\n' in text
        # What it does not know may exist: that is for a controller to say.
        for answer in (
            client.http.get(f"{url}/v1/topics/absent"),
            client.produce("absent", [{"value": 1}], via=3),
        ):
            problem = answer.expect(503).document
            assert (problem["code"], problem["retriable"]) == ("CONTROLLER_NOT_AVAILABLE", True)
        # Its own copy stays readable.
        assert len(client.local_records(3, "t")[1]) == 1


LIMITS = {
    "connections", "fetch_sessions", "followers", "inflight_other_bytes", "inflight_produce_bytes",
    "open_segments", "parked_requests", "peer_calls_client", "peer_calls_cluster",
    "peer_calls_parked", "peer_calls_produce", "pending_append_bytes", "raft_inputs",
    "raft_outbox_messages", "streamed_reads", "transactional_batches", "unsent_answer_bytes",
}  # fmt: skip

LIMIT = {
    kind: re.compile(rf'^ottla_limit_{kind}{{limit="(\w+)"}} (\S+)$', re.MULTILINE)
    for kind in ("used", "max")
}

PROCESS_METRIC = re.compile(r"`(process_\w+|python_\w+)(\*?)`")


class TestMetrics:
    def test_what_is_there_is_in_the_reference_and_the_other_way_round(self, shared, topic):
        shared.append(topic, "x")
        answer = shared.http.get(f"{shared.any_url()}/metrics").expect(200)
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        types = dict(
            line.split()[2:4] for line in answer.text.splitlines() if line.startswith("# TYPE")
        )
        reference = metrics_reference()
        assert {name: kind for name, kind in types.items() if name.startswith("ottla_")} == dict(
            re.findall(r"^\| `(\w+)` \| (\w+) \|", reference, re.MULTILINE)
        )
        of_the_process = PROCESS_METRIC.findall(FOOTER)
        for name in types:
            if not name.startswith("ottla_"):
                assert any(
                    name.startswith(told) if rest else name == told for told, rest in of_the_process
                ), name
        assert {told for told, rest in of_the_process if not rest} <= types.keys()

    def test_the_values_tell_what_happened(self, shared, topic):
        leader = shared.leader(topic)
        follower = shared.others(leader)[0]
        names = (
            "ottla_produced_records_total",
            "ottla_produced_batches_total",
            "ottla_produced_bytes_total",
            "ottla_produce_duplicates_total",
        )
        before = {name: shared.metric(leader, name) for name in names}
        replicated = shared.metric(follower, "ottla_replicated_bytes_total")
        for _ in range(2):
            shared.produce(
                topic, [{"value": 1}] * 5, partition=0, headers={"Idempotency-Key": "k"}
            ).expect(200)
        told = {name: shared.metric(leader, name) - before[name] for name in names}
        assert told["ottla_produced_records_total"] == 5
        assert told["ottla_produced_batches_total"] == 1
        assert told["ottla_produced_bytes_total"] > 61
        assert told["ottla_produce_duplicates_total"] == 1
        eventually(
            lambda: (
                shared.metric(follower, "ottla_replicated_bytes_total") - replicated
                >= told["ottla_produced_bytes_total"]
            )
        )

    def test_limits_are_told_with_what_is_taken(self, shared, topic):
        shared.append(topic, "x")
        for node in shared.node_ids:
            text = shared.http.get(shared.url(node) + "/metrics").expect(200).text
            used, most = (dict(LIMIT[kind].findall(text)) for kind in ("used", "max"))
            assert used.keys() == most.keys() == LIMITS
            assert all(0 <= float(used[limit]) <= float(most[limit]) for limit in LIMITS), used
            assert float(used["connections"]) >= 1  # The one that asks.
        open_segments = 'ottla_limit_used{limit="open_segments"}'
        assert shared.metric(shared.leader(topic), open_segments) >= 1
        controller = shared.controller()
        heartbeats = 'ottla_controller_event_seconds_count{event="Heartbeat"}'
        assert shared.metric(controller, heartbeats) > 0
        assert sum(shared.metric(n, "ottla_begun_leaderships_total") for n in shared.node_ids) > 0

    def test_commits_forwards_and_followers_are_measured(self, shared, topic):
        leader = shared.leader(topic)
        follower = shared.others(leader)[0]
        on_leader = ("commit_seconds_count", "commit_records_sum", "commit_batches_sum")
        on_follower = (
            'forward_seconds_count{kind="produce"}',
            "replicated_records_total",
            "replicated_batches_total",
            "replica_fetch_seconds_count",
        )

        def told(node, names):
            return [shared.metric(node, f"ottla_{name}") for name in names]

        def rises(node, names, before, least):
            now = told(node, names)
            assert all(a - b >= c for a, b, c in zip(now, before, least, strict=True)), now

        shared.produce(topic, [{"value": 0}], partition=0, via=follower).expect(200)
        led, followed = told(leader, on_leader), told(follower, on_follower)
        shared.produce(topic, [{"value": 1}] * 5, partition=0, via=follower).expect(200)
        rises(leader, on_leader, led, (1, 5, 1))
        eventually(lambda: rises(follower, on_follower, followed, (1, 5, 1, 1)))
        label = f'{{follower="{follower}"}}'
        assert shared.metric(leader, f"ottla_follower_partitions{label}") >= 1
        eventually(lambda: shared.metric(leader, f"ottla_follower_lag_records{label}") == 0)

    def test_one_controller_and_nothing_under_replicated(self, shared, topic):
        nodes = shared.node_ids

        def one_controller():
            # While one takes over from another, there may be none or two of them.
            assert sum(shared.metric(node, "ottla_is_controller") for node in nodes) == 1
            assert shared.metric(shared.controller(), "ottla_is_controller") == 1

        eventually(one_controller)
        eventually(
            lambda: all(
                shared.metric(node, "ottla_under_replicated_partitions") == 0 for node in nodes
            )
        )

        def counted(role):
            name = f'ottla_partitions{{role="{role}"}}'
            return sum(shared.metric(node, name) for node in nodes)

        def every_replica_is_counted():
            # Topics that earlier tests deleted may be listed still.
            url = f"{shared.any_url()}/v1/topics"
            topics = shared.http.get(url).expect(200).document["topics"]
            replicas = [state["replicas"] for found in topics for state in found["partitions"]]
            assert counted("leader") == len(replicas)
            assert counted("leader") + counted("follower") == sum(map(len, replicas))

        eventually(every_replica_is_counted)

    def test_no_label_is_of_a_clients_making(self, shared):
        shared.http.get(f"{shared.any_url()}/v1/canary-path")
        shared.http.get(f"{shared.any_url()}/v1/topics/canary-topic")
        shared.http.call("CANARY", f"{shared.any_url()}/v1/topics")
        text = shared.http.get(f"{shared.any_url()}/metrics").text
        assert "canary" not in text.lower()


def log_lines(broker):
    return [json.loads(line) for line in broker.log_path.read_text().splitlines()]


class TestLogs:
    def test_all_who_serve_a_request_name_it(self, shared, topic):
        leader = shared.leader(topic)
        asked = shared.others(leader)[0]
        produced, read = f"{topic}-produce", f"{topic}/read"
        name = routes.HEADER_REQUEST_ID
        path = f"{shared.url(asked)}/v1/topics/{topic}/partitions/0/records"
        answer = shared.produce(topic, [{"value": 1}], via=asked, headers={name: produced})
        assert answer.expect(200).headers[name] == produced
        answer = shared.http.get(path, headers={name: read}, offset=0).expect(200)
        assert (answer.headers[name], len(answer.document["records"])) == (read, 1)

        def named(node, request_id):
            return [
                (line["method"], line["path"], line["status"])
                for line in log_lines(shared.cluster.broker(node))
                if line.get("request_id") == request_id and line["event"] == "request_answered"
            ]

        records = routes.PARTITION_RECORDS
        eventually(lambda: named(asked, produced) == [("POST", routes.TOPIC_RECORDS, 200)])
        eventually(lambda: named(leader, produced) == [("POST", routes.INTERNAL_PRODUCE, 200)])
        for node in (asked, leader):
            eventually(lambda node=node: named(node, read) == [("GET", records, 200)])

    def test_a_request_without_an_id_gets_one_and_its_error_tells_it(self, shared):
        name = routes.HEADER_REQUEST_ID
        url = f"{shared.any_url()}/v1/topics/absent"
        for call in (
            lambda headers: shared.http.get(url, headers=headers),
            lambda headers: shared.http.post(f"{url}/records", {"records": []}, headers=headers),
        ):
            answers = [call(headers) for headers in ({}, {name: "not an id"}, {name: "an-id"})]
            told = [answer.headers[name] for answer in answers]
            assert len(set(told)) == 3
            assert told[2] == "an-id"
            assert "not an id" not in told
            assert [answer.document["request_id"] for answer in answers] == told

    def test_a_change_of_state_has_one_line(self, shared):
        for broker in shared.cluster.brokers:
            lines = log_lines(broker)
            assert [line["event"] for line in lines].count("listening") == 1
            for pair in ({"unfenced", "fenced"}, {"controller_active", "controller_resigned"}):
                # A broker that registers anew begins as a fenced one, without a line for that.
                told = [
                    (line["event"], line.get("broker_epoch"))
                    for line in lines
                    if line["event"] in pair
                ]
                assert all(before != after for before, after in pairwise(told)), told

    def test_lines_are_json_and_hold_no_record(self, shared, topic):
        shared.append(topic, "canary-value")
        shared.produce(topic, [{"key": "canary-key", "value": 1}], acks=5)
        shared.http.call("CANARY", shared.any_url())
        for broker in shared.cluster.brokers:
            text = broker.log_path.read_text()
            assert "canary" not in text
            for line in text.splitlines():
                entry = json.loads(line)
                assert {"event", "level", "timestamp", "broker"} <= set(entry)
