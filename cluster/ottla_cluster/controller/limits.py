"""The controller's limits, by name.

One metadata entry carries everything that one command changes, so these also bound the largest
entry: fencing a broker that is in the ISR of every partition writes one record for each of them,
and an entry that the log refuses for its size would leave that broker unfenced for ever.
"""

MAX_BROKERS = 200
"""Registered brokers in one cluster."""

MAX_TOPICS = 10_000
"""Topics in one cluster."""

MAX_PARTITIONS = 10_000
"""Partitions of all topics together; some 60 bytes each in the largest entry."""

MAX_PARTITIONS_PER_TOPIC = 2_000
"""Partitions of one topic. They are made in one decision, during which the controller does nothing
else, so it has to be much shorter than an election timeout."""

MAX_URL_LENGTH = 255
"""Characters of a broker's advertised URL."""

MAX_NAME_LENGTH = 255
"""Characters of a rack, of an incarnation id and of a cluster id."""

MAX_REASSIGNMENTS = 1_000
"""Reassignments in one command; each may be two records of the entry."""

MAX_UNCLEAN_ELECTIONS = 1_000
"""Partitions in one unclean election."""

MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND = 1_024
"""Less would not end, and a byte more per second is no throttle that anybody means."""

MAX_REPLICATION_THROTTLE_BYTES_PER_SECOND = 1 << 40
"""More than any disk or network gives."""

MAX_DRAIN_MOVES = 20
"""Partitions that move when a drain begins to move another one, other reassignments counted. One
that cannot go on as things are is not: see `drain_planning`."""

PRODUCER_ID_BLOCK_SIZE = 1_000
"""Producer ids that a broker takes at once; what it has not handed out when it stops is lost."""

MAX_PRODUCER_ID = 2**63 - 1
"""The largest number that a record batch's producer id can be."""

MAX_ISR_CHANGES = 1_000
"""ISRs that a broker's leaders propose in one command; it sends the rest in the next."""

MAX_WAITING_REQUESTS = 1_000
"""Commands whose response waits for a commit, at one runtime."""

MAX_UNFIT_REPLICAS = 1_000
"""Replicas in one report of a broker; it sends the rest in the next."""
