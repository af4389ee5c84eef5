"""Batches of transactions at real brokers: when their leader takes them, and when it does not."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from ottla_protocol.models import BatchToAppend
from ottla_protocol.transaction_tokens import decode_transaction
from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import batch_of
from tests.cluster.http_client import produced
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

IN_FLIGHT = 5
BATCHES = 40
PATIENCE_S = 30.0


class BatchProducer(TransactionalClient):
    """What an SDK does: control calls to any broker, numbered batches to the leaders."""

    def send(self, topic, sequence, value, *, token=None, **options):
        """The leader's bare answer to one batch."""
        transaction = decode_transaction(token or self.token)
        batch = batch_of(
            json.dumps(value).encode(),
            producer_id=transaction.producer_id,
            producer_epoch=transaction.producer_epoch,
            sequence=sequence,
            is_transactional=True,
        )
        options.setdefault("transactional_id", self.transactional_id)
        return self.client.http.binary_produce(
            self.client.url(self.client.leader(topic)),
            [BatchToAppend(topic, 0, memoryview(batch))],
            **options,
        )

    def append(self, topic, sequence, value):
        """The result of a batch that the leader takes at last, whatever moves meanwhile."""

        def taken():
            answer = self.send(topic, sequence, value)
            if answer.status == 200:
                return produced(answer)[0]
            # Others of its producer may have to come before it.
            assert answer.document["retriable"] or answer.code == "OUT_OF_ORDER_SEQUENCE_NUMBER", (
                answer.body
            )
            return False

        return eventually(taken, PATIENCE_S)

    def decided(self, end):
        """Commit or abort, however long that takes: it is safe to repeat."""
        eventually(lambda: end().expect(200), PATIENCE_S)

    def refused(self, *batch, **arguments):
        """The lasting refusal of a batch, which must not have been applied."""

        def refusal():
            answer = self.send(*batch, **arguments)
            assert answer.status >= 400, "it was taken"
            return not answer.document["retriable"] and answer

        answer = eventually(refusal, PATIENCE_S)
        assert answer.document["outcome"] == "not_applied"
        return answer


@pytest.fixture
def producer(shared, topic):
    return eventually(lambda: BatchProducer(shared, f"{topic}-batches"), PATIENCE_S)


@pytest.fixture
def other(shared, topic):
    """A second topic, whose log has never heard of the producer."""
    name = f"{topic}-other"
    shared.create_topic(name, partitions=1, replication_factor=3)
    shared.wait_led(name)
    return name


def test_batches_appear_with_the_commit_and_never_after_an_abort(producer, topic, other):
    for number, end in enumerate((producer.commit, producer.abort, producer.commit)):
        for each in (topic, other):
            producer.append(each, 0, f"first of {number}")
            producer.append(each, 1, f"second of {number}")
        producer.decided(end)
    expected = ["first of 0", "second of 0", "first of 2", "second of 2"]
    for each in (topic, other):
        assert producer.committed_values(each, len(expected)) == expected


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_batch_that_comes_after_the_end_is_refused(shared, producer, topic, other, end):
    former = producer.token
    producer.append(topic, 0, "in time")
    producer.decided(getattr(producer, end))
    # Only the coordinator can tell: the log knows nothing of the producer, and would take it.
    unheard = producer.refused(other, 0, "late", token=former)
    assert unheard.code == "PRODUCER_FENCED"
    known = producer.refused(topic, 1, "late", token=former)
    assert known.code in {"PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH"}
    assert shared.offset(other).expect(200).document["offset"] == 0

    producer.append(other, 0, "the next one's")
    producer.decided(producer.commit)
    assert producer.committed_values(other, 1) == ["the next one's"]


def test_requests_in_flight_keep_their_order(producer, topic):
    values = [str(number) for number in range(BATCHES)]

    def append(number):
        return producer.append(topic, number, values[number])

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        results = list(threads.map(append, range(BATCHES)))
    assert [result.base_offset for result in results] == list(range(BATCHES))
    producer.decided(producer.commit)
    assert producer.committed_values(topic, BATCHES) == values


def test_a_transactional_batch_has_rules(shared, producer, topic):
    unnamed = producer.refused(topic, 0, "v", transactional_id=None)
    assert unnamed.code == "INVALID_REQUEST"
    assert "transactional_id" in unnamed.document["detail"]
    assert producer.refused(topic, 0, "v", acks=1).code == "INVALID_REQUIRED_ACKS"
    foreign = producer.refused(topic, 0, "v", transactional_id=f"{topic}-unknown")
    assert foreign.code == "TRANSACTIONAL_ID_NOT_FOUND"
    assert shared.offset(topic).expect(200).document["offset"] == 0
