"""What the tests ask of a running cluster, in its own terms."""

import json
import sqlite3
from contextlib import closing

import urllib3

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

MAX_PLACEMENTS = 12
CREATION_TIMEOUT_S = 20.0
"""Elections may follow one another on a machine that is busy."""

LOCAL_READ = {"replica": "local", "format": "base64", "max_wait_ms": 0, "max_records": 100_000}


class ClusterClient:
    """Calls to the brokers of one `LocalCluster`."""

    def __init__(self, cluster, http):
        self.cluster = cluster
        self.http = http

    def url(self, node_id):
        return self.cluster.broker(node_id).url

    @property
    def node_ids(self):
        return [broker.node_id for broker in self.cluster.brokers]

    @property
    def live_node_ids(self):
        """Brokers that run and are not paused."""
        return [
            broker.node_id
            for broker in self.cluster.brokers
            if broker.is_running and not broker.is_paused
        ]

    def others(self, node_id):
        return [other for other in self.node_ids if other != node_id]

    def any_url(self):
        return self.url(self.live_node_ids[0])

    # --- topics ---------------------------------------------------------------------------------

    def create_topic(self, name, *, via=None, **fields):
        """Create a topic; returns its description.

        A controller that is replaced meanwhile leaves unknown whether there is one: it is asked for
        again, as by everybody, and may be there by then.
        """
        url = self.url(via) if via is not None else self.any_url()
        is_unknown = False

        def asked():
            nonlocal is_unknown
            answer = self.http.post(url + routes.TOPICS, {"name": name, **fields})
            is_unknown |= answer.status == 421 and answer.document["outcome"] == "unknown"
            return answer.status != 421 and answer

        answer = eventually(asked, CREATION_TIMEOUT_S)
        if answer.status == 409 and is_unknown:
            return self.describe(name, via=via)
        return answer.expect(201).document

    def describe(self, topic, *, via=None):
        url = self.url(via) if via is not None else self.any_url()
        return self.http.get(f"{url}{routes.TOPICS}/{topic}").expect(200).document

    def partition(self, topic, partition=0, *, via=None):
        return self.describe(topic, via=via)["partitions"][partition]

    def leader(self, topic, partition=0, *, via=None):
        """The leader's node id; waits until there is one."""
        return eventually(lambda: self.partition(topic, partition, via=via)["leader"] or False)

    def create_topic_led_by(self, node_id):
        """Create a topic of one partition that this broker leads; returns its name."""
        for number in range(MAX_PLACEMENTS):
            name = f"led-by-{node_id}-{number}"
            if self.create_topic(name, partitions=1)["partitions"][0]["leader"] == node_id:
                self.wait_led(name)
                return name
        raise AssertionError(f"no topic was placed on broker {node_id}")

    def wait_led(self, topic, *, partitions=1):
        """Wait until the leader of each partition serves it."""

        def led():
            for partition in range(partitions):
                self.offset(topic, partition).expect(200)
            return True

        eventually(led, CREATION_TIMEOUT_S)

    def controller(self):
        """The active controller, agreed on by all live brokers."""

        def agreed():
            named = {
                self.http.get(self.url(node_id) + routes.CLUSTER).document["controller"]
                for node_id in self.live_node_ids
            }
            # None would end the wait: brokers that know of no controller do not agree on one.
            return len(named) == 1 and (named.pop() or False)

        return eventually(agreed)

    def wait_isr(self, topic, size, *, partitions=None, timeout_s=15.0):
        """Wait until every partition (or those named) has `size` replicas in sync."""

        def reached():
            found = [
                len(state["isr"])
                for state in self.describe(topic)["partitions"]
                if partitions is None or state["partition"] in partitions
            ]
            assert found == [size] * len(found), f"ISR sizes {found}, not {size}"

        eventually(reached, timeout_s)

    # --- records --------------------------------------------------------------------------------

    def produce(self, topic, records, *, partition=None, via=None, headers=None, **query):
        """POST records; the bare answer."""
        url = self.url(via) if via is not None else self.any_url()
        path = routes.TOPIC_RECORDS if partition is None else routes.PARTITION_RECORDS
        return self.http.post(
            url + path.format(topic=topic, partition=partition),
            {"records": records},
            headers=headers,
            **query,
        )

    def append(self, topic, *values, partition=0, **arguments):
        """Produce values to one partition; returns the base offset."""
        records = [{"value": value} for value in values]
        answer = self.produce(topic, records, partition=partition, **arguments).expect(200)
        return answer.document["results"][0]["base_offset"]

    def read(self, topic, partition=0, *, via=None, timeout_s=30.0, **query):
        """GET records; the bare answer."""
        url = self.url(via) if via is not None else self.any_url()
        path = routes.PARTITION_RECORDS.format(topic=topic, partition=partition)
        return self.http.get(url + path, timeout_s=timeout_s, **query)

    def offset(self, topic, partition=0, at="latest", *, via=None):
        url = self.url(via) if via is not None else self.any_url()
        path = routes.PARTITION_OFFSETS.format(topic=topic, partition=partition)
        return self.http.get(url + path, at=at)

    def values(self, topic, partition=0, *, via=None):
        """Every value of the partition by offset, as its leader tells.

        Where there is none at this moment, or it is so new that it does not know yet what is
        committed, whoever reads is told to ask again (503), and so does this.
        """
        found, offset = {}, 0

        def told():
            answer = self.read(topic, partition, via=via, offset=offset, max_wait_ms=0)
            return answer.status != 503 and answer

        while True:
            document = eventually(told).expect(200).document
            found.update({record["offset"]: record["value"] for record in document["records"]})
            if document["next_offset"] == offset:
                return found
            offset = document["next_offset"]

    def local_records(self, node_id, topic, partition=0):
        """A broker's own copy up to its own high watermark: (high watermark, its records)."""
        found, offset = [], 0
        while True:
            document = (
                self.read(topic, partition, via=node_id, offset=offset, **LOCAL_READ)
                .expect(200)
                .document
            )
            found += [json.dumps(record, sort_keys=True) for record in document["records"]]
            if document["next_offset"] == offset:
                return document["high_watermark"], found
            offset = document["next_offset"]

    def wait_replicas_equal(self, topic, *, partitions=1, timeout_s=15.0):
        """Wait until all brokers show the same records up to the leader's high watermark.

        Returns:
            By partition: the records that all of them hold.
        """
        agreed = {}
        for partition in range(partitions):

            def equal(partition=partition):
                latest = self.offset(topic, partition).expect(200).document["offset"]
                copies = [self.local_records(node, topic, partition) for node in self.node_ids]
                watermarks = [watermark for watermark, _ in copies]
                assert watermarks == [latest] * len(copies), (partition, latest, watermarks)
                assert all(records == copies[0][1] for _, records in copies), partition
                assert len(copies[0][1]) == latest
                return copies

            agreed[partition] = [
                json.loads(record) for record in eventually(equal, timeout_s)[0][1]
            ]
        return agreed

    def metric(self, node_id, name):
        """The value of one sample of that broker's metrics: a name, with labels if it has any."""
        for line in self.http.get(self.url(node_id) + routes.METRICS).expect(200).text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == name:
                return float(value)
        raise AssertionError(f"broker {node_id} has no metric {name}")

    def wait_parked(self, leader, polls=1):
        """Wait until that many polls of clients are parked at a broker that all others follow.

        Followers' fetches are parked there too, one of each, and come and go; where nothing is
        written, what is parked beyond them is clients'.
        """
        wanted = len(self.node_ids) - 1 + polls
        eventually(lambda: self.metric(leader, "ottla_parked_requests") >= wanted)

    def answers_quickly(self, node_id):
        """Whether that broker's event loop answers at all."""
        try:
            answer = self.http.get(self.url(node_id) + routes.LIVENESS, timeout_s=1.0)
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200


def stored_batches(cluster, node_id, topic, partition=0):
    """The record batches on that broker's disk, bytes and all; the broker must be stopped."""
    directory = cluster.broker(node_id).data_dir / f"{topic}-{partition}"
    found = []
    for path in sorted(directory.glob("*.sqlite")):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found += connection.execute(
                "SELECT base_offset, last_offset, leader_epoch, data FROM batches ORDER BY 1"
            ).fetchall()
    return found
