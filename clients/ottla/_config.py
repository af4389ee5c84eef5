"""Options of the clients, with Kafka's meanings, defaults and bounds, validated once.

Every option has a keyword (`linger_ms`) and Kafka's own name (`linger.ms`). Where the two differ by
more than dots (`compression`, `compression.type`; `max_in_flight`,
`max.in.flight.requests.per.connection`) Kafka's name with underscores is taken too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict

from ottla._errors import ConfigError
from ottla._options import (
    MAX_INT,
    MAX_LONG,
    Option,
    as_given,
    boolean,
    choice,
    client_id,
    integer,
    objects,
    parse_options,
    servers,
)
from ottla._partitioner import PartitionerOption
from ottla._serializers import (
    Serializer,
    SerializerOption,
    resolve_serializer,
    serialize_bytes,
)
from ottla_protocol.models import ACKS_ALL
from ottla_protocol.record_batch import Compression
from ottla_protocol.transaction_tokens import MAX_TRANSACTIONAL_ID_CHARACTERS

MAX_IN_FLIGHT_WITH_IDEMPOTENCE: Final = 5
"""Brokers remember the last five batches of a producer and partition, so no more may be out."""

DEFAULT_REQUEST_TIMEOUT_MS: Final = 30_000
DEFAULT_DELIVERY_TIMEOUT_MS: Final = 120_000
DEFAULT_API_TIMEOUT_MS: Final = 60_000

CompressionName: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]
AcksOption: TypeAlias = Literal[0, 1, -1, "0", "1", "-1", "all"]

_ACKS: Final = {0: 0, 1: 1, -1: ACKS_ALL, "0": 0, "1": 1, "-1": ACKS_ALL, "all": ACKS_ALL}
_COMPRESSIONS: Final[dict[str | None, Compression]] = {
    None: Compression.NONE,
    **{codec.name.lower(): codec for codec in Compression},
}
_DURATION_MS: Final = integer(0, MAX_LONG)
_TIMEOUT_MS: Final = integer(1, MAX_INT)


class ProducerOptions(TypedDict, total=False):
    """The keywords of Producer beside bootstrap_servers, for type checkers; see ProducerConfig."""

    client_id: str
    key_serializer: SerializerOption
    value_serializer: SerializerOption
    partitioner: PartitionerOption
    interceptors: Iterable[Any] | None
    acks: AcksOption
    enable_idempotence: bool
    transactional_id: str | None
    transaction_timeout_ms: int
    compression: CompressionName | None
    batch_size: int
    linger_ms: int
    buffer_memory: int
    max_block_ms: int
    max_request_size: int
    max_in_flight: int
    retries: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int
    request_timeout_ms: int
    delivery_timeout_ms: int
    metadata_max_age_ms: int


class AdminOptions(TypedDict, total=False):
    """The keywords of Admin beside bootstrap_servers, for type checkers; see AdminConfig."""

    client_id: str
    request_timeout_ms: int
    default_api_timeout_ms: int
    retries: int
    retry_backoff_ms: int
    retry_backoff_max_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerConfig:
    """A producer's options, checked. Made by `from_options`.

    Attributes:
        bootstrap_servers: base URLs of brokers; any live one will do.
        client_id: what the producer calls itself towards brokers.
        key_serializer, value_serializer: (topic, value) to bytes.
        partitioner: as given; `resolve_partitioner` takes it.
        interceptors: objects with `on_send` or `on_acknowledgement`, in their order.
        acks: 0 (none), 1 (the leader) or -1 (every in-sync replica).
        enable_idempotence: retries never store a second copy, and keep the order.
        transactional_id: names the producer, through restarts, for its transactions; whoever takes
            the same one fences the one before. None sends without transactions.
        transaction_timeout_ms: the cluster aborts a transaction that is open for longer.
        compression: of record batches.
        batch_size: bytes of records after which a batch is sent. While others of its partition
            wait or are under way, a batch may grow to 64 times that.
        linger_ms: how long a batch that is not full waits for more records.
        buffer_memory: bytes of records that may wait for acknowledgement or sending.
        max_block_ms: how long a call may wait for room or for metadata.
        max_request_size: bytes of one request, and so of the largest record.
        max_in_flight: requests without an answer, per broker.
        retries: attempts after the first, per batch.
        retry_backoff_ms, retry_backoff_max_ms: wait before a retry, doubled up to the maximum.
        request_timeout_ms: of one request.
        delivery_timeout_ms: from send() to the result, retries included.
        metadata_max_age_ms: when leaders are asked for again although nothing failed.
    """

    bootstrap_servers: tuple[str, ...]
    client_id: str = "ottla-producer"
    key_serializer: Serializer = serialize_bytes
    value_serializer: Serializer = serialize_bytes
    partitioner: PartitionerOption = None
    interceptors: tuple[Any, ...] = ()
    acks: int = ACKS_ALL
    enable_idempotence: bool = True
    transactional_id: str | None = None
    transaction_timeout_ms: int = 60_000
    compression: Compression = Compression.NONE
    batch_size: int = 16_384
    linger_ms: int = 0
    buffer_memory: int = 32 << 20
    max_block_ms: int = 60_000
    max_request_size: int = 1 << 20
    max_in_flight: int = MAX_IN_FLIGHT_WITH_IDEMPOTENCE
    retries: int = MAX_INT
    retry_backoff_ms: int = 100
    retry_backoff_max_ms: int = 1_000
    request_timeout_ms: int = DEFAULT_REQUEST_TIMEOUT_MS
    delivery_timeout_ms: int = DEFAULT_DELIVERY_TIMEOUT_MS
    metadata_max_age_ms: int = 300_000

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "ProducerConfig":
        """The config of options by keyword or in Kafka's spelling, or of both mixed.

        Raises:
            ConfigError: an option is unknown, out of range, missing or at odds with another.
        """
        parsed = parse_options(options, _PRODUCER, _UNSUPPORTED)
        _require_servers(parsed)
        for option in ("key_serializer", "value_serializer"):
            parsed[option] = resolve_serializer(parsed.get(option), option)
        _settle_transactions(parsed)
        _settle_idempotence(parsed)
        _settle_delivery_timeout(parsed)
        return cls(**parsed)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminConfig:
    """An admin client's options, checked. Made by `from_options`.

    Attributes:
        bootstrap_servers: base URLs of brokers; any live one will do.
        client_id: what the client calls itself towards brokers.
        request_timeout_ms: of one request to one broker.
        default_api_timeout_ms: of one call, all brokers and retries together.
        retries: rounds over the brokers after the first.
        retry_backoff_ms, retry_backoff_max_ms: wait before a retry, doubled up to the maximum.
    """

    bootstrap_servers: tuple[str, ...]
    client_id: str = "ottla-admin"
    request_timeout_ms: int = DEFAULT_REQUEST_TIMEOUT_MS
    default_api_timeout_ms: int = DEFAULT_API_TIMEOUT_MS
    retries: int = MAX_INT
    retry_backoff_ms: int = 100
    retry_backoff_max_ms: int = 1_000

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "AdminConfig":
        """The config of options by keyword or in Kafka's spelling, or of both mixed.

        Raises:
            ConfigError: an option is unknown, out of range or missing.
        """
        parsed = parse_options(options, _ADMIN, _UNSUPPORTED)
        _require_servers(parsed)
        return cls(**parsed)


def _transactional_id(option: str, value: Any) -> str | None:
    """A name that brokers take, or None."""
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TRANSACTIONAL_ID_CHARACTERS:
        raise ConfigError(
            f"{option} must be text of 1 to {MAX_TRANSACTIONAL_ID_CHARACTERS} characters, "
            f"not {value!r}",
            option=option,
        )
    if not value.isprintable() or value in {".", ".."}:
        raise ConfigError(
            f"{option} must be printable, and neither '.' nor '..', not {value!r}", option=option
        )
    return value


_CLIENT: Final = {
    "bootstrap_servers": Option(servers),
    "client_id": Option(client_id),
    "request_timeout_ms": Option(_TIMEOUT_MS),
    "retries": Option(integer(0, MAX_INT)),
    "retry_backoff_ms": Option(_DURATION_MS),
    "retry_backoff_max_ms": Option(_DURATION_MS),
}

_PRODUCER: Final = {
    **_CLIENT,
    "key_serializer": Option(as_given),
    "value_serializer": Option(as_given),
    "partitioner": Option(as_given, "partitioner.class"),
    "interceptors": Option(objects("on_send", "on_acknowledgement"), "interceptor.classes"),
    "acks": Option(choice(_ACKS)),
    "enable_idempotence": Option(boolean),
    "transactional_id": Option(_transactional_id),
    "transaction_timeout_ms": Option(_TIMEOUT_MS),
    "compression": Option(choice(_COMPRESSIONS), "compression.type"),
    "batch_size": Option(integer(0, MAX_INT)),
    "linger_ms": Option(_DURATION_MS),
    "buffer_memory": Option(integer(0, MAX_LONG)),
    "max_block_ms": Option(_DURATION_MS),
    "max_request_size": Option(integer(1, MAX_INT)),
    "max_in_flight": Option(integer(1, MAX_INT), "max.in.flight.requests.per.connection"),
    "delivery_timeout_ms": Option(integer(0, MAX_INT)),
    "metadata_max_age_ms": Option(_DURATION_MS),
}

_ADMIN: Final = {**_CLIENT, "default_api_timeout_ms": Option(_TIMEOUT_MS)}

_UNSUPPORTED: Final = {
    "security.protocol": "there is no TLS and no authentication yet",
    "send.buffer.bytes": "the system chooses the sizes of socket buffers",
    "receive.buffer.bytes": "the system chooses the sizes of socket buffers",
}


def _require_servers(parsed: Mapping[str, Any]) -> None:
    if "bootstrap_servers" not in parsed:
        raise ConfigError(
            "bootstrap_servers is missing",
            option="bootstrap_servers",
            hint="name at least one broker, for example bootstrap_servers='127.0.0.1:7101'",
        )


def _settle_transactions(parsed: dict[str, Any]) -> None:
    """Transactions need idempotence; as in Kafka, what is at odds with it is an error then."""
    if parsed.get("transactional_id") is None:
        if "transaction_timeout_ms" in parsed:
            raise ConfigError(
                "transaction_timeout_ms needs a transactional_id",
                option="transaction_timeout_ms",
                hint="set transactional_id, or leave it out",
            )
        return
    if parsed.setdefault("enable_idempotence", True) is False:
        raise ConfigError(
            "enable_idempotence must be true with a transactional_id",
            option="enable_idempotence",
            hint="leave enable_idempotence out, or transactional_id",
        )


def _settle_idempotence(parsed: dict[str, Any]) -> None:
    """Idempotence needs acks=all, retries and few requests in flight.

    As in Kafka: asked for, what is at odds with it is an error; not asked for, it is given up.
    """
    conflicts = {
        "acks": (parsed.get("acks", ACKS_ALL) != ACKS_ALL, "acks must be all"),
        "retries": (parsed.get("retries", MAX_INT) == 0, "retries must be at least 1"),
        "max_in_flight": (
            parsed.get("max_in_flight", 1) > MAX_IN_FLIGHT_WITH_IDEMPOTENCE,
            f"max_in_flight must be at most {MAX_IN_FLIGHT_WITH_IDEMPOTENCE}",
        ),
    }
    for option, (is_at_odds, rule) in conflicts.items():
        if not is_at_odds:
            continue
        if parsed.get("enable_idempotence"):
            raise ConfigError(
                f"{rule} with enable_idempotence, not {parsed[option]}",
                option=option,
                hint="leave enable_idempotence out, or set it to false",
            )
        parsed["enable_idempotence"] = False


def _settle_delivery_timeout(parsed: dict[str, Any]) -> None:
    """The time for delivery covers at least the linger and one request.

    As in Kafka: given too small it is an error; not given, it grows.
    """
    request_timeout_ms = parsed.get("request_timeout_ms", DEFAULT_REQUEST_TIMEOUT_MS)
    least = min(parsed.get("linger_ms", 0) + request_timeout_ms, MAX_INT)
    given = parsed.get("delivery_timeout_ms")
    if given is None:
        parsed["delivery_timeout_ms"] = max(DEFAULT_DELIVERY_TIMEOUT_MS, least)
    elif given < least:
        raise ConfigError(
            f"delivery_timeout_ms must be at least linger_ms + request_timeout_ms = {least}, "
            f"not {given}",
            option="delivery_timeout_ms",
            hint="set request_timeout_ms lower too",
        )
