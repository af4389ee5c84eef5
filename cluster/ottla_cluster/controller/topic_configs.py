"""The topic configs that a broker honours, with their types, ranges and defaults.

A config that nothing reads would be a promise that nobody keeps, so a name is listed here only
once the broker obeys it; any other is refused. Values arrive from JSON and from command lines as
text or numbers, and are stored as the config's own type.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ottla_cluster.controller.topic_names import is_internal
from ottla_protocol.errors import InvalidConfigError, InvalidTopicError

ConfigValue = str | int | float | bool
"""What a config's value may be on the wire and in the metadata log."""

CLEANUP_POLICY = "cleanup.policy"
DELETE_RETENTION_MS = "delete.retention.ms"
MAX_COMPACTION_LAG_MS = "max.compaction.lag.ms"
MIN_CLEANABLE_DIRTY_RATIO = "min.cleanable.dirty.ratio"
MIN_COMPACTION_LAG_MS = "min.compaction.lag.ms"
MIN_INSYNC_REPLICAS = "min.insync.replicas"
SEGMENT_BYTES = "segment.bytes"
DURABILITY = "durability"
MAX_MESSAGE_BYTES = "max.message.bytes"
MESSAGE_TIMESTAMP_AFTER_MAX_MS = "message.timestamp.after.max.ms"
MESSAGE_TIMESTAMP_TYPE = "message.timestamp.type"
RETENTION_BYTES = "retention.bytes"
RETENTION_MS = "retention.ms"
SEGMENT_MS = "segment.ms"
UNCLEAN_LEADER_ELECTION_ENABLE = "unclean.leader.election.enable"

DELETE = "delete"
COMPACT = "compact"
"""What `cleanup.policy` may name, alone or both with a comma between them."""

NEVER_DELETE = -1
"""The value of a retention that deletes nothing."""

_DAY_MS = 24 * 60 * 60 * 1000
_WEEK_MS = 7 * 24 * 60 * 60 * 1000
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class IntegerConfig:
    """A whole number within [minimum, maximum]."""

    name: str
    default: int
    minimum: int
    maximum: int
    doc: str

    def parse(self, value: ConfigValue) -> int:
        """The value as a number.

        Raises:
            InvalidConfigError: not a whole number, or out of range.
        """
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidConfigError(f"{self.name} must be a whole number, not {value!r}.")
        if not self.minimum <= number <= self.maximum:
            raise InvalidConfigError(
                f"{self.name} must lie within {self.minimum}..{self.maximum}, not {number}."
            )
        return number


@dataclass(frozen=True, slots=True)
class FractionConfig:
    """A number from 0 to 1."""

    name: str
    default: float
    doc: str

    def parse(self, value: ConfigValue) -> float:
        """The value as a number.

        Raises:
            InvalidConfigError: not a number, or out of range.
        """
        try:
            number = None if isinstance(value, bool) else float(value)
        except ValueError:
            number = None
        # Not a number is in no range either.
        if number is None or not 0 <= number <= 1:
            raise InvalidConfigError(
                f"{self.name} must be a number that lies within 0..1, not {value!r}."
            )
        return number


@dataclass(frozen=True, slots=True)
class ChoiceConfig:
    """One of a few words."""

    name: str
    default: str
    choices: tuple[str, ...]
    doc: str

    def parse(self, value: ConfigValue) -> str:
        """The value as one of the choices.

        Raises:
            InvalidConfigError: none of them.
        """
        if not isinstance(value, str) or value not in self.choices:
            raise InvalidConfigError(
                f"{self.name} must be one of {', '.join(self.choices)}, not {value!r}."
            )
        return value


@dataclass(frozen=True, slots=True)
class BooleanConfig:
    """True or false."""

    name: str
    default: bool
    doc: str

    def parse(self, value: ConfigValue) -> bool:
        """The value as a truth value; text says `true` or `false`.

        Raises:
            InvalidConfigError: neither.
        """
        text = value.lower() if isinstance(value, str) else value
        if text is True or text == "true":
            return True
        if text is False or text == "false":
            return False
        raise InvalidConfigError(f"{self.name} must be true or false, not {value!r}.")


TopicConfig = IntegerConfig | FractionConfig | ChoiceConfig | BooleanConfig

_DEFINITIONS: tuple[TopicConfig, ...] = (
    ChoiceConfig(
        name=CLEANUP_POLICY,
        default="delete",
        choices=(DELETE, COMPACT, f"{DELETE},{COMPACT}", f"{COMPACT},{DELETE}"),
        doc="What happens to old segments: they are deleted, as retention.ms and retention.bytes "
        "say, or compacted, so that the newest record of each key stays, or both.",
    ),
    IntegerConfig(
        name=DELETE_RETENTION_MS,
        default=_DAY_MS,
        minimum=0,
        maximum=_LARGEST,
        doc="How long a tombstone, a record without a value, stays in a compacted topic after it "
        "has replaced the older records of its key, in ms: who reads the topic from its start in "
        "less time than that learns of every deletion.",
    ),
    ChoiceConfig(
        name=DURABILITY,
        default="fsync",
        choices=("fsync", "os"),
        doc="When a replica counts a record as stored: after its fsync, or after the write to "
        "the operating system.",
    ),
    IntegerConfig(
        name=MAX_COMPACTION_LAG_MS,
        default=_LARGEST,
        minimum=1,
        maximum=_LARGEST,
        doc="How old a record of a compacted topic may get before it is compacted, in ms, however "
        "little there is to compact.",
    ),
    IntegerConfig(
        name=MAX_MESSAGE_BYTES,
        default=1_048_588,
        minimum=1_024,
        maximum=64 * 1024 * 1024,
        doc="The largest record batch that is accepted, in bytes, header included.",
    ),
    IntegerConfig(
        name=MESSAGE_TIMESTAMP_AFTER_MAX_MS,
        default=60 * 60 * 1000,
        minimum=0,
        maximum=_LARGEST,
        doc="How far ahead of the leader's clock a record's timestamp may be, in ms, when "
        "producers set it: what comes from the future would not age.",
    ),
    ChoiceConfig(
        name=MESSAGE_TIMESTAMP_TYPE,
        default="CreateTime",
        choices=("CreateTime", "LogAppendTime"),
        doc="Whose time records carry: the producer's, or the leader's when it appends them.",
    ),
    FractionConfig(
        name=MIN_CLEANABLE_DIRTY_RATIO,
        default=0.5,
        doc="A compacted topic's log is compacted when this much of it has not been yet: 0.5 lets "
        "half of it be duplicates at most.",
    ),
    IntegerConfig(
        name=MIN_COMPACTION_LAG_MS,
        default=0,
        minimum=0,
        maximum=_LARGEST,
        doc="How long every record of a compacted topic stays at least, by its timestamp, in ms.",
    ),
    IntegerConfig(
        name=MIN_INSYNC_REPLICAS,
        default=2,
        minimum=1,
        maximum=100,
        doc="How many replicas must be in sync for an acks=all write; the effective value is the "
        "smaller of this and the replication factor.",
    ),
    IntegerConfig(
        name=RETENTION_BYTES,
        default=NEVER_DELETE,
        minimum=NEVER_DELETE,
        maximum=_LARGEST,
        doc="How many bytes of a partition are kept at least: its oldest segment goes when the "
        "others have as many; -1 for no bound.",
    ),
    IntegerConfig(
        name=RETENTION_MS,
        default=_WEEK_MS,
        minimum=NEVER_DELETE,
        maximum=_LARGEST,
        doc="How long records are kept, by their timestamps, in ms: a segment goes when its "
        "newest record is older; -1 for ever.",
    ),
    IntegerConfig(
        name=SEGMENT_BYTES,
        default=1024 * 1024 * 1024,
        minimum=1_024,
        maximum=16 * 1024 * 1024 * 1024,
        doc="The size at which a segment is sealed and the next one begins, in bytes.",
    ),
    IntegerConfig(
        name=SEGMENT_MS,
        default=_WEEK_MS,
        minimum=1,
        maximum=_LARGEST,
        doc="The span of timestamps after which a segment is sealed and the next one begins, "
        "in ms.",
    ),
    BooleanConfig(
        name=UNCLEAN_LEADER_ELECTION_ENABLE,
        default=False,
        doc="Whether a replica that is not in sync may lead when no replica that is can: the "
        "partition serves again, and acknowledged records that this replica lacks are lost.",
    ),
)

INTERNAL_TOPIC_CONFIGS: Mapping[str, ConfigValue] = {
    CLEANUP_POLICY: COMPACT,
    RETENTION_BYTES: NEVER_DELETE,
    RETENTION_MS: NEVER_DELETE,
    SEGMENT_BYTES: 32 * 1024 * 1024,
}
"""Configs of topics that brokers write for themselves.

A coordinator reads the newest record of each key when it begins, and besides what is not compacted
yet, so segments are small.
"""

OPERATORS_CONFIGS = (MIN_INSYNC_REPLICAS, UNCLEAN_LEADER_ELECTION_ENABLE)
"""The configs of such topics that operators set: what is to happen while replicas are missing. All
others, above all those of compaction, say how coordinators keep what they decided.
"""

TOPIC_CONFIGS: Mapping[str, TopicConfig] = {config.name: config for config in _DEFINITIONS}
"""Every config that can be set on a topic, by name, in alphabetical order."""


def parse_configs(configs: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """The configs as typed values, in alphabetical order of their names.

    Whether they go together is for `require_consistent`.

    Raises:
        InvalidConfigError: a name is unknown (the detail lists the known ones and suggests the
            nearest) or a value is of the wrong type or out of range.
    """
    return {name: definition(name).parse(configs[name]) for name in sorted(configs)}


def require_consistent(configs: Mapping[str, ConfigValue]) -> None:
    """That a topic's configs, already parsed, do not contradict one another.

    Raises:
        InvalidConfigError: records would have to be compacted before they may be.
    """
    least = integer_config(configs, MIN_COMPACTION_LAG_MS)
    most = integer_config(configs, MAX_COMPACTION_LAG_MS)
    if least > most:
        raise InvalidConfigError(
            f"{MIN_COMPACTION_LAG_MS} ({least}) must not be above {MAX_COMPACTION_LAG_MS} ({most})."
        )


def definition(name: str) -> TopicConfig:
    """The definition of a config.

    Raises:
        InvalidConfigError: no such config; the detail lists the known ones.
    """
    known = TOPIC_CONFIGS.get(name)
    if known is not None:
        return known
    nearest = get_close_matches(name, TOPIC_CONFIGS, n=1)
    suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise InvalidConfigError(
        f"The topic config {name!r} is unknown or not supported.{suggestion} "
        f"Known: {', '.join(TOPIC_CONFIGS)}."
    )


def refuse_brokers_configs(topic: str, names: Iterable[str]) -> None:
    """Refuses to change configs of the brokers' own topics that are not the operators' to set.

    Raises:
        InvalidConfigError: no such config.
        InvalidTopicError: the topic is internal, and one of the names is none of OPERATORS_CONFIGS.
    """
    if not is_internal(topic):
        return
    for name in sorted(names):
        if definition(name).name not in OPERATORS_CONFIGS:
            raise InvalidTopicError(
                f"The topic {topic!r} is internal: only {' and '.join(OPERATORS_CONFIGS)} can be "
                f"set on it, not {name}.",
                parameter="topic",
            )


def effective_configs(configs: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """Every known config: what the topic sets, else the default."""
    return {name: configs.get(name, known.default) for name, known in TOPIC_CONFIGS.items()}


def obeyed_configs(topic: str, configs: Mapping[str, ConfigValue]) -> Mapping[str, ConfigValue]:
    """The configs that brokers go by: a topic's own, and for internal topics the brokers'.

    The newest record of a key counts in an internal topic, however old it is; such a topic may have
    been made before there was compaction.
    """
    if not is_internal(topic):
        return configs
    return {**INTERNAL_TOPIC_CONFIGS, **configs, CLEANUP_POLICY: COMPACT}


def integer_config(configs: Mapping[str, ConfigValue], name: str) -> int:
    """A numeric config's effective value.

    Args:
        configs: the topic's own configs, already parsed.
        name: a config that is an IntegerConfig.
    """
    known = TOPIC_CONFIGS[name]
    assert isinstance(known, IntegerConfig)
    return known.parse(configs.get(name, known.default))


def fraction_config(configs: Mapping[str, ConfigValue], name: str) -> float:
    """A fraction's effective value; `name` is a config that is a FractionConfig."""
    known = TOPIC_CONFIGS[name]
    assert isinstance(known, FractionConfig)
    return known.parse(configs.get(name, known.default))


def boolean_config(configs: Mapping[str, ConfigValue], name: str) -> bool:
    """A truth value's effective value; `name` is a config that is a BooleanConfig."""
    known = TOPIC_CONFIGS[name]
    assert isinstance(known, BooleanConfig)
    return known.parse(configs.get(name, known.default))


def cleanup_policies(configs: Mapping[str, ConfigValue]) -> frozenset[str]:
    """DELETE, COMPACT or both: the effective `cleanup.policy`."""
    return frozenset(str(effective_configs(configs)[CLEANUP_POLICY]).split(","))
