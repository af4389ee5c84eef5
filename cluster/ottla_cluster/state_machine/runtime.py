"""The runtime of a replicated state machine whose leader answers from uncommitted state.

One command after another is handled on the *speculative* state: the committed state plus the
records of every command that still waits for its commit. So two commands in flight cannot collide,
and none waits for the other's commit before it is decided. In exchange no answer leaves before
everything that its handler saw is committed; that holds for reads and for refusals too, since "this
name is taken" is false if the entry that took it is lost.

    submit ──handler──▶ payload ──the driver proposes──▶ appended(index) ──▶ committed(index)
       │ no records, nothing in flight                                             │
       └────────────▶ response at once                               responses ◀───┘

Lost leadership discards the speculation: what was proposed may still be committed by the next
leader (outcome unknown), what was only read was never asked to change anything (not applied).

The pattern is Kafka's `CoordinatorRuntime`. It serves the controller and the coordinators of groups
and of transactions: a state machine is three pure functions.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    InternalError,
    OttlaError,
    Outcome,
    OverloadedError,
    UnavailableError,
)

StateT = TypeVar("StateT")
CommandT = TypeVar("CommandT", contravariant=True)
RecordT = TypeVar("RecordT")
ResponseT = TypeVar("ResponseT", covariant=True)


class StateMachine(Protocol[StateT, CommandT, RecordT, ResponseT]):
    """What the runtime runs. All three are pure."""

    def handle(self, state: StateT, command: CommandT, now_ms: int) -> Result[RecordT, ResponseT]:
        """Decides a command; raises an OttlaError to refuse it."""
        ...

    def replay(self, state: StateT, records: Sequence[RecordT], version: int) -> StateT:
        """The state after one more entry, whose index is `version`."""
        ...

    def encode(self, records: Sequence[RecordT]) -> bytes:
        """The records as one entry's payload."""
        ...


AnswerT = TypeVar("AnswerT")
"""A response that the runtime keeps until it may leave."""


@dataclass(frozen=True, slots=True)
class Submitted(Generic[AnswerT]):
    """A command that was taken.

    Exactly one holds: `payload` must be proposed; `response` may be given at once; or neither, and
    the response comes from a later `committed`.
    """

    request_id: int
    payload: bytes | None
    response: AnswerT | None


@dataclass(frozen=True, slots=True)
class Completed(Generic[AnswerT]):
    """A waiting request's answer: a response, or the error to raise to its caller."""

    request_id: int
    outcome: AnswerT | OttlaError
    version: int | None = None
    """The index of the last entry that the answer rests on, its own records' where it has some.

    None where it was never committed. The handler could only guess it.
    """


@dataclass(slots=True)
class _Waiting(Generic[StateT, RecordT, AnswerT]):
    """A request in flight. One without records waits for those before it."""

    request_id: int
    outcome: AnswerT | OttlaError
    records: tuple[RecordT, ...]
    index: int | None
    """Where it was appended; always None without records."""
    version: int
    """The index, or the one it is expected to get."""
    state: StateT
    """The speculative state after it."""


class SpeculativeRuntime(Generic[StateT, CommandT, RecordT, AnswerT]):
    """Runs one state machine while this node leads its log; made anew for each leadership.

    Args:
        machine: the state machine.
        state: the committed state at the moment of leadership: everything that any former leader
            may have committed is in it, since this leader's own first entry is applied.
        version: the index of the last entry in `state`.
        lost_leadership_error: what waiting requests fail with when leadership is lost.
        max_waiting: how many requests may wait for a commit.

    The driver must propose payloads in the order in which `submit` returned them, and report every
    index in `appended` before it reports a commit that covers it. It should submit the next command
    only when the last payload is appended or refused: if the log refuses one payload and accepts a
    later one, which was decided as if the first were there, the log contradicts itself.
    """

    def __init__(
        self,
        machine: StateMachine[StateT, CommandT, RecordT, AnswerT],
        state: StateT,
        version: int,
        *,
        lost_leadership_error: type[OttlaError],
        max_waiting: int,
    ) -> None:
        self._machine = machine
        self._committed_state = state
        self._committed_index = version
        self._lost_leadership_error = lost_leadership_error
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting[StateT, RecordT, AnswerT]] = deque()
        self._last_request_id = 0
        self._leading = True

    @property
    def committed_state(self) -> StateT:
        """What is certain."""
        return self._committed_state

    @property
    def speculative_state(self) -> StateT:
        """What the next handler sees."""
        return self._waiting[-1].state if self._waiting else self._committed_state

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a commit."""
        return len(self._waiting)

    def submit(self, command: CommandT, now_ms: int) -> Submitted[AnswerT]:
        """Handles a command.

        Raises:
            OttlaError: the handler's refusal, when nothing in flight could have caused it (else it
                comes from `committed`).
            OverloadedError: too many requests wait.
            The lost-leadership error: this runtime's leadership is over.
            All of them with the outcome NOT_APPLIED.
        """
        if not self._leading:
            raise self._lost_leadership_error(
                "This node no longer leads.", outcome=Outcome.NOT_APPLIED
            )
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(
                f"{self._max_waiting} requests wait for a commit already.",
                outcome=Outcome.NOT_APPLIED,
            )
        records: tuple[RecordT, ...] = ()
        outcome: AnswerT | OttlaError
        try:
            result = self._machine.handle(self.speculative_state, command, now_ms)
        except OttlaError as error:
            outcome = error.with_outcome(Outcome.NOT_APPLIED)
            if not self._waiting:
                raise
        else:
            records, outcome = result.records, result.response
        self._last_request_id += 1
        if not records and not self._waiting:
            assert not isinstance(outcome, OttlaError)
            return Submitted(self._last_request_id, payload=None, response=outcome)
        self._wait(outcome, records)
        return Submitted(
            self._last_request_id,
            payload=self._machine.encode(records) if records else None,
            response=None,
        )

    def appended(self, request_id: int, index: int) -> None:
        """The request's payload is the log's entry at `index`.

        The speculation guessed the index; where the log put entries of another kind in between,
        what was built on the guess is built again.
        """
        position, item = self._find(request_id)
        assert item.records, f"request {request_id} has no payload"
        assert item.index is None, f"request {request_id} is appended at {item.index}"
        before = [entry for entry in list(self._waiting)[:position] if entry.records]
        assert all(entry.index is not None for entry in before), "appended out of order"
        assert index > (before[-1].version if before else self._committed_index), index
        item.index = index
        if item.version != index:
            self._speculate_again(position)

    def append_failed(self, request_id: int, error: OttlaError) -> tuple[Completed[AnswerT], ...]:
        """The log refused the request's payload: it fails with `error`, and all later ones with it.

        The later ones fail because their handlers saw what is not going to be. The runtime goes on.
        A request that failed so before has nothing left to answer.

        Raises:
            InternalError: a later payload is on its way to the log, which may accept it although it
                contradicts the log without this one. The driver must stop before it is appended;
                one that proposes a payload only once the former is appended never gets here.
        """
        assert error.outcome in {None, Outcome.NOT_APPLIED}, error
        assert request_id <= self._last_request_id, f"request {request_id} is unknown"
        if all(item.request_id != request_id for item in self._waiting):
            return ()
        position, refused = self._find(request_id)
        later = list(self._waiting)[position + 1 :]
        assert refused.index is None, f"request {request_id} is appended at {refused.index}"
        log_is_closed = isinstance(error, self._lost_leadership_error)
        if not log_is_closed and any(item.records for item in later):
            raise InternalError(
                f"Request {request_id} was not appended ({error.detail}) and later ones may be."
            )
        while len(self._waiting) > position:
            self._waiting.pop()
        kind = self._lost_leadership_error if log_is_closed else UnavailableError
        return (
            Completed(request_id, error.with_outcome(Outcome.NOT_APPLIED)),
            *(
                Completed(
                    item.request_id,
                    kind(
                        f"A request that this one was decided on was refused: {error.detail}",
                        outcome=Outcome.NOT_APPLIED,
                    ),
                )
                for item in later
            ),
        )

    def committed(self, index: int) -> tuple[Completed[AnswerT], ...]:
        """Everything up to `index` is committed: the answers that may leave now, in order.

        Args:
            index: the log's commit index; entries that are not this runtime's count as well.
        """
        assert self._leading, "a runtime ends with its leadership"
        released: list[Completed[AnswerT]] = []
        while self._waiting:
            item = self._waiting[0]
            if item.records:
                if item.index is None or item.index > index:
                    break
                self._committed_state = item.state
                self._committed_index = item.index
            released.append(Completed(item.request_id, item.outcome, item.version))
            self._waiting.popleft()
        if index > self._committed_index:
            self._committed_state = self._machine.replay(self._committed_state, (), index)
            self._committed_index = index
            if self._waiting and self._waiting[0].version <= index:
                self._speculate_again(0)
        return tuple(released)

    def lost_leadership(self) -> tuple[Completed[AnswerT], ...]:
        """Leadership is lost: all waiting requests fail, and the speculation is gone.

        What had a payload gets the outcome UNKNOWN, for the next leader may commit it; what only
        read gets NOT_APPLIED.
        """
        self._leading = False
        failed: tuple[Completed[AnswerT], ...] = tuple(
            Completed(
                item.request_id,
                self._lost_leadership_error(
                    "This node lost leadership before the request was committed.",
                    outcome=Outcome.UNKNOWN if item.records else Outcome.NOT_APPLIED,
                ),
            )
            for item in self._waiting
        )
        self._waiting.clear()
        return failed

    def _wait(self, outcome: AnswerT | OttlaError, records: tuple[RecordT, ...]) -> None:
        state = self.speculative_state
        version = self._waiting[-1].version if self._waiting else self._committed_index
        if records:
            version += 1
            state = self._machine.replay(state, records, version)
        self._waiting.append(
            _Waiting(self._last_request_id, outcome, records, None, version, state)
        )

    def _speculate_again(self, position: int) -> None:
        """Rebuilds the states from one waiting request on, with the indexes known by now."""
        state, version = self._committed_state, self._committed_index
        for number, item in enumerate(self._waiting):
            if number >= position:
                item.version, item.state = version, state
                if item.records:
                    item.version = version + 1 if item.index is None else item.index
                    item.state = self._machine.replay(state, item.records, item.version)
            state, version = item.state, item.version

    def _find(self, request_id: int) -> tuple[int, _Waiting[StateT, RecordT, AnswerT]]:
        for position, item in enumerate(self._waiting):
            if item.request_id == request_id:
                return position, item
        raise AssertionError(f"request {request_id} does not wait")
