"""Voters that come, go and lose their directories in the simulated cluster, and who is elected.

Every host has a data directory with an id. Beside the faults of `world`, an operator adds and
removes voters and hands the leadership over, and one directory at a time is lost or put back to an
older copy: the next one only when the quorum has taken the last one in again.
"""

from dataclasses import replace

from msgspec.structs import replace as replace_field

from ottla_cluster.raft import ObserveRequest
from tests.simulation.raft.checker import FINAL_PREFIX
from tests.simulation.raft.host import Host
from tests.simulation.raft.world import World

SPARE_COUNT = 2
"""Hosts that no bootstrap names, and that may become voters."""


def with_directory(host):
    host.disk.directory_id = f"{host.node_id}/0"
    return host


class MembershipWorld(World):
    """A run in which the voters change.

    Args:
        options: the whole run.
        host_class: the driver, replaced by mutants.
    """

    HEALED_MS_MAX = 20_000

    def __init__(self, options, host_class=Host):
        voters = max(3, options.voter_count)
        # Longer than elsewhere: a directory takes its time to be taken in.
        longer_ms = options.faulty_ms + 5_000
        options = replace(options, voter_count=voters, faulty_ms=longer_ms)
        if options.seed % 2:
            # Quiet enough for the quorum to be whole now and then: only then is a directory
            # disturbed.
            options = replace(options, loss=0.0, fault_interval_ms=1_000)
        super().__init__(options, host_class)
        self.rolled_back_count = 0
        # The host whose directory was lost, or is put back, until it is taken in again.
        self._disturbed = None
        # The directory that was put back last: until another one takes its place, no voter has
        # told its host that what it knows is old.
        self._put_back_id = None
        for node_id in range(voters + 1, voters + 1 + SPARE_COUNT):
            config = replace(self.hosts[1].config, node_id=node_id, url="http://spare")
            self.hosts[node_id] = host_class(self, config, self.random.getrandbits(32))
        for host in self.hosts.values():
            host.config = replace(host.config, observer_timeout_ms=400)
            with_directory(host)
        self.after(300, self._administer)
        if self.random.random() < 0.7:
            self.after(300, self._disturb_directory)

    def _propose_final(self):
        """Again and again: a leader that is about to hand over refuses."""
        for host in self._leaders():
            host.propose([FINAL_PREFIX + self._payload(host)])
        self.after(200, self._propose_final)

    def _deliver(self, message):
        super()._deliver(message)
        receiver = self.hosts[message.receiver]
        if not isinstance(message, ObserveRequest) or not receiver.is_up or receiver.is_paused:
            return
        # The answer to the announcement names the leader, which the announcer may not know.
        if receiver.node.leader_id not in (None, message.sender, message.receiver):
            self.send(replace_field(message, receiver=receiver.node.leader_id))

    # --- the operator ---------------------------------------------------------------------------

    def _administer(self):
        if self.is_healed:
            return
        kind = self.random.choice(("add", "add", "remove", "transfer"))
        for host in self._leaders():
            node_id = self.random.choice(list(self.hosts))
            self.note(host.node_id, kind, node_id)
            if kind in ("add", "remove") and self._disturbed is not None:
                # One thing at a time; and who became a voter now would have heard of no start.
                continue
            if kind == "add":
                host.act(lambda node, now_ms, n=node_id: node.add_voter(n, "http://x", now_ms))
            elif kind == "remove" and len(host.node.configuration.voters) > 2:
                host.act(lambda node, now_ms, n=node_id: node.remove_voter(n, now_ms, force=True))
            elif kind == "transfer":
                host.act(lambda node, now_ms, n=node_id: node.transfer_leadership(n, now_ms))
        self.after(self.random.randint(20, 400), self._administer)

    # --- directories ----------------------------------------------------------------------------

    def _disturb_directory(self):
        """Lose one, or put it back, once the last one that was is taken in again."""
        if self.is_healed:
            return
        host = self._any_host()
        if self._is_whole():
            self._disturbed = None
            # Two voters are no safer than one.
            if len(self._leaders()[0].node.configuration.voters) < 3:
                pass
            elif self.random.random() < 0.3:
                self._disturbed = host
                self._lose(host)
            elif not host.is_writing and host.node.is_voter:
                backup = host.disk.copy()
                # Another start comes between the copy and its return.
                self._crash(host, 50)
                self._disturbed = host
                self.after(self.random.randint(60, 200), self._roll_back, host, backup)
                return
        self.after(self.random.randint(20, 200), self._disturb_directory)

    def _is_whole(self):
        """Whether every voter of the newest committed configuration is its node's directory.

        One that was put back has the same id until it is noticed, and is as good as lost.
        """
        if self._disturbed and self._disturbed.disk.directory_id == self._put_back_id:
            return False
        leaders = self._leaders()
        if len(leaders) != 1 or not leaders[0].node.is_configuration_committed:
            return False
        if leaders[0].is_asked:
            return False
        configuration = leaders[0].node.configuration
        up = [h for h in self.hosts.values() if h.is_up and not h.is_paused]
        return (
            len(up) == len(self.hosts)
            and all(
                voter.directory_id == self.hosts[voter.node_id].disk.directory_id
                for voter in configuration.voters
            )
            and all(h.node.configuration == configuration for h in up)
            and all(
                h.disk.remembered.get(v.node_id, v).directory_id == v.directory_id
                for h in up
                for v in configuration.voters
                if h.node_id != v.node_id
            )
        )

    def _lose(self, host):
        if host.is_up:
            host.crash()
            host.lose_directory()
            self.note("lost", host.node_id)
            self.after(self.random.randint(1, 300), self._restart, host)

    def _roll_back(self, host, backup):
        """Put the directory back, once every voter has heard of the start that it knows not of."""
        if self.is_healed or backup.directory_id != host.disk.directory_id:
            self._disturb_directory()
        elif not self._is_whole() or not self._is_known_to_all(host):
            # As a candidate it talks to all.
            for leader in self._leaders():
                if not leader.node.is_handing_over:
                    leader.act(lambda node, now_ms: node.transfer_leadership(host.node_id, now_ms))
            self.after(60, self._roll_back, host, backup)
        else:
            host.crash()
            self.note("rolled back", host.node_id)
            host.roll_back(backup)
            self.rolled_back_count += 1
            self._put_back_id = host.disk.directory_id
            self.after(self.random.randint(1, 300), self._restart, host)
            self.after(self.random.randint(50, 400), self._disturb_directory)

    def _is_known_to_all(self, host):
        """Whether all other voters have on disk that they heard of this start."""
        (leader,) = self._leaders()
        others = set(leader.node.configuration.voter_ids) - {host.node_id}
        known = [self.hosts[other].disk.remembered.get(host.node_id) for other in others]
        return all(each and each.start_count == host.disk.start_count for each in known)
