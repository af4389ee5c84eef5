"""What a process answers to others: fetches, commands, clients."""

from msgspec.structs import replace

from ottla_cluster.controller.commands import ReplicaEnd
from ottla_cluster.raft import ObserveRequest
from ottla_cluster.replication.fetch_session import NO_SESSION
from ottla_cluster.replication.throttle import is_throttled
from ottla_protocol.errors import NotLeaderOrFollowerError, OffsetNotAvailableError, OttlaError
from tests.simulation.plane.replica_log import RECORD_BYTES
from tests.simulation.plane.timing import FETCH_WAIT_MS


class Serving:
    """The part of a process that takes requests; see `process`."""

    is_throttled = staticmethod(is_throttled)

    # --- the controller's side ------------------------------------------------------------------

    def on_raft(self, _sender, message):
        self.voter.receive(message)
        if isinstance(message, ObserveRequest):
            self._name_the_leader(message)

    def _name_the_leader(self, request):
        """The answer to an announcement names the leader, which the announcer may not know."""
        leader_id = self.voter.node.leader_id
        if leader_id not in (None, request.sender, self.node_id):
            self.world.send(replace(request, receiver=leader_id))

    def on_command(self, sender, call_id, command):
        self.controller.execute(
            command, lambda outcome: self.send(sender, "answer", call_id, outcome, once=True)
        )

    def on_unreachable(self, _sender, node_id, broker_epoch):
        self.controller.report_unreachable(node_id, broker_epoch)

    def on_ask_log_end(self, sender, key):
        replica = self.replicas.get(key)
        if replica is not None:
            end = replica.log.durable_end
            last_epoch = replica.log.epochs.epoch_at(end - 1)
            told = ReplicaEnd(self.node_id, self.broker_epoch, last_epoch, end)
            self.send(sender, "log_end", key, told, once=True)

    def on_log_end(self, _sender, key, end):
        self.controller.told_log_end(key, end)

    # --- the leader's side ----------------------------------------------------------------------

    def on_fetch(self, sender, request_id, broker_epoch, fetch):
        try:
            session = self._session(sender, broker_epoch, fetch)
        except OttlaError:
            self.send(sender, "fetched", request_id, None, ())
            return
        results = []
        waiting = []
        # What the fetch does not name still has, and still asks from, what was said before.
        for key, position in list(session.positions.items()):
            replica = self.replicas.get(key)
            try:
                if replica is None:
                    raise NotLeaderOrFollowerError("no replica here")
                diverging = replica.fetched(sender, broker_epoch, position)
            except OttlaError as error:
                session.drop(key)
                results.append((key, error.code, -1, None, ()))
                continue
            if diverging is not None:
                session.drop(key)
                results.append((key, None, replica.high_watermark, diverging, ()))
            else:
                waiting.append((key, position))
        has_records = any(
            position.offset < self.replicas[key].log.next_offset
            and self._allowance(self.replicas[key], sender) != 0
            for key, position in waiting
        )
        if results or has_records:
            self._answer_fetch(sender, request_id, session, results, waiting)
        else:
            due_ms = self.clock_ms() + FETCH_WAIT_MS
            self.parked.append((due_ms, sender, request_id, session, waiting))

    def _session(self, sender, broker_epoch, fetch):
        if fetch.session_id == NO_SESSION:
            session, _ = self.sessions.begin(sender, broker_epoch, self.clock_ms())
        else:
            session = self.sessions.resume(fetch.session_id, fetch.epoch, sender, broker_epoch)
        session.take(fetch.positions, fetch.forgotten)
        return session

    def on_fetched(self, sender, request_id, session_id, results):
        if sender in self.fetchers:
            self.fetchers[sender].answered(request_id, session_id, results)

    def _answer_fetch(self, receiver, request_id, session, results, waiting):
        if session.is_over:
            self.send(receiver, "fetched", request_id, None, ())
            return
        for key, position in waiting:
            replica = self.replicas.get(key)
            try:
                # Once more: the role may have changed while the fetch was parked.
                if replica is None:
                    raise NotLeaderOrFollowerError("no replica here")
                replica.check_leader_epoch(replica.leading(), position)
            except OttlaError as error:
                session.drop(key)
                results.append((key, error.code, -1, None, ()))
                continue
            records = self._records_for(replica, receiver, position.offset)
            results.append((key, None, replica.high_watermark, None, records))
        self.send(receiver, "fetched", request_id, session.session_id, tuple(results))

    def _records_for(self, replica, receiver, offset):
        """What goes to a follower at once; one that is being added gets what the rate gives."""
        count = self.world.options.fetch_records_max
        allowance = self._allowance(replica, receiver)
        if allowance is not None:
            count = min(count, allowance)
        records = tuple(replica.log.records[offset : offset + count])
        if allowance is not None:
            self.throttle.sent(RECORD_BYTES * len(records), self.clock_ms())
            self.world.invariants.copies(self, len(records))
        return records

    def _allowance(self, replica, receiver):
        """How many records a replica may be sent now; None for any number."""
        if not self.is_throttled(replica.state, receiver):
            return None
        self.throttle.set_rate(self.image.replication_throttle_bytes_per_second, self.clock_ms())
        allowed_bytes = self.throttle.allowance_bytes(self.clock_ms())
        return None if allowed_bytes is None else -(-allowed_bytes // RECORD_BYTES)

    def wake_parked(self, key):
        """There is something new to tell of this partition."""
        if self.parked:
            woken = [fetch for fetch in self.parked if any(k == key for k, _ in fetch[-1])]
            if woken:
                self.parked = [fetch for fetch in self.parked if fetch not in woken]
                for fetch in woken:
                    self.after(0, self._answer_parked, fetch)

    def answer_parked(self, now_ms):
        due = [fetch for fetch in self.parked if fetch[0] <= now_ms]
        if due:
            self.parked = [fetch for fetch in self.parked if fetch[0] > now_ms]
            for fetch in due:
                self._answer_parked(fetch)

    def _answer_parked(self, fetch):
        _, sender, request_id, session, waiting = fetch
        self._answer_fetch(sender, request_id, session, [], waiting)

    # --- clients --------------------------------------------------------------------------------

    def on_produce(self, sender, request_id, key, record, acks_all):
        def answer(outcome):
            self.send(sender, "produced", request_id, outcome, once=True)

        replica = self.replicas.get(key)
        if replica is None:
            answer(NotLeaderOrFollowerError("no replica here", leader=self._leader_of(key)))
        else:
            replica.produce(record, acks_all, answer)

    def on_read(self, sender, request_id, key, position):
        try:
            answer = self.read(key, position)
        except OttlaError as error:
            self.send(sender, "read_failed", request_id, error)
        else:
            self.send(sender, "records", request_id, *answer)

    def read(self, key, position):
        """A poll: the leader epoch of this role, `latest` if that is known, and records.

        Raises:
            OttlaError: this broker may not show them, or does not know whether it may.
        """
        replica = self.replicas.get(key)
        if replica is None:
            raise NotLeaderOrFollowerError("no replica here", leader=self._leader_of(key))
        end = replica.readable_end()
        leader = replica.leader
        if leader is not None and leader.may_be_acknowledged(position):
            raise OffsetNotAvailableError("the high watermark is not known yet")
        is_latest = leader is not None and leader.latest_offset_available
        records = tuple(replica.log.records[position:end])
        if leader is not None:
            self.world.invariants.told(replica, position, records)
        return replica.state.leader_epoch, end if is_latest else None, records

    def on_commit_version(self, sender, request_id):
        self.controller.commit_version(
            lambda index: self.send(sender, "version", request_id, index, once=True)
        )

    def _leader_of(self, key):
        topic = self.image.topics.get(key[0])
        return None if topic is None else topic.partitions[key[1]].leader
