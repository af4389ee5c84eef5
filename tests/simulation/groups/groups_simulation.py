"""Random lives of consumer groups: processes, a bad network, coordinators that fail over.

One run is one seed on virtual time. Processes join, work, commit, pause, die and come back; the
network loses, delays and repeats requests and loses replies; the log commits late, and when a
coordinator is deposed any prefix of what is in flight survives, which the next one loads, compacted
or not, with a view of the topics that may be behind. Heartbeats may wait at the coordinator for
news. A third group is deleted now and then, and its process returns under its old name. What is
checked is what processes see and do, by the rules C1 to C5 of the design: see `adopted`,
`_accepted`, `_fetched`, `_expired`, `settle`.
"""

import heapq
from collections import Counter
from random import Random

from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    DeleteGroup,
    ExpireMembers,
    FetchOffsets,
    Heartbeat,
    HeartbeatResponse,
    Leave,
    OwnedTopic,
)
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.records import decode_record
from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_protocol.errors import NotCoordinatorError, OttlaError
from tests.simulation.groups.process import (
    REBALANCE_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    Process,
)

TICK_MS = 100
NO_TENURE = -1
GROUPS = ("a", "b", "c")
DELETED = "c"
"""The group that is deleted now and then."""

STEADY = "orders"
"""The topic that is never deleted, so that its offsets can be followed."""


class GroupsSimulation:
    """One seeded run; `run` raises AssertionError where a rule breaks."""

    groups = GROUPS

    def __init__(self, seed):
        self.random = Random(seed)
        self.now_ms = 0
        self.events = []
        self.sequence = 0
        self.faulty = True
        self.counts = Counter()
        self.views = [ClusterView(1, {STEADY: TopicView("id-1", 4)}, LATEST_FEATURE_LEVEL)]
        self.view = self.views[0]
        self.log = []
        self.high_watermark = 0
        self.committed = GroupsImage()
        self.coordinator = None
        self.waiting = {}
        self.last_heard = {}
        self.parked = {}
        self.unanswered = Counter()
        self.commits = {}
        self.tenures = Counter()
        # By group and member that is gone: the generation that its replies are of at most.
        self.removed_in = {}
        self.processed = Counter()
        self.config = GroupConfig(
            default_assignor=self.random.choice(("range", "round_robin", "sticky")),
            heartbeat_interval_ms=500,
        )
        self._lead()
        self.processes = self._make_processes()

    def _make_processes(self):
        processes = [
            Process(self, group, f"{group}{number}", is_static=self.random.random() < 0.3)
            for group, count in (("a", 4), ("b", 2))
            for number in range(count)
        ]
        processes.append(Process(self, DELETED, DELETED, is_static=False, keeps_its_id=True))
        return processes

    def run(self, faulty_ms):
        for process in self.processes:
            self.after(self.random.randint(0, 3_000), process.start)
        self.after(TICK_MS, self._tick)
        self.after(self.random.randint(500, 2_000), self._disturb)
        self._run_until(faulty_ms)
        self.settle()

    def after(self, delay_ms, action):
        self.sequence += 1
        heapq.heappush(self.events, (self.now_ms + delay_ms, self.sequence, action))

    def _run_until(self, end_ms):
        while self.events and self.events[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self.events)
            action()
        self.now_ms = end_ms

    def settle(self):
        """C5: within a bound after the faults end, every partition has its one owner."""
        self.faulty = False
        for process in self.processes:
            process.heal()
        self._run_until(self.now_ms + 2 * SESSION_TIMEOUT_MS + 2 * REBALANCE_TIMEOUT_MS + 6_000)
        for group_id in self.groups:
            group = self.coordinator.committed_image.groups[group_id]
            living = {p.member_id: p for p in self.processes if p.group == group_id and p.is_alive}
            assert set(group.members) == set(living), (set(group.members), set(living))
            for member_id, process in living.items():
                assert set(process.working) == group.targets[member_id], "a target is not reached"
                assert process.generation == group.currents[member_id].generation
            owned = Counter(key for process in living.values() for key in process.working)
            readable = {
                (topic, number)
                for topic, seen in self.view.topics.items()
                for number in range(seen.partitions)
                if any(process.reads(topic) for process in living.values())
            }
            assert set(owned) == readable, "a partition has no owner"
            assert max(owned.values(), default=1) == 1, "a partition has two owners"

    # --- disturbances ---

    def _disturb(self):
        if not self.faulty:
            return
        action = self.random.choices(
            (
                self._depose,
                self._stop_somebody,
                self._pause_somebody,
                self._change_topics,
                self._delete_group,
            ),
            weights=(4, 3, 3, 2, 3),
        )[0]
        action()
        self.after(self.random.randint(100, 2_500), self._disturb)

    def _stop_somebody(self):
        process = self.random.choice(self.processes)
        if process.is_alive:
            self.random.choice((process.kill, process.leave))()
            self.after(self.random.randint(0, 6_000), process.start)

    def _pause_somebody(self):
        process = self.random.choice(self.processes)
        process.pause(self.random.choice((300, 1_500, 2 * SESSION_TIMEOUT_MS)))
        if process.is_static and process.is_alive and self.random.random() < 0.5:
            self.counts["replaced"] += 1
            self.processes.append(process.successor())
            self.after(self.random.randint(0, 2_000), self.processes[-1].start)

    def _delete_group(self):
        """Somebody stops the group's process and deletes the group at once."""
        deleted = [process for process in self.processes if process.group == DELETED]
        if not deleted or not deleted[0].is_alive:
            return
        process = deleted[0]
        process.leave()
        self.after(50, lambda: self.call(DeleteGroup(DELETED), lambda outcome: None))
        self.after(self.random.randint(100, 300), process.start)

    def _change_topics(self):
        topics = dict(self.views[-1].topics)
        version = self.views[-1].version + self.random.randint(1, 3)
        if "clicks" in topics and self.random.random() < 0.6:
            del topics["clicks"]
        elif "clicks" not in topics:
            topics["clicks"] = TopicView(f"id-{version}", self.random.randint(1, 3))
        elif topics[STEADY].partitions < 6:
            topics[STEADY] = TopicView("id-1", topics[STEADY].partitions + 1)
        self.counts["topics"] += 1
        self.views.append(ClusterView(version, topics, LATEST_FEATURE_LEVEL))

    # --- the coordinator and its log ---

    @property
    def log_end(self):
        return self.log[-1][0] if self.log else 0

    def _lead(self):
        """A new coordinator loads what survives; all of that is committed."""
        self.high_watermark = self.log_end
        self._replicate()
        pairs = [pair for _, batch in self.log for pair in batch]
        if self.random.random() < 0.5:
            newest = {}
            for key, value in pairs:
                newest.pop(key, None)
                newest[key] = value
            keep_tombstones = self.random.random() < 0.5
            pairs = [(k, v) for k, v in newest.items() if keep_tombstones or v is not None]
        image = GroupsImage()
        if self.log:
            image = replay(image, [decode_record(*pair) for pair in pairs], self.log_end)
        assert image == self.committed, "compaction changed what the log says"
        self.coordinator = ActiveCoordinator(image, self.config, self.random, self.now_ms)
        self.led_since_ms = self.now_ms
        self.last_heard.clear()
        self.unanswered.clear()
        behind = self.random.randint(1, 3) if self.faulty else 1
        candidate = self.views[-min(behind, len(self.views))]
        self.view = self.view if self.view.version > candidate.version else candidate
        if self.random.random() < 0.3:
            self.view = candidate
        self.counts["leaderships"] += 1
        for group_id in self.groups:
            everything = OwnedTopic(STEADY, tuple(range(self.views[0].topics[STEADY].partitions)))
            self._arrived(FetchOffsets(group_id, (everything,)), lambda outcome: None, None)

    def _depose(self):
        if self.coordinator is None:
            return
        for completed in self.coordinator.lost_leadership():
            self.waiting.pop(completed.request_id)(completed.outcome)
        assert not self.waiting
        self.coordinator = None
        for parked in list(self.parked.values()):
            parked()
        assert not self.parked
        in_flight = [end for end, _ in self.log if end > self.high_watermark]
        cut = self.random.choice([self.high_watermark, *in_flight])
        self.log = [batch for batch in self.log if batch[0] <= cut]
        self.after(self.random.choice((0, 50, SESSION_TIMEOUT_MS)), self._lead)

    def _tick(self):
        self.after(TICK_MS, self._tick)
        if self.coordinator is None:
            return
        if self.random.random() < 0.3 or not self.faulty:
            self.view = self.views[-1]
        for command in self.coordinator.due(self.now_ms, self.now_ms, self.view):
            before = self.coordinator.speculative_image
            self._submit(command, lambda outcome: None)
            if isinstance(command, ExpireMembers):
                for overdue in command.members:
                    self._expired(command.group, overdue, before)

    def _submit(self, command, answer):
        if self.coordinator is None:
            answer(NotCoordinatorError("nobody leads"))
            return
        member_id = getattr(command, "member_id", None)
        if member_id is not None and not isinstance(command, Leave):
            self.last_heard[command.group, member_id] = self.now_ms
        before = self.coordinator.speculative_image
        try:
            submitted = self.coordinator.submit(command, self.now_ms, self.now_ms, self.view)
        except OttlaError as error:
            answer(error)
            return
        if submitted.response is not None:
            answer(submitted.response)
            return
        self.waiting[submitted.request_id] = answer
        if submitted.payload is not None:
            pairs = decode_pairs(submitted.payload)
            self.log.append((self.log_end + len(pairs), pairs))
            self.coordinator.appended(submitted.request_id, self.log_end)
            self._wake_parked(command, before)
            coordinator, end = self.coordinator, self.log_end
            self.after(self.random.choice((1, 5, 200)), lambda: self._commit(coordinator, end))

    def _decide(self, command, answer):
        """As the driver does: the member waits for an answer until it has one."""
        coordinator, member_id = self.coordinator, getattr(command, "member_id", None)
        if coordinator is None:
            self._submit(command, answer)
            return
        coordinator.arrived(command)
        self.unanswered[command.group, member_id] += 1

        def answered(outcome):
            coordinator.answered(command, self.now_ms)
            if coordinator is self.coordinator:
                self.last_heard[command.group, member_id] = self.now_ms
                self.unanswered[command.group, member_id] -= 1
            answer(outcome)

        if isinstance(command, Heartbeat) and command.max_wait_ms:
            self._decide_waiting(command, answered, self.now_ms + command.max_wait_ms)
        else:
            self._submit(command, answered)

    def _decide_waiting(self, command, answer, wait_end_ms):
        """Decides a heartbeat, parks it where it has no news, and decides it again."""
        key = command.group, command.member_id
        former = self.parked.get(key)
        if former is not None:
            former()

        def decided(outcome):
            has_news = not isinstance(outcome, HeartbeatResponse) or outcome.assignment is not None
            if has_news or self.now_ms >= wait_end_ms or self.coordinator is None:
                answer(outcome)
                return
            if self.coordinator.wants_heartbeat(*key):
                self._submit(command, decided)
                return
            if key in self.parked:
                answer(outcome)
                return
            self.counts["parked"] += 1
            self.parked[key] = wake

        def wake():
            if self.parked.get(key) is wake:
                del self.parked[key]
                self._submit(command, decided)

        self.after(command.max_wait_ms, wake)
        self._submit(command, decided)

    def _wake_parked(self, command, before):
        group = getattr(command, "group", None)
        for member_id in self.coordinator.may_have_news(command, before):
            parked = self.parked.get((group, member_id))
            if parked is not None and self.coordinator.wants_heartbeat(group, member_id):
                self.counts["woken"] += 1
                self.after(0, parked)

    def _commit(self, coordinator, end):
        if coordinator is not self.coordinator or end <= self.high_watermark:
            return
        self.high_watermark = end
        self._replicate()
        for completed in coordinator.committed(end):
            self.waiting.pop(completed.request_id)(completed.outcome)

    def _replicate(self):
        """The image of what is committed, from the encoded records alone."""
        for end, batch in self.log:
            if self.committed.version < end <= self.high_watermark:
                records = [decode_record(*pair) for pair in batch]
                before = self.committed
                self.committed = replay(before, records, end)
                self._note_removals(before)

    def _note_removals(self, before):
        """Up to which generation what a member was told is of a membership that is over."""
        for name, group in before.groups.items():
            after = self.committed.groups.get(name)
            members = () if after is None else after.members
            for member_id in group.members:
                if member_id not in members:
                    self.removed_in[name, member_id] = group.generation

    # --- the network ---

    def call(self, command, on_reply, *, tenures=None):
        """Sends a request, which may get lost or arrive late or twice, and so may its reply."""
        copies = 1
        if self.faulty:
            copies = self.random.choices((0, 1, 2, 3), weights=(6, 80, 10, 4))[0]
        for _ in range(copies):
            self.after(self._delay_ms(), lambda: self._arrived(command, on_reply, tenures))

    def _delay_ms(self):
        if self.faulty and self.random.random() < 0.08:
            return self.random.randint(500, 6_000)
        return self.random.randint(1, 40)

    def _arrived(self, command, on_reply, tenures):
        """One copy of a request is at the coordinator, whose answer the network may lose."""
        order = self._began(command, tenures)

        def answer(outcome):
            self._answered(command, order, tenures, outcome)
            if not self.faulty or self.random.random() > 0.06:
                self.after(self._delay_ms(), lambda: on_reply(outcome))

        self._decide(command, answer)

    # --- the rules ---

    def _began(self, command, tenures):
        self.sequence += 1
        if isinstance(command, DeleteGroup):
            for (group, _, _), history in self.commits.items():
                if group == command.group:
                    history.append([self.sequence, None, None])
        if isinstance(command, CommitOffsets):
            for entry in command.offsets:
                history = self.commits.setdefault((command.group, entry.topic, entry.partition), [])
                history.append([self.sequence, entry.offset, None])
            return self.sequence, {key: self.tenures[command.group, *key] for key in tenures}
        return self.sequence, None

    def _answered(self, command, order, tenures, outcome):
        sequence, at_arrival = order
        refused = isinstance(outcome, OttlaError)
        self.counts[outcome.code if refused else type(outcome).__name__] += 1
        if isinstance(command, CommitOffsets):
            for number, entry in enumerate(command.offsets):
                history = self.commits[command.group, entry.topic, entry.partition]
                (attempt,) = (item for item in history if item[0] == sequence)
                if not refused:
                    self._went_forward(command, entry, outcome.offsets[number], attempt, history)
                    attempt[1:] = outcome.offsets[number].offset, "ok"
                elif str(outcome.outcome) == "unknown":
                    attempt[2] = "unknown"
                else:
                    history.remove(attempt)
            if not refused:
                self._accepted(command, tenures, at_arrival)
        if isinstance(command, DeleteGroup):
            self._deleted(command, sequence, outcome)
        if isinstance(command, FetchOffsets) and not refused:
            for fetched in outcome.offsets:
                if fetched.topic == STEADY:
                    self._fetched(command, fetched, sequence)

    def _went_forward(self, command, entry, committed, attempt, history):
        """A commit is what it says, or goes on from what stood there and never back."""
        if not command.only_forward:
            assert committed.offset == entry.offset, f"{command} was answered by {committed}"
            return
        assert committed.offset >= entry.offset, f"{command} was answered by {committed}"
        before = history[: history.index(attempt)]
        # What is in doubt may have moved the offset anywhere.
        if entry.topic == STEADY and before and before[-1][2] == "ok":
            assert committed.offset >= (before[-1][1] or 0), f"{command} goes back"

    def _deleted(self, command, sequence, outcome):
        """A deleted group has committed nothing, as far as those who ask later can tell."""
        for (group, _, _), history in self.commits.items():
            for attempt in list(history):
                if group != command.group or attempt[0] != sequence:
                    continue
                if not isinstance(outcome, OttlaError):
                    attempt[2] = "ok"
                elif str(outcome.outcome) == "unknown":
                    attempt[2] = "unknown"
                else:
                    history.remove(attempt)

    def _accepted(self, command, tenures, at_arrival):
        """C2: whoever has lost a partition to somebody who knows it commits nothing there."""
        self.counts["accepted"] += 1
        for key, tenure in tenures.items():
            assert at_arrival[key] == tenure, f"{command} commits after its owner lost {key}"

    def _fetched(self, command, fetched, sequence):
        """C3: what is fetched is the last commit that was acknowledged, or one in doubt after it.

        C4: nothing below it is unprocessed.
        """
        group = command.group
        history = self.commits.get((group, fetched.topic, fetched.partition), [])
        before = [attempt for attempt in history if attempt[0] < sequence]
        acknowledged = [n for n, attempt in enumerate(before) if attempt[2] == "ok"]
        possible = before[acknowledged[-1] :] if acknowledged else before
        offsets = {attempt[1] for attempt in possible} | (set() if acknowledged else {None})
        assert fetched.offset in offsets, f"{fetched} is none of {offsets}"
        done = self.processed[group, fetched.topic, fetched.partition]
        assert (fetched.offset or 0) <= done, f"{fetched} skips what is processed up to {done} only"

    def adopted(self, process, key):
        """C1: a process takes up a partition that no other member works on.

        One that stood still before it read a reply may have expired since, and a late copy of its
        join may have made it a member again: whatever it takes up, nothing that it commits may be
        accepted.
        """
        members = self.committed.groups[process.group].members
        removed_in = self.removed_in.get((process.group, process.member_id), -1)
        if process.member_id not in members or process.generation <= removed_in:
            self.counts["took up too late"] += 1
            return NO_TENURE
        for other in self.processes:
            if other is not process and other.group == process.group and key in other.working:
                assert other.member_id not in members, (
                    f"{process.member_id} takes {key} while {other.member_id} works on it"
                )
        self.counts["adopted"] += 1
        if process.keeps_its_id:
            # Whoever returns under its id is the same member, unless its group was deleted.
            self.tenures[process.group, *key] = self.counts["DeleteGroupResponse"]
        else:
            self.tenures[process.group, *key] += 1
        return self.tenures[process.group, *key]

    def _expired(self, group_id, overdue, before):
        """A member goes only after a full timeout of silence that this coordinator has seen."""
        after = self.coordinator.speculative_image.groups.get(group_id)
        if after is None or overdue.member_id in after.members:
            return
        self.counts["expired"] += 1
        waited_ms = self.now_ms - self.led_since_ms
        if "given up" in overdue.reason:
            self.counts["stuck"] += 1
            assert before.groups[group_id].currents[overdue.member_id].revoking
            assert waited_ms >= REBALANCE_TIMEOUT_MS, "expired in a failover"
            return
        waiting = self.unanswered[group_id, overdue.member_id]
        assert not waiting, "expired though it waits for an answer"
        heard_ms = self.last_heard.get((group_id, overdue.member_id), self.led_since_ms)
        assert self.now_ms - heard_ms >= SESSION_TIMEOUT_MS, "expired though it was heard"
        assert waited_ms >= SESSION_TIMEOUT_MS, "expired in a failover"
