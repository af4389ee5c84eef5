"""A voter of the metadata quorum whose state machine is the metadata image.

The driver's contract is that of the Raft simulation (`raft.host`); here the entries are metadata
records, and whoever leads runs the controller.
"""

from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.image_sharing import sharing_with
from ottla_cluster.controller.records import decode_records
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.raft import EntryKind
from ottla_cluster.raft.configuration import decode_configuration
from tests.simulation.raft.checker import Checker
from tests.simulation.raft.host import Host


class MetadataMachine:
    """Replays entries; an entry after the same image as before gives the image of before.

    So the processes of one run share the work, save after a snapshot: its image is another object,
    and every entry after it is replayed anew, to an image that must be equal.
    """

    EMPTY = MetadataImage()

    def __init__(self):
        self._replayed = {}

    def applied(self, image, entry):
        known = self._replayed.get(entry.index)
        if known is not None and known[0] is image and known[1] == entry:
            return known[2]
        # Who votes is the quorum's own affair; such an entry only has its place in the log.
        is_configuration = entry.kind is EntryKind.CONFIGURATION
        records = () if is_configuration else decode_records(entry.payload)
        after = replay(image, records, entry.index)
        self._replayed.setdefault(entry.index, (image, entry, after))
        return after

    def encode(self, image, maker):
        return encode_image(image)

    def decode(self, data):
        return decode_image(data)


class MetadataChecker(Checker):
    """Raft's checker, which tells of each image once it is committed.

    Args:
        voter_ids: who votes at first.
        events: gets a count of the changes of voters.
        on_committed: called with each image, in their order.
    """

    def __init__(self, voter_ids, events, on_committed):
        super().__init__(MetadataMachine())
        self.voter_ids = voter_ids
        """Who votes, as far as that is committed."""
        self._events = events
        self._on_committed = on_committed

    def on_apply(self, host, entries, term, hosts):
        known = len(self.states)
        super().on_apply(host, entries, term, hosts)
        if len(self.states) > known:
            for entry in self.committed[known - 1 :]:
                if entry.kind is EntryKind.CONFIGURATION:
                    self._note_voters(decode_configuration(entry.payload))
            for image in self.states[known:]:
                self._on_committed(image)

    def _note_voters(self, configuration):
        changed = set(self.voter_ids) ^ set(configuration.voter_ids)
        self.require(len(changed) <= 1, "one voter at a time", (self.voter_ids, configuration))
        self.voter_ids = configuration.voter_ids
        self._events["voters changed"] += len(changed)


class Voter(Host):
    """The voter of one process, which is told what becomes of proposals, reads and images."""

    process = None

    def propose_one(self, payload, placed):
        self._placing.append(placed)
        self.propose([payload])

    def read_index(self, ended):
        """Begin a read round; `ended(index)`, or None where it is not confirmed."""
        token = self.process.world.new_token()
        self._reading[token] = ended
        self.read(token)

    def start(self):
        self._placing = []
        self._reading = {}
        self._told = (0, None, False)
        super().start()

    def leadership_told(self, ready):
        leadership = (ready.term, ready.leader_id, ready.role == "leader")
        if leadership != self._told:
            self._told = leadership
            self.process.controller.leadership_changed(*leadership)

    def applied(self, ready):
        if ready.snapshot is not None:
            self.state = sharing_with(self.process.image, self.state)
        if ready.snapshot is not None or ready.committed:
            self.process.publish(self.state)
        if ready.committed:
            self.process.controller.applied(ready.committed)

    def proposal_placed(self, result):
        self._placing.pop(0)(result)

    def read_ended(self, token, index):
        self._reading.pop(token)(index)
