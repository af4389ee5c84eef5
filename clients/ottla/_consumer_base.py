"""What every part of a consumer's core stands on: its options, its driver, and when to give up."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from ottla._broker_questions import ConsumerTransport
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_io import ConsumerIO
from ottla._consumer_steps import News
from ottla._driver import monotonic_ms
from ottla._errors import (
    ClusterUnreachableError,
    ConsumerClosedError,
    ForkedProcessError,
    SubscriptionError,
)
from ottla._timeouts import seconds_in
from ottla_protocol.errors import InvalidRequestError


class ConsumerBase:
    """Options, driver and positions of one consumer.

    Args:
        config: its options.
        transport: the way to the brokers.
        news: wakes a poll that waits; set on the driver's loop.
        wake: has the driver look again; any thread.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        transport: ConsumerTransport,
        *,
        news: News,
        wake: Callable[[], None],
    ) -> None:
        self.config = config
        self.io = ConsumerIO(config, transport, on_news=news.set, wake=wake, random=Random())
        self.positions = self.io.positions
        self.is_closed = False
        self._wake = wake
        self._news = news

    @property
    def lock(self) -> Any:
        """Guards the machines."""
        return self.io.monitor.lock

    def check_usable(self) -> None:
        """Raise when the consumer is closed, belongs to another process, or has a defect."""
        if self.io.monitor.is_forked:
            raise ForkedProcessError("this consumer was made in the parent process, before a fork")
        if self.is_closed:
            raise ConsumerClosedError("the consumer is closed")
        if self.io.defect is not None:
            raise self.io.failure()

    def _check_group(self, method: str) -> None:
        if self.config.group_id is None:
            raise SubscriptionError(
                f"{method} needs a group_id: offsets are kept by group", hint="set group_id"
            )

    def _check_reached(self, waited_s: float) -> None:
        """Tell of a cluster of which nobody answers, instead of finding nothing for ever."""
        io = self.io
        silent_ms = monotonic_ms() - io.reach.silent_since_ms
        reasons = io.reach.reasons
        if len(reasons) < len(self.config.bootstrap_servers):
            return
        if not io.reach.was_reached or silent_ms >= self.config.default_api_timeout_ms:
            raise ClusterUnreachableError.after(max(silent_ms, waited_s * 1000), reasons)

    def _timeout_s(self, timeout_s: float | None) -> float:
        """Seconds that a call may take."""
        seconds = seconds_in(timeout_s)
        if seconds is None:
            return self.config.default_api_timeout_ms / 1000
        if seconds < 0:
            raise InvalidRequestError(
                f"timeout must be at least 0 seconds, not {timeout_s}", field="timeout"
            )
        return seconds


def interceptors_of(interceptors: Iterable[Any], name: str) -> list[Callable[..., Any]]:
    """The methods of this name, of those that have it."""
    found = [getattr(each, name, None) for each in interceptors]
    return [each for each in found if callable(each)]
