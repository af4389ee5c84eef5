"""Which brokers the controller has heard of lately.

Sessions are volatile: they live in the active controller's memory and nowhere else. A new
controller cannot know what its predecessor heard, so it gives every unfenced broker a full session
from its own start; fencing a broker late is safe, fencing it early costs a needless election.

Time is the controller's monotonic clock; the broker's clock is never looked at.
"""

from dataclasses import dataclass

from ottla_cluster.controller.commands import FenceBroker
from ottla_cluster.controller.image import BrokerState, MetadataImage


@dataclass(slots=True)
class _Session:
    broker_epoch: int
    touched_ms: int


class BrokerSessions:
    """The last sign of life of each broker; one entry per node id, so no larger than the image.

    Args:
        image: the metadata at the moment of leadership.
        session_timeout_ms: how long a broker may stay silent.
        now_ms: the moment of leadership, from which every unfenced broker gets a full session.
    """

    def __init__(self, image: MetadataImage, session_timeout_ms: int, now_ms: int) -> None:
        self._session_timeout_ms = session_timeout_ms
        self._sessions = {
            broker.node_id: _Session(broker.broker_epoch, now_ms)
            for broker in image.brokers.values()
            if broker.state is not BrokerState.FENCED
        }

    def touched(self, node_id: int, broker_epoch: int, now_ms: int) -> None:
        """This incarnation, which is the registered one, has just shown that it lives."""
        self._sessions[node_id] = _Session(broker_epoch, now_ms)

    def is_alive(self, node_id: int, broker_epoch: int, now_ms: int) -> bool:
        """Whether this incarnation was heard of within its session."""
        session = self._sessions.get(node_id)
        return (
            session is not None
            and session.broker_epoch == broker_epoch
            and now_ms - session.touched_ms < self._session_timeout_ms
        )

    def expired(self, image: MetadataImage, now_ms: int) -> tuple[FenceBroker, ...]:
        """The commands that fence every unfenced broker whose session is over, by node id.

        They are returned again at each call until the image shows the broker fenced, so that a
        refused or lost command is not forgotten.
        """
        return tuple(
            FenceBroker(
                node_id=node_id,
                broker_epoch=broker.broker_epoch,
                reason=f"no heartbeat for {self._session_timeout_ms} ms",
            )
            for node_id, broker in sorted(image.brokers.items())
            if broker.state is not BrokerState.FENCED
            and not self.is_alive(node_id, broker.broker_epoch, now_ms)
        )
