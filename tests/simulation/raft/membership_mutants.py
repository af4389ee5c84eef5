"""Planted bugs in the change of voters, in what directories are worth, and in handing over."""

from unittest.mock import patch

from msgspec.structs import replace

from ottla_cluster.raft import VoteRequest
from ottla_cluster.raft import leadership as leadership_module
from ottla_cluster.raft import node as node_module
from ottla_cluster.raft.configuration import ConfigurationHistory
from ottla_cluster.raft.leadership import Leadership
from ottla_cluster.raft.log import RaftLog
from ottla_cluster.raft.membership import Membership
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.starts import RememberedStarts, Standing
from tests.simulation.raft.mutants import SendsBeforePersisting


class ChangesTwoAtOnce(Membership):
    """The next change does not wait until the last one is committed."""

    def check_change(self, after, *, has_committed_in_term):
        pass


class ChangesBeforeOwnCommit(Leadership):
    """The first change does not wait until an entry of the own term is committed."""

    def change_configuration(self, *arguments, **options):
        with patch.object(Leadership, "_has_committed_in_term", lambda _: True):
            super().change_configuration(*arguments, **options)


class AppliesAtCommit(RaftLog):
    """A configuration counts only once it is committed."""

    @property
    def configuration(self):
        return self.committed_configuration


class KeepsCutOffChanges(ConfigurationHistory):
    """What is cut off the log goes on counting."""

    def truncated(self, index):
        pass

    def appended(self, index, payload):
        self._entries = [entry for entry in self._entries if entry[0] < index]
        super().appended(index, payload)


class CountsAnyDirectory(RaftNode):
    """A node votes, whatever directory it has."""

    def _is_vote_of_voter(self, response):
        return self._log.configuration.voter(response.sender) is not None

    def _is_known_or_named(self, request):
        return True

    @property
    def is_voter(self):
        return self._log.configuration.voter(self._config.node_id) is not None


class CountsAnyAcknowledgement(Membership):
    """What another directory of a voter's node acknowledges counts for the voter."""

    def _counts(self, voter, progress):
        return True

    def answered(self, response, now_ms):
        progress = self._progress.get(response.sender)
        if progress is not None:
            progress.answered(response.read_sequence, now_ms)
        return progress


class TrustsUnnamedDirectories(RaftNode):
    """A candidate that the log does not name is not asked which directory it has."""

    def _is_known_or_named(self, request):
        return True


class TrustsEveryStart(RememberedStarts):
    """Starts are not remembered."""

    def judge(self, node_id, origin, term, configuration):
        super().judge(node_id, origin, term, configuration)
        self._starts.clear()
        return Standing.TRUSTED


class TrustsLaterStarts(RememberedStarts):
    """A start with a higher number is believed to follow the one that is remembered."""

    def judge(self, node_id, origin, term, configuration):
        unnamed = origin and replace(origin, former_incarnations=())
        return super().judge(node_id, unnamed, term, configuration)


class TrustsShorterLogs(Leadership):
    """A follower that lacks what it acknowledged is sent it again, and goes on voting."""

    def _has_lost_entries(self, response, progress):
        return False


class SendsTransferVotesBeforePersisting(SendsBeforePersisting):
    """Who is told to campaign asks for votes before its own is on disk."""

    def sends_early(self, message):
        return isinstance(message, VoteRequest) and message.is_transfer


class TransfersForEver(Leadership):
    """A leader whose transfer failed takes no proposals any more."""

    def tick(self, now_ms):
        transfer = self._transfer
        super().tick(now_ms)
        self._transfer = transfer


class TransfersTooEarly(Leadership):
    """The target is told to campaign whatever it lacks, and only once."""

    def _advance_transfer(self):
        if self._transfer is not None and not self._transfer.is_told:
            progress = self._members.get(self._transfer.target_id)
            message = self._transfer.message(
                progress, progress.match_index, term=self.term, sender=self._config.node_id
            )
            self._outputs.messages.append(message)


def member(kind):
    return {"patches": ((leadership_module, "Membership", kind),)}


def history(kind):
    from ottla_cluster.raft import log as log_module

    return {"patches": ((log_module, "ConfigurationHistory", kind),)}


MEMBERSHIP_MUTANTS = {
    "changes two at once": member(ChangesTwoAtOnce),
    "changes before its own commit": {"leadership": ChangesBeforeOwnCommit},
    "applies a configuration at its commit": {"log": AppliesAtCommit},
    "keeps changes that are cut off": history(KeepsCutOffChanges),
    "counts votes of any directory": {"node": CountsAnyDirectory},
    "counts acknowledgements of any directory": member(CountsAnyAcknowledgement),
    "trusts directories that nobody named": {"node": TrustsUnnamedDirectories},
    "trusts every start": {"patches": ((node_module, "RememberedStarts", TrustsEveryStart),)},
    "trusts later starts": {"patches": ((node_module, "RememberedStarts", TrustsLaterStarts),)},
    "trusts shorter logs": {"leadership": TrustsShorterLogs},
    "sends votes of a transfer before persisting": {"host": SendsTransferVotesBeforePersisting},
    "transfers for ever": {"leadership": TransfersForEver},
    "transfers too early": {"leadership": TransfersTooEarly},
}
