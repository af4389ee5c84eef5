"""The driver of the controller: what `controller_driver` does, with events instead of tasks.

One command at a time is decided and finds its place in the log; an answer that proposed nothing,
refusals among them, is confirmed by a read round before it leaves.
"""

from collections import deque

from msgspec.structs import replace

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import ElectUnclean, FenceBroker, UncleanElection
from ottla_cluster.controller.image import BrokerState
from ottla_protocol.errors import NotControllerError, OttlaError, Outcome
from tests.simulation.plane.timing import CONTROLLER_TICK_MS, SURVEY_TIMEOUT_MS


class ControllerHost:
    """The controller of one process; idle while another one leads."""

    active_class = ActiveController

    def __init__(self, process):
        self.process = process
        self.active = None
        self._leading_term = None
        self._commands = deque()
        self._is_placing = False
        self._answers = {}
        self._last_tick_ms = 0
        self._log_ends = {}

    # --- leadership -----------------------------------------------------------------------------

    def leadership_changed(self, term, leader_id, is_leader):
        if self._leading_term is not None and not (is_leader and term == self._leading_term):
            self._resign()
        if is_leader:
            self._leading_term = term

    def applied(self, entries):
        if self.active is not None:
            self._answer(self.active.committed(entries[-1].index))
        elif self._leading_term is not None and entries[-1].term == self._leading_term:
            self._begin()

    def _begin(self):
        process = self.process
        now_ms = process.clock_ms()
        self.active = self.active_class(
            process.image, process.world.controller_config, process.world.random, now_ms
        )
        self._last_tick_ms = now_ms
        process.world.events["controller"] += 1
        process.after(0, self._tick, self.active)

    def _resign(self):
        active, self.active = self.active, None
        self._leading_term = None
        if active is not None:
            self._answer(active.lost_leadership())

    def _answer(self, completed):
        for each in completed:
            answer = self._answers.pop(each.request_id)
            self.process.world.invariants.answered(each.outcome, self.active)
            answer(each.outcome)

    # --- commands -------------------------------------------------------------------------------

    def execute(self, command, answer):
        """Decide a command; `answer(response or error)` once the decision is committed."""
        self._commands.append((command, answer))
        self._decide()

    def _decide(self):
        while self._commands and not self._is_placing:
            self._decide_one(*self._commands.popleft())

    def _decide_one(self, command, answer):
        active = self.active
        if active is None:
            answer(NotControllerError("not the active controller", outcome=Outcome.NOT_APPLIED))
            return
        try:
            submitted = active.submit(command, self.process.clock_ms())
        except OttlaError as error:
            self.confirm(answer, error)
            return
        if submitted.response is not None:
            self.confirm(answer, submitted.response)
            return
        self._answers[submitted.request_id] = answer
        if submitted.payload is not None:
            self._is_placing = True

            def placed(result):
                self._is_placing = False
                if active is self.active:
                    if isinstance(result, OttlaError):
                        self._answer(active.append_failed(submitted.request_id, result))
                    else:
                        active.appended(submitted.request_id, result.last_index)
                self.process.after(0, self._decide)

            self.process.voter.propose_one(submitted.payload, placed)

    def confirm(self, answer, outcome):
        """Answer what was read, or refused, once it is sure that nobody else led meanwhile."""

        def ended(index):
            if index is None:
                lost = NotControllerError("deposed", outcome=Outcome.NOT_APPLIED)
                answer(lost)
            else:
                answer(outcome)

        self.process.voter.read_index(ended)

    def commit_version(self, answer):
        """An index that covers everything acknowledged before."""
        if self.active is None:
            answer(None)
        else:
            self.process.voter.read_index(answer)

    # --- time and brokers that are gone ---------------------------------------------------------

    def _tick(self, active):
        if active is not self.active:
            return
        now_ms = self.process.clock_ms()
        if (
            now_ms - self._last_tick_ms
            > self.process.world.controller_config.session_timeout_ms // 2
        ):
            active.restart_sessions(now_ms)
        self._last_tick_ms = now_ms
        for command in active.due(now_ms):
            if isinstance(command, ElectUnclean):
                self._survey(active, command)
            else:
                self.execute(command, _heard)
        self.process.after(CONTROLLER_TICK_MS, self._tick, active)

    def _survey(self, active, command):
        """Ask where the logs end, before it is decided which one is the longest."""
        image = self.process.image
        self._log_ends = {}
        named = {}
        for each in command.partitions:
            partition = image.partition(each.topic, each.partition)
            named[each] = (partition.topic_id, partition.partition)
            for node_id in partition.replicas:
                if image.is_active(node_id):
                    self.process.send(node_id, "ask_log_end", named[each], once=True)

        def decide():
            if active is self.active:
                elections = (
                    UncleanElection(e.topic, e.partition, tuple(self._log_ends.get(key, ())))
                    for e, key in named.items()
                )
                asked = replace(command, partitions=tuple(elections))
                self.execute(asked, _heard)

        self.process.after(SURVEY_TIMEOUT_MS, decide)

    def told_log_end(self, key, end):
        self._log_ends.setdefault(key, []).append(end)

    def report_unreachable(self, node_id, broker_epoch):
        """A connection to that broker was refused: try for ourselves, then fence it."""
        broker = self.process.image.brokers.get(node_id)
        if (
            self.active is not None
            and broker is not None
            and broker.broker_epoch == broker_epoch
            and broker.state is not BrokerState.FENCED
            and self.process.world.refuses(self.process.node_id, node_id)
        ):
            self.execute(FenceBroker(node_id, broker_epoch, "connection refused"), _heard)


def _heard(_outcome):
    """The controller's own commands are due again where they were refused."""
