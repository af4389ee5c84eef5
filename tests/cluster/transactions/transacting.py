"""A producer with a transactional id, as brokers speak of it among themselves and SDKs to them."""

import msgspec

from ottla_broker.drivers.peer_messages import CoordinatorCall, encode
from ottla_broker.drivers.transaction_coordinators import TRANSACTION_STATE_TOPIC
from ottla_cluster.state_machine.messages import encode_message
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AddPartitions,
    DescribeTransaction,
    EndTransaction,
    InitialiseProducer,
    decode_response,
)
from ottla_cluster.transactions.records import EndedBy, TransactionPartition
from ottla_protocol import routes
from ottla_protocol.models import BatchToAppend
from ottla_protocol.partitioning import partition_for_key
from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import batch_of
from tests.cluster.http_client import produced

MEMBER = {routes.HEADER_CLUSTER_ID: "local", "Content-Type": routes.MSGPACK}
TIMEOUT_MS = 10_000


class RefusedError(Exception):
    """A coordinator's problem document."""

    def __init__(self, answer):
        super().__init__(answer.text)
        self.code = answer.code
        self.retriable = answer.document["retriable"]


class Coordinators:
    """The transaction coordinators of a cluster."""

    def __init__(self, client):
        self.client = client
        # The first producer has the topic made.
        eventually(self._initialise, 30.0)
        self.count = len(client.describe(TRANSACTION_STATE_TOPIC)["partitions"])

    def _initialise(self):
        answer = self.client.http.post(
            self.client.any_url() + routes.TRANSACTIONS, {"transactional_id": "first"}
        )
        assert answer.status == 200 or answer.document["retriable"], answer.text
        return answer.status == 200

    def node_of(self, transactional_id):
        return self.client.leader(TRANSACTION_STATE_TOPIC, self.partition_of(transactional_id))

    def partition_of(self, transactional_id):
        return partition_for_key(transactional_id.encode(), self.count)

    def ask_once(self, command):
        """The answer of the coordinator as it is now."""
        call = CoordinatorCall(
            self.partition_of(command.transactional_id),
            TIMEOUT_MS,
            msgspec.Raw(encode_message(command)),
        )
        answer = self.client.http.post(
            self.client.url(self.node_of(command.transactional_id)) + routes.INTERNAL_TRANSACTIONS,
            body=encode(call),
            headers=MEMBER,
        )
        if answer.status != 200:
            raise RefusedError(answer)
        return decode_response(answer.body)

    def ask(self, command, timeout_s=30.0):
        """The answer, through failovers."""

        def asked():
            try:
                return self.ask_once(command)
            except RefusedError as error:
                if not error.retriable:
                    raise
                return False

        return eventually(asked, timeout_s)

    def describe(self, transactional_id):
        return self.ask(DescribeTransaction(transactional_id)).transaction


class Transacting:
    """One holder of one transactional id."""

    def __init__(self, coordinators, transactional_id, *, timeout_ms=60_000):
        self.coordinators = coordinators
        self.client = coordinators.client
        self.transactional_id = transactional_id
        self.identity = coordinators.ask(
            InitialiseProducer(transactional_id, timeout_ms, None)
        ).granted

    def add(self, topic, *partitions):
        topic_id = self.client.describe(topic)["topic_id"]
        self.coordinators.ask(
            AddPartitions(
                self.transactional_id,
                self.identity,
                tuple(TransactionPartition(topic, topic_id, each) for each in partitions),
            )
        )

    def send(self, topic, *values, partition=0, sequence=0):
        """Write values as the first batch of a transaction there; returns its base offset."""
        batch = batch_of(
            *values,
            producer_id=self.identity.producer_id,
            producer_epoch=self.identity.producer_epoch,
            sequence=sequence,
            is_transactional=True,
        )
        to_append = [BatchToAppend(topic, partition, memoryview(batch))]

        def taken():
            answer = self.client.http.binary_produce(
                self.client.url(self.client.leader(topic, partition)),
                to_append,
                transactional_id=self.transactional_id,
            )
            assert answer.status == 200, answer.body
            (result,) = produced(answer)
            assert result.error is None, result.error
            return result

        return eventually(taken, 30.0).base_offset

    def end(self, *, is_commit=True):
        """Commit or abort; from then on it has the next identity."""
        response = self.coordinators.ask(
            EndTransaction(self.transactional_id, self.identity, is_commit)
        )
        self.identity = response.granted

    def abort_as_operator(self):
        self.coordinators.ask(
            AbortTransaction(self.transactional_id, self.identity, EndedBy.OPERATOR)
        )


def committed_values(client, topic, partition=0):
    """What a reader of committed records sees, up to where it has to stop."""
    values, offset = [], 0
    while True:
        document = (
            client.read(topic, partition, offset=offset, isolation="read_committed", max_wait_ms=0)
            .expect(200)
            .document
        )
        values += [record["value"] for record in document["records"]]
        if document["next_offset"] == offset:
            return values
        offset = document["next_offset"]
