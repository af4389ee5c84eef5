"""Raft messages on their way out: one queue and one sender per peer.

Voters have theirs from the start; an observer gets one when it has announced itself, with the URL
that it told, and keeps it for as long as this node's leadership keeps the observer.

Lost messages are Raft's own business. A peer that refuses them is not: it belongs to another
cluster, or has another secret, and nothing will change that by itself. That is logged once. What
went wrong with each peer is remembered for the readiness report until it takes messages again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import KnownLeader
from ottla_cluster.raft.messages import (
    ADDED_MESSAGES,
    MAX_MESSAGES_PER_BATCH,
    Message,
    encode_messages,
)
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError

MAX_QUEUED_MESSAGES_PER_PEER = 1_024
MESSAGE_TIMEOUT_MS = 1_000

log = structlog.get_logger()


def next_batch(messages: deque[Message]) -> list[Message]:
    """Take the messages of the next batch, in order; at least one of them.

    A version that does not know a kind of message refuses the whole batch, so each message of a
    kind that was added goes by itself.
    """
    batch = [messages.popleft()]
    while (
        messages
        and len(batch) < MAX_MESSAGES_PER_BATCH
        and not isinstance(messages[0], ADDED_MESSAGES)
        and not isinstance(batch[0], ADDED_MESSAGES)
    ):
        batch.append(messages.popleft())
    return batch


@dataclass(slots=True)
class _Outbox:
    """Messages to one peer, in order; the oldest are dropped when the peer does not keep up."""

    url: str
    messages: deque[Message] = field(
        default_factory=lambda: deque(maxlen=MAX_QUEUED_MESSAGES_PER_PEER)
    )
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    sender: CriticalTask | None = None


class RaftOutboxes:
    """The way out of one Raft node.

    Args:
        peers: sends them.
        on_refused: told the peer whose connection was refused: its process is gone.
        on_leader: told the leader that a peer named in its answer to an announcement.
        on_failure: a defect ended a sender; the process must stop.
    """

    def __init__(
        self,
        *,
        peers: PeerClient,
        on_refused: Callable[[int], None],
        on_leader: Callable[[KnownLeader], None],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._peers = peers
        self._on_refused = on_refused
        self._on_leader = on_leader
        self._on_failure = on_failure
        self._outboxes: dict[int, _Outbox] = {}
        # By peer; bounded by the outboxes.
        self._troubles: dict[int, tuple[str, OttlaError]] = {}

    @property
    def longest(self) -> int:
        """How many messages the fullest queue holds."""
        return max((len(outbox.messages) for outbox in self._outboxes.values()), default=0)

    def __contains__(self, peer_id: int) -> bool:
        return peer_id in self._outboxes

    def describe_rejections(self) -> list[str]:
        """Which peers took the last message as none for them, and what they said."""
        return [
            f"node {peer_id} at {url} refuses this node: {error.detail}"
            for peer_id, (url, error) in sorted(self._troubles.items())
            if not isinstance(error, PeerUnavailableError)
        ]

    def describe_silence(self) -> list[str]:
        """Which peers could not be reached with the last message, and why."""
        return [
            f"node {peer_id} does not answer: {error.detail}"
            for peer_id, (_, error) in sorted(self._troubles.items())
            if isinstance(error, PeerUnavailableError)
        ]

    def open(self, peer_id: int, url: str) -> None:
        """Send to a peer at that URL from now on; what waits for it at another URL is dropped."""
        former = self._outboxes.get(peer_id)
        if former is not None and former.url == url:
            return
        self._close(peer_id)
        outbox = _Outbox(url)
        self._outboxes[peer_id] = outbox
        outbox.sender = CriticalTask(
            self._send(peer_id, outbox), name=f"raft-to-{peer_id}", on_failure=self._on_failure
        )

    def retain(self, peer_ids: Iterable[int]) -> None:
        """Close every outbox but these."""
        for peer_id in set(self._outboxes).difference(peer_ids):
            self._close(peer_id)

    def put(self, message: Message) -> None:
        """Send a message; it is dropped where its receiver has no outbox."""
        outbox = self._outboxes.get(message.receiver)
        if outbox is not None:
            outbox.messages.append(message)
            outbox.filled.set()

    async def stop(self) -> None:
        """Send no more."""
        outboxes, self._outboxes = self._outboxes, {}
        await stop_all(outbox.sender for outbox in outboxes.values() if outbox.sender is not None)

    def _close(self, peer_id: int) -> None:
        outbox = self._outboxes.pop(peer_id, None)
        self._troubles.pop(peer_id, None)
        if outbox is not None and outbox.sender is not None:
            outbox.sender.cancel()

    async def _send(self, peer_id: int, outbox: _Outbox) -> None:
        while True:
            await outbox.filled.wait()
            outbox.filled.clear()
            batch = next_batch(outbox.messages)
            if outbox.messages:
                outbox.filled.set()
            try:
                answer = await self._peers.post(
                    outbox.url,
                    routes.INTERNAL_RAFT,
                    encode_messages(batch),
                    timeout_ms=MESSAGE_TIMEOUT_MS,
                    purpose=Purpose.CLUSTER,
                )
            except PeerUnavailableError as error:
                self._troubles[peer_id] = (outbox.url, error)
                # A process that is gone is everybody's business.
                if error.refused:
                    self._on_refused(peer_id)
            except OttlaError as error:
                self._rejected(peer_id, outbox.url, error)
            else:
                self._troubles.pop(peer_id, None)
                if answer:
                    self._answered(answer)

    def _answered(self, answer: bytes | bytearray) -> None:
        try:
            leader = msgspec.msgpack.decode(answer, type=KnownLeader)
        except msgspec.MsgspecError:
            # Something that a newer version says; an announcement is repeated anyway.
            return
        self._on_leader(leader)

    def _rejected(self, peer_id: int, url: str, error: OttlaError) -> None:
        known = self._troubles.get(peer_id)
        self._troubles[peer_id] = (url, error)
        if known is None or known[1].detail != error.detail:
            log.error(
                "raft_messages_refused", peer=peer_id, url=url, code=error.code, detail=error.detail
            )
