"""A cluster played by hand, for the schedules that random search finds too rarely.

Messages wait in `in_flight` until the script delivers or drops them; time stands still until the
script moves it; a host whose disk is held has an unsynced write until `sync`, and loses it with
`power_loss`. The same checker watches as in the simulation.
"""

from ottla_cluster.raft import PreVoteRequest, RaftConfig, VoteRequest
from tests.simulation.raft.checker import Checker
from tests.simulation.raft.host import Host

LONG_MS = 2_000
"""Past every election timeout of the default settings."""


class Script:
    """A cluster of `voter_count` running hosts, nothing elected.

    Args:
        voter_count: hosts 1 to this.
        host_class: the driver, replaced by mutants.
        settings: further fields of RaftConfig.
    """

    def __init__(self, voter_count, host_class=Host, **settings):
        self.checker = Checker()
        self.now_ms = 0
        self.in_flight = []
        self.held_disks = []
        self.transcript = []
        voters = tuple(range(1, voter_count + 1))
        self.hosts = {
            voter: host_class(self, RaftConfig(voter, voters, **settings), voter)
            for voter in voters
        }
        for host in self.hosts.values():
            host.start()

    def __getitem__(self, node_id):
        return self.hosts[node_id]

    def node(self, node_id):
        return self.hosts[node_id].node

    # --- what hosts ask -------------------------------------------------------------------------

    def host_clock_ms(self, host):
        return self.now_ms

    def note(self, node_id, kind, argument):
        self.transcript.append(f"{node_id} {kind} {argument if argument is not None else ''}")

    def wake(self, host):
        """The script moves time itself."""

    def send(self, message):
        self.in_flight.append(message)

    def write(self, host):
        if host.node_id not in self.held_disks:
            host.synced(host.incarnation)

    # --- what scripts do ------------------------------------------------------------------------

    def hold_disk(self, node_id):
        self.held_disks.append(node_id)

    def sync(self, node_id):
        self.held_disks.remove(node_id)
        self.hosts[node_id].synced(self.hosts[node_id].incarnation)

    def power_loss(self, *node_ids):
        """Crash and lose what is not synced; what the host had sent is still in flight."""
        for node_id in node_ids:
            self.hosts[node_id].crash()
            if node_id in self.held_disks:
                self.held_disks.remove(node_id)

    def restart(self, *node_ids):
        for node_id in node_ids:
            self.hosts[node_id].start()

    def select(self, kind=None, *, sender=None, receiver=None):
        return [
            message
            for message in self.in_flight
            if (kind is None or isinstance(message, kind))
            and (sender is None or message.sender == sender)
            and (receiver is None or message.receiver == receiver)
        ]

    def deliver(self, kind=None, *, sender=None, receiver=None):
        """Deliver what is in flight now and fits; how many that were."""
        chosen = self.select(kind, sender=sender, receiver=receiver)
        for message in chosen:
            self.in_flight.remove(message)
            self.hosts[message.receiver].receive(message)
        return len(chosen)

    def drop(self, kind=None, *, sender=None, receiver=None):
        for message in self.select(kind, sender=sender, receiver=receiver):
            self.in_flight.remove(message)

    def settle(self, *node_ids):
        """Deliver everything among these (all, when none is named) until nothing moves."""
        members = node_ids or tuple(self.hosts)
        for _ in range(1_000):
            chosen = [m for m in self.in_flight if m.sender in members and m.receiver in members]
            if not chosen:
                return
            for message in chosen:
                self.in_flight.remove(message)
                self.hosts[message.receiver].receive(message)
        raise AssertionError("the cluster does not settle")

    def wait(self, duration_ms):
        self.now_ms += duration_ms

    def tick(self, *node_ids):
        for node_id in node_ids:
            self.hosts[node_id].tick()

    def timeout(self, node_id):
        """Let this host, and only this one, notice that a long time has passed."""
        self.wait(LONG_MS)
        self.tick(node_id)

    def elect(self, node_id, *voters):
        """Make `node_id` leader with the votes of `voters`; its first appends stay in flight."""
        kinds = (PreVoteRequest, VoteRequest)
        for _ in range(4):
            self.drop()
            self.timeout(node_id)
            for kind in kinds:
                for voter in voters:
                    self.deliver(kind, sender=node_id, receiver=voter)
                for voter in voters:
                    self.deliver(sender=voter, receiver=node_id)
            if self.node(node_id).role == "leader":
                return
        raise AssertionError(f"node {node_id} is not elected by {voters}")

    def run(self, duration_ms, *, cut=()):
        """Let all live a while on a perfect network without the directed pairs in `cut`."""
        end_ms = self.now_ms + duration_ms
        while True:
            while self.in_flight:
                message = self.in_flight.pop(0)
                if (message.sender, message.receiver) not in cut:
                    self.hosts[message.receiver].receive(message)
            up = [host for host in self.hosts.values() if host.is_up]
            due_ms = min(host.node.next_deadline_ms() for host in up)
            if due_ms > end_ms:
                self.now_ms = end_ms
                return
            self.now_ms = max(self.now_ms, due_ms)
            for host in up:
                if host.node.next_deadline_ms() <= self.now_ms:
                    host.tick()
