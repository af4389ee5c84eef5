"""Since when this node knows of the present controller; for people, nothing rests on it."""

from ottla_broker.drivers.clock import wall_clock_ms


class ControllerTenure:
    """Remembers when the controller of a term was first heard of here."""

    def __init__(self) -> None:
        self._reign: tuple[int, int] | None = None
        self._since_ms: int | None = None

    def changed(self, term: int, leader_id: int | None) -> None:
        """Raft elected or deposed somebody; forgetting and meeting the same leader is no news."""
        if leader_id is not None and self._reign != (term, leader_id):
            self._reign = (term, leader_id)
            self._since_ms = wall_clock_ms()

    def since_ms(self, term: int, leader_id: int | None) -> int | None:
        """When that leader of that term was heard of first, in ms since the epoch, if it was."""
        return self._since_ms if self._reign == (term, leader_id) else None
