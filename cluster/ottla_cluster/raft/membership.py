"""The leader's view of those whom its configuration names, and the changes that it makes by itself.

Everybody named gets the log; only voters count, and only with the data directory that the
configuration names (KIP-853). What another directory of the same node answers shows how far that
one is, and no more.

Changes go one at a time: the next one waits until the last one is committed, and the first one of a
leadership until an entry of its own term is (dissertation §4.1, and the correction to it of July
2015). Otherwise two leaders, each with one uncommitted change, could have majorities that share no
voter.
"""

from typing import TYPE_CHECKING

from ottla_cluster.raft.configuration import (
    MAX_LEARNERS,
    MAX_VOTERS,
    UNKNOWN_DIRECTORY,
    Configuration,
    Voter,
    changed_voters,
)
from ottla_cluster.raft.messages import AppendResponse, InstallSnapshotResponse, directory_of
from ottla_cluster.raft.progress import Progress, ProgressState
from ottla_cluster.raft.quorum import quorum_size
from ottla_protocol.errors import (
    DuplicateVoterError,
    InvalidVoterChangeError,
    Outcome,
    QuorumAtRiskError,
    VoterChangeInProgressError,
    VoterNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ottla_cluster.raft.config import RaftConfig
    from ottla_cluster.raft.log import RaftLog
    from ottla_cluster.raft.starts import RememberedStarts

NEVER_MS = -(1 << 62)
"""When somebody was heard from who was not."""


class Membership:
    """Who follows this leader by its configuration, and how far each is.

    Args:
        config: the node's settings.
        log: the node's log.
        starts: what is remembered of the voters' directories.
        directory_id: this node's own data directory.
        now_ms: when the leadership begins.
    """

    __slots__ = ("_config", "_directory_id", "_log", "_progress", "_starts")

    def __init__(
        self,
        config: "RaftConfig",
        log: "RaftLog",
        starts: "RememberedStarts",
        *,
        directory_id: str,
        now_ms: int,
    ) -> None:
        self._config = config
        self._log = log
        self._starts = starts
        self._directory_id = directory_id
        # By node id; exactly the members of the log's configuration, this node left out.
        self._progress: dict[int, Progress] = {}
        self.reconcile(now_ms)

    # --- who is there ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._progress)

    def all(self) -> "Iterable[Progress]":
        """The progress of every member but this node."""
        return self._progress.values()

    def get(self, node_id: int) -> Progress | None:
        """That member's progress; None for anybody else."""
        return self._progress.get(node_id)

    def reconcile(self, now_ms: int) -> None:
        """Follow the log's configuration: begin with those who are new, drop those who are gone.

        Where a new configuration is the log's last entry, that entry is the first to be sent.
        """
        members = [member.node_id for member in self._log.configuration.members]
        for node_id in [known for known in self._progress if known not in members]:
            del self._progress[node_id]
        for node_id in members:
            if node_id not in self._progress and node_id != self._config.node_id:
                is_new = 0 < self._log.configuration_index == self._log.last_index
                next_index = self._log.last_index + (not is_new)
                self._begin(node_id, UNKNOWN_DIRECTORY, now_ms, next_index)

    def _begin(self, node_id: int, directory_id: str, now_ms: int, next_index: int) -> Progress:
        progress = Progress(
            node_id,
            next_index=next_index,
            now_ms=now_ms,
            max_inflight_appends=self._config.max_inflight_appends,
            directory_id=directory_id,
        )
        self._progress[node_id] = progress
        return progress

    def answered(
        self, response: AppendResponse | InstallSnapshotResponse, now_ms: int
    ) -> Progress | None:
        """The progress that an answer is about; None for nobody who is named.

        Another directory than the one that answered before knows nothing of what that one had.
        """
        progress = self._progress.get(response.sender)
        if progress is None:
            return None
        directory_id = directory_of(response)
        if progress.directory_id == UNKNOWN_DIRECTORY:
            progress.directory_id = directory_id
        elif directory_id != progress.directory_id:
            next_index = self._log.last_index + 1
            progress = self._begin(response.sender, directory_id, now_ms, next_index)
        progress.answered(response.read_sequence, now_ms)
        return progress

    @property
    def votes_itself(self) -> bool:
        """Whether this node is a voter; a leader that has just removed itself is not."""
        return self._log.configuration.is_voter(self._config.node_id, self._directory_id)

    def values(self, own: int, of: "Callable[[Progress], int]", *, absent: int = 0) -> list[int]:
        """One value per voter: this node's own, and of the others whose word counts theirs.

        `absent` is that of a voter who was not heard from: another directory speaks for its node.
        """
        values = []
        known = self._progress
        for voter in self._log.configuration.voters:
            progress = known.get(voter.node_id)
            if progress is None:
                values.append(own if voter.accepts(self._directory_id) else absent)
            # The former as nearly always, and asked for every voter with every message.
            elif progress.directory_id == voter.directory_id or self._counts(voter, progress):
                values.append(of(progress))
            else:
                values.append(absent)
        return values

    def _counts(self, voter: Voter, progress: Progress) -> bool:
        # One that has not answered yet in this leadership has nothing that could count wrongly.
        is_silent = progress.match_index == 0 and progress.directory_id == UNKNOWN_DIRECTORY
        return is_silent or self._is_of(voter, progress)

    def _is_of(self, voter: Voter, progress: Progress) -> bool:
        """Whether it is the voter's directory that answers, and not another one of its node.

        While the log names none, an answer that tells none is of an older version, to which the
        node was taken back: what is remembered of the newer one says nothing about it.
        """
        if voter.directory_id != UNKNOWN_DIRECTORY:
            return progress.directory_id == voter.directory_id
        remembered = self._starts.directory_of(voter.node_id)
        return UNKNOWN_DIRECTORY in (remembered, progress.directory_id) or (
            progress.directory_id == remembered
        )

    def forget(self, progress: Progress, now_ms: int) -> None:
        """The follower has lost what it acknowledged: nothing of it counts any more."""
        next_index = self._log.last_index + 1
        self._begin(progress.follower_id, progress.directory_id, now_ms, next_index)

    def heard_voters(self, now_ms: int) -> dict[int, Progress]:
        """The other voters that may take over and were just heard from, by node id.

        One that tells no directory, while this node has one, is of a version that does not know
        how to take over.
        """
        found = {}
        for voter in self._log.configuration.voters:
            progress = self._progress.get(voter.node_id)
            if progress is None or not self._is_heard(progress, now_ms):
                continue
            is_older = progress.directory_id == UNKNOWN_DIRECTORY != self._directory_id
            if self._is_of(voter, progress) and not is_older:
                found[voter.node_id] = progress
        return found

    # --- changes --------------------------------------------------------------------------------

    def check_change(self, after: Configuration, *, has_committed_in_term: bool) -> None:
        """Check that the log may take this configuration now.

        Raises:
            VoterChangeInProgressError: the last one, or any entry of this term, is not committed.
            InvalidVoterChangeError: it differs by more than one voter, or has too many or none.
        """
        before = self._log.configuration
        if not has_committed_in_term or self._log.configuration_index > self._log.commit_index:
            raise VoterChangeInProgressError(
                "the voters change one at a time, and the last change is not committed yet",
                outcome=Outcome.NOT_APPLIED,
            )
        if not 1 <= len(after.voters) <= MAX_VOTERS or len(after.learners) > MAX_LEARNERS:
            raise InvalidVoterChangeError(
                f"a quorum has 1 to {MAX_VOTERS} voters and at most {MAX_LEARNERS} learners, not "
                f"{len(after.voters)} and {len(after.learners)}",
                outcome=Outcome.NOT_APPLIED,
            )
        if changed_voters(before, after) > 1:
            raise InvalidVoterChangeError(
                "the voters change one at a time", outcome=Outcome.NOT_APPLIED
            )

    def check_majority(self, after: Configuration, now_ms: int) -> None:
        """Check that enough voters of this configuration are at work to commit under it.

        A removal can take the one voter that was left to answer, where another one is down or came
        back with an empty directory: it would count at once, and never be committed.

        Raises:
            QuorumAtRiskError: those that answer and have the log are fewer than a majority.
        """
        at_work = [voter.node_id for voter in after.voters if self._is_at_work(voter, now_ms)]
        needed = quorum_size(len(after.voters))
        if len(at_work) < needed:
            raise QuorumAtRiskError(
                f"of the voters {', '.join(map(str, after.voter_ids))} that would be left, "
                f"{len(at_work)} answer and have the log, and a majority is {needed}: have the "
                "others come back first, or remove those that are gone",
                outcome=Outcome.NOT_APPLIED,
            )

    def _is_at_work(self, voter: Voter, now_ms: int) -> bool:
        """Whether the voter answers, and is one append behind what is committed at most."""
        if voter.node_id == self._config.node_id:
            return voter.accepts(self._directory_id)
        progress = self._progress.get(voter.node_id)
        return (
            progress is not None
            and self._is_of(voter, progress)
            and progress.match_index > 0
            and now_ms - progress.last_contact_ms < self._config.election_timeout_max_ms
            and progress.state is not ProgressState.SNAPSHOT
            and self._log.commit_index - progress.match_index <= self._config.max_append_entries
        )

    def due_change(self, now_ms: int) -> Configuration | None:
        """The change that the leader makes by itself now, if there is one.

        Voters whose directories have become known are named with them. A voter whose node has come
        back with another directory becomes a learner, and a learner that has caught up becomes a
        voter.
        """
        configuration = self._log.configuration
        return (
            self._with_known_directories(configuration)
            or self._without_lost_directory(configuration, now_ms)
            or self._with_ready_learner(configuration, now_ms)
        )

    def _with_known_directories(self, configuration: Configuration) -> Configuration | None:
        """Name the directories of all voters at once: until then some may run an older version."""
        if all(voter.directory_id != UNKNOWN_DIRECTORY for voter in configuration.voters):
            return None
        directories = {
            node_id: self._starts.directory_of(node_id)
            for node_id, progress in self._progress.items()
            # One that was not heard from in this leadership may run an older version by now.
            if progress.directory_id != UNKNOWN_DIRECTORY
        }
        directories[self._config.node_id] = self._directory_id
        named = configuration.with_directories(directories)
        is_complete = all(voter.directory_id != UNKNOWN_DIRECTORY for voter in named.voters)
        return named if is_complete and named != configuration else None

    def _without_lost_directory(
        self, configuration: Configuration, now_ms: int
    ) -> Configuration | None:
        for voter in configuration.voters:
            progress = self._progress.get(voter.node_id)
            if progress is None or voter.accepts(progress.directory_id):
                continue
            if progress.directory_id == UNKNOWN_DIRECTORY:
                continue
            # For some time nothing but the other directory was heard: no message that was late.
            is_certain = now_ms - progress.begun_ms >= self._config.election_timeout_max_ms
            if is_certain and self._is_heard(progress, now_ms) and len(configuration.voters) > 1:
                return configuration.with_learner(
                    Voter(voter.node_id, progress.directory_id, voter.url)
                )
        return None

    def _with_ready_learner(
        self, configuration: Configuration, now_ms: int
    ) -> Configuration | None:
        """The whole of what is committed and recent news of it: then it can help to commit more."""
        if len(configuration.voters) == MAX_VOTERS:
            return None
        for learner in configuration.learners:
            progress = self._progress.get(learner.node_id)
            if (
                progress is not None
                and progress.match_index >= self._log.commit_index
                and self._is_heard(progress, now_ms)
            ):
                return configuration.with_voter(
                    Voter(learner.node_id, progress.directory_id, learner.url)
                )
        return None

    def _is_heard(self, progress: Progress, now_ms: int) -> bool:
        age_ms = now_ms - progress.last_contact_ms
        return progress.match_index > 0 and age_ms < self._config.election_timeout_min_ms


def with_new_voter(configuration: Configuration, node_id: int, url: str) -> Configuration:
    """The configuration that has that node become a voter, as soon as it has caught up.

    Raises:
        DuplicateVoterError: it is one, or on its way.
        InvalidVoterChangeError: with it there would be more voters than a quorum has.
    """
    if any(member.node_id == node_id for member in configuration.members):
        raise DuplicateVoterError(
            f"node {node_id} is a voter of the metadata quorum, or becomes one",
            outcome=Outcome.NOT_APPLIED,
        )
    if len(configuration.members) >= MAX_VOTERS:
        raise InvalidVoterChangeError(
            f"a quorum has {MAX_VOTERS} voters at most, those that are on their way included",
            outcome=Outcome.NOT_APPLIED,
        )
    return configuration.with_learner(Voter(node_id, url=url))


def without_voter(configuration: Configuration, node_id: int) -> Configuration:
    """The configuration in which that node neither is a voter nor becomes one.

    Raises:
        VoterNotFoundError: it is none now.
    """
    if all(member.node_id != node_id for member in configuration.members):
        raise VoterNotFoundError(
            f"node {node_id} is no voter of the metadata quorum",
            outcome=Outcome.NOT_APPLIED,
        )
    return configuration.without(node_id)
