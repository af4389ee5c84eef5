"""Changes of the voters, put back directories and handing over, played by hand."""

from dataclasses import replace

from ottla_cluster.raft import AppendRequest, AppendResponse
from tests.simulation.raft.host import Host
from tests.simulation.raft.membership import with_directory
from tests.simulation.raft.script import LONG_MS, Script


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


def rolled_back_voter_starts_twice_unheard(host_class):
    """A directory is put back, and its starts outnumber the one that the others remember."""
    script = MembershipScript(3, host_class)
    script.settled(1, 2, 3)
    backup = script[3].disk.copy()
    script.power_loss(3)
    script.restart(3)
    # As a would-be candidate it tells both of this start.
    script.timeout(3)
    script.deliver(sender=3)
    script.drop()
    script.elect(1, 2, 3)
    script.settle()
    assert all(script[n].disk.remembered[3].start_count == 2 for n in (1, 2))
    script[1].propose([b"on 1 and 3"])
    script.settle(1, 3)
    committed = script.node(1).commit_index
    assert committed > script.node(2).commit_index
    script.power_loss(1, 3)
    script.drop()
    script[3].roll_back(backup)
    for _ in range(2):
        script.restart(3)
        script.power_loss(3)
        script.drop()
    script.restart(3)
    script.run(3 * LONG_MS)
    assert script.node(2).role != "leader"
    assert script[3].set_aside_count == 1


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
        rolled_back_voter_starts_twice_unheard,
        rolled_back_within_one_start,
        late_request_of_a_former_leadership_meets_a_new_start,
        leadership_is_transferred,
        transfer_of_a_vote_that_is_not_persisted,
        transfer_fails,
    )
}
