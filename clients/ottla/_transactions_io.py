"""What carries out a producer's transactions: it asks the machine, then a broker, then tells it.

It lives on the driver's loop and is shared by both producers. One call is carried out at a time;
each one ends within its time-out, and may be made again after that.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Final, TypeVar

from ottla._accumulator import Accumulator
from ottla._batch import Batch
from ottla._config import ProducerConfig
from ottla._consumer_types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from ottla._errors import ClusterUnreachableError, TransactionAbortedError, TransactionStateError
from ottla._futures import Monitor, WaitTimedOutError
from ottla._metadata import Metadata
from ottla._timeouts import seconds_in
from ottla._transaction_calls import (
    TransactionCall,
    abort_call,
    check_offsets,
    commit_call,
    granted_in,
    initialise_call,
    next_granted_in,
    offsets_calls,
)
from ottla._transaction_state import TransactionState
from ottla._transactional_sender import TransactionalSender
from ottla._transport import BrokerUnreachableError, Transport, error_of
from ottla_protocol import routes
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidRequestError,
    OttlaError,
    Outcome,
)

Answer = TypeVar("Answer")

ATTEMPT_TIMEOUT_MS: Final = 15_000
"""How long one broker may take over a call of a transaction before the next is asked."""

MARKERS_BACKOFF_MS: Final = 20
"""Before asking again while the last transaction's markers are being written."""

CLOSE_ABORT_TIMEOUT_S: Final = 5.0
"""How long close() may take to abort what is open; the coordinator's time-out ends it else."""

MAX_BACKOFF_DOUBLINGS: Final = 10

_logger = logging.getLogger("ottla.producer")


class TransactionsIO:
    """The transactions of one producer.

    Args:
        config: the producer's options.
        state: the machine.
        sender, accumulator, metadata: the producer's; used under the monitor's lock.
        monitor: the lock.
        transport: the way to the brokers.
        flush: sends what was taken, for at most so many seconds; returns how many are left.
        announce: tells of batches that are settled.
    """

    def __init__(
        self,
        config: ProducerConfig,
        state: TransactionState,
        sender: TransactionalSender,
        accumulator: Accumulator,
        metadata: Metadata,
        monitor: Monitor,
        transport: Transport,
        *,
        flush: Callable[[float | None], Awaitable[int]],
        announce: Callable[[Sequence[Batch]], None],
    ) -> None:
        self._config = config
        self._state = state
        self._sender = sender
        self._accumulator = accumulator
        self._metadata = metadata
        self._monitor = monitor
        self._transport = transport
        self._flush = flush
        self._announce = announce
        self._turn = asyncio.Lock()
        # The producer takes its id over once, however often it has to ask.
        self._takeover_key = os.urandom(16).hex()
        # The broker that answered last, so that not each call tries another one.
        self._url: str | None = None

    @property
    def wants_abort(self) -> bool:
        """Whether a transaction is open that certainly is not committed."""
        return self._state.wants_abort

    def begin(self) -> None:
        """See `Producer.begin_transaction`; any thread."""
        with self._monitor.lock:
            self._state.begin()

    async def initialise(self, timeout_s: float | None) -> None:
        """See `Producer.init_transactions`."""
        deadline_s = self._deadline_s(timeout_s)
        async with self._turn:
            with self._monitor.lock:
                self._state.begin_initialise()
            call = initialise_call(
                self._state.transactional_id,
                self._config.transaction_timeout_ms,
                self._takeover_key,
            )
            try:
                granted = await self._ask(call, granted_in, deadline_s)
            except OttlaError as error:
                with self._monitor.lock:
                    self._state.initialise_failed(error)
                raise
            with self._monitor.lock:
                self._state.initialised(granted)
                self._sender.use(granted)

    async def send_offsets(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        group: ConsumerGroupMetadata,
        timeout_s: float | None,
    ) -> None:
        """See `Producer.send_offsets_to_transaction`."""
        if not isinstance(group, ConsumerGroupMetadata):
            raise InvalidRequestError(
                "group_metadata must be what consumer_group_metadata() returns, "
                f"not {type(group).__qualname__}"
            )
        deadline_s = self._deadline_s(timeout_s)
        async with self._turn:
            with self._monitor.lock:
                granted = self._state.begin_offsets()
            calls = offsets_calls(self._state.transactional_id, granted.token, offsets, group)
            try:
                for call in calls:
                    await self._ask(call, check_offsets, deadline_s)
            except OttlaError as error:
                self._fail(error)
                raise
            except asyncio.CancelledError:
                self._fail(TransactionStateError("send_offsets_to_transaction was cancelled"))
                raise

    async def commit(self, timeout_s: float | None) -> None:
        """See `Producer.commit_transaction`."""
        deadline_s = self._deadline_s(timeout_s)
        async with self._turn:
            with self._monitor.lock:
                self._state.begin_commit()
                self._accumulator.close_all_open()
            left = await self._flush(max(0.0, deadline_s - monotonic()))
            if left and self._state.wants_abort:
                raise WaitTimedOutError(
                    f"{counted(left, 'record')} of the transaction neither acknowledged nor given "
                    "up in time, so nothing is committed",
                    outcome=Outcome.NOT_APPLIED,
                    hint="call commit_transaction again, or abort_transaction",
                )
            with self._monitor.lock:
                if not self._state.has_begun:
                    self._sender.use(self._state.end_of_nothing())
                    return
                granted = self._state.decide_commit()
            await self._end(commit_call(self._state.transactional_id, granted.token), deadline_s)

    async def abort(self, timeout_s: float | None) -> None:
        """See `Producer.abort_transaction`."""
        deadline_s = self._deadline_s(timeout_s)
        async with self._turn:
            await self._abort(deadline_s)

    async def abort_at_close(self, timeout_s: float | None) -> None:
        """Abort what is open, so that no reader has to wait for its time-out."""
        longest_s = CLOSE_ABORT_TIMEOUT_S if timeout_s is None else timeout_s
        deadline_s = monotonic() + min(longest_s, CLOSE_ABORT_TIMEOUT_S)
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.0, deadline_s - monotonic())
            ):
                async with self._turn:
                    if self._state.wants_abort:
                        await self._abort(deadline_s)
        except (OttlaError, TimeoutError) as error:
            _logger.warning(
                "%s: the open transaction was not aborted, its time-out will do so: %s",
                self._state.transactional_id,
                error,
            )

    # --------------------------------------------------------------------------------------------

    async def _abort(self, deadline_s: float) -> None:
        with self._monitor.lock:
            granted = self._state.begin_abort()
            settled = self._sender.give_up_transaction(
                TransactionAbortedError("the transaction was aborted")
            )
            is_over = not self._state.has_begun
            if is_over:
                self._sender.use(self._state.end_of_nothing())
        self._announce(settled)
        if not is_over:
            await self._end(abort_call(self._state.transactional_id, granted.token), deadline_s)

    async def _end(self, call: TransactionCall, deadline_s: float) -> None:
        """Have the coordinator end the transaction, and go on under the next identity."""
        try:
            granted = await self._ask(call, next_granted_in, deadline_s)
        except OttlaError as error:
            with self._monitor.lock:
                self._state.end_failed(error)
            raise
        with self._monitor.lock:
            self._state.ended(granted)
            self._sender.use(granted)

    def _fail(self, error: OttlaError) -> None:
        """Offsets have failed; in or not, a commit without them would commit half of it."""
        reason = TransactionAbortedError(f"the transaction's offsets failed: {error}")
        reason.__cause__ = error
        with self._monitor.lock:
            self._state.failed(error)
            settled = self._sender.give_up_transaction(reason)
        self._announce(settled)

    def _deadline_s(self, timeout_s: float | None) -> float:
        seconds = seconds_in(timeout_s)
        return monotonic() + (self._config.max_block_ms / 1000 if seconds is None else seconds)

    async def _ask(
        self,
        call: TransactionCall,
        decode: Callable[[bytes], Answer],
        deadline_s: float,
    ) -> Answer:
        """Ask one broker after the other until one decides.

        Raises:
            ClusterUnreachableError: no broker answered in time.
            WaitTimedOutError: the coordinator could not be asked in time.
            OttlaError: it refused.
        """
        began_s = monotonic()
        reasons: dict[str, str] = {}
        failures = 0
        while True:
            left_ms = round((deadline_s - monotonic()) * 1000)
            timeout_ms = max(1, min(left_ms, ATTEMPT_TIMEOUT_MS, self._config.request_timeout_ms))
            url = self._any_url()
            try:
                response = await self._transport.post(
                    url, call.path, call.body, timeout_ms=timeout_ms, content_type=routes.JSON
                )
                if response.status != 200:
                    raise error_of(response, url)
                answer = decode(response.body)
            except OttlaError as error:
                failures += 1
                backoff_ms = self._backoff_ms(error, failures)
                if isinstance(error, BrokerUnreachableError):
                    self._url = None
                    reasons[url] = error.detail.removeprefix(f"{url}: ")
                elif not error.retriable:
                    raise
                else:
                    reasons.pop(url, None)
                if monotonic() + backoff_ms / 1000 >= deadline_s:
                    raise _not_in_time(error, reasons, monotonic() - began_s) from error
                _logger.debug("%s: %s", call.path, error)
            else:
                self._url = url
                return answer
            await asyncio.sleep(backoff_ms / 1000)

    def _any_url(self) -> str:
        if self._url is None:
            with self._monitor.lock:
                self._url = self._metadata.any_url()
        return self._url

    def _backoff_ms(self, error: OttlaError, failures: int) -> int:
        if isinstance(error, BrokerUnreachableError) and failures == 1:
            return 0  # Another broker may know at once.
        first_ms = self._config.retry_backoff_ms
        if isinstance(error, ConcurrentTransactionsError):
            first_ms = min(first_ms, MARKERS_BACKOFF_MS)
        longest_ms = max(self._config.retry_backoff_ms, self._config.retry_backoff_max_ms)
        return min(first_ms << min(failures - 1, MAX_BACKOFF_DOUBLINGS), longest_ms)


def _not_in_time(error: OttlaError, reasons: Mapping[str, str], waited_s: float) -> OttlaError:
    if isinstance(error, BrokerUnreachableError):
        return ClusterUnreachableError.after(waited_s * 1000, reasons, outcome=Outcome.UNKNOWN)
    return WaitTimedOutError(
        f"not done within {waited_s * 1000:.0f} ms: {error}", outcome=Outcome.UNKNOWN
    )


def noting(error: BaseException, abort_error: OttlaError) -> None:
    """Tell beside the error of a with block that its transaction could not be aborted."""
    error.add_note(f"the transaction could not be aborted either: {abort_error}")


def required(transactions: TransactionsIO | None) -> TransactionsIO:
    """The transactions of a producer that has them.

    Raises:
        TransactionStateError: it has no transactional_id.
    """
    if transactions is None:
        raise TransactionStateError(
            "the producer has no transactions",
            hint="make it with a transactional_id that no other producer uses at the same time",
        )
    return transactions
