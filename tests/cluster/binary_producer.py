"""An idempotent producer as an SDK is one: numbered batches, sent to the leader."""

from ottla_protocol.models import BatchToAppend
from ottla_protocol.record_codec import RecordData, encode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import produced


def batch_of(*values, producer_id=-1, producer_epoch=-1, sequence=-1, is_transactional=False):
    """A record batch of these values (bytes)."""
    return encode_batch(
        [RecordData(1_700_000_000_000, None, value) for value in values],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=sequence,
        is_transactional=is_transactional,
    )


class BinaryProducer:
    """Sends to partition 0 of one topic; the sequence is the caller's to choose."""

    def __init__(self, client, topic, *, producer_id, producer_epoch=0):
        self.client = client
        self.topic = topic
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch

    def send(self, sequence, *values, epoch=None, to=None, **options):
        """The bare answer of the leader, or of broker `to`."""
        batch = batch_of(
            *values,
            producer_id=self.producer_id,
            producer_epoch=self.producer_epoch if epoch is None else epoch,
            sequence=sequence,
        )
        leader = to or self.client.leader(self.topic)
        return self.client.http.binary_produce(
            self.client.url(leader), [BatchToAppend(self.topic, 0, memoryview(batch))], **options
        )

    def append(self, sequence, *values, **options):
        """The one result of a batch that must be taken, once the leader is ready to take it."""

        def taken():
            answer = self.send(sequence, *values, **options)
            assert answer.status == 200 or answer.document["retriable"], answer.body
            # Never None, which `eventually` takes for a check that has passed.
            return answer.status == 200 and produced(answer)[0]

        return eventually(taken)
