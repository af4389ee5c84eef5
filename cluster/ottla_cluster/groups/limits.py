"""The group coordinator's limits, by name.

One decision's records are one record batch, so these also bound the largest batch: a rebalance may
rewrite the target of every member, and deleting a group removes every offset of it. A batch that
the log refused for its size would leave a dead member in its group for ever.
"""

MAX_DECISION_BYTES = 16 * 1024 * 1024
"""More than the records of any one decision take; `max.message.bytes` of the offsets topic must be
at least this."""

MAX_GROUPS = 10_000
"""Groups of one coordinator, that is of one partition of the offsets topic."""

MAX_MEMBERS = 1_000
"""Members of one group."""

MAX_INSTANCES = 1_000
"""Consumer instances of the REST Proxy API in one group."""

MAX_CHOSEN_PARTITIONS = 100_000
"""Partitions that the clients of such instances chose, of all instances of a group together: unlike
those of members they are not parted among them."""

MAX_SUBSCRIBED_TOPICS = 1_000
"""Topics in one member's subscription."""

MAX_GROUP_ID_LENGTH = 249
"""Characters of a group id."""

MAX_MEMBER_ID_LENGTH = 255
"""Characters of a member id, of an instance id and of a client id."""

MAX_PATTERN_LENGTH = 249
"""Characters of a subscription's pattern."""

MAX_REMEMBERED_PATTERNS = 1_000
"""Patterns of which a broker remembers what they match; more are matched anew."""

MAX_OFFSETS_PER_COMMIT = 1_000
"""Partitions in one commit or seek."""

MAX_OFFSETS_PER_GROUP = 10_000
"""Partitions with a committed offset in one group: as many as a cluster has partitions."""

MAX_OFFSET_METADATA_LENGTH = 4_096
"""Characters of the metadata beside one committed offset."""

MAX_COMMIT_METADATA_LENGTH = 65_536
"""Characters of the metadata in one commit, all partitions together."""

MAX_PENDING_OFFSETS_PER_PRODUCER = 5_000
"""Partitions in which one producer's transaction has offsets, in all groups of a coordinator."""

MAX_PENDING_METADATA_LENGTH = 262_144
"""Characters of the metadata beside them, all together."""

MAX_PENDING_OFFSETS_PER_GROUP = 20_000
"""Offsets that the transactions of all producers have pending in one group together: a commit may
overtake something of each of them, and then all of them are in its decision."""

MAX_PENDING_METADATA_PER_GROUP = 1_048_576
"""Characters of the metadata beside them, all together."""

MAX_TRANSACTIONAL_PRODUCERS = 20_000
"""Producers of which one coordinator has pending offsets, or remembers how their transactions
ended."""

ENDED_PRODUCER_MEMORY_MS = 3_600_000
"""How long a coordinator remembers at least that a producer's transaction has ended: longer than
anything that is asked within a transaction can be on its way."""

MAX_PRODUCERS_PER_COMMAND = 1_000
"""Producers that one command of the coordinator forgets."""

MAX_OFFSET = 2**63 - 1
"""The largest offset."""

MAX_WAITING_REQUESTS = 5_000
"""Commands whose response waits for a commit, at one coordinator."""

MAX_FORMER_MEMBER_IDS = 16
"""Replaced members that a static member's instance id remembers."""
