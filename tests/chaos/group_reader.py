"""A member of a group that writes down what it is given, what it reads and what it commits."""

from ottla import Consumer, RebalanceListener, TopicPartition
from ottla_protocol.errors import OttlaError
from tests.chaos.history import COMMIT, POLL, START

POLL_S = 0.5
SESSION_TIMEOUT_MS = 6_000


def read_in_group(client):
    """Read what the group gives; each assignment of a partition is a reading of its own."""
    history = client.history("group")
    readings = Readings(history)
    with Consumer(
        bootstrap_servers=client.urls,
        group_id=client.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=SESSION_TIMEOUT_MS,
        value_deserializer="json",
    ) as consumer:
        consumer.subscribe([client.topic], listener=readings)
        while not client.ended.wait(client.pause_s):
            polled = poll_once(consumer, history, readings.session)
            readings.note(polled)
            if polled:
                commit(consumer, history, client.topic, readings.consumed)


class Readings(RebalanceListener):
    """The partitions that the group gives, and how far each of them is read.

    Attributes:
        consumed: by partition that is held: where to go on.
    """

    def __init__(self, history):
        self.consumed = {}
        self._history = history
        self._sessions = {}
        self._starts = {}  # By partition: the START that knows no record yet.

    def on_partitions_assigned(self, partitions):
        for _, partition in sorted(partitions):
            session = self._sessions[partition] = self.session(partition) + 1
            self._starts[partition] = self._history.invoke(
                START, partition=partition, session=session
            )

    def on_partitions_revoked(self, partitions):
        for _, partition in partitions:
            self.consumed.pop(partition, None)
            self._starts.pop(partition, None)

    on_partitions_lost = on_partitions_revoked

    def session(self, partition):
        return self._sessions.get(partition, 0)

    def note(self, polled):
        """These records were read; by partition, in the order of their offsets."""
        for partition, records in polled.items():
            start = self._starts.pop(partition, None)
            if start is not None:
                self._history.ok(start, offset=records[0].offset)
            self.consumed[partition] = records[-1].offset + 1


def commit(consumer, history, topic, consumed):
    """Commit all that is held; where that fails, somebody may process those records again."""
    numbers = [
        history.invoke(COMMIT, partition=partition, next_offset=offset)
        for partition, offset in consumed.items()
    ]
    offsets = {TopicPartition(topic, partition): offset for partition, offset in consumed.items()}
    try:
        consumer.commit(offsets)
    except OttlaError as error:
        # Also a refusal: what was tried before it may have been taken.
        for number in numbers:
            history.info(number, detail=repr(error), codes=[error.code])
    else:
        for number in numbers:
            history.ok(number)


def poll_once(consumer, history, session_of):
    """Poll, and write down what came; returns the records by partition."""
    try:
        polled = consumer.poll(POLL_S)
    except OttlaError as error:
        if not error.retriable:
            raise
        return {}
    for name, records in polled.items():
        number = history.invoke(POLL, partition=name.partition, session=session_of(name.partition))
        history.ok(number, records=[(record.offset, record.value) for record in records])
    return {name.partition: records for name, records in polled.items()}
