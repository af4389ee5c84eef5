"""Raft's safety properties (Raft figure 3) and reads, watched from outside after every step.

Log matching is checked by induction: whoever writes an entry (index, term) must write the same
payload after a predecessor of the same term as everybody else did.
"""

from ottla_cluster.raft import VoteResponse
from tests.simulation.raft import state_machine

FINAL_PREFIX = b"final "
"""Marks the proposals of the healed phase."""


class InvariantViolatedError(AssertionError):
    """A safety property does not hold."""


class Checker:
    def __init__(self, machine=state_machine):
        self.machine = machine
        self.leader_of_term = {}
        # (index, term) -> (payload, term of the entry before)
        self.written = {}
        # Every entry that any node applied: position i holds index i + 1.
        self.committed = []
        # The state after each of them: position i holds the state at index i.
        self.states = [machine.EMPTY]
        self.first_final_index = None
        self.restored_count = 0
        self.installed_count = 0
        # The term in which the entry at the same position was first known to be committed.
        self.commit_terms = []
        # (voter, term) -> candidate
        self.votes = {}
        # node -> (term, commit_index) seen last in this incarnation
        self.last_seen = {}
        self.open_reads = {}
        self.confirmed_read_count = 0
        self.failed_read_count = 0

    def require(self, condition, rule, detail):
        if not condition:
            raise InvariantViolatedError(f"{rule}: {detail}")

    def on_start(self, host):
        self.last_seen[host.node_id] = (host.node.term, 0)

    def on_ready(self, host, ready):
        """A node handed out a Ready; nothing of it is done yet."""
        node_id = host.node_id
        last_term, last_commit = self.last_seen[node_id]
        self.last_seen[node_id] = (ready.term, ready.commit_index)
        self.require(ready.term >= last_term, "terms never fall", (node_id, last_term, ready.term))
        self.require(
            ready.commit_index >= last_commit,
            "the commit index never falls",
            (node_id, last_commit, ready.commit_index),
        )
        if ready.truncate_from is not None:
            self.require(
                ready.truncate_from > last_commit,
                "what is committed is never truncated",
                (node_id, ready.truncate_from, last_commit),
            )
        if ready.compaction is not None:
            compaction = ready.compaction
            self.installed_count += ready.snapshot is not None
            self.require(
                compaction.compacted_index <= compaction.snapshot.index <= ready.commit_index,
                "the log is cut below what is committed",
                (node_id, compaction, ready.commit_index),
            )
        if ready.entries:
            self._check_written(host, ready.entries)
        if ready.role == "leader" and self.leader_of_term.get(ready.term) != node_id:
            self._check_new_leader(host, ready.term)

    def _check_written(self, host, entries):
        """Log matching (Raft §5.3)."""
        previous_term = host.node._log.term_at(entries[0].index - 1)
        for entry in entries:
            fact = (entry.payload, previous_term)
            known = self.written.setdefault((entry.index, entry.term), fact)
            self.require(known == fact, "log matching", (host.node_id, entry, known, fact))
            previous_term = entry.term

    def _check_new_leader(self, host, term):
        """Election safety (§5.2) and leader completeness (§5.4)."""
        known = self.leader_of_term.setdefault(term, host.node_id)
        self.require(
            known == host.node_id, "election safety", f"{known} and {host.node_id} lead {term}"
        )
        for position in range(len(self.committed) - 1, -1, -1):
            if self.commit_terms[position] < term:
                self._check_leader_holds(host, self.committed[position], term)
                return

    def _check_leader_holds(self, host, entry, term):
        self.require(
            host.node._log.matches(entry.index, entry.term),
            "leader completeness",
            f"the leader {host.node_id} of term {term} lacks the committed {entry}",
        )

    def forgot_votes(self, node_id):
        """A directory is lost or put back: what it says now must not count, and may differ."""
        self.votes = {key: value for key, value in self.votes.items() if key[0] != node_id}

    def on_send(self, message):
        """A message leaves."""
        if isinstance(message, VoteResponse) and message.granted:
            candidate = self.votes.setdefault((message.sender, message.term), message.receiver)
            self.require(candidate == message.receiver, "one vote per term", message)

    def on_apply(self, host, entries, term, hosts):
        """A node applies entries: from now on they are committed for the outside world."""
        for entry in entries:
            self.require(
                entry.index == host.applied_index + 1,
                "entries are applied in order",
                (host.node_id, host.applied_index, entry.index),
            )
            host.applied_index = entry.index
            host.state = self.machine.applied(host.state, entry)
            if entry.index <= len(self.committed):
                known = self.committed[entry.index - 1]
                self.require(known == entry, "one applied sequence", (host.node_id, known, entry))
                self._check_state(host)
                continue
            self.require(entry.index == len(self.committed) + 1, "nothing is applied twice", entry)
            self.committed.append(entry)
            self.states.append(host.state)
            if self.first_final_index is None and entry.payload.startswith(FINAL_PREFIX):
                self.first_final_index = entry.index
            self.commit_terms.append(term)
            for other in hosts:
                if (
                    other.node is not None
                    and other.node.role == "leader"
                    and other.node.term > term
                ):
                    self._check_leader_holds(other, entry, other.node.term)

    def _check_state(self, host):
        self.require(
            host.state == self.states[host.applied_index],
            "equal states",
            (host.node_id, host.applied_index),
        )

    def on_restore(self, host, snapshot):
        """A node replaces its state by a snapshot's: its own after a restart, or its leader's."""
        self.require(
            snapshot.index >= host.applied_index,
            "a snapshot never takes a state back",
            (host.node_id, host.applied_index, snapshot.index),
        )
        self.require(
            snapshot.index <= len(self.committed),
            "a snapshot holds committed entries only",
            (host.node_id, snapshot.index, len(self.committed)),
        )
        self.require(
            self.committed[snapshot.index - 1].term == snapshot.term,
            "a snapshot knows the term of its last entry",
            (host.node_id, snapshot.index, snapshot.term),
        )
        host.applied_index = snapshot.index
        host.state = self.machine.decode(snapshot.data)
        self._check_state(host)
        self.restored_count += 1

    def has_final(self, index):
        """Whether a proposal of the healed phase is committed at or before `index`."""
        return self.first_final_index is not None and self.first_final_index <= index

    def on_read_started(self, token):
        """`request_read` is about to be called."""
        self.open_reads[token] = len(self.committed)

    def on_reads_ended(self, host, ready):
        """After the committed entries of the same Ready were applied."""
        for read in ready.confirmed_reads:
            floor = self.open_reads.pop(read.token, None)
            self.require(floor is not None, "a read is answered once", read)
            self.require(read.index >= floor, "linearizable reads", (host.node_id, read, floor))
            self.require(
                host.applied_index >= read.index, "a read is served after it is applied", read
            )
            self.confirmed_read_count += 1
        for token in ready.failed_reads:
            known = self.open_reads.pop(token, None)
            self.require(known is not None, "a read is answered once", token)
            self.failed_read_count += 1
