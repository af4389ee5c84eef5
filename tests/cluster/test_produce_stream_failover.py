"""An NDJSON producer lives through the death of leaders and of the broker that it talks to."""

import threading

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.line_stream import LineStream, StreamEndedError

pytestmark = pytest.mark.cluster

PARTITIONS = 3
UNANSWERED_MAX = 200
LINES_PER_WRITE = 20
RECONNECT_WAIT_S = 0.02


class StreamProducer:
    """A thread with one stream of numbered lines, which goes on where answers end.

    Attributes:
        answered: how many lines are answered as stored.
        broker: the node id that it talks to.
        places: (partition, offset) of each line, where it was told.
    """

    def __init__(self, client, topic):
        self.answered = 0
        self.broker = client.node_ids[0]
        self.connections = 0
        self.places = {}
        self.failures = []
        self._client = client
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-producer")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the producer hangs"
        assert not self.failures, self.failures

    def wait_for_more(self, lines=300):
        wanted = self.answered + lines
        eventually(lambda: self.answered >= wanted or self.failures, 40.0)
        assert not self.failures, self.failures

    def _run(self):
        try:
            while not self._stop.is_set():
                try:
                    self._stream()
                except (OSError, StreamEndedError):
                    self.broker = self.broker % len(self._client.node_ids) + 1
                    self._stop.wait(RECONNECT_WAIT_S)
        except Exception as error:
            self.failures.append(repr(error))

    def _stream(self):
        url = f"{self._client.url(self.broker)}/v1/topics/{self._topic}/records"
        key = {"Idempotency_Key": "the-stream"}
        with LineStream(f"{url}?first_index={self.answered}", **key) as upload:
            self.connections += 1
            sent = self.answered
            while not self._stop.is_set():
                numbers = range(sent, sent + LINES_PER_WRITE)
                upload.send(*({"key": f"k{number % 11}", "value": number} for number in numbers))
                sent = numbers.stop
                while sent - self.answered > UNANSWERED_MAX:
                    self._take(upload)
            upload.finish()
            while self.answered < sent:
                self._take(upload)

    def _take(self, upload):
        answer = upload.answer()
        if answer is None:
            raise StreamEndedError("fewer answers than lines")
        if "error" in answer:
            assert answer["index"] == self.answered, (answer, self.answered)
            assert answer["error"]["retriable"], answer
            raise StreamEndedError(answer["error"]["code"])
        if answer["offset"] >= 0:
            self.places[self.answered] = (answer["partition"], answer["offset"])
        self.answered += 1


def test_a_stream_outlives_its_leader_and_its_broker(start_cluster):
    """Nothing is lost, nothing is there twice, nothing changes its order; to the last line."""
    client = start_cluster()
    client.create_topic("t", partitions=PARTITIONS)
    client.wait_led("t", partitions=PARTITIONS)
    with StreamProducer(client, "t") as producer:
        producer.wait_for_more()
        leaders = {client.leader("t", partition) for partition in range(PARTITIONS)}
        victim = next(node for node in sorted(leaders) if node != producer.broker)
        client.cluster.broker(victim).kill()
        producer.wait_for_more()
        client.cluster.broker(victim).start()
        client.cluster.wait_ready()
        client.wait_isr("t", 3)
        connections, victim = producer.connections, producer.broker
        client.cluster.broker(victim).kill()
        producer.wait_for_more()
        assert producer.connections > connections
        client.cluster.broker(victim).start()
        client.cluster.wait_ready()
    client.wait_isr("t", 3)
    found = {}
    for partition in range(PARTITIONS):
        values = client.values("t", partition)
        assert list(values) == list(range(len(values)))
        assert list(values.values()) == sorted(set(values.values())), partition
        found |= {value: (partition, offset) for offset, value in values.items()}
    assert sorted(found) == list(range(producer.answered))
    assert {value: found[value] for value in producer.places} == producer.places
    assert len(producer.places) > producer.answered / 2
    # Who stops in order says so, and takes nothing that it does not answer.
    with LineStream(f"{client.url(1)}/v1/topics/t/records") as upload:
        upload.read_head()
        assert client.cluster.broker(1).terminate() == 0
        [told] = upload.answers()
        assert (told["index"], told["error"]["outcome"]) == (0, "not_applied")
        assert told["error"]["retriable"]
