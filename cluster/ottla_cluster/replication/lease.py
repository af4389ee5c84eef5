"""The session of a broker as the broker itself may rely on it.

The controller fences a broker that it has not heard of for the session timeout, and only then
gives its leaderships away. It counts from when a heartbeat arrives; the broker counts from when it
sent that heartbeat, which is earlier. So the broker's lease ends before any successor can lead, as
long as both clocks run at the same rate. A process that was paused finds its lease run out on its
first look at the clock, and refuses reads and writes until a heartbeat is confirmed again.

The lease only bounds how stale an answer can be. No acknowledgement with acks=all rests on it:
those rest on leader epochs and the ISR alone.
"""


class BrokerLease:
    """How long this broker may act on what it knows of its leaderships.

    Times are of one monotonic clock of this machine that runs on while the process is stopped.
    """

    def __init__(self, session_timeout_ms: int) -> None:
        """A lease that is not held yet.

        Args:
            session_timeout_ms: at most what the controller grants before it fences a broker.
        """
        assert session_timeout_ms > 0, session_timeout_ms
        self._session_timeout_ms = session_timeout_ms
        self._expires_at_ms: int | None = None

    @property
    def expires_at_ms(self) -> int | None:
        """When the lease ends unless it is confirmed again; None while it is not held."""
        return self._expires_at_ms

    @property
    def confirmed_at_ms(self) -> int | None:
        """When the newest heartbeat that counts was sent; None while the lease is not held."""
        if self._expires_at_ms is None:
            return None
        return self._expires_at_ms - self._session_timeout_ms

    def confirmed(self, sent_at_ms: int) -> None:
        """A heartbeat that was sent at `sent_at_ms` was accepted.

        The answer names the metadata version that the controller had; call this only when the
        local metadata image has reached it. Otherwise a broker that was fenced and taken back
        would trust leaderships that it lost in between. An older heartbeat shortens nothing.
        """
        expires_at_ms = sent_at_ms + self._session_timeout_ms
        if self._expires_at_ms is None or expires_at_ms > self._expires_at_ms:
            self._expires_at_ms = expires_at_ms

    def revoked(self) -> None:
        """Others may be given what this broker leads: it is fenced, or asks to be relieved."""
        self._expires_at_ms = None

    def valid(self, now_ms: int) -> bool:
        """Whether no other broker can have been given this one's leaderships yet."""
        return self._expires_at_ms is not None and now_ms < self._expires_at_ms
