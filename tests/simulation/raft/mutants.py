"""Planted bugs: each breaks one rule of Raft or of the driver's contract, nothing else.

A mutant is a context in which the node, its parts or its driver behave wrongly. Production code has
no switch for any of this: parts are replaced by name, as `unittest.mock.patch` does.
"""

from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from ottla_cluster.raft import (
    AppendResponse,
    HardState,
    RaftNode,
    ReadConfirmed,
    VoteResponse,
    appends,
    snapshots,
)
from ottla_cluster.raft import node as node_module
from ottla_cluster.raft.leadership import Leadership
from ottla_cluster.raft.log import RaftLog
from ottla_cluster.raft.progress import Progress
from ottla_cluster.raft.quorum import reached_by_quorum
from tests.simulation.raft.host import Host


def host_with(node):
    """A driver that runs another node."""
    return type("MutantHost", (Host,), {"node_class": node})


@contextmanager
def running(node=None, host=None, leadership=None, log=None, patches=()):
    """The driver class to use, with parts of the node replaced meanwhile."""
    stack = [patch.object(*arguments) for arguments in patches]
    if leadership is not None:
        stack.append(patch.object(node_module, "Leadership", leadership))
    if log is not None:
        stack.append(patch.object(node_module, "RaftLog", log))
    for context in stack:
        context.start()
    try:
        yield host or (host_with(node) if node else Host)
    finally:
        for context in reversed(stack):
            context.stop()


# --- the driver breaks its contract ---------------------------------------------------------------


class SendsBeforePersisting(Host):
    """Every reply leaves before it is true."""

    def sends_early(self, message):
        return True

    def carry_out(self, ready):
        early = tuple(message for message in ready.messages if self.sends_early(message))
        later = tuple(message for message in ready.messages if not self.sends_early(message))
        self.send(early)
        super().carry_out(replace(ready, messages=later))


class VotesBeforePersisting(SendsBeforePersisting):
    """Only votes leave early."""

    def sends_early(self, message):
        return isinstance(message, VoteResponse)


class AcknowledgesBeforePersisting(SendsBeforePersisting):
    """Only the answers to appends leave early: acknowledged before fsync."""

    def sends_early(self, message):
        return isinstance(message, AppendResponse)


class AppliesBeforePersisting(Host):
    """What is committed is applied while the write is under way."""

    def carry_out(self, ready):
        if ready.must_persist:
            self.apply(ready)
            ready = replace(ready, committed=(), confirmed_reads=(), failed_reads=())
        super().carry_out(ready)


class ForgetsVote(Host):
    """`voted_for` never reaches the disk."""

    def persist(self, ready):
        hard_state = replace_struct(ready.hard_state, voted_for=None)
        super().persist(replace(ready, hard_state=hard_state))


class ForgetsBallots(Host):
    """Term and vote reach the disk only together with entries."""

    def carry_out(self, ready):
        if ready.must_persist and not ready.entries and ready.truncate_from is None:
            ready = replace(ready, hard_state=None)
        super().carry_out(ready)


def replace_struct(hard_state, **changes):
    fields = {name: getattr(hard_state, name) for name in HardState.__struct_fields__}
    return HardState(**(fields | changes))


# --- the node breaks Raft -------------------------------------------------------------------------


class VotesTwice(RaftNode):
    """A vote already given in the term does not bind."""

    def _handle_vote_request(self, request):
        if request.term == self._term and self._leader_id is None and self._role == "follower":
            self._voted_for = None
        super()._handle_vote_request(request)


class CommitsPastAgreement(RaftNode):
    """A follower commits up to the leader's index, whatever its own log holds there."""

    def _handle_append_request(self, request):
        super()._handle_append_request(request)
        if request.term == self._term and self._log.matches(request.prev_index, request.prev_term):
            self._log.commit_to(min(request.commit_index, self._log.last_index))


class KeepsStaleTail(RaftNode):
    """A follower takes entries after a predecessor that it does not hold, if the index is there."""

    def _handle_append_request(self, request):
        if request.prev_index <= self._log.last_index:
            prev_term = self._log.term_at(request.prev_index)
            if request.term >= self._term and prev_term != request.prev_term:
                request = type(request)(
                    **{
                        name: getattr(request, name)
                        for name in request.__struct_fields__
                        if name != "prev_term"
                    },
                    prev_term=prev_term,
                )
        super()._handle_append_request(request)


class SkipsPreVote(RaftNode):
    """A follower whose timer ends takes a new term at once."""

    def _begin_pre_vote(self):
        self._leader_id = None
        self._begin_election()


class IgnoresLiveLeader(RaftNode):
    """A voter helps anybody to power, however well its leader lives."""

    def _has_live_leader(self):
        return False


class ForgetsNothingOfRefusedLeader(RaftNode):
    """A refused connection to the leader is not believed."""

    def peer_refused(self, peer_id, now_ms):
        return self.tick(now_ms)


class CommitsOldTerms(Leadership):
    """Entries of earlier terms are committed by counting (Raft figure 8)."""

    def _advance_commit(self):
        index = reached_by_quorum(
            [self._log.last_index, *(f.match_index for f in self._members.all())]
        )
        return self._log.commit_to(index)


class CommitsOnMinority(Leadership):
    """One copy short of a majority commits."""

    def _advance_commit(self):
        matches = sorted([self._log.last_index, *(f.match_index for f in self._members.all())])
        index = matches[min(len(matches) - 1, len(matches) - len(matches) // 2)]
        return self._log.term_at(index) == self.term and self._log.commit_to(index)


class ReadsWithoutRound(Leadership):
    """A leader trusts that it still leads."""

    def request_read(self, token):
        self._outputs.confirmed_reads.append(ReadConfirmed(token, self._log.commit_index))


class ReadsBeforeOwnCommit(Leadership):
    """A new leader reads at its old commit index."""

    def _has_committed_in_term(self):
        return True


class ReadsOnOldAnswers(Leadership):
    """An answer to any earlier message counts for the round."""

    def handle_response(self, response, now_ms):
        repeated = type(response)(
            **{
                name: getattr(response, name)
                for name in response.__struct_fields__
                if name != "read_sequence"
            },
            read_sequence=self._reads.sequence,
        )
        super().handle_response(repeated, now_ms)


def repeated_round(request, term):
    """An answer repeats the round of any request."""
    return request.read_sequence


class NeverStepsDown(Leadership):
    """No check-quorum."""

    def has_quorum_contact(self, now_ms):
        return True


class ElectsAnybody(RaftLog):
    """The candidate's log is not looked at (Raft §5.4.1)."""

    def is_up_to_date(self, last_index, last_term):
        return True


class ElectsLongest(RaftLog):
    """Length counts, not the last term."""

    def is_up_to_date(self, last_index, last_term):
        return last_index >= self.last_index


class TruncatesBlindly(RaftLog):
    """Every append cuts the log off first, so a delayed one loses what followed it."""

    def merge(self, entries):
        if entries:
            self._truncate(entries[0].index)
            self.append(entries)


class OverwritesInPlace(RaftLog):
    """Where an entry differs it is replaced, and what followed it stays."""

    def merge(self, entries):
        for position, entry in enumerate(entries):
            if self.matches(entry.index, entry.term):
                continue
            tail = self._entries[entry.index :]
            self._truncate(entry.index)
            self.append([entry])
            if position + 1 == len(entries):
                self._entries.extend(tail)
                return


class ResendsNothing(Progress):
    """A refusal is believed only once: lost appends stay lost."""

    def refused(self, index, next_guess):
        return False


MUTANTS = {
    "sends before persisting": {"host": SendsBeforePersisting},
    "votes before persisting": {"host": VotesBeforePersisting},
    "acknowledges before persisting": {"host": AcknowledgesBeforePersisting},
    "applies before persisting": {"host": AppliesBeforePersisting},
    "forgets its vote": {"host": ForgetsVote},
    "forgets term and vote": {"host": ForgetsBallots},
    "votes twice": {"node": VotesTwice},
    "commits past agreement": {"node": CommitsPastAgreement},
    "keeps a stale tail": {"node": KeepsStaleTail},
    "skips pre-vote": {"node": SkipsPreVote},
    "ignores the live leader": {"node": IgnoresLiveLeader},
    "disbelieves a refused leader": {"node": ForgetsNothingOfRefusedLeader},
    "commits old terms": {"leadership": CommitsOldTerms},
    "commits on a minority": {"leadership": CommitsOnMinority},
    "reads without a round": {"leadership": ReadsWithoutRound},
    "reads before its own commit": {"leadership": ReadsBeforeOwnCommit},
    "reads on old answers": {"leadership": ReadsOnOldAnswers},
    "answers rounds of older terms": {
        "patches": (
            (appends, "answered_round", repeated_round),
            (snapshots, "answered_round", repeated_round),
        )
    },
    "never steps down": {"leadership": NeverStepsDown},
    "elects anybody": {"log": ElectsAnybody},
    "elects the longest log": {"log": ElectsLongest},
    "truncates blindly": {"log": TruncatesBlindly},
    "overwrites in place": {"log": OverwritesInPlace},
    "resends nothing": {
        "patches": ((Progress, "refused", ResendsNothing.refused),),
    },
}
