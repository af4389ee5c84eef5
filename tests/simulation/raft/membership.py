"""Voters that come, go and lose their directories in the simulated cluster, and who is elected.

Every host has a data directory with an id. Beside the faults of `world`, an operator adds and
removes voters and hands the leadership over, and one directory at a time is lost or put back to an
older copy: the next one only when the quorum has taken the last one in again.
"""

from dataclasses import replace

from msgspec.structs import replace as replace_field

from ottla_cluster.raft import AppendRequest, AppendResponse, ObserveRequest
from tests.simulation.raft.checker import FINAL_PREFIX
from tests.simulation.raft.host import Host
from tests.simulation.raft.script import LONG_MS, Script
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


class MembershipScript(Script):
    """A cluster played by hand, with directories, and with spare hosts 8 and 9."""

    def __init__(self, voter_count, host_class=Host, **settings):
        class WithDirectory(host_class):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                with_directory(self)

        super().__init__(voter_count, WithDirectory, **settings)
        for node_id in (8, 9):
            config = replace(self.hosts[1].config, node_id=node_id, url="http://spare")
            self.hosts[node_id] = WithDirectory(self, config, node_id)
            self.hosts[node_id].start()

    def settled(self, leader, *others):
        """Have `leader` lead, and the log name everybody's directory."""
        self.elect(leader, *others)
        self.settle(leader, *others)
        self.wait(100)
        self.tick(leader)
        self.settle(leader, *others)
        assert all(voter.directory_id for voter in self.node(leader).configuration.voters)

    def add(self, leader, node_id):
        self[leader].act(lambda node, now_ms: node.add_voter(node_id, "http://x", now_ms))

    def remove(self, leader, node_id):
        self[leader].act(lambda node, now_ms: node.remove_voter(node_id, now_ms, force=True))

    def transfer(self, leader, node_id):
        self[leader].act(lambda node, now_ms: node.transfer_leadership(node_id, now_ms))

    def voters(self, node_id):
        return self.node(node_id).configuration.voter_ids


# --- schedules ------------------------------------------------------------------------------------


def two_changes_at_once(host_class):
    """Dissertation §4.1: with two at once there are two majorities that share nobody."""
    script = MembershipScript(5, host_class)
    script.settled(1, 2, 3, 4, 5)
    script.drop()
    # The leader is cut off with node 2, and would have a majority of three voters.
    for node_id in (5, 4):
        script.remove(1, node_id)
    script.settle(1, 2)
    # The three others do not know of it, and are a majority of five.
    script.elect(3, 4, 5)
    script.settle(3, 4, 5)
    script[1].propose([b"of the old leader"])
    script.settle(1, 2)
    script[3].propose([b"of the new leader"])
    script.settle(3, 4, 5)
    assert script.node(3).commit_index > script.node(1).commit_index


def change_before_own_commit(host_class):
    """The bug of 2015: two leaders, each with one uncommitted change (raft-dev, July 2015)."""
    script = MembershipScript(4, host_class)
    script.settled(1, 2, 3, 4)
    script.drop()
    # Node 1 adds node 8 as a learner and then, cut off, as a voter that nobody else knows of.
    script.add(1, 8)
    script.settle(1, 2, 3, 4)
    script.wait(100)
    script.tick(1)
    script.settle(1, 2, 3, 4)
    for _ in range(6):
        script.deliver(sender=1, receiver=8)
        script.deliver(sender=8, receiver=1)
    script.drop()
    assert script.voters(1) == (1, 2, 3, 4, 8)
    # Node 2 leads by 3 and 4, and removes node 1 at once: with 3 it has a majority of three.
    script.elect(2, 3, 4)
    script.drop()
    script.remove(2, 1)
    script.wait(100)
    script.tick(2)
    script.settle(2, 3)
    script[2].propose([b"by two of three"])
    script.settle(2, 3)
    # Node 1 is elected by 4 and 8 out of five.
    script.drop()
    script.elect(1, 4, 8)
    script[1].propose([b"by three of five"])
    script.settle(1, 4, 8)


def new_configuration_is_not_committed_yet(host_class):
    """It counts from its append: by the old one two of three would commit what two of four do."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.add(1, 8)
    script.settle(1, 2, 3)
    script.tick(1)
    script.settle(1, 2, 3)
    script.wait(100)
    script.tick(1)
    for _ in range(6):
        script.deliver(sender=1, receiver=8)
        script.deliver(sender=8, receiver=1)
    assert len(script.voters(1)) == 4
    committed = script.node(1).commit_index
    script.drop()
    script[1].propose([b"on two of four"])
    script.settle(1, 8)
    assert script.node(1).commit_index == committed
    script.settle(1, 2, 8)
    script.wait(100)
    script.tick(1)
    script.settle(1, 2, 8)
    assert script.node(1).commit_index > committed


def cut_off_change_is_forgotten(host_class):
    """What another leader replaces counts no longer."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.drop()
    script.remove(1, 3)
    script.drop()
    script.elect(2, 3)
    script.settle(2, 3)
    script.run(LONG_MS)
    assert script.voters(1) == (1, 2, 3)
    assert script.node(1).commit_index == script.node(2).commit_index


def lost_directory_votes(host_class):
    """A voter acknowledged an entry and loses its directory: it must not help elect a leader that
    lacks the entry."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.drop()
    script[1].propose([b"on 1 and 3"])
    script.settle(1, 3)
    committed = script.node(1).commit_index
    script.power_loss(1, 3)
    script.drop()
    script[3].lose_directory()
    script.restart(3)
    script.run(3 * LONG_MS, cut=((2, 1), (3, 1)))
    assert script.node(2).role != "leader"
    assert script.node(3).role != "leader"
    script.restart(1)
    script.run(5 * LONG_MS)
    assert script.node(2).commit_index > committed
    assert sorted(script.voters(2)) == [1, 2, 3]
    assert script.node(2).configuration.voter(3).directory_id == "3/1"


def lost_directory_acknowledges(host_class):
    """The new directory's answers commit nothing before the log names it."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.drop()
    script.power_loss(3)
    script[3].lose_directory()
    script.restart(3)
    committed = script.node(1).commit_index
    script[1].propose([b"on 1 and the new directory of 3"])
    for _ in range(4):
        script.settle(1, 3)
        script.wait(100)
        script.tick(1)
    script.drop()
    assert script.node(3).last_index == script.node(1).last_index
    assert script.node(1).commit_index == committed


def lost_directory_before_it_is_named(host_class):
    """The log names no directory yet: that who has heard of it remembers it is enough."""
    script = MembershipScript(3, host_class)
    script.timeout(3)
    script.deliver(sender=3)
    script.elect(1, 2, 3)
    script.drop(receiver=2)
    script.settle(1, 3)
    committed = script.node(1).commit_index
    assert committed == 1
    script.power_loss(1, 3)
    script[3].lose_directory()
    script.restart(3)
    script.run(3 * LONG_MS, cut=((2, 1), (3, 1)))
    assert script.node(2).role != "leader"
    assert script.node(3).role != "leader"


def rolled_back_voter_votes_again(host_class):
    """A directory is put back to before a vote: the second vote of the term does not count."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    backup = script[3].disk.copy()
    script.power_loss(3)
    script.restart(3)
    script.run(500)
    script.drop()
    leader = next(n for n in (1, 2, 3) if script.node(n).role == "leader")
    script[leader].propose([b"acknowledged by 3"])
    script.settle(*{leader, 3})
    script.wait(100)
    script.tick(leader)
    script.settle()
    script.power_loss(3)
    script[3].roll_back(backup)
    script.restart(3)
    script.run(LONG_MS)
    assert script[3].set_aside_count == 1
    script.run(3 * LONG_MS)
    assert sorted(script.voters(leader)) == [1, 2, 3]
    assert script.node(leader).configuration.voter(3).directory_id == "3/1"


def rolled_back_within_one_start(host_class):
    """The copy is of the last start, so its count tells nothing: the leader misses entries."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    backup = script[3].disk.copy()
    for number in range(3):
        script[1].propose([b"acknowledged by 3: %d" % number])
        script.settle()
    script.power_loss(3)
    script[3].roll_back(backup)
    script.restart(3)
    script.run(LONG_MS)
    assert script[3].set_aside_count == 1


def late_request_of_a_former_leadership_meets_a_new_start(host_class):
    """What refuses it has lost nothing, though it was asked about an entry far behind."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script[1].propose([b"on its way for long"])
    (late,) = script.select(AppendRequest, receiver=3)
    script.elect(2, 3)
    script.settle()
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"acknowledged by 3"])
    script.settle()
    script.power_loss(3)
    script.restart(3)
    script[3].receive(late)
    assert script.deliver(AppendResponse, sender=3, receiver=1) == 1
    script.run(LONG_MS)
    assert script[3].set_aside_count == 0


def leadership_is_transferred(host_class):
    """§3.10: the target is brought up to the leader's log, and leads without a time-out."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script[1].propose([b"not at 2 yet"])
    script.drop(AppendRequest, receiver=2)
    script.transfer(1, 2)
    for _ in range(3):
        script.settle()
        script.wait(100)
        script.tick(1)
    script.settle()
    assert script.node(2).role == "leader"
    assert script.node(1).role == "follower"


def transfer_of_a_vote_that_is_not_persisted(host_class):
    """Who is told to campaign has voted for itself: on disk, before it asks anybody."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.hold_disk(2)
    script.transfer(1, 2)
    script.deliver(sender=1, receiver=2)
    script.drop(receiver=1)
    # Node 2 loses power; node 3 may have its vote request, and node 2 votes for 3 in that term.
    script.power_loss(2)
    script.deliver(sender=2, receiver=3)
    if script.node(3).term > script.node(1).term:
        raise AssertionError("the vote request left before the vote was on disk")
    script.restart(2)
    script.run(3 * LONG_MS)
    assert any(script.node(n).role == "leader" for n in (1, 2, 3))


def transfer_fails(host_class):
    """The target is gone: the leader takes proposals again after an election timeout."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    script.transfer(1, 2)
    script.power_loss(2)
    script.drop(receiver=2)
    committed = script.node(1).commit_index
    for _ in range(12):
        script.wait(100)
        script.tick(1)
        script.drop(receiver=2)
        script.settle(1, 3)
    script[1].propose([b"afterwards"])
    script.settle(1, 3)
    assert script.node(1).role == "leader"
    assert script.node(1).commit_index > committed


MEMBERSHIP_SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        two_changes_at_once,
        change_before_own_commit,
        new_configuration_is_not_committed_yet,
        cut_off_change_is_forgotten,
        lost_directory_votes,
        lost_directory_acknowledges,
        lost_directory_before_it_is_named,
        rolled_back_voter_votes_again,
        rolled_back_within_one_start,
        late_request_of_a_former_leadership_meets_a_new_start,
        leadership_is_transferred,
        transfer_of_a_vote_that_is_not_persisted,
        transfer_fails,
    )
}
