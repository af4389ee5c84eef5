"""The leader's end of fetch sessions: who has something to tell to which follower.

Each partition of a session tells it of changes, so that a fetch looks at those alone. What a
follower must hear at once is *urgent*: records, and that this broker leads no more. *News* are a
high watermark or a log start that moved: they go with the next answer, which leaves for them only
when the follower's wait is over, as it would without a session.

Urgency is kept until a look finds nothing, not until it was answered: a follower that could not
take what it was given gets it again.
"""

import asyncio
from collections.abc import Iterable

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition import Partition
from ottla_broker.services.reading import ReplicaRead
from ottla_cluster.replication.fetch_session import LeaderSession
from ottla_cluster.replication.throttle import is_throttled
from ottla_protocol.errors import NotLeaderOrFollowerError

SessionKey = tuple[str, int]
"""Topic id and partition."""


class SessionRead:
    """What one session reads of one partition, and what it has told of it.

    It watches the partition's appends and role itself.
    """

    def __init__(self, owner: "ReplicaSession", read: ReplicaRead) -> None:
        self.owner = owner
        self.read = read
        self.told: tuple[int, int] | None = None
        """High watermark and log start, as last answered."""
        self._news = _NewsWatcher(self)
        read.partition.append_watchers.add(self)
        read.partition.news_watchers.add(self._news)

    @property
    def partition(self) -> Partition:
        """The partition that is read."""
        return self.read.partition

    @property
    def state_to_tell(self) -> tuple[int, int]:
        """High watermark and log start, as they are."""
        return self.partition.high_watermark, self.partition.log.log_start_offset

    @property
    def is_being_added(self) -> bool:
        """Whether a throttle holds for what the follower is sent."""
        return is_throttled(self.partition.state, self.owner.session.replica_id)

    @property
    def counts(self) -> bool:
        """Whether the leader counts the follower's position.

        It does not where the replica was taken away and assigned anew meanwhile: its log may be
        another, and it is not asked for its position as long as the session has one. Without a
        leader it is for the read to say so.
        """
        leader = self.partition.leader
        return leader is None or leader.has_fetched(self.owner.session.replica_id)

    def set(self) -> None:
        """There are records, or another role."""
        self.owner.urgent(self.partition.key)

    def close(self) -> None:
        """Watch no more."""
        partition = self.partition
        partition.append_watchers.remove(self)
        partition.news_watchers.remove(self._news)
        partition.session_closed(self.owner.session.replica_id, self.owner.session)


class _NewsWatcher:
    def __init__(self, read: SessionRead) -> None:
        self._read = read

    def set(self) -> None:
        self._read.owner.news(self._read.partition.key)


class ReplicaSession:
    """One session, with the reads of all partitions in it."""

    def __init__(self, session: LeaderSession[SessionKey, SessionRead]) -> None:
        self.session = session
        # Woken by what is urgent.
        self.changed = asyncio.Event()
        # In the order in which they are looked at: who was served goes behind the others.
        self._urgent: dict[SessionKey, None] = {}
        self._news: dict[SessionKey, None] = {}

    def urgent(self, key: SessionKey) -> None:
        """The partition may have something to tell at once."""
        self._urgent[key] = None
        self.changed.set()

    def news(self, key: SessionKey) -> None:
        """The partition may have something to tell with the next answer."""
        self._news[key] = None

    def put(self, read: ReplicaRead) -> None:
        """Read a partition from a position that its follower has just named."""
        key = read.partition.key
        known = self.session.positions.get(key)
        if known is not None and known.partition is read.partition:
            known.read = read
            # Heard again with the next answer: the last one may have been for another position.
            known.told = None
        else:
            if known is not None:
                known.close()
            self.session.take({key: SessionRead(self, read)}, ())
        read.partition.session_opened(self.session.replica_id, self.session)
        self._urgent[key] = None
        self._news[key] = None

    def drop(self, keys: Iterable[SessionKey]) -> None:
        """Leave partitions out from now on."""
        for key in keys:
            known = self.session.positions.get(key)
            if known is not None:
                known.close()
                self.session.drop(key)
            self._urgent.pop(key, None)
            self._news.pop(key, None)

    def fetched(self) -> None:
        """A fetch was taken: it speaks for every partition in here."""
        self.session.last_fetch_ms = monotonic_ms()

    def close(self) -> None:
        """The session is over; a fetch that is parked in it ends."""
        self.drop(tuple(self.session.positions))
        self.changed.set()

    async def look(self, max_bytes: int) -> list[SessionRead]:
        """Read where it is urgent; those that have something to tell, within `max_bytes`."""
        found = []
        total_bytes = 0
        for key in tuple(self._urgent):
            if total_bytes >= max_bytes:
                break
            self._urgent.pop(key, None)
            known = self.session.positions.get(key)
            if known is None:
                continue
            read = known.read
            if read.copy is not None and not known.is_being_added:
                # It came to be in sync since it was named.
                read.copy = None
            if known.counts:
                await read.look(max_bytes - total_bytes)
            else:
                read.error = NotLeaderOrFollowerError(
                    f"broker {self.session.replica_id} has not said what it has of "
                    f"{read.partition.name} since it was assigned"
                )
            if read.error is not None or read.batches:
                total_bytes += read.size_bytes
                self._urgent[key] = None
                found.append(known)
            elif read.copy is not None and read.offset < read.partition.log.next_offset:
                # The throttle gave it nothing now: the next fetch looks again.
                self._urgent[key] = None
        return found

    def take_news(self) -> list[SessionRead]:
        """The partitions whose high watermark or log start is another than was told."""
        keys, self._news = tuple(self._news), {}
        reads = [self.session.positions.get(key) for key in keys]
        return [read for read in reads if read is not None and read.told != read.state_to_tell]
