"""Requests and responses about the metadata quorum: who votes, who leads, how far each is."""

from typing import Annotated, Literal

import msgspec

from ottla_protocol.models import Request, Response

NodeId = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

MAX_VOTER_URL_LENGTH = 2_048

VoterUrl = Annotated[
    str,
    msgspec.Meta(
        max_length=MAX_VOTER_URL_LENGTH,
        # A host and a port. In Python, `$` alone would let a line end pass.
        pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$(?!\n)",
    ),
]
"""Where a voter listens."""


class QuorumMember(Response, frozen=True):
    """One node that has the metadata log, as the leader knows it.

    `role` is `leader`, `voter`, `learner` (it becomes a voter once it has caught up) or `observer`.
    `directory_id` is, of a voter, the one that the log names (None until it does), and of others
    the one that they told.
    `log_end_index` and `lag` are of the entries that the leader knows it to hold;
    `last_contact_ms` is how long ago it answered the leader. All three are None where it has not
    answered this leader from the directory that the quorum knows, and `last_contact_ms` is 0 for
    the leader itself.
    """

    id: int
    role: Literal["leader", "voter", "learner", "observer"]
    url: str | None
    directory_id: str | None
    log_end_index: int | None
    lag: int | None
    last_contact_ms: int | None


class QuorumDescription(Response, frozen=True):
    """`GET /v1/cluster/quorum`, and the answer to every change of it.

    `configuration_committed` is false while a change of the voters is under way; it counts already.
    """

    leader: int
    term: int
    commit_index: int
    log_end_index: int
    configuration_committed: bool
    voters: list[QuorumMember]
    learners: list[QuorumMember]
    observers: list[QuorumMember]


class AddVoterRequest(Request, frozen=True):
    """`POST /v1/cluster/quorum/voters`: a node that is to vote, and where the others reach it.

    Without a URL the one with which the node is registered as a broker counts.
    """

    node_id: NodeId
    url: VoterUrl | None = None


class TransferRequest(Request, frozen=True):
    """`POST /v1/cluster/quorum/transfer`: who is to lead; None leaves it to the leader."""

    target: NodeId | None = None
