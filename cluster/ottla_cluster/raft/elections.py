"""How a node comes to power, and whom it helps there: pre-votes, votes, and who may take part.

The part of `RaftNode` that campaigns and answers candidates. It decides by the term, the vote and
the log, which it shares with the rest of the node; what follows from a decision is the node's
(`_become_follower`, `_become_leader`).
"""

from msgspec.structs import replace

from ottla_cluster.raft.campaign import Campaign
from ottla_cluster.raft.configuration import UNKNOWN_DIRECTORY
from ottla_cluster.raft.messages import (
    ObserveRequest,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
    directory_of,
)
from ottla_cluster.raft.node_state import NodeState
from ottla_cluster.raft.quorum import VoteResult
from ottla_cluster.raft.ready import Role
from ottla_cluster.raft.starts import Standing


class Elections(NodeState):
    """What a node does about elections."""

    def _observe_term(self, term: int) -> None:
        if term > self._term:
            self._become_follower(term, None)

    # --- who may take part ----------------------------------------------------------------------

    @property
    def _may_campaign(self) -> bool:
        """Whether this node may become leader.

        One that was removed may as long as that is not committed: the others may know nothing of
        it yet, and not be able to elect one of them (dissertation §4.2.2). It then has no vote.
        """
        return self.is_voter or self._log.committed_configuration.is_voter(
            self._config.node_id, self._directory_id
        )

    @property
    def _may_vote(self) -> bool:
        """Whether anybody may count this node's vote; the candidate knows whose votes count.

        So may a learner's be: it may have become a voter by an entry that it has not got yet, and
        be needed to elect the one who has (dissertation §4.2.2).
        """
        configurations = (self._log.configuration, self._log.committed_configuration)
        return any(
            member.node_id == self._config.node_id
            for configuration in configurations
            for member in configuration.members
        )

    def _has_live_leader(self) -> bool:
        """Whether a leader is known to have lived within the minimum election timeout."""
        if self._leader_id is None:
            return False
        return self._leadership is not None or self._timer.is_leader_live(self._now_ms)

    # --- campaigning and voting -----------------------------------------------------------------

    def _begin_pre_vote(self) -> None:
        """Ask whether an election would be won, without moving anybody's term (§9.6)."""
        self._role = Role.PRE_CANDIDATE
        self._leader_id = None
        self._begin_campaign(PreVoteRequest)

    def _begin_election(self, *, is_transfer: bool = False) -> None:
        """Begin a new term and vote for itself (Raft §5.2)."""
        self._role = Role.CANDIDATE
        self._term += 1
        self._voted_for = self._config.node_id
        self._begin_campaign(VoteRequest, is_transfer=is_transfer)

    def _begin_campaign(
        self, request_type: type[PreVoteRequest | VoteRequest], *, is_transfer: bool = False
    ) -> None:
        self._timer.restart(self._now_ms)
        voter_ids = self._log.configuration.voter_ids
        own = self._log.configuration.voter(self._config.node_id)
        is_named = own is not None and own.directory_id == self._directory_id != UNKNOWN_DIRECTORY
        self._campaign = Campaign(voter_ids)
        for peer in voter_ids:
            if peer == self._config.node_id:
                continue
            request = request_type(
                term=self._term,
                sender=self._config.node_id,
                receiver=peer,
                last_index=self._log.last_index,
                last_term=self._log.last_term,
                is_named=is_named,
            )
            if isinstance(request, VoteRequest) and is_transfer:
                request = replace(request, is_transfer=True)
            self._outputs.messages.append(request)
        if self.is_voter:
            self._campaign.record(self._config.node_id, granted=True)
        self._conclude(self._campaign)

    def _conclude(self, campaign: Campaign) -> None:
        """Move on when the round is decided."""
        result = campaign.result
        if result is VoteResult.LOST:
            self._become_follower(self._term, None)
            if campaign.is_worth_hurrying:
                self._timer.hasten(self._now_ms)
        elif result is VoteResult.WON and self._stands_aside:
            # It was asked to while the answers were on their way.
            self._become_follower(self._term, None)
        elif result is VoteResult.WON and self._role is Role.PRE_CANDIDATE:
            self._begin_election()
        elif result is VoteResult.WON:
            self._become_leader()

    def _is_known_or_named(self, request: PreVoteRequest | VoteRequest) -> bool:
        """Whether the candidate is the directory that was heard from, or the log says otherwise.

        Another one that the log does not name is new and may lack what its node had acknowledged.
        """
        return self._standing is not Standing.OTHER_DIRECTORY or request.is_named

    def _is_vote_of_voter(self, response: PreVoteResponse | VoteResponse) -> bool:
        """Whether a voter says so, and not another data directory of its node (KIP-853)."""
        is_voter = self._log.configuration.is_voter(response.sender, directory_of(response))
        return is_voter and self._standing is Standing.TRUSTED

    def _handle_pre_vote_response(self, response: PreVoteResponse) -> None:
        self._observe_term(response.term)
        leader_id = response.leader_id
        if leader_id is not None and leader_id != self._config.node_id and not response.granted:
            # One that was removed while it was away does not know it, and nobody sends to it. Who
            # leads takes it for an observer, or passes over this.
            self._announce_to(leader_id)
        campaign = self._campaign
        is_asked = self._role is Role.PRE_CANDIDATE and response.request_term == self._term
        if campaign and is_asked and self._is_vote_of_voter(response):
            campaign.record(response.sender, granted=response.granted)
            self._conclude(campaign)

    def _handle_vote_response(self, response: VoteResponse) -> None:
        self._observe_term(response.term)
        campaign = self._campaign
        is_asked = self._role is Role.CANDIDATE and response.term == self._term
        if campaign and is_asked and self._is_vote_of_voter(response):
            campaign.record(response.sender, granted=response.granted)
            self._conclude(campaign)

    def _handle_pre_vote_request(self, request: PreVoteRequest) -> None:
        granted = (
            self._may_vote
            and self._is_known_or_named(request)
            and request.term >= self._term
            and not self._has_live_leader()
            and self._log.is_up_to_date(request.last_index, request.last_term)
        )
        self._outputs.messages.append(
            PreVoteResponse(
                term=self._term,
                sender=self._config.node_id,
                receiver=request.sender,
                request_term=request.term,
                granted=granted,
                leader_id=self._leader_id,
            )
        )

    def _handle_vote_request(self, request: VoteRequest) -> None:
        if request.term > self._term:
            if self._has_live_leader() and not request.is_transfer:
                return
            self._become_follower(request.term, None)
        granted = (
            self._may_vote
            and self._is_known_or_named(request)
            and request.term == self._term
            and self._voted_for in (None, request.sender)
            and self._leader_id is None
            and self._log.is_up_to_date(request.last_index, request.last_term)
        )
        if granted:
            self._voted_for = request.sender
            self._timer.restart(self._now_ms)
        self._outputs.messages.append(
            VoteResponse(
                term=self._term,
                sender=self._config.node_id,
                receiver=request.sender,
                granted=granted,
            )
        )

    def _handle_timeout_now(self, request: TimeoutNow) -> None:
        """The leader of this term hands over: campaign without asking first (§3.10)."""
        is_of_leader = request.term == self._term and self._leader_id == request.sender
        if is_of_leader and self.is_voter and not self._stands_aside:
            self._leader_id = None
            self._begin_election(is_transfer=True)

    # --- observing ------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Ask every voter to send to this observer, if it leads."""
        if not self._timer.is_leader_live(self._now_ms):
            self._leader_id = None
        self._timer.restart(self._now_ms)
        known = {*self._log.configuration.voter_ids, *self._config.voters}
        for peer in sorted(known.difference((self._config.node_id,))):
            self._announce_to(peer)

    def _announce_to(self, peer_id: int) -> None:
        self._outputs.messages.append(
            ObserveRequest(
                term=self._term,
                sender=self._config.node_id,
                receiver=peer_id,
                url=self._config.url,
            )
        )
