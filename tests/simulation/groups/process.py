"""A simulated process that is a member of a group, and keeps the protocol's rules for members."""

from dataclasses import dataclass

from ottla_cluster.groups.commands import (
    CommitOffsets,
    FetchOffsets,
    Heartbeat,
    HeartbeatResponse,
    Join,
    JoinResponse,
    Leave,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_protocol.errors import (
    FencedInstanceIdError,
    FencedMemberEpochError,
    UnknownMemberIdError,
)

SESSION_TIMEOUT_MS = 3_000
REBALANCE_TIMEOUT_MS = 4_000
REQUEST_TIMEOUT_MS = 700
WORK_MS = 150


@dataclass
class Work:
    """One partition in a process's hands."""

    tenure: int
    position: int | None = None
    """Where it goes on; None until the committed offset is fetched."""
    giving_up: bool = False


class Process:
    """One process at a time under one name; it starts again under a new member id."""

    def __init__(self, simulation, group, name, *, is_static, keeps_its_id=False):
        self.simulation = simulation
        self.random = simulation.random
        self.group = group
        self.name = name
        self.is_static = is_static
        self.keeps_its_id = keeps_its_id
        self.is_alive = False
        self.incarnation = 0
        self.memberships = 0
        self.paused_until_ms = 0
        self.member_id = None
        self.working = {}
        self.pattern = self.random.choice((None, "orders|clicks", ".*"))
        self.is_slow = self.random.random() < 0.2

    def successor(self):
        """Another process with this one's instance id, started while this one still lives."""
        other = Process(self.simulation, self.group, self.name, is_static=True)
        other.incarnation = 100 * (len(self.simulation.processes) + 1)
        other.pattern = self.pattern
        return other

    def reads(self, topic):
        return topic == "orders" or self.pattern is not None

    # --- life ---

    def start(self):
        if self.is_alive:
            return
        self.is_alive = True
        self.incarnation += 1
        self.paused_until_ms = 0
        self._forget()
        life = self.incarnation
        self._beat(life)
        self._work(life)

    def kill(self):
        self.is_alive = False
        self.working = {}

    def leave(self):
        member_id, self.is_alive = self.member_id, False
        self.working = {}
        if member_id is not None:
            self.simulation.call(Leave(self.group, member_id), lambda outcome: None)

    def pause(self, duration_ms):
        self.paused_until_ms = self.simulation.now_ms + duration_ms

    def heal(self):
        self.paused_until_ms = min(self.paused_until_ms, self.simulation.now_ms)

    def _forget(self):
        """Starts a new membership, under a new member id that it or the coordinator chooses."""
        self.memberships += 1
        self.joined = False
        self.generation = 0
        self.working = {}
        chosen = f"{self.name}-{self.incarnation}-{self.memberships}"
        self.chosen_id = chosen if self.random.random() < 0.7 else None
        if self.keeps_its_id:
            self.chosen_id = self.name
        self.member_id = self.chosen_id
        self.outstanding = None

    def _later(self, life, delay_ms, action):
        """Does something later in the same life; a pause delays it."""

        def run():
            if not self.is_alive or life != self.incarnation:
                return
            wait_ms = self.paused_until_ms - self.simulation.now_ms
            if wait_ms > 0:
                self.simulation.after(wait_ms, run)
            else:
                action()

        self.simulation.after(delay_ms, run)

    # --- membership ---

    def _beat(self, life):
        """Sends the next join or heartbeat; gives up on its reply after a while."""
        self.outstanding = token = object()
        max_wait_ms = 0
        if self.joined:
            owned = {}
            for topic, partition in sorted(self.working):
                owned.setdefault(topic, []).append(partition)
            if self.simulation.faulty:
                max_wait_ms = self.random.choice((0, 0, 400, SESSION_TIMEOUT_MS))
            command = Heartbeat(
                self.group,
                self.member_id,
                self.generation,
                tuple(OwnedTopic(topic, tuple(numbers)) for topic, numbers in owned.items()),
                max_wait_ms,
            )
        else:
            command = Join(
                self.group,
                topics=("orders",) if self.pattern is None else None,
                pattern=self.pattern,
                member_id=self.chosen_id,
                instance_id=self.name if self.is_static else None,
                session_timeout_ms=SESSION_TIMEOUT_MS,
                rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            )

        def replied(outcome):
            self._later(life, 0, lambda: self._beaten(life, token, outcome))

        self.simulation.call(command, replied)
        timeout_ms = max_wait_ms + REQUEST_TIMEOUT_MS
        self._later(life, timeout_ms, lambda: self._beaten(life, token, None))

    def _beaten(self, life, token, outcome):
        if self.outstanding is not token:
            return
        self.outstanding = None
        delay_ms = 100
        match outcome:
            case FencedInstanceIdError():
                self.kill()
                return
            case UnknownMemberIdError() | FencedMemberEpochError():
                self._forget()
            case JoinResponse() | HeartbeatResponse():
                self.joined = True
                self.member_id = outcome.member_id
                self._adopt(life, outcome)
                delay_ms = outcome.heartbeat_interval_ms
        self._later(life, delay_ms, lambda: self._beat(life) if self.outstanding is None else None)

    def _adopt(self, life, response):
        assert response.generation >= self.generation
        self.generation = response.generation
        if response.assignment is None:
            return
        assigned = {
            (topic.topic, partition)
            for topic in response.assignment
            for partition in topic.partitions
        }
        for key in sorted(assigned - self.working.keys()):
            self.working[key] = Work(self.simulation.adopted(self, key))
        for key in sorted(self.working):
            work = self.working[key]
            assert not (work.giving_up and key in assigned), "assigned while it is given up"
            if key not in assigned and not work.giving_up:
                work.giving_up = True
                slowest_ms = 3 * REBALANCE_TIMEOUT_MS if self.is_slow else 500
                delay_ms = self.random.randint(0, slowest_ms if self.simulation.faulty else 500)
                self._later(life, delay_ms, lambda key=key, work=work: self._given_up(key, work))

    def _given_up(self, key, work):
        if self.working.get(key) is work:
            self._commit(key, work)
            del self.working[key]

    # --- work ---

    def _work(self, life):
        """Reads on in every partition, from the committed offset at first, and commits."""
        delay_ms = WORK_MS if self.simulation.faulty else 10 * WORK_MS
        self._later(life, delay_ms, lambda: self._work(life))
        for key, work in sorted(self.working.items()):
            if work.position is None:
                self._fetch(life, key, work)
            elif not work.giving_up:
                work.position += self.random.randint(0, 3)
                seen = self.simulation.processed
                seen[self.group, *key] = max(seen[self.group, *key], work.position)
                if self.random.random() < 0.5:
                    self._commit(key, work)

    def _fetch(self, life, key, work):
        def fetched(outcome):
            if hasattr(outcome, "offsets"):
                (found,) = outcome.offsets
                self._later(life, 0, lambda: self._found(key, work, found))

        topic, partition = key
        self.simulation.call(FetchOffsets(self.group, (OwnedTopic(topic, (partition,)),)), fetched)

    def _found(self, key, work, found):
        if self.working.get(key) is work and work.position is None:
            work.position = found.offset or 0

    def _commit(self, key, work):
        if work.position is None:
            return
        topic, partition = key
        self.simulation.call(
            CommitOffsets(
                self.group,
                (OffsetToCommit(topic, partition, work.position),),
                self.member_id,
                self.generation,
                # As acks of polls do; chosen without the dice, so that the seeds stay as they are.
                only_forward=work.position % 2 == 1,
            ),
            lambda outcome: None,
            tenures={key: work.tenure},
        )
