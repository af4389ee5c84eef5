"""Coordinators die while a group works and changes: no partition has two owners, no commit is lost.

Nobody expires here, since sessions are long: so every hand-over is one that the former owner knows
of, and the ledger below can tell at any moment who may hold what.
"""

import threading
from functools import partial

import pytest
import urllib3

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.group_member import GroupMember

pytestmark = pytest.mark.cluster

PARTITIONS = 12
MEMBERS = 6
KILLS = 3
ROUNDS_BETWEEN = 5
PROGRESS_LIMIT_S = 20.0


class Ledger:
    """Who holds what, and what was committed, as the members themselves know it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._owners = {}
        self._issued = dict.fromkeys(range(PARTITIONS), 0)
        self.acknowledged = dict.fromkeys(range(PARTITIONS), 0)
        self.violations = []

    def hand_over(self, member_id, before, after):
        with self._lock:
            for partition in before - after:
                del self._owners[partition]
            for partition in after - before:
                owner = self._owners.setdefault(partition, member_id)
                if owner != member_id:
                    self.violations.append(f"{partition} went to {member_id}, {owner} holds it")

    def next_offset(self, partition):
        with self._lock:
            self._issued[partition] += 1
            return self._issued[partition]

    def issued(self, partition):
        return self._issued[partition]

    def refused(self, text):
        with self._lock:
            self.violations.append(text)


class Worker:
    """One member in a thread: commits on what it holds, and heartbeats."""

    def __init__(self, client, ledger):
        self.ledger = ledger
        self.rounds = 0
        self._stop = threading.Event()
        self.member = GroupMember(client, "g", ["t"], session_timeout_ms=120_000)
        self._adopted(set())
        self._thread = threading.Thread(target=self._run, name=self.member.member_id)
        self._thread.start()

    def _adopted(self, before):
        self.ledger.hand_over(self.member.member_id, before, self.member.partitions)

    def _run(self):
        try:
            while not self._stop.is_set():
                self._work()
        except Exception as error:
            self.ledger.refused(f"a member died: {error!r}")
            raise

    def _work(self):
        all_answered = self._read_committed()
        for topic, partition in sorted(self.member.partitions):
            offset = self.ledger.next_offset(partition)
            if self._answer(partial(self.member.commit, topic, partition, offset)):
                self.ledger.acknowledged[partition] = offset
            else:
                all_answered = False
        before = self.member.partitions
        if self._answer(self.member.try_heartbeat):
            self._adopted(before)
            self.rounds += all_answered

    def _read_committed(self):
        """What was acknowledged is there; nobody else commits on what this member holds."""
        held = {partition for _, partition in self.member.partitions}
        acknowledged = {partition: self.ledger.acknowledged[partition] for partition in held}
        answer = self._answer(partial(self.member.call, "GET", routes.GROUP_OFFSETS))
        if answer is None:
            return False
        found = {each["partition"]: each["offset"] for each in answer.document["offsets"]}
        for partition, offset in acknowledged.items():
            if not offset <= found.get(partition, 0) <= self.ledger.issued(partition):
                self.ledger.refused(f"{partition}: {found} after {offset} was acknowledged")
        return True

    def _answer(self, call):
        """The answer if the call succeeded; a failover may fail it, but not refuse it."""
        try:
            answer = call()
        except urllib3.exceptions.HTTPError:
            return None
        if answer.status not in (200, 503, 504):
            self.ledger.refused(f"{answer.status} {answer.document}")
        return answer if answer.status == 200 else None

    def leave(self):
        self.finish()
        before, self.member.partitions = self.member.partitions, set()
        self._adopted(before)
        self.member.leave()

    def finish(self):
        self._stop.set()
        self._thread.join()


def held(workers):
    """How many partitions each of them has."""
    return sorted(len(each.member.partitions) for each in workers)


def wait_for_rounds(workers):
    """Everybody commits all that it holds and heartbeats, several times from now on."""
    wanted = {worker: worker.rounds + ROUNDS_BETWEEN for worker in workers}

    def all_worked():
        for worker in workers:
            if worker.ledger.violations:
                raise RuntimeError(worker.ledger.violations)
        return all(worker.rounds >= rounds for worker, rounds in wanted.items())

    eventually(all_worked, PROGRESS_LIMIT_S)


def test_a_group_goes_on_while_its_coordinators_die(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=PARTITIONS)
    client.wait_led("t", partitions=PARTITIONS)
    ledger = Ledger()
    workers = [Worker(client, ledger) for _ in range(MEMBERS)]
    try:
        for _ in range(KILLS):
            wait_for_rounds(workers)
            url = client.any_url() + routes.GROUP.format(group="g")
            coordinator = client.http.get(url).expect(200).document["coordinator"]
            client.cluster.broker(coordinator).kill()
            wait_for_rounds(workers)
            # A rebalance while the former coordinator is down.
            workers.pop(0).leave()
            workers.append(Worker(client, ledger))
            wait_for_rounds(workers)
            client.cluster.broker(coordinator).start()
            client.cluster.wait_ready()
            client.wait_isr("__consumer_offsets", 3)
        # All may be held before the last change has been made.
        eventually(lambda: held(workers) == [PARTITIONS // MEMBERS] * MEMBERS, PROGRESS_LIMIT_S)
    finally:
        for worker in workers:
            worker.finish()
    assert ledger.violations == []
    assert held(workers) == [PARTITIONS // MEMBERS] * MEMBERS
    for node in client.node_ids:
        url = client.url(node) + routes.GROUP_OFFSETS.format(group="g")
        committed = client.http.get(url).expect(200).document["offsets"]
        found = {each["partition"]: each["offset"] for each in committed}
        for partition, acknowledged in ledger.acknowledged.items():
            assert 0 < acknowledged <= found[partition] <= ledger.issued(partition)
