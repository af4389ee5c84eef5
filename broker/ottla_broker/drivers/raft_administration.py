"""What an operator asks of the quorum: other voters, another leader; waiting until it is so.

Each request is one input of the Raft node, which takes it between two others. A change of the
voters is answered once its entry is committed, a transfer once another node leads.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ottla_broker.drivers.clock import monotonic_ms
from ottla_cluster.raft.messages import Entry
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.ready import Ready
from ottla_protocol.errors import (
    LeadershipTransferFailedError,
    NotControllerError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
)

CHANGE_TIMEOUT_MS = 5_000
"""How long a change of the voters may take to be committed."""

TRANSFER_TIMEOUT_MS = 2_000
"""How long another node may take to lead."""


@dataclass(slots=True)
class RaftRequest:
    """What to do with the node, at the time that it is told; `done` fails if it refuses."""

    act: Callable[[RaftNode, int], Ready]
    done: "asyncio.Future[None]"
    successor_id: int | None = None
    """Of a transfer, who is to lead; None for anybody else."""


@dataclass(frozen=True, slots=True)
class _Transfer:
    former_id: int
    successor_id: int | None
    done: "asyncio.Future[None]"


class RaftAdministration:
    """The requests under way.

    Args:
        put: queues an input for the driver's loop.
    """

    def __init__(self, put: Callable[[RaftRequest], None]) -> None:
        self._put = put
        # (index, term) of the entry that a change waits for.
        self._changes: list[tuple[int, int, asyncio.Future[None]]] = []
        self._transfers: list[_Transfer] = []

    async def add_voter(self, node_id: int, url: str) -> None:
        """Have a node become a voter once it has caught up; returns when that is committed.

        Raises:
            OttlaError: as `RaftNode.add_voter`.
            RequestTimedOutError: it was not committed in time.
        """
        await self._change(lambda node, now_ms: node.add_voter(node_id, url, now_ms))

    async def remove_voter(self, node_id: int, *, force: bool) -> None:
        """Have a node be no voter any more; returns when that is committed.

        Args:
            node_id: the voter.
            force: also where the voters that are left could not commit anything.

        Raises:
            OttlaError: as `RaftNode.remove_voter`.
            RequestTimedOutError: it was not committed in time.
        """
        await self._change(lambda node, now_ms: node.remove_voter(node_id, now_ms, force=force))

    async def transfer_leadership(self, target_id: int | None, *, timeout_ms: int) -> None:
        """Have a voter lead, or the one that is furthest; returns when it does.

        Raises:
            OttlaError: as `RaftNode.transfer_leadership`.
            LeadershipTransferFailedError: nobody took over in time, or another one than was meant.
        """
        try:
            await self._ask(
                lambda node, now_ms: node.transfer_leadership(target_id, now_ms),
                timeout_ms,
                successor_id=target_id,
            )
        except TimeoutError:
            raise LeadershipTransferFailedError(
                f"no other voter took over within {timeout_ms} ms", outcome=Outcome.UNKNOWN
            ) from None

    async def _change(self, act: Callable[[RaftNode, int], Ready]) -> None:
        try:
            await self._ask(act, CHANGE_TIMEOUT_MS)
        except TimeoutError:
            raise RequestTimedOutError(
                "the change of the voters was not committed in time", outcome=Outcome.UNKNOWN
            ) from None

    async def _ask(
        self,
        act: Callable[[RaftNode, int], Ready],
        timeout_ms: int,
        *,
        successor_id: int | None = None,
    ) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(RaftRequest(act, done, successor_id))
        async with asyncio.timeout(timeout_ms / 1000):
            await done

    # --- called by the driver's loop --------------------------------------------------------

    def take(self, request: RaftRequest, node: RaftNode) -> Ready | None:
        """Give a request to the node; None when it refuses."""
        # Those that nobody waits for any more.
        self._changes = [each for each in self._changes if not each[2].done()]
        self._transfers = [each for each in self._transfers if not each.done.done()]
        if request.done.done():
            return None
        try:
            ready = request.act(node, monotonic_ms())
        except OttlaError as error:
            request.done.set_exception(error)
            return None
        if ready.proposed is not None:
            self._changes.append((ready.proposed.last_index, ready.proposed.term, request.done))
        elif node.leader_id is not None and node.is_handing_over:
            self._transfers.append(_Transfer(node.leader_id, request.successor_id, request.done))
        else:
            # To the node that leads.
            request.done.set_result(None)
        return ready

    def committed(self, entries: Sequence[Entry]) -> None:
        """Entries were applied: changes among them are made, or lost to another leader's."""
        for entry in entries if self._changes else ():
            for change in [each for each in self._changes if each[0] <= entry.index]:
                self._changes.remove(change)
                index, term, done = change
                if done.done():
                    continue
                if (index, term) == (entry.index, entry.term):
                    done.set_result(None)
                else:
                    done.set_exception(
                        NotControllerError(
                            "leadership was lost before the voters were changed",
                            outcome=Outcome.UNKNOWN,
                        )
                    )

    def led_by(self, leader_id: int | None) -> None:
        """The quorum's leader is known anew."""
        for transfer in list(self._transfers):
            if not transfer.done.done():
                if leader_id in (None, transfer.former_id):
                    continue
                if transfer.successor_id in (None, leader_id):
                    transfer.done.set_result(None)
                else:
                    transfer.done.set_exception(led_by_another(leader_id, transfer.successor_id))
            self._transfers.remove(transfer)


def led_by_another(leader_id: int, successor_id: int) -> LeadershipTransferFailedError:
    """What became of a transfer that somebody else's election came before."""
    return LeadershipTransferFailedError(
        f"node {leader_id} took over, not node {successor_id}", outcome=Outcome.UNKNOWN
    )
