"""The transaction coordinator's limits, by name."""

MAX_DECISION_BYTES = 16 * 1024 * 1024
"""More than the records of any one decision take, that is of a transaction with the most partitions
or of all ids that expire; `max.message.bytes` of the transaction topic must be at least this."""

MAX_TRANSACTIONAL_IDS = 10_000
"""Transactional ids of one coordinator, that is of one partition of the transaction topic."""

MAX_TRANSACTIONAL_ID_LENGTH = 249
"""Characters of a transactional id."""

MAX_PARTITIONS_PER_TRANSACTION = 10_000
"""Partitions in one transaction, those of the offsets topic included: as many as a cluster has."""

MAX_PRODUCER_EPOCH = 2**15 - 1
"""The largest that a record batch can carry; only markers ever do."""

MAX_GRANTED_PRODUCER_EPOCH = MAX_PRODUCER_EPOCH - 1
"""The largest that a producer is given: the markers that end its transaction carry one more."""

ATTEMPT_BYTES = 16
"""What tells one take-over of a transactional id from another."""

MAX_REMEMBERED_TAKEOVERS = 4
"""Take-overs of a transactional id that are known when they come again. A repetition is late by the
time-outs of its call at most, seconds; so many other producers that take the id over meanwhile, and
none of which waits for that, make it one of them."""

MAX_LISTED_IDS = 1_000
"""Transactional ids that a coordinator tells at once; the next question goes on behind them."""

MAX_LISTED_PARTITIONS = MAX_PARTITIONS_PER_TRANSACTION
"""How many partitions those ids have in all, unless one has more: some MiB of an answer."""

MAX_WAITING_REQUESTS = 5_000
"""Commands whose response waits for a commit, at one coordinator."""
