"""What must hold, and is looked at whenever something changes that it speaks of.

The letters are those of the reliability invariants: L for the log. Raft's own properties are
checked by `raft.checker`; here the controller's and the partitions' are, as an observer sees them
who knows every disk at every moment.
"""

from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.image import BrokerState, MetadataImage
from ottla_cluster.replication.throttle import BURST_MS
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.replica_log import RECORD_BYTES
from tests.simulation.plane.timing import SESSION_TIMEOUT_MS


class InvariantViolatedError(AssertionError):
    """A rule is broken; the text begins with its name."""


class History:
    """All that anybody was shown of one partition."""

    def __init__(self, key):
        self.key = key
        # Exposed by some replica: it never changes and never goes away (L3, L8).
        self.committed = []
        self.offsets = {}  # value -> offset
        self.acknowledged = {}  # value -> offset, of acks=all
        self.acknowledged_end = 0
        self.failed = {}  # values whose producer was told that they are not there
        self.leaders = {}  # leader epoch -> (node, incarnation)
        self.written = {}  # (leader epoch, offset) -> record
        self.unclean_epoch = -1
        """The leader epoch of the last unclean election."""
        # Shown once, and given up by an unclean election: offset -> records.
        self.given_up = {}

    @property
    def has_given_up(self):
        return self.unclean_epoch >= 0

    def give_up(self, offset, record):
        self.given_up.setdefault(offset, []).append(record)

    def was_shown(self, offset, record):
        """Whether it is committed, or was and is given up."""
        is_committed = offset < len(self.committed) and self.committed[offset] == record
        return is_committed or record in self.given_up.get(offset, ())


class Invariants:
    def __init__(self, world):
        self.world = world
        self.image = MetadataImage()
        """The newest committed image."""
        self.histories = {}
        self.versions = {}  # node -> newest version that an answer to it covered
        self.copied = {}  # (node, incarnation) -> (rate, time when it began, records sent since)

    def require(self, condition, rule, *detail):
        if not condition:
            raise InvariantViolatedError(f"{rule}: {detail}")

    def history(self, key):
        history = self.histories.get(key)
        if history is None:
            history = self.histories[key] = History(key)
        return history

    # --- the controller -------------------------------------------------------------------------

    def metadata_committed(self, image):
        """After every metadata entry: whoever may be elected holds all that is committed."""
        former, self.image = self.image, image
        for topic_id, topic in image.topics.items():
            known = former.topics.get(topic_id)
            if known is topic:
                continue
            for number, state in enumerate(topic.partitions):
                if known is None or number >= len(known.partitions):
                    continue
                before = known.partitions[number]
                if before is not state and before != state:
                    self._check_change(before, state)
                    if state.unclean_leader_epoch != before.unclean_leader_epoch:
                        self._gives_up(before, state)
                    self.check_isr(state)

    def _check_change(self, before, state):
        key = (state.topic_id, state.partition)
        self.require(
            state.partition_epoch > before.partition_epoch
            and state.leader_epoch >= before.leader_epoch
            and (state.leader == before.leader or state.leader_epoch > before.leader_epoch),
            "epochs only rise",
            before,
            state,
        )
        broker = self.image.brokers.get(state.leader)
        self.require(
            state.leader is None or broker.state != "fenced", "no fenced leader", key, state
        )
        if before.leader not in (None, state.leader):
            former = self.image.brokers[before.leader]
            if former.state is BrokerState.ACTIVE and not former.is_full:
                # Nobody waits for its lease: it was moved by a reassignment, or to the preferred
                # leader.
                self.world.events["moved"] += 1
                self.world.leases_overlap(SESSION_TIMEOUT_MS)

    def _gives_up(self, before, state):
        """An unclean election: what the elected replica lacks is committed no more."""
        self.world.events["unclean election"] += 1
        self.require(self.world.options.is_unclean, "an unclean election is allowed", state)
        self.require(before.leader is None, "no unclean election beside a leader", before, state)
        history = self.history((state.topic_id, state.partition))
        # One decision may elect a replica and take the leadership from it again; it stays alone in
        # the ISR, and its log is what counts.
        elected = state.isr[0] if state.leader is None else state.leader
        self.require(
            state.leader is not None or len(state.isr) == 1, "only it is in the ISR then", state
        )
        disk = self.world.processes[elected].disks.get(history.key)
        records = () if disk is None else disk.records
        committed = history.committed
        kept = 0
        while kept < min(len(records), len(committed)) and records[kept] == committed[kept]:
            kept += 1
        self.world.events["records given up"] += len(committed) - kept
        for offset, record in enumerate(committed[kept:], kept):
            history.give_up(offset, record)
            del history.offsets[record.value]
            history.acknowledged.pop(record.value, None)
        del committed[kept:]
        history.acknowledged_end = min(history.acknowledged_end, kept)
        history.unclean_epoch = state.leader_epoch

    def _is_of_the_past(self, replica):
        """Whether its role is of before the last unclean election, of which it has not heard."""
        return replica.state.leader_epoch < self.history(replica.key).unclean_epoch

    def answered(self, outcome, active):
        """An answer of the controller leaves: what it saw is committed."""
        if active is not None and not isinstance(outcome, OttlaError):
            version = active.committed_image.version
            self.require(
                version <= self.image.version, "answers wait for their commit", outcome, version
            )

    # --- leaders --------------------------------------------------------------------------------

    def leads(self, replica, state):
        """One incarnation of one broker per leader epoch (L11), and it holds all that counts."""
        history = self.history(replica.key)
        claim = (replica.node_id, replica.process.incarnation)
        known = history.leaders.setdefault(state.leader_epoch, claim)
        self.require(known == claim, "one leader per epoch", replica.key, state, known, claim)
        is_only = len(state.replicas) == 1
        if not is_only and replica.process.replicas.get(replica.key) is replica:
            # A leader of the past may begin to lead late, after others have committed more.
            current = self._partition(replica.key)
            if current is not None and current.leader_epoch == state.leader_epoch:
                self.require(
                    self._holds_all(history, replica.log.disk.records),
                    "leader completeness of the log",
                    replica.key,
                    replica.node_id,
                )

    def appends(self, replica, record):
        """One record per leader epoch and offset (L3), and epochs never fall along a log (L11)."""
        log = replica.log.records
        fact = (record.leader_epoch, len(log))
        known = self.history(replica.key).written.setdefault(fact, record)
        self.require(
            known == record, "one record per epoch and offset", replica.key, fact, known, record
        )
        self.require(
            not log or log[-1].leader_epoch <= record.leader_epoch,
            "leader epochs never fall along a log",
            replica.key,
            replica.node_id,
        )

    def acknowledges(self, replica, offset):
        """A leader answers a produce with acks=all."""
        if self._is_of_the_past(replica):
            return
        committed = self.history(replica.key).committed
        self.require(
            offset < len(committed) and committed[offset] == replica.log.records[offset],
            "acknowledged means committed",
            replica.key,
            replica.node_id,
            offset,
        )

    def copies(self, process, count):
        """Records leave for a replica that is being added, under a throttle."""
        rate = process.image.replication_throttle_bytes_per_second
        sender = (process.node_id, process.incarnation)
        self.require(rate is not None, "copies wait only where there is a rate", sender)
        known_rate, since_ms, records = self.copied.get(sender, (None, 0, 0))
        if rate != known_rate:
            since_ms, records = self.world.now_ms, 0
        self.copied[sender] = (rate, since_ms, records + count)
        # What was sent before this: one piece may go into debt. Clocks run, and jump, ahead.
        elapsed_ms = BURST_MS + 1.1 * (self.world.now_ms - since_ms) + process.clock_jumps_ms
        allowed = rate * elapsed_ms / (1000 * RECORD_BYTES) + 1
        self.require(records <= allowed, "copies keep to the rate", sender, rate, records, allowed)
        self.world.events["throttled copy"] += bool(count)

    # --- what is shown --------------------------------------------------------------------------

    def exposes(self, replica, high_watermark):
        """A replica shows its log up to here: to readers, and for ever (L3, L8)."""
        if self._shows_what_is_given_up(replica, high_watermark):
            return
        before = replica.high_watermark
        where = (replica.key, replica.node_id, before, high_watermark)
        self.require(high_watermark > before, "the high watermark never falls", where)
        self.require(high_watermark <= replica.log.durable_end, "what is shown is durable", where)
        history = self.history(replica.key)
        committed = history.committed
        shown = replica.log.records[before:high_watermark]
        known = committed[before:high_watermark]
        self.require(shown[: len(known)] == known, "one value per offset", where)
        replica.high_watermark = high_watermark
        if high_watermark > len(committed):
            for record in replica.log.records[len(committed) : high_watermark]:
                self._commit(history, record)
            self._check_copies(replica, history)

    def _shows_what_is_given_up(self, replica, high_watermark):
        """Beside or after an unclean election: of the past, or cut below what was shown."""
        before, history = replica.high_watermark, self.history(replica.key)
        if self._is_of_the_past(replica):
            for offset in range(before, high_watermark):
                history.give_up(offset, replica.log.records[offset])
        elif not history.has_given_up or high_watermark > before:
            return False
        else:
            self.require(
                replica.leader is None and high_watermark == replica.log.next_offset,
                "the high watermark falls only where the log is cut",
                (replica.key, replica.node_id, before, high_watermark),
            )
            self.world.events["shown records cut"] += 1
        replica.high_watermark = high_watermark
        return True

    def _commit(self, history, record):
        offset = len(history.committed)
        self.require(
            history.offsets.setdefault(record.value, offset) == offset,
            "a value is stored once",
            history.key,
            record,
        )
        self.require(
            record.value not in history.failed,
            "what was refused is never shown",
            history.key,
            record,
        )
        history.committed.append(record)

    def _check_copies(self, replica, history):
        """What is committed is on the disks of min ISR replicas, and of all that may lead."""
        self.world.events["committed"] += 1
        end = len(history.committed)
        state = self._partition(history.key)
        if state is None:
            return
        version = replica.process.image.version
        copies = sum(
            self._has_copy(process, history, version) for process in self.world.processes.values()
        )
        topic = self.image.topics[history.key[0]]
        if not self.world.has_lost_tails and not self.world.has_lost_directories:
            self.require(
                copies >= effective_min_isr(topic, state),
                "committed on min.insync.replicas disks",
                history.key,
                end,
                copies,
            )
        self.check_isr(state)

    def _has_copy(self, process, history, version):
        """Whether it holds all, or did until its disk was replaced, of which nobody has heard.

        Nobody: who knows the metadata up to this version, in which it still is in the ISR.
        """
        records, lost_version = process.replaced.get(history.key, ((), -1))
        if version < lost_version and self._holds_all(history, records):
            return True
        disk = process.disks.get(history.key)
        return disk is not None and self._holds_all(history, disk.records)

    def check_isr(self, state):
        """Every member of the ISR holds all that is committed, or knows that it does not."""
        history = self.history((state.topic_id, state.partition))
        if history.committed:
            for node_id in state.isr:
                self._check_member(history, node_id)

    def _check_member(self, history, node_id):
        process, state = self.world.processes[node_id], self._partition(history.key)
        if not process.has_told_its_directory(self.image):
            # What it has instead is not known to anybody yet.
            return
        if state.awaited_directory_id is not None:
            self.require(state.leader is None, "nobody leads without the awaited log", state)
            return
        disk = process.disks.get(history.key)
        self.require(
            disk is not None and (disk.has_lost_tail or self._holds_all(history, disk.records)),
            "the ISR holds all that is committed",
            history.key,
            node_id,
            len(history.committed),
        )

    @staticmethod
    def _holds_all(history, records):
        end = len(history.committed)
        return not end or (len(records) >= end and records[end - 1] == history.committed[-1])

    def _partition(self, key):
        topic = self.image.topics.get(key[0])
        return None if topic is None else topic.partitions[key[1]]

    def truncates(self, replica, end):
        self.world.events["truncation"] += 1
        history = self.history(replica.key)
        if history.has_given_up:
            records, committed = replica.log.records, history.committed
            self.require(
                self._is_of_the_past(replica)
                or not end < len(committed)
                or records[end] != committed[end],
                "nothing committed is cut",
                (replica.key, replica.node_id, end),
            )
            return
        self.require(
            end >= replica.high_watermark,
            "nothing below the high watermark is cut",
            replica.key,
            replica.node_id,
            end,
            replica.high_watermark,
        )

    def crashed(self, process):
        """What the crash left on its disks is what counts from here on."""
        for key in process.disks:
            state = self._partition(key)
            if state is not None and process.node_id in state.isr:
                self.check_isr(state)

    # --- clients --------------------------------------------------------------------------------

    def produced(self, key, value, offset, *, acks_all):
        """A producer was told an offset (L1, L3)."""
        history = self.history(key)
        if acks_all:
            is_lost = any(value == given_up.value for given_up in history.given_up.get(offset, ()))
            is_there = offset < len(history.committed) and history.committed[offset].value == value
            self.require(is_there or is_lost, "acknowledged at its own offset", key, value, offset)
            if is_there:
                history.acknowledged[value] = offset
                history.acknowledged_end = max(history.acknowledged_end, offset + 1)
        self.world.events["acknowledged"] += 1

    def refused(self, key, value):
        """A producer was told that the value is not there (L5)."""
        history = self.history(key)
        history.failed[value] = True
        self.require(value not in history.offsets, "what was refused is not there", key, value)

    def read(self, key, position, records):
        """A consumer was given records from a position (L7, L8)."""
        history = self.history(key)
        self.require(
            list(records) == history.committed[position : position + len(records)]
            or (
                history.has_given_up
                and all(history.was_shown(n, record) for n, record in enumerate(records, position))
            ),
            "a poll gives what is committed, in order",
            key,
            position,
        )
        self.world.events["read"] += 1

    def told(self, replica, position, records):
        """A leader tells what is there: not nothing where a record was acknowledged (L9).

        A leader of the past has no lease by the time that another one acknowledges anything.
        """
        if self._partition(replica.key) is None:
            return
        self.require(
            records or position >= self.history(replica.key).acknowledged_end,
            "what was acknowledged is there",
            replica.key,
            replica.node_id,
            position,
        )

    # --- the end --------------------------------------------------------------------------------

    def check_final(self, left_out=frozenset()):
        """Every broker holds the same, every acknowledged record once (L1, L2, L4, L11).

        Args:
            left_out: keys of partitions that wait for what is lost.
        """
        for key, history in self.histories.items():
            state = self._partition(key)
            if state is None or key in left_out:
                continue
            for node_id in state.replicas:
                records = self.world.processes[node_id].disks[key].records
                self.require(records == history.committed, "all replicas are equal", key, node_id)
            values = [record.value for record in history.committed]
            self.require(len(set(values)) == len(values), "no duplicates", key)
            for value, offset in history.acknowledged.items():
                self.require(
                    history.committed[offset].value == value, "no acknowledged loss", key, value
                )
