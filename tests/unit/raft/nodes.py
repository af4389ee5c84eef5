"""One real node and hand-made peers: what a Raft rule says about a single voter."""

from random import Random

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    Entry,
    HardState,
    PreVoteRequest,
    PreVoteResponse,
    RaftConfig,
    RaftNode,
    VoteRequest,
    VoteResponse,
)

START_MS = 1_000
EXPIRED_MS = START_MS + 1_001
"""Past any first election timeout of a node made at START_MS."""


def make_node(
    voters=3, *, terms=(), term=None, voted_for=None, commit_index=0, origin=None, **settings
):
    """Node 1 of `voters`, with entries of these terms on disk."""
    entries = [Entry(index, entry_term, b"old") for index, entry_term in enumerate(terms, 1)]
    last_term = terms[-1] if terms else 0
    return RaftNode(
        RaftConfig(1, tuple(range(1, voters + 1)), **settings),
        hard_state=HardState(last_term if term is None else term, voted_for, commit_index),
        entries=entries,
        random=Random(1),
        now_ms=START_MS,
        origin=origin,
    )


def make_leader(voters=3, *, now_ms=EXPIRED_MS, commits=True, **options):
    """Node 1 as leader, with the Ready that made it so; `commits` answers its no-op from node 2."""
    node = make_node(voters, **options)
    node.tick(now_ms)
    term = node.term
    for peer in range(2, voters // 2 + 2):
        node.step(PreVoteResponse(term, peer, 1, term, True), now_ms)
    ready = None
    for peer in range(2, voters // 2 + 2):
        ready = node.step(VoteResponse(term + 1, peer, 1, True), now_ms)
    assert node.role == "leader"
    if commits:
        for peer in range(2, voters // 2 + 2):
            node.step(accepted(node, peer), now_ms)
        assert node.commit_index == node.last_index
    return node, ready


def accepted(node, sender, index=None, *, read_sequence=0):
    index = node.last_index if index is None else index
    return AppendResponse(node.term, sender, 1, True, index, 0, 0, read_sequence)


def append(term, prev_index=0, prev_term=0, terms=(), *, sender=2, commit_index=0, read=0):
    entries = tuple(
        Entry(index, entry_term, b"new") for index, entry_term in enumerate(terms, prev_index + 1)
    )
    return AppendRequest(term, sender, 1, prev_index, prev_term, entries, commit_index, read)


def pre_vote(term, last_index=0, last_term=0, *, sender=2):
    return PreVoteRequest(term, sender, 1, last_index, last_term)


def vote(term, last_index=0, last_term=0, *, sender=2):
    return VoteRequest(term, sender, 1, last_index, last_term)


def sent(ready, kind):
    return [message for message in ready.messages if isinstance(message, kind)]
