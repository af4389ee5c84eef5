"""Options of the consumer, with Kafka's meanings, defaults and bounds; see `_config`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict

from ottla._deserializers import (
    Deserializer,
    DeserializerOption,
    deserialize_bytes,
    resolve_deserializer,
)
from ottla._errors import ConfigError
from ottla._options import (
    MAX_INT,
    MAX_LONG,
    Option,
    Parser,
    as_given,
    boolean,
    choice,
    client_id,
    integer,
    objects,
    parse_options,
    servers,
)

MAX_FETCH_BYTES: Final = 48 << 20
"""The largest answer that is asked for; with a last batch over it, one still reads it."""

MAX_NAME_LENGTH: Final = 249

OffsetReset: TypeAlias = Literal["earliest", "latest", "none"]
IsolationLevel: TypeAlias = Literal["read_uncommitted", "read_committed"]
AssignorName: TypeAlias = Literal["range", "round-robin", "sticky"]

_DURATION_MS: Final = integer(0, MAX_LONG)
_TIMEOUT_MS: Final = integer(1, MAX_INT)
_RESETS: Final = {each: each for each in ("earliest", "latest", "none")}
_ISOLATIONS: Final = {each: each for each in ("read_uncommitted", "read_committed")}
_ASSIGNORS: Final[dict[str | None, str | None]] = {
    None: None,
    "range": "range",
    "round-robin": "round_robin",
    "round_robin": "round_robin",
    "roundrobin": "round_robin",
    "sticky": "sticky",
}


class ConsumerOptions(TypedDict, total=False):
    """The keywords of Consumer beside bootstrap_servers, for type checkers; see ConsumerConfig."""

    group_id: str | None
    group_instance_id: str | None
    client_id: str
    client_rack: str | None
    key_deserializer: DeserializerOption
    value_deserializer: DeserializerOption
    interceptors: Iterable[Any] | None
    auto_offset_reset: OffsetReset
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    max_poll_records: int
    max_poll_interval_ms: int
    session_timeout_ms: int
    rebalance_timeout_ms: int
    assignor: AssignorName | None
    fetch_min_bytes: int
    fetch_max_wait_ms: int
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    isolation_level: IsolationLevel
    consumer_timeout_ms: int | None
    request_timeout_ms: int
    default_api_timeout_ms: int
    metadata_max_age_ms: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """A consumer's options, checked. Made by `from_options`.

    Attributes:
        bootstrap_servers: base URLs of brokers; any live one will do.
        group_id: the group that shares the topics and keeps offsets; None reads without one.
        group_instance_id: a name that survives restarts: a member that comes back with it within
            its session gets its partitions back without a rebalance.
        client_id: what the consumer calls itself towards brokers.
        client_rack: where it runs; in-sync replicas of the same rack are read from. Empty reads
            from leaders.
        key_deserializer, value_deserializer: (topic, bytes) to values.
        interceptors: objects with `on_consume` or `on_commit`, in their order.
        auto_offset_reset: where to begin without a committed offset, or when it is out of range:
            `earliest`, `latest`, or `none`, which is an error.
        enable_auto_commit: commit what was handed out and finished with, in the background.
        auto_commit_interval_ms: how often.
        max_poll_records: the most that one poll hands out.
        max_poll_interval_ms: the longest time between two polls; beyond it the group gives the
            partitions to others.
        session_timeout_ms: the group expires a member that it has not heard of for so long.
        rebalance_timeout_ms: how long a member may hold on to a partition that it is to give up;
            None takes max_poll_interval_ms, or session_timeout_ms where that is longer: a member
            that polls in time always has that long.
        assignor: how the group divides partitions; None takes the group's.
        fetch_min_bytes: what brokers wait for, at most `fetch_max_wait_ms`.
        fetch_max_wait_ms: how long a broker may wait for `fetch_min_bytes`.
        fetch_max_bytes: of one answer, MAX_FETCH_BYTES at most; a batch is read whatever its size.
        max_partition_fetch_bytes: of one partition in one answer.
        isolation_level: `read_committed` reads only what is of no transaction, or of a committed
            one, up to the first that is open; `read_uncommitted` reads everything.
        consumer_timeout_ms: iteration ends when there was no record for so long; None is never.
        request_timeout_ms: of one request, beyond the time that it asks the broker to wait.
        default_api_timeout_ms: of one call that has no timeout of its own, retries included.
        metadata_max_age_ms: when leaders are asked for again although nothing failed.
        retry_backoff_ms, retry_backoff_max_ms: wait before a retry, doubled up to the maximum.
    """

    bootstrap_servers: tuple[str, ...]
    group_id: str | None = None
    group_instance_id: str | None = None
    client_id: str = "ottla-consumer"
    client_rack: str = ""
    key_deserializer: Deserializer = deserialize_bytes
    value_deserializer: Deserializer = deserialize_bytes
    interceptors: tuple[Any, ...] = ()
    auto_offset_reset: str = "latest"
    enable_auto_commit: bool = True
    auto_commit_interval_ms: int = 5_000
    max_poll_records: int = 500
    max_poll_interval_ms: int = 300_000
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int | None = None
    assignor: str | None = None
    fetch_min_bytes: int = 1
    fetch_max_wait_ms: int = 500
    fetch_max_bytes: int = MAX_FETCH_BYTES
    max_partition_fetch_bytes: int = 1 << 20
    isolation_level: str = "read_uncommitted"
    consumer_timeout_ms: int | None = None
    request_timeout_ms: int = 30_000
    default_api_timeout_ms: int = 60_000
    metadata_max_age_ms: int = 300_000
    retry_backoff_ms: int = 100
    retry_backoff_max_ms: int = 1_000

    @property
    def rebalance_limit_ms(self) -> int:
        """How long this member may hold on to a partition that it is to give up."""
        longest_ms = max(self.max_poll_interval_ms, self.session_timeout_ms)
        return longest_ms if self.rebalance_timeout_ms is None else self.rebalance_timeout_ms

    @property
    def reads_committed(self) -> bool:
        """Whether only what is certain is read."""
        return self.isolation_level == "read_committed"

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "ConsumerConfig":
        """The config of options by keyword or in Kafka's spelling, or of both mixed.

        Raises:
            ConfigError: an option is unknown, out of range, missing or at odds with another.
        """
        parsed = parse_options(options, _CONSUMER, _UNSUPPORTED)
        if "bootstrap_servers" not in parsed:
            raise ConfigError(
                "bootstrap_servers is missing",
                option="bootstrap_servers",
                hint="name at least one broker, for example bootstrap_servers='127.0.0.1:7101'",
            )
        for option in ("key_deserializer", "value_deserializer"):
            parsed[option] = resolve_deserializer(parsed.get(option), option)
        _settle_group(parsed)
        return cls(**parsed)


def _name(option: str, value: Any) -> str | None:
    """Text that names something, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_LENGTH:
        raise ConfigError(
            f"{option} must be text of 1 to {MAX_NAME_LENGTH} characters, not {value!r}",
            option=option,
        )
    return value


def _rack(option: str, value: Any) -> str:
    return "" if value in (None, "") else _name(option, value) or ""


def _assignor(option: str, value: Any) -> str | None:
    """One name, also as the only one of a list, as Kafka's clients write it."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    found: str | None = choice(_ASSIGNORS)(option, value)
    return found


def _optional(parse: Parser) -> Parser:
    return lambda option, value: None if value is None else parse(option, value)


_CONSUMER: Final = {
    "bootstrap_servers": Option(servers),
    "group_id": Option(_name),
    "group_instance_id": Option(_name),
    "client_id": Option(client_id),
    "client_rack": Option(_rack),
    "key_deserializer": Option(as_given),
    "value_deserializer": Option(as_given),
    "interceptors": Option(objects("on_consume", "on_commit"), "interceptor.classes"),
    "auto_offset_reset": Option(choice(_RESETS)),
    "enable_auto_commit": Option(boolean),
    "auto_commit_interval_ms": Option(integer(1, MAX_INT)),
    "max_poll_records": Option(integer(1, MAX_INT)),
    "max_poll_interval_ms": Option(_TIMEOUT_MS),
    "session_timeout_ms": Option(_TIMEOUT_MS),
    "rebalance_timeout_ms": Option(_TIMEOUT_MS),
    "assignor": Option(_assignor, "partition.assignment.strategy"),
    "fetch_min_bytes": Option(integer(0, MAX_INT)),
    "fetch_max_wait_ms": Option(integer(0, 60_000)),
    "fetch_max_bytes": Option(integer(0, MAX_INT)),
    "max_partition_fetch_bytes": Option(integer(0, MAX_INT)),
    "isolation_level": Option(choice(_ISOLATIONS)),
    "consumer_timeout_ms": Option(_optional(integer(0, MAX_INT))),
    "request_timeout_ms": Option(_TIMEOUT_MS),
    "default_api_timeout_ms": Option(_TIMEOUT_MS),
    "metadata_max_age_ms": Option(_DURATION_MS),
    "retry_backoff_ms": Option(_DURATION_MS),
    "retry_backoff_max_ms": Option(_DURATION_MS),
}

_UNSUPPORTED: Final = {
    "heartbeat.interval.ms": "the group's coordinator says how often a member reports",
    "security.protocol": "there is no TLS and no authentication yet",
    "send.buffer.bytes": "the system chooses the sizes of socket buffers",
    "receive.buffer.bytes": "the system chooses the sizes of socket buffers",
    "check.crcs": "checksums are always checked",
    "allow.auto.create.topics": "reading never creates a topic",
    "group.protocol": "there is one protocol: the coordinator assigns, step by step",
}


def _settle_group(parsed: dict[str, Any]) -> None:
    """What needs a group is an error without one; auto commit is just not done.

    As in Kafka: asked for without a group it is an error; not asked for, it is off.
    """
    if parsed.get("group_id") is not None:
        return
    needs = {"group_instance_id": parsed.get("group_instance_id") is not None}
    needs["enable_auto_commit"] = parsed.get("enable_auto_commit") is True
    for option, is_asked in needs.items():
        if is_asked:
            raise ConfigError(
                f"{option} needs a group_id", option=option, hint="set group_id, or leave it out"
            )
    parsed["enable_auto_commit"] = False
