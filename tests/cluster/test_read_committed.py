"""Readers of committed records, in all ways of reading: nothing open or aborted, and no marker."""

import json
import threading
import uuid
from itertools import chain
from types import SimpleNamespace
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from ottla_protocol import routes
from ottla_protocol.models import PartitionToFetch
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import decode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.event_source import EventSource
from tests.cluster.http_client import fetched
from tests.cluster.polling_client import PollingClient
from tests.cluster.rest_v2_consumer import RestConsumer
from tests.cluster.transactional_client import TransactionalClient

pytestmark = pytest.mark.cluster

LONG_MS = 600_000
"""So that no time-out ends a transaction while these tests run."""

COMMITTED = ["plain", "kept", "between", "kept, too"]
EVERYTHING = ["plain", "never", "kept", "between", "never", "kept, too", "open", "behind"]


def settled(ask):
    """The answer; asked for again while a busy machine has no leader that would give it."""

    def answer():
        found = ask()
        assert found.status != 503, found.body
        return found

    return eventually(answer, 30.0)


def producer(shared, timeout_ms=None):
    return TransactionalClient(shared, f"reads-{uuid.uuid4().hex}", timeout_ms)


@pytest.fixture(scope="module")
def log(shared):
    """A topic of one partition in which transactions were committed, aborted, and left open."""
    name = f"committed-{uuid.uuid4().hex}"
    shared.create_topic(name, partitions=1, replication_factor=3)
    shared.wait_led(name)
    first, second, third = (producer(shared, LONG_MS) for _ in range(3))
    shared.append(name, "plain")
    first.produce(name, "never").expect(200)
    second.produce(name, "kept").expect(200)
    shared.append(name, "between")
    first.abort().expect(200)
    second.commit().expect(200)
    first.produce(name, "never").expect(200)
    first.abort().expect(200)
    second.produce(name, "kept, too").expect(200)
    second.commit().expect(200)
    third.produce(name, "open").expect(200)
    shared.append(name, "behind")
    # Markers come after the answer to whoever commits.
    eventually(lambda: latest(shared, name, "read_committed") == offset_of(shared, name, "open"))
    yield SimpleNamespace(
        topic=name,
        stable=offset_of(shared, name, "open"),
        end=latest(shared, name, "read_uncommitted"),
    )
    third.abort().expect(200)


def latest(shared, topic, isolation, at="latest"):
    url = shared.any_url() + routes.PARTITION_OFFSETS.format(topic=topic, partition=0)
    answer = settled(lambda: shared.http.get(url, at=at, isolation=isolation))
    return answer.expect(200).document["offset"]


def offset_of(shared, topic, value):
    [offset] = [at for at, found in shared.values(topic).items() if found == value]
    return offset


# --- the ways of reading --------------------------------------------------------------------


def pages(shared, log, node_id, isolation, **query):
    """The bare answers, from the beginning to where there is nothing more."""
    query = {"max_wait_ms": 0, "isolation": isolation} | query
    offset, following = None, 0
    while following != offset:
        offset = following
        answer = page(shared, log, node_id, offset=offset, **query)
        following = int(answer.headers[routes.HEADER_NEXT_OFFSET])
        yield answer


def page(shared, log, node_id, **query):
    answer = settled(lambda: shared.read(log.topic, via=node_id, **query))
    assert answer.status in {200, 204}, answer.body
    return answer


def as_json(shared, log, node_id, isolation):
    answers = pages(shared, log, node_id, isolation, max_records=2)
    records = chain.from_iterable(each.document["records"] for each in answers)
    return [record["value"] for record in records]


def filtered(shared, log, node_id, isolation):
    answers = pages(shared, log, node_id, isolation, where=quote('$ != "nothing"'), max_bytes=1)
    records = chain.from_iterable(each.document["records"] for each in answers)
    return [record["value"] for record in records]


def one_by_one(shared, log, node_id, isolation):
    """The bytes of one value at a time."""
    headers = {"Accept": routes.OCTET_STREAM}
    answers = pages(shared, log, node_id, isolation, headers=headers)
    return [each.text.strip('"') for each in answers if each.status == 200]


def local(shared, log, node_id, isolation):
    """The broker's own copy, whose high watermark may lag."""

    def found():
        answers = pages(shared, log, node_id, isolation, replica="local")
        records = chain.from_iterable(each.document["records"] for each in answers)
        values = [record["value"] for record in records]
        return len(values) == len(expected(isolation)) and values

    return eventually(found)


def of_the_topic(shared, log, node_id, isolation):
    url = shared.url(node_id) + routes.TOPIC_RECORDS.format(topic=log.topic)
    values, cursor = [], None
    while True:
        start = {"offset": "earliest"} if cursor is None else {"cursor": cursor}
        query = {"max_wait_ms": 0, "isolation": isolation, "max_records": 2} | start
        document = settled(lambda query=query: shared.http.get(url, **query)).expect(200).document
        values += [record["value"] for record in document["records"]]
        if document["cursor"] == cursor:
            return values
        cursor = document["cursor"]


def in_batches(shared, log, node_id, isolation):
    """What a binary fetch gives; one client goes on by `next_offset`, the other by its batches."""

    def found():
        values, offset = [], 0
        while True:
            wanted = PartitionToFetch(log.topic, 0, offset, max_bytes=1)
            answer = shared.http.binary_fetch(
                shared.url(node_id), [wanted], isolation=isolation, replica="any", max_wait_ms=0
            )
            [partition] = fetched(answer.expect(200))
            for batch in partition.batches:
                header = read_header(batch)
                assert not (header.is_control and isolation == "read_committed")
                offset = header.next_offset
                if not header.is_control:
                    records = decode_batch(batch, max_inflated_bytes=1 << 20)
                    values += [record.value.decode().strip('"') for record in records]
            if isolation == "read_committed":
                assert partition.next_offset >= offset
                is_end = partition.next_offset == partition.last_stable_offset
                offset = partition.next_offset
            else:
                assert partition.next_offset is None
                is_end = offset == partition.high_watermark
            if is_end:
                return len(values) == len(expected(isolation)) and values

    # A follower may be behind for a moment.
    return eventually(found)


def in_a_group(shared, log, node_id, isolation):
    client = PollingClient(
        shared, f"g-{uuid.uuid4().hex}", [log.topic], via=node_id, isolation=isolation
    )

    def is_done():
        # Its last ack is taken, and there is nothing else.
        return not client.poll(max_records=2) and client.ack is None and client.values

    eventually(is_done, 30.0)
    client.leave()
    return client.values


READERS = [as_json, filtered, one_by_one, local, of_the_topic, in_batches, in_a_group]


def expected(isolation):
    return COMMITTED if isolation == "read_committed" else EVERYTHING


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_reader_is_shown_what_it_asks_for(shared, log, reader, isolation):
    for node_id in shared.node_ids:
        assert reader(shared, log, node_id, isolation) == expected(isolation), node_id


def test_consumers_of_the_rest_proxy_are_shown_everything_but_markers(shared, log):
    """Their API has no word for anything else."""
    consumer = RestConsumer(shared, f"rest-{uuid.uuid4().hex}", "one").subscribe(log.topic)
    assert consumer.read_values(len(EVERYTHING)) == EVERYTHING
    consumer.of("DELETE", "").expect(204)


# --- the end --------------------------------------------------------------------------------


def test_the_end_of_committed_records_is_the_last_stable_offset(shared, log):
    assert latest(shared, log.topic, "read_committed", at=2**53) == log.stable
    assert latest(shared, log.topic, "read_uncommitted", at=2**53) == log.end
    for node_id in shared.node_ids:
        answer = page(shared, log, node_id, isolation="read_committed", offset=-1, max_wait_ms=0)
        # A marker is what is one before the end.
        assert answer.document["records"] == []
        assert answer.document["next_offset"] == log.stable
        assert answer.document["last_stable_offset"] == log.stable
        assert answer.headers[routes.HEADER_LAST_STABLE_OFFSET] == str(log.stable)
        assert answer.document["high_watermark"] == log.end


def test_only_what_is_below_the_last_stable_offset_may_be_kept(shared, log):
    """And of that even what is passed over: it will never be shown."""
    answers = list(pages(shared, log, 1, "read_committed", max_bytes=1))
    for answer in answers:
        is_full = answer.document["next_offset"] < log.stable
        assert ("immutable" in answer.headers["Cache-Control"]) == is_full
        assert ("ETag" in answer.headers) == is_full
    [end] = [each for each in answers if each.document["next_offset"] == log.stable][-1:]
    assert end.headers["Cache-Control"] == "no-store"
    uncommitted = page(shared, log, 1, max_records=1, offset=log.stable, max_wait_ms=0)
    assert "immutable" in uncommitted.headers["Cache-Control"]


def test_lag_is_told_as_the_readers_see_it(shared, log):
    client = PollingClient(
        shared, f"lag-{uuid.uuid4().hex}", [log.topic], isolation="read_committed"
    )
    # What it was given it acknowledges with the next poll.
    eventually(
        lambda: not client.poll() and client.ack is None and client.values == COMMITTED, 30.0
    )
    url = shared.any_url() + routes.GROUP.format(group=client.group)

    def lag(isolation):
        answer = settled(lambda: shared.http.get(url, isolation=isolation)).expect(200)
        [found] = answer.document["offsets"]
        return found["committed"], found["end"], found["lag"]

    # What it has passed over is committed, too.
    assert lag("read_committed") == (log.stable, log.stable, 0)
    assert lag("read_uncommitted") == (log.stable, log.end, log.end - log.stable)
    client.leave()
    labels = f'{{partition="0",topic="{log.topic}"}}'
    for name, value in (("last_stable_offset", log.stable), ("high_watermark", log.end)):
        eventually(
            lambda name=name, value=value: (
                shared.metric(2, f"ottla_partition_{name}{labels}") == value
            )
        )


def test_a_poll_tells_of_some_partitions_that_they_were_passed_over_alone(shared):
    name = f"passed-{uuid.uuid4().hex}"
    shared.create_topic(name, partitions=3)
    shared.wait_led(name, partitions=3)
    teller = producer(shared)
    for partition in range(2):
        teller.produce(name, "never", partition=partition).expect(200)
    shared.append(name, "plain", partition=2)
    teller.abort().expect(200)
    client = PollingClient(shared, f"g-{uuid.uuid4().hex}", [name], isolation="read_committed")
    url = shared.any_url() + routes.GROUP.format(group=client.group)

    def has_come_to_the_end():
        client.poll(max_wait_ms=100)
        answer = settled(lambda: shared.http.get(url, isolation="read_committed")).expect(200)
        lags = [each["lag"] for each in answer.document["offsets"]]
        assert (client.values, lags) == (["plain"], [0, 0, 0])

    eventually(has_come_to_the_end, 30.0)
    client.leave()


def test_what_is_no_isolation_is_refused(shared, log):
    answer = shared.read(log.topic, isolation="serializable").expect(422)
    assert answer.document["parameter"] == "isolation"


# --- waiting --------------------------------------------------------------------------------


def test_whoever_waits_wakes_when_the_transaction_is_committed(shared, topic):
    teller = producer(shared)
    teller.produce(topic, "a", "b").expect(200)
    leader = shared.leader(topic)
    found = []

    def read():
        answer = settled(
            lambda: shared.read(topic, isolation="read_committed", offset=0, max_wait_ms=25_000)
        )
        found.append(answer.expect(200).document)

    reader = threading.Thread(target=read)
    reader.start()
    shared.wait_parked(leader)
    # What comes behind an open transaction wakes nobody.
    shared.append(topic, "plain")
    assert not found
    teller.commit().expect(200)
    reader.join(30)
    [document] = found
    assert [record["value"] for record in document["records"]][:2] == ["a", "b"]


def test_streams_go_on_behind_what_was_aborted(shared, topic):
    """Whoever follows with either isolation, in either form, of the topic or a partition."""
    teller = producer(shared)
    partition_path = routes.PARTITION_RECORDS.format(topic=topic, partition=0)
    topic_path = routes.TOPIC_RECORDS.format(topic=topic)
    paths = {
        "topic": f"{topic_path}?offset=earliest&isolation=read_committed",
        "partition": f"{partition_path}?offset=earliest&isolation=read_committed",
        "uncommitted": f"{topic_path}?offset=earliest",
    }
    urls = [shared.url(node_id) for node_id in shared.node_ids]
    sources = {name: EventSource(urls, path) for name, path in paths.items()}
    followed = f"{shared.url(3)}{topic_path}?offset=earliest&follow=true&isolation=read_committed"
    with (
        sources["topic"],
        sources["partition"],
        sources["uncommitted"],
        urlopen(followed, timeout=30) as lines,
    ):
        for source in sources.values():
            source.wait_open()
        teller.produce(topic, "never").expect(200)
        shared.append(topic, "plain")
        assert len(sources["uncommitted"].wait_for(2)) == 2
        assert sources["topic"].events == sources["partition"].events == []
        teller.abort().expect(200)
        teller.produce(topic, "kept").expect(200)
        teller.commit().expect(200)
        for name in ("topic", "partition"):
            assert [each["value"] for each in sources[name].wait_for(2)] == ["plain", "kept"]
        # An empty line is a sign of life.
        values = (json.loads(line)["value"] for line in lines if line.strip())
        assert [next(values) for _ in range(2)] == ["plain", "kept"]
        assert len(sources["uncommitted"].wait_for(3)) == 3
    # The cursor of the last event is behind the records; what is behind it is passed over.
    again = shared.http.get(
        shared.url(2) + topic_path,
        cursor=sources["topic"].last_event_id,
        isolation="read_committed",
        max_wait_ms=0,
    )
    assert again.expect(200).document["records"] == []
