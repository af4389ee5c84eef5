"""Who votes in the metadata quorum and who leads it, as an operator sees and changes it.

Only the leader knows how far the others are, so every call ends there: this broker does what it is
asked if it leads, and else asks the leader. A change waits through an election, as others do.
"""

import asyncio
from collections.abc import Mapping

import msgspec

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose, not_an_answer
from ottla_broker.drivers.peer_messages import QuorumCall, encode
from ottla_broker.drivers.raft_administration import (
    CHANGE_TIMEOUT_MS,
    TRANSFER_TIMEOUT_MS,
    led_by_another,
)
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.services.introductions import QUESTION_TIMEOUT_MS, IntroductionService
from ottla_cluster.controller.features import VOTER_CHANGES, require
from ottla_cluster.raft.configuration import Voter
from ottla_cluster.raft.progress import Progress
from ottla_cluster.raft.ready import Role
from ottla_protocol import routes
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InvalidRequestError,
    InvalidVoterChangeError,
    NotControllerError,
    OttlaError,
    Outcome,
)
from ottla_protocol.models_quorum import (
    AddVoterRequest,
    QuorumDescription,
    QuorumMember,
    TransferRequest,
)

CALL_TIMEOUT_MS = QUESTION_TIMEOUT_MS + CHANGE_TIMEOUT_MS + TRANSFER_TIMEOUT_MS
SETTLE_INTERVAL_MS = 50

ELECTION_PATIENCE_MS = 8_000
"""How long a change waits for somebody to lead, and then for the next leader to tell what came of
it: who removes itself is succeeded by an election."""

_answer_decoder: msgspec.msgpack.Decoder[QuorumDescription | None] = msgspec.msgpack.Decoder(
    QuorumDescription | None
)


class QuorumService:
    """Describes the quorum, changes its voters, hands its leadership over."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        raft: RaftDriver,
        peers: PeerClient,
        introductions: IntroductionService,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._raft = raft
        self._peers = peers
        self._introductions = introductions

    async def describe(self) -> QuorumDescription:
        """The quorum as its leader sees it.

        Raises:
            ControllerNotAvailableError: no leader is known.
            UnavailableError: it did not answer.
        """
        found = await self._ask(QuorumCall())
        assert found is not None, "who leads describes"
        return found

    async def _change(self, call: QuorumCall) -> QuorumDescription:
        """Have the leader do it, and describe what came of it, by the next leader if need be."""
        found = await self._ask_who_leads(call)
        deadline_ms = monotonic_ms() + ELECTION_PATIENCE_MS
        while found is None:
            try:
                found = await self.describe()
            except OttlaError as error:
                if not error.retriable or monotonic_ms() >= deadline_ms:
                    # The change itself is made.
                    raise error.with_outcome(Outcome.UNKNOWN) from error
                await asyncio.sleep(SETTLE_INTERVAL_MS / 1000)
        return found

    async def _ask_who_leads(self, call: QuorumCall) -> QuorumDescription | None:
        """As `_ask`, again while nobody leads; what was certainly not done is not done twice."""
        deadline_ms = monotonic_ms() + ELECTION_PATIENCE_MS
        while True:
            try:
                return await self._ask(call)
            except (NotControllerError, ControllerNotAvailableError) as error:
                if error.outcome is not Outcome.NOT_APPLIED or monotonic_ms() >= deadline_ms:
                    raise
            await asyncio.sleep(SETTLE_INTERVAL_MS / 1000)

    async def add_voter(self, request: AddVoterRequest) -> QuorumDescription:
        """Have a running controller become a voter: as a learner first, until it has caught up.

        Raises:
            InvalidRequestError: no URL is told, and none is known.
            InvalidVoterChangeError: the node there is another one, or no controller.
            OttlaError: the leader refuses.
        """
        node_id, url = request.node_id, request.url
        if url is None and node_id in self._metadata.image.brokers:
            # Its registration tells where it is, also when it moves; the log would not.
            url = ""
        elif url is None:
            url = self._raft.url_of(node_id)
        if url is None:
            raise _unknown_url(node_id)
        return await self._change(QuorumCall(add=(node_id, url)))

    async def remove_voter(self, node_id: int, *, force: bool) -> QuorumDescription:
        """Have a node be no voter, and no learner, any more.

        Args:
            node_id: the node.
            force: also where too few of the other voters are at work to go on without it.

        Raises:
            OttlaError: the leader refuses.
        """
        return await self._change(QuorumCall(remove=node_id, force=force))

    async def transfer(self, request: TransferRequest) -> QuorumDescription:
        """Have another voter lead.

        Raises:
            OttlaError: the leader refuses, or nobody took over, or another one than was meant.
        """
        found = await self._change(QuorumCall(transfer=True, transfer_to=request.target))
        if request.target not in (None, found.leader):
            # It may have led in between; who asked for it is told who does now.
            raise led_by_another(found.leader, request.target)
        return found

    async def _ask(self, call: QuorumCall) -> QuorumDescription | None:
        leader_id = self._raft.leader_id
        if leader_id is None:
            raise ControllerNotAvailableError(
                "no controller is elected at this moment", outcome=Outcome.NOT_APPLIED
            )
        if leader_id == self._node_id:
            return await self.call_here(call)
        url = self._raft.url_of(leader_id)
        if url is None:
            raise ControllerNotAvailableError(
                f"the URL of node {leader_id}, which leads, is not known here yet",
                outcome=Outcome.NOT_APPLIED,
            )
        answer = await self._peers.post(
            url,
            routes.INTERNAL_QUORUM,
            encode(call),
            timeout_ms=CALL_TIMEOUT_MS,
            purpose=Purpose.CLIENT,
        )
        try:
            return _answer_decoder.decode(answer)
        except msgspec.MsgspecError as error:
            raise not_an_answer(url, routes.INTERNAL_QUORUM, error) from error

    # --- at the leader ----------------------------------------------------------------------

    async def call_here(self, call: QuorumCall) -> QuorumDescription | None:
        """Do what another broker passes on; None where this node leads no longer afterwards.

        Raises:
            NotControllerError: this node does not lead.
            OttlaError: the change is refused, or was not committed in time.
        """
        if call != QuorumCall():
            require(self._metadata.image, VOTER_CHANGES)
        administration = self._raft.administration
        if call.transfer:
            await administration.transfer_leadership(
                call.transfer_to, timeout_ms=TRANSFER_TIMEOUT_MS
            )
            return None
        # A leader that was deposed without knowing it describes nothing.
        await self._raft.read_index()
        if call.add is not None:
            await self._check_can_vote(*call.add)
            await administration.add_voter(*call.add)
        elif call.remove is not None:
            await administration.remove_voter(call.remove, force=call.force)
        return self._description()

    async def _check_can_vote(self, node_id: int, url: str) -> None:
        """Ask the process at that URL, or the known one, who it is, before the quorum counts on it.

        Raises:
            InvalidVoterChangeError: another node answers, one that is no controller, or somebody
                who does not know the cluster's secret, and is not told it.
            UnavailableError: nobody does.
        """
        if node_id == self._node_id or node_id in self._raft.node.configuration.voter_ids:
            # The refusal of a voter says more.
            return
        at = url or self._raft.url_of(node_id)
        if at is None:
            raise _unknown_url(node_id)
        answer = await self._introductions.ask(at)
        if answer.node_id != node_id:
            raise InvalidVoterChangeError(
                f"url: at {at} answers node {answer.node_id}, not node {node_id}",
                outcome=Outcome.NOT_APPLIED,
            )
        if not answer.is_controller:
            raise InvalidVoterChangeError(
                f"node {node_id} is no controller: start it with OTTLA_ROLES=broker,controller (or "
                "controller) and OTTLA_JOIN_QUORUM=true first",
                outcome=Outcome.NOT_APPLIED,
            )

    def _description(self) -> QuorumDescription | None:
        node = self._raft.node
        if node.role is not Role.LEADER:
            return None
        followers = {each.follower_id: each for each in node.followers()}
        configuration = node.configuration
        named = {member.node_id for member in configuration.members}
        return QuorumDescription(
            leader=self._node_id,
            term=node.term,
            commit_index=node.commit_index,
            log_end_index=node.last_index,
            configuration_committed=node.is_configuration_committed,
            voters=[self._member(voter, "voter", followers) for voter in configuration.voters],
            learners=[self._member(each, "learner", followers) for each in configuration.learners],
            observers=[
                self._member(Voter(node_id), "observer", followers)
                for node_id in sorted(set(followers).difference(named))
            ],
        )

    def _member(self, member: Voter, role: str, followers: Mapping[int, Progress]) -> QuorumMember:
        node = self._raft.node
        end_index: int | None = None
        last_contact_ms: int | None = None
        # Of a voter the one that the log names: another directory of its node has no vote.
        directory_id = member.directory_id
        progress = followers.get(member.node_id)
        if member.node_id == self._node_id:
            if node.role is Role.LEADER:
                role, end_index, last_contact_ms = "leader", node.last_index, 0
        elif progress is not None and member.accepts(progress.directory_id):
            if role != "voter":
                directory_id = directory_id or progress.directory_id
            end_index = progress.match_index
            last_contact_ms = max(0, monotonic_ms() - progress.last_contact_ms)
        return msgspec.convert(
            {
                "id": member.node_id,
                "role": role,
                "url": self._raft.url_of(member.node_id),
                "directory_id": directory_id or None,
                "log_end_index": end_index,
                "lag": None if end_index is None else max(0, node.last_index - end_index),
                "last_contact_ms": last_contact_ms,
            },
            QuorumMember,
        )


def _unknown_url(node_id: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"url: node {node_id} is no registered broker, so its URL must be named",
        field="url",
        outcome=Outcome.NOT_APPLIED,
    )
