"""The brokers of the fake cluster: HTTP requests to answers, in memory and in one step.

They share their partitions, so there is no replication and nothing to wait for. All else is told as
brokers tell it: leaders answer for their partitions and others say 421 with the leader, batches
succeed or fail one by one, and errors are problem documents that say what became of a write.

`Fault`s make requests fail. What stands here is behind one lock; transports call `answer`.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from ottla._consumer_types import TopicPartition
from ottla._fake_groups import FakeGroups
from ottla._fake_log import FakePartition
from ottla._fake_metadata import FakeMetadata, Unfinished, json_answer, parse_json, raise_shared
from ottla._fake_transactions import FakeTransactions
from ottla._transport import BrokerUnreachableError, Response
from ottla_protocol import models, routes
from ottla_protocol.errors import (
    InvalidRequestError,
    LeaderNotAvailableError,
    MalformedBodyError,
    NotFoundError,
    NotLeaderOrFollowerError,
    OttlaError,
    Outcome,
)
from ottla_protocol.models_groups import CommittedOffset
from ottla_protocol.record_batch import Buffer, read_header

MAX_BROKERS: Final = 100
FIRST_PORT: Final = 7_101

ModelT = TypeVar("ModelT")


@dataclass(slots=True)
class Fault:
    """Requests that fail.

    Attributes:
        error: what they fail with. BrokerUnreachableError means that no answer comes.
        path: only requests to this path, or below it.
        node_id: only requests to this broker; None is any.
        times: how many requests fail; counts down.
        after_append: do what the request asks, and lose the answer.
    """

    error: OttlaError
    path: str
    node_id: int | None
    times: int
    after_append: bool


class Request(NamedTuple):
    """A request that a broker got, kept for tests to look at."""

    node_id: int
    method: str
    path: str
    body: bytes


class FakeBrokers:
    """All brokers of one fake cluster.

    Args:
        count: how many; node ids are 1 to `count`.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_BROKERS:
            raise InvalidRequestError(f"brokers must be from 1 to {MAX_BROKERS}, not {count}")
        self.urls = {
            node_id: f"http://fake-broker-{node_id}:{FIRST_PORT + node_id - 1}"
            for node_id in range(1, count + 1)
        }
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.version = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._lock = Lock()
        self._metadata = FakeMetadata(self.urls)
        self.groups = FakeGroups(self._metadata)
        self._last_producer_id = 1_000
        self.transactions = FakeTransactions(
            self._metadata, self.groups, new_producer_id=self._new_producer_id
        )
        self._calls: dict[tuple[str, str], Callable[..., Response]] = {
            **self._metadata.calls,
            **self.groups.calls,
            **self.transactions.calls,
            ("POST", routes.PRODUCER_IDS): self._allocate_producer_id,
            ("POST", routes.PRODUCE): self._produce,
            ("POST", routes.FETCH): self._fetch,
        }

    # --- requests -------------------------------------------------------------------------------

    def answer(
        self, method: str, url: str, path: str, body: bytes, *, is_repeated: bool = False
    ) -> Response:
        """What the broker at `url` answers.

        With `is_repeated` the answer before was `Unfinished`, and the same request is still open.

        Raises:
            BrokerUnreachableError: it is stopped, or a fault says so.
        """
        with self._lock:
            node_id = next((each for each, known in self.urls.items() if known == url), None)
            if node_id is None or node_id in self._metadata.stopped:
                raise BrokerUnreachableError(
                    f"{url}: connection refused", outcome=Outcome.NOT_APPLIED, refused=True
                )
            if is_repeated:
                fault = None
            else:
                self.requests.append(Request(node_id, method, path, body))
                fault = self._fault(node_id, path)
                if method != "GET" and path != routes.FETCH:
                    self._changed()
            if fault is not None and not fault.after_append:
                return _failed(fault.error)
            try:
                response = self._answer(node_id, method, path, body)
            except OttlaError as error:
                writes = method != "GET" and not path.startswith(routes.FETCH)
                response = _failed(error.with_outcome(Outcome.NOT_APPLIED) if writes else error)
            return response if fault is None else _failed(fault.error)

    def _fault(self, node_id: int, path: str) -> Fault | None:
        asked = path.partition("?")[0] + "/"
        for fault in self.faults:
            # Whole segments: a fault of /v1/produce is none of /v1/producer-ids.
            is_meant = asked.startswith(fault.path.rstrip("/") + "/")
            if is_meant and fault.node_id in (None, node_id):
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None

    def _answer(self, node_id: int, method: str, path: str, body: bytes) -> Response:
        self.transactions.end_overdue()
        parts = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for (wanted, route), call in self._calls.items():
            # Names are decoded after they are split, so that an encoded slash stays in its name.
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route)
            match = re.fullmatch(pattern, parts.path)
            if match is not None and wanted == method:
                arguments = {name: unquote(value) for name, value in match.groupdict().items()}
                return call(node_id, query, body, **arguments)
        raise NotFoundError(f"the fake cluster has no {method} {parts.path}")

    # --- what tests do to the cluster -----------------------------------------------------------

    def stop(self, node_id: int) -> None:
        """Refuse connections to this broker and let others lead what it led."""
        with self._lock:
            self._changed()
            self._metadata.check_broker(node_id)
            self._metadata.stopped.add(node_id)
            for partition in self._metadata.all_partitions():
                if partition.leader == node_id:
                    live = [
                        each for each in partition.replicas if each not in self._metadata.stopped
                    ]
                    partition.lead(live[0] if live else None)

    def start(self, node_id: int) -> None:
        """Answer again; lead what has no leader."""
        with self._lock:
            self._metadata.check_broker(node_id)
            self._metadata.stopped.discard(node_id)
            for partition in self._metadata.all_partitions():
                if partition.leader is None and node_id in partition.replicas:
                    partition.lead(node_id)

    def move_leader(self, topic: str, partition: int, node_id: int) -> None:
        """Let another broker lead."""
        with self._lock:
            self._changed()
            self._metadata.check_broker(node_id)
            self._metadata.partition(topic, partition).lead(node_id)

    def abort_transaction(self, transactional_id: str) -> None:
        """Abort what the producer has open."""
        with self._lock:
            self._changed()
            self.transactions.abort(transactional_id, "operator")

    def partitions(self, topic: str) -> list[FakePartition]:
        """The topic's partitions, to look at."""
        with self._lock:
            return list(self._metadata.topic(topic).partitions)

    def committed(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """What the group has committed."""
        with self._lock:
            return self.groups.committed(group)

    def assignment(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        """What each member of the group may read, by member id."""
        with self._lock:
            return self.groups.assignment(group)

    def expire_member(self, group: str, member_id: str) -> None:
        """End a membership as if the member had fallen silent."""
        with self._lock:
            self._changed()
            self.groups.expire_member(group, member_id)

    # --- waiting ---------------------------------------------------------------------------------

    async def wait_for_change(self, version: int, timeout_s: float) -> None:
        """Wait until something has changed since that version."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self.version != version:
                return
            waiter = loop, loop.create_future()
            self._waiting.append(waiter)
        try:
            await asyncio.wait([waiter[1]], timeout=timeout_s)
        finally:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

    def _changed(self) -> None:
        """Have everybody who waits look again, once the lock is free."""
        self.version += 1
        waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)

    # --- produce and fetch ----------------------------------------------------------------------

    def _allocate_producer_id(
        self, _node_id: int, _query: Mapping[str, str], body: bytes
    ) -> Response:
        parse_json(body, models.AllocateProducerIdRequest)
        return json_answer(models.ProducerIdentity(self._new_producer_id(), 0))

    def _new_producer_id(self) -> int:
        self._last_producer_id += 1
        return self._last_producer_id

    def _produce(self, node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = _unpack(body, models.BinaryProduceRequest)
        if not wanted.batches:
            raise InvalidRequestError("batches must have at least one entry")
        results: list[models.AppendedBatch] = []
        errors: list[OttlaError] = []
        for batch in wanted.batches:
            try:
                partition = self._led(node_id, batch.topic, batch.partition)
                self._let_in(wanted, batch.batch, partition)
                appended = partition.append(batch.batch)
            except OttlaError as error:
                errors.append(error.with_outcome(Outcome.NOT_APPLIED))
                appended = models.AppendedBatch(
                    batch.topic, batch.partition, -1, 0, -1, error=error.problem()
                )
            if wanted.acks == 0:
                appended = msgspec.structs.replace(appended, base_offset=-1, timestamp=-1)
            results.append(appended)
        raise_shared(errors, len(results))
        return _msgpack(models.BinaryProduceResponse(results), 207 if errors else 200)

    def _let_in(
        self, wanted: models.BinaryProduceRequest, batch: Buffer, partition: FakePartition
    ) -> None:
        """Have the partition in the batch's transaction, if it is part of one."""
        header = read_header(batch)
        if not header.is_transactional:
            return
        if wanted.transactional_id is None or wanted.acks != models.ACKS_ALL:
            raise InvalidRequestError(
                "a transactional batch needs a transactional_id and acks=all in its request"
            )
        self.transactions.add(
            wanted.transactional_id, header.producer_id, header.producer_epoch, partition
        )

    def _fetch(self, node_id: int, _query: Mapping[str, str], body: bytes) -> Response:
        wanted = _unpack(body, models.BinaryFetchRequest)
        results: list[models.FetchedPartition] = []
        errors: list[OttlaError] = []
        for asked in wanted.partitions:
            try:
                partition = self._led(node_id, asked.topic, asked.partition)
                result = _fetched(partition, asked, wanted.isolation)
            except OttlaError as error:
                errors.append(error)
                result = models.FetchedPartition(
                    asked.topic, asked.partition, [], -1, -1, error=error.problem()
                )
            results.append(result)
        raise_shared(errors, len(results))
        answer = _msgpack(models.BinaryFetchResponse(results), 207 if errors else 200)
        size = sum(len(batch) for result in results for batch in result.batches)
        has_moved = any(
            result.next_offset is not None and result.next_offset > asked.offset
            for asked, result in zip(wanted.partitions, results, strict=True)
        )
        if errors or has_moved or size >= wanted.min_bytes or not wanted.max_wait_ms:
            return answer
        return Unfinished(answer.status, answer.content_type, answer.body, wanted.max_wait_ms)

    def _led(self, node_id: int, topic: str, partition: int) -> FakePartition:
        found = self._metadata.partition(topic, partition)
        if found.leader is None:
            raise LeaderNotAvailableError(f"{topic}-{partition} has no leader")
        if found.leader != node_id:
            raise NotLeaderOrFollowerError(
                f"broker {node_id} does not lead {topic}-{partition}, broker {found.leader} does",
                leader=found.leader,
                leader_epoch=found.leader_epoch,
                leader_url=self.urls[found.leader],
            )
        return found


def _fetched(
    partition: FakePartition, asked: models.PartitionToFetch, isolation: str
) -> models.FetchedPartition:
    name = (partition.topic, partition.partition)
    if isolation != "read_committed":
        batches = partition.read(asked.offset, asked.max_bytes)
        end, start = partition.end_offset, partition.start_offset
        return models.FetchedPartition(*name, batches, end, start)
    batches, next_offset = partition.read_committed(asked.offset, asked.max_bytes)
    return models.FetchedPartition(
        *name,
        batches,
        partition.end_offset,
        partition.start_offset,
        next_offset=next_offset,
        last_stable_offset=partition.last_stable_offset,
    )


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _unpack(body: bytes, model: type[ModelT]) -> ModelT:
    try:
        return msgspec.msgpack.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(str(error)) from error


def _msgpack(document: object, status: int) -> Response:
    return Response(status, routes.MSGPACK, msgspec.msgpack.encode(document))


def _failed(error: OttlaError) -> Response:
    if isinstance(error, BrokerUnreachableError):
        # A copy: one that is raised again and again would keep every traceback.
        raise copy(error)
    document = error.problem()
    return Response(document["status"], routes.PROBLEM_JSON, msgspec.json.encode(document))
