"""What takes the processor for long does not take it from the event loop's thread."""

import asyncio
import gzip
import threading
from random import Random
from types import SimpleNamespace

import pytest

from ottla_broker.http import bodies
from ottla_broker.services import record_produce
from ottla_broker.services.heavy_work import HEAVY_WORKERS, on_worker
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RECORDS_ENCODED_INLINE, RecordProduceService
from ottla_protocol.json_records import parse_records
from ottla_protocol.models import ACKS_ALL, AppendedBatch
from tests.unit.awaiting import until

WORKER = "heavy-work"


class Threads:
    """Remembers on which threads some functions of a module ran."""

    def __init__(self, monkeypatch):
        self.names = {}
        self._monkeypatch = monkeypatch

    def watch(self, module, name):
        function = getattr(module, name)

        def watched(*args, **options):
            self.names.setdefault(name, set()).add(threading.current_thread().name.split("_")[0])
            return function(*args, **options)

        self._monkeypatch.setattr(module, name, watched)


@pytest.fixture
def threads(monkeypatch):
    return Threads(monkeypatch)


async def found(_name):
    return SimpleNamespace(
        name="t", topic_id="a" * 32, partitions=(None, None), former_partition_counts=()
    )


async def delivered(batches, _options):
    return [AppendedBatch("t", each.partition, 0, 1, 7) for each in batches]


@pytest.mark.parametrize(
    ("count", "thread"),
    [(RECORDS_ENCODED_INLINE, "MainThread"), (RECORDS_ENCODED_INLINE + 1, WORKER)],
)
async def test_many_records_are_split_encoded_and_answered_on_a_worker(threads, count, thread):
    for name in ("_split", "partition_for_key", "encode_batch", "_response"):
        threads.watch(record_produce, name)
    service = RecordProduceService(
        topics=SimpleNamespace(find=found),
        produce=SimpleNamespace(deliver=delivered),
        idempotency=None,
    )
    keyed = ",".join(f'{{"key":"k{number}","value":1}}' for number in range(count))
    records = parse_records(b'{"records":[%s]}' % keyed.encode())
    response = await service.produce("t", records, ProduceOptions.checked(ACKS_ALL, 1000))
    assert len(response.records) == count
    assert set(threads.names) == {"_split", "partition_for_key", "encode_batch", "_response"}
    assert set.union(*threads.names.values()) == {thread}


class Content:
    def __init__(self, body):
        self._body = body

    async def readexactly(self, _size):
        return self._body


@pytest.mark.parametrize(("size", "thread"), [(1_000, "MainThread"), (1_000_000, WORKER)])
async def test_a_body_that_may_be_large_is_inflated_on_a_worker(threads, monkeypatch, size, thread):
    threads.watch(bodies, "inflate_content")
    # Text that repeats, but not so much that it is taken for a bomb.
    body = gzip.compress(Random(1).randbytes(size // 50) + bytes(size - size // 50), 1)
    request = SimpleNamespace(
        content_length=len(body),
        headers={"Content-Encoding": "gzip"},
        content=Content(body),
    )
    monkeypatch.setattr(bodies, "SMALL_BODY_BYTES", len(body))
    found = await bodies.read_body(request, size, arrived=lambda _: None)
    assert len(found) == size
    assert threads.names["inflate_content"] == {thread}


async def test_there_are_few_workers_whatever_is_asked_of_them():
    """Each competes with the event loop for the interpreter's lock."""
    running = set()
    most = 0
    lock = threading.Lock()
    go_on = threading.Event()

    def work(number):
        nonlocal most
        with lock:
            running.add(number)
            most = max(most, len(running))
        go_on.wait(10)
        with lock:
            running.discard(number)

    works = [asyncio.create_task(on_worker(work, number)) for number in range(HEAVY_WORKERS + 3)]
    await until(lambda: len(running) == HEAVY_WORKERS)
    go_on.set()
    await asyncio.gather(*works)
    assert most == HEAVY_WORKERS
