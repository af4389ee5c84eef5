"""Elections as conversations: what is said, in order, is kept beside this file and reviewed.

A change of the protocol shows here as a diff. OTTLA_UPDATE_GOLDEN=1 rewrites the files.
"""

import os
from pathlib import Path

import msgspec
import pytest

from ottla_cluster.raft import AppendRequest, InstallSnapshotRequest
from tests.simulation.raft.script import Script

HERE = Path(__file__).parent


class Conversation(Script):
    """A script that writes down every message as it leaves, and every change of role."""

    def __init__(self, voter_count, **settings):
        self.lines = []
        self.roles = {}
        super().__init__(voter_count, **settings)

    def say(self, text):
        self.lines.append(text)

    def send(self, message):
        name = type(message).__name__
        fields = [
            f"{field}={value}"
            for field, value in msgspec.structs.asdict(message).items()
            if field not in ("sender", "receiver", "entries", "chunk") and value is not None
        ]
        if isinstance(message, AppendRequest):
            fields += [
                f"[{entry.index}: term {entry.term} {entry.payload.decode() or 'no-op'}]"
                for entry in message.entries
            ]
        if isinstance(message, InstallSnapshotRequest):
            fields.append(f"[{len(message.chunk)} bytes]")
        self.say(f"  {message.sender} -> {message.receiver}  {name} {' '.join(fields)}")
        super().send(message)

    def wake(self, host):
        node = host.node
        if self.roles.get(host.node_id) != (node.role, node.term):
            self.roles[host.node_id] = (node.role, node.term)
            self.say(f"  {host.node_id} is {node.role} in term {node.term}")
        super().wake(host)


def first_election():
    script = Conversation(3)
    script.say("node 1 times out first")
    script.timeout(1)
    script.settle()
    script.say("a proposal")
    script[1].propose([b"create topic"])
    script.settle()
    script.say("a read")
    script[1].read(1)
    script.settle()
    return script.lines


def leader_crashes():
    script = Conversation(3)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"on node 2 only"])
    script.drop(receiver=3)
    script.settle(1, 2)
    script.lines.clear()
    script.say("node 1 crashes, and both survivors find its connection refused")
    script.power_loss(1)
    for survivor in (2, 3):
        script[survivor].refused(1)
    script.say("node 3, which lacks an entry, asks first")
    script.wait(200)
    script.tick(3)
    script.settle(2, 3)
    script.say("then node 2 does")
    script.tick(2)
    script.settle(2, 3)
    return script.lines


def old_leader_returns():
    script = Conversation(3)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"replicated nowhere"])
    script.power_loss(1)
    script.elect(2, 3)
    script.settle(2, 3)
    script.lines.clear()
    script.say("node 1 restarts with an entry that nobody else holds, and meets a heartbeat")
    script.drop()
    script.restart(1)
    script.wait(100)
    script.tick(2)
    script.settle()
    return script.lines


def snapshot_is_installed():
    script = Conversation(3, retained_entries=0, max_snapshot_chunk_bytes=100)
    script.elect(1, 2, 3)
    script.settle()
    script.power_loss(3)
    for name in (b"flights", b"bookings"):
        script[1].propose([b"create topic " + name])
        script.settle(1, 2)
    script.drop()
    script.lines.clear()
    script.say("nodes 1 and 2 compact their logs, and node 3, which was away, restarts")
    for node_id in (1, 2):
        script[node_id].compact()
    script.restart(3)
    script.say("the next heartbeat finds that node 3 lacks what is compacted away")
    script.wait(100)
    script.tick(1)
    script.drop(receiver=2)
    script.settle(1, 3)
    script.say("entries follow the snapshot")
    script.drop()
    script[1].propose([b"delete topic bookings"])
    script.drop(receiver=2)
    script.settle(1, 3)
    script.lines.append(f"equal states: {script[1].state == script[3].state}")
    return script.lines


TRANSCRIPTS = [first_election, leader_crashes, old_leader_returns, snapshot_is_installed]


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_transcript(transcript):
    path = HERE / f"{transcript.__name__}.txt"
    found = "\n".join(transcript()) + "\n"
    if os.environ.get("OTTLA_UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()
