"""The broker's settings: flags over `OTTLA_*` environment over defaults, validated once, frozen.

Lists are comma-separated (honcho's .env parser strips JSON's quotes). A name that starts with
OTTLA_ and is no setting is an error that suggests the nearest one, because a misspelt limit that is
silently ignored is found in production; the variables of clients and tools are left alone.
"""

import difflib
import ipaddress
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ottla_broker.site_policy import SitePolicy, parse_allowed_host, parse_origin
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL, OLDEST_FEATURE_LEVEL
from ottla_cluster.controller.limits import MAX_PARTITIONS_PER_TOPIC
from ottla_cluster.controller.topic_configs import (
    NEVER_DELETE,
    RETENTION_BYTES,
    RETENTION_MS,
    SEGMENT_BYTES,
    SEGMENT_MS,
    TOPIC_CONFIGS,
    UNCLEAN_LEADER_ELECTION_ENABLE,
    ConfigValue,
)
from ottla_cluster.transactions.config import TransactionConfig

ENVIRONMENT_PREFIX = "OTTLA_"
CLIENT_VARIABLES = frozenset(
    {"OTTLA_BOOTSTRAP", "OTTLA_CONTEXT", "OTTLA_TOKEN", "OTTLA_SIMULATION_SEEDS"}
)
"""Variables of the CLI, the SDKs and the tests: they never stop a broker."""

Role = Literal["broker", "controller"]
BROKER: Final = "broker"
CONTROLLER: Final = "controller"

UNNAMED_PEERS: Final = 8
"""Brokers that OTTLA_VOTERS does not name, for which connections are set aside."""

MEBIBYTE = 1 << 20
MINUTE_MS = 60 * 1000
HOUR_MS = 60 * MINUTE_MS
MAX_CONFIG = 2**63 - 1

MAX_REMEMBERED_MS = 366 * 24 * HOUR_MS
"""The longest time that producers and Idempotency-Keys may be remembered for."""


class SettingsError(Exception):
    """A setting is missing, unknown or out of range; the message is one line for a person."""


class Settings(BaseSettings):
    """Everything that a broker process can be told. Sizes are bytes, times milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="python -m ottla_broker",
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )

    node_id: int = Field(ge=1, description="this broker's id, unique in the cluster")
    listen: str = Field("127.0.0.1:7101", description="host:port that clients and peers reach")
    advertised_url: str = Field("", description="URL told to clients and peers; from --listen")
    data_dir: Path | None = Field(None, description="where everything is kept; ./data/broker-<id>")
    voters: Annotated[tuple[tuple[int, str], ...], NoDecode] = Field(
        (), description="the metadata quorum, id@host:port,...; itself when empty"
    )
    roles: Annotated[tuple[Role, ...], NoDecode] = Field(
        (BROKER, CONTROLLER),
        description="what this process is: broker, controller or broker,controller; a controller "
        "is one of the voters, a broker without that role follows them",
    )
    join_quorum: bool = Field(
        default=False,
        description="this controller has no vote before it is added to the voters of a cluster "
        "that is there, which OTTLA_VOTERS names",
    )
    cluster_id: str = Field(
        "local", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="cluster's name"
    )
    cluster_secret: SecretStr | None = Field(None, description="authenticates internal calls")
    insecure_listen: bool = Field(
        default=False, description="listen beyond loopback without TLS and authentication"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names, .domains or * that requests may be for, besides addresses, names "
        "without a dot, domains that nobody can own, and the cluster's own URLs",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins whose web pages may call this broker, or *; none when empty"
    )
    rack: str = Field("", max_length=64, description="where replicas should not meet")
    session_timeout_ms: int = Field(3000, ge=500, le=60_000, description="broker heartbeats")
    election_timeout_ms: int = Field(
        500,
        ge=300,
        le=30_000,
        description="voters that miss their leader for this long to twice as long elect another",
    )
    replica_lag_time_max_ms: int = Field(
        10_000,
        ge=500,
        le=600_000,
        description="a follower this far behind leaves the ISR; not below the session's timeout",
    )
    default_replication_factor: int | None = Field(
        None,
        ge=1,
        le=32,
        description="topic default; when unset min(3, voters), or 3 if these are no brokers",
    )
    num_partitions: int = Field(3, ge=1, le=MAX_PARTITIONS_PER_TOPIC, description="topic default")
    min_insync_replicas: int = Field(2, ge=1, le=32, description="topic default")
    initial_feature_level: int = Field(
        LATEST_FEATURE_LEVEL,
        ge=OLDEST_FEATURE_LEVEL,
        le=LATEST_FEATURE_LEVEL,
        description="of a new cluster; a lower one lets older versions join",
    )
    offsets_partitions: int = Field(
        16, ge=1, le=1_000, description="partitions of __consumer_offsets, when it is created"
    )
    offsets_retention_ms: int = Field(
        7 * 24 * HOUR_MS, ge=1, description="a group without members keeps its offsets this long"
    )
    transaction_state_partitions: int = Field(
        16, ge=1, le=1_000, description="partitions of __transaction_state, when it is created"
    )
    transaction_max_timeout_ms: int = Field(
        15 * MINUTE_MS,
        ge=100,
        le=24 * HOUR_MS,
        description="the longest that a producer may have a transaction open",
    )
    transaction_default_timeout_ms: int = Field(
        MINUTE_MS, ge=100, le=24 * HOUR_MS, description="and where it does not say"
    )
    transactional_id_expiration_ms: int = Field(
        7 * 24 * HOUR_MS,
        ge=1_000,
        le=MAX_REMEMBERED_MS,
        description="a transactional id that nobody uses is forgotten after",
    )
    rest_instance_timeout_ms: int = Field(
        5 * MINUTE_MS,
        ge=1_000,
        le=30 * MINUTE_MS,
        description="a consumer instance of the REST Proxy API that nobody asks for is removed",
    )
    rest_base_uri: str = Field(
        "",
        description="URL that clients of the REST Proxy API are told; from their Host when empty",
    )
    metadata_snapshot_entries: int = Field(
        10_000, ge=10, le=1_000_000, description="changes of metadata from snapshot to snapshot"
    )
    metadata_snapshot_bytes: int = Field(
        16 * MEBIBYTE, ge=64 * 1024, le=1024 * MEBIBYTE, description="and bytes of them, at most"
    )
    log_format: Literal["console", "json"] | None = Field(
        None, description="console on a terminal, else json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line that is logged"
    )

    max_json_body_bytes: int = Field(
        8 * MEBIBYTE, ge=1024, le=256 * MEBIBYTE, description="JSON and form bodies, inflated"
    )
    max_binary_body_bytes: int = Field(
        64 * MEBIBYTE, ge=1024, le=1024 * MEBIBYTE, description="binary produce bodies"
    )
    max_parked_requests: int = Field(
        16_384, ge=16, le=1_000_000, description="long-polls and acks waiting in purgatory"
    )
    max_followers: int = Field(
        4_096,
        ge=1,
        le=1_000_000,
        description="clients that follow topics at a time, others are refused with 503",
    )
    follower_buffer_bytes: int = Field(
        4 * MEBIBYTE,
        ge=64 * 1024,
        le=64 * MEBIBYTE,
        description="keys and values that are read for one of them and not sent yet; less where "
        "all together hold much",
    )
    follower_keep_alive_ms: int = Field(
        15_000, ge=100, le=15_000, description="how long they hear nothing at most"
    )
    max_inflight_produce_bytes: int = Field(
        256 * MEBIBYTE, ge=MEBIBYTE, description="produce bodies being read or awaiting their ack"
    )
    max_unsent_answer_bytes: int = Field(
        512 * MEBIBYTE, ge=MEBIBYTE, description="large answers that clients have not taken yet"
    )
    tail_cache_bytes: int = Field(
        64 * MEBIBYTE, ge=MEBIBYTE, description="newest batches kept in memory, whole broker"
    )
    max_open_segments: int | None = Field(
        None,
        ge=4,
        le=100_000,
        description="segment files open at a time (a thread and up to 3 descriptors each); when "
        "unset 256, or as many as fit into the system's limit on descriptors",
    )
    max_connections: int | None = Field(
        None,
        ge=16,
        le=1_000_000,
        description="connections of clients at a time, others are refused with 503; when unset "
        "half of the descriptors that segments leave, at most 32768",
    )

    allow_affected_sqlite: bool = Field(
        default=False, description="run with a SQLite that has the WAL-reset bug"
    )
    disk_reserve_bytes: int = Field(
        256 * MEBIBYTE,
        ge=MEBIBYTE,
        le=1 << 40,
        description="below this much free space appends are refused with 507",
    )

    disk_hang_timeout_ms: int = Field(
        5_000,
        ge=500,
        le=600_000,
        description="a disk that takes no write for this long loses its leaderships",
    )

    retention_ms: int = Field(
        7 * 24 * HOUR_MS, ge=NEVER_DELETE, le=MAX_CONFIG, description="topic default; -1 for ever"
    )
    retention_bytes: int = Field(
        NEVER_DELETE, ge=NEVER_DELETE, le=MAX_CONFIG, description="topic default; -1 for no bound"
    )
    retention_check_interval_ms: int = Field(
        5 * MINUTE_MS, ge=1, le=24 * HOUR_MS, description="how often old segments are looked for"
    )
    compaction_check_interval_ms: int = Field(
        15_000, ge=1, le=24 * HOUR_MS, description="how often logs are looked at for compaction"
    )
    compaction_map_bytes: int = Field(
        32 * MEBIBYTE,
        ge=MEBIBYTE,
        le=16 * 1024 * MEBIBYTE,
        description="memory of a compaction for keys; 32 bytes each",
    )
    compaction_max_bytes_per_s: int = Field(
        32 * MEBIBYTE, ge=1024, le=MAX_CONFIG, description="batches that it reads and writes"
    )

    segment_bytes: int = Field(
        1024 * MEBIBYTE, ge=1024, le=16 * 1024 * MEBIBYTE, description="topic default"
    )
    segment_ms: int = Field(7 * 24 * HOUR_MS, ge=1, le=MAX_CONFIG, description="topic default")
    unclean_leader_election_enable: bool = Field(
        default=False,
        description="topic default: let a replica that is not in sync lead where no other can, and "
        "lose what it lacks",
    )

    scrub_interval_ms: int = Field(
        24 * HOUR_MS, ge=1, le=366 * 24 * HOUR_MS, description="between two passes of scrubbing"
    )
    scrub_bytes_per_second: int = Field(
        8 * MEBIBYTE, ge=0, le=1024 * MEBIBYTE, description="rate of scrubbing; 0 turns it off"
    )

    producer_id_expiration_ms: int = Field(
        24 * HOUR_MS, ge=1, le=MAX_REMEMBERED_MS, description="a silent producer is forgotten after"
    )
    idempotency_window_ms: int = Field(
        24 * HOUR_MS, ge=1, le=MAX_REMEMBERED_MS, description="how long an Idempotency-Key counts"
    )
    idempotency_entries_max: int = Field(
        65_536, ge=1, le=10_000_000, description="Idempotency-Keys remembered, per partition"
    )

    @field_validator("voters", mode="before")
    @classmethod
    def _parse_voters(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        voters = []
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            node_id, at, address = part.partition("@")
            if not at or not node_id.isdigit():
                raise ValueError(f"'{part}' is not of the form id@host:port")
            split_address(address)
            voters.append((int(node_id), address))
        if len({node_id for node_id, _ in voters}) != len(voters):
            raise ValueError("a voter's id is named twice")
        return tuple(voters)

    @field_validator("roles", mode="before")
    @classmethod
    def _parse_roles(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        roles = tuple(sorted({piece.strip() for piece in value.split(",")}))
        if not {BROKER, CONTROLLER}.issuperset(roles):
            raise ValueError(f"must be broker, controller or broker,controller, not '{value}'")
        return roles

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _parse_allowed_hosts(cls, value: object) -> object:
        return _parse_list(value, parse_allowed_host)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_cors_origins(cls, value: object) -> object:
        return _parse_list(value, parse_origin)

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("cluster_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        secret = value.get_secret_value() if value else "x"
        if not secret or not all("!" <= character <= "~" for character in secret):
            raise ValueError("must be printable ASCII without blanks: it travels in a header")
        return value

    @field_validator("rest_base_uri")
    @classmethod
    def _check_rest_base_uri(cls, value: str) -> str:
        if value:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise ValueError("must look like https://host:port or https://host/path")
        return value.rstrip("/")

    @field_validator("advertised_url")
    @classmethod
    def _check_advertised_url(cls, value: str) -> str:
        if value:
            parts = urlsplit(value)
            if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
                raise ValueError("must look like http://host:port")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _refuse_open_listener(self) -> Self:
        host, _ = split_address(self.listen)
        if not self.insecure_listen and not _is_loopback(host):
            raise ValueError(
                f"listen: {self.listen} is beyond loopback, and this version has neither TLS nor "
                "client authentication; set OTTLA_INSECURE_LISTEN=true to accept that"
            )
        return self

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        """A controller is a voter, and a voter is a controller."""
        is_voter = self.node_id in dict(self.voters)
        if self.is_controller and self.voters and not is_voter and not self.join_quorum:
            raise ValueError(
                f"OTTLA_VOTERS (--voters): must name this node ({self.node_id}@host:port), which "
                "is a controller; one that is no voter needs OTTLA_ROLES=broker (--roles), and one "
                "that is to be added to the voters OTTLA_JOIN_QUORUM=true (--join-quorum)"
            )
        if not self.is_controller and is_voter:
            raise ValueError(
                f"OTTLA_ROLES (--roles): must hold controller, for OTTLA_VOTERS (--voters) names "
                f"this node ({self.node_id}); one that is no voter must not stand there"
            )
        if not self.is_controller and not self.voters:
            raise ValueError(
                "OTTLA_ROLES (--roles): a broker that is no controller follows one, so "
                "OTTLA_VOTERS (--voters) must name them as id@host:port,..."
            )
        if self.join_quorum and not self.is_controller:
            raise ValueError(
                "OTTLA_JOIN_QUORUM (--join-quorum): is for controllers, and OTTLA_ROLES (--roles) "
                "does not hold controller"
            )
        if self.join_quorum and not self.voter_urls:
            raise ValueError(
                "OTTLA_JOIN_QUORUM (--join-quorum): needs OTTLA_VOTERS (--voters) to name the "
                "voters that are there, as id@host:port,..."
            )
        return self

    @model_validator(mode="after")
    def _check_transaction_times(self) -> Self:
        """A transaction may be open for as long as it may be by default, and its id outlives it."""
        if self.transaction_default_timeout_ms > self.transaction_max_timeout_ms:
            raise ValueError(
                "OTTLA_TRANSACTION_DEFAULT_TIMEOUT_MS (--transaction-default-timeout-ms): must not "
                "be above OTTLA_TRANSACTION_MAX_TIMEOUT_MS (--transaction-max-timeout-ms), which "
                f"is {self.transaction_max_timeout_ms}"
            )
        if self.transactional_id_expiration_ms <= self.transaction_max_timeout_ms:
            raise ValueError(
                "OTTLA_TRANSACTIONAL_ID_EXPIRATION_MS (--transactional-id-expiration-ms): must be "
                "above OTTLA_TRANSACTION_MAX_TIMEOUT_MS (--transaction-max-timeout-ms), which is "
                f"{self.transaction_max_timeout_ms}"
            )
        return self

    @property
    def transaction_config(self) -> TransactionConfig:
        """What this broker's transaction coordinators are told."""
        return TransactionConfig(
            default_timeout_ms=self.transaction_default_timeout_ms,
            max_timeout_ms=self.transaction_max_timeout_ms,
            transactional_id_expiration_ms=self.transactional_id_expiration_ms,
            expiry_interval_ms=min(10 * MINUTE_MS, self.transactional_id_expiration_ms // 2),
        )

    @property
    def is_broker(self) -> bool:
        """Whether this process hosts replicas and serves clients."""
        return BROKER in self.roles

    @property
    def is_controller(self) -> bool:
        """Whether this process votes."""
        return CONTROLLER in self.roles

    @property
    def default_topic_configs(self) -> dict[str, ConfigValue]:
        """What topics that this broker creates as controller get, beyond the built-in defaults."""
        chosen: dict[str, ConfigValue] = {
            RETENTION_BYTES: self.retention_bytes,
            RETENTION_MS: self.retention_ms,
            SEGMENT_BYTES: self.segment_bytes,
            SEGMENT_MS: self.segment_ms,
            UNCLEAN_LEADER_ELECTION_ENABLE: self.unclean_leader_election_enable,
        }
        return {
            name: value for name, value in chosen.items() if value != TOPIC_CONFIGS[name].default
        }

    @property
    def url(self) -> str:
        """The URL that clients and peers are told."""
        return self.advertised_url or f"http://{self.listen}"

    @property
    def site_policy(self) -> SitePolicy:
        """Under which names it answers, and which web pages may call it."""
        return SitePolicy.of(
            allowed_hosts=self.allowed_hosts,
            own_urls=(self.url, f"http://{self.listen}", *self.voter_urls.values()),
            cors_origins=self.cors_origins,
        )

    @property
    def data_directory(self) -> Path:
        """The data directory, with its default filled in."""
        return self.data_dir or Path("data") / f"broker-{self.node_id}"

    @property
    def expected_peers(self) -> int:
        """How many other processes the cluster has, as far as the settings tell.

        Where all are voters they name every one; where roles are divided, only the controllers.
        """
        others = len(self.voter_urls.keys() - {self.node_id})
        return others if self.is_broker and self.is_controller else others + UNNAMED_PEERS

    @property
    def voter_urls(self) -> dict[int, str]:
        """Base URLs, by node id, of who votes while the metadata log does not say.

        This node's is among them if it is one, and never if it is to join the others.
        """
        if not self.voters and not self.join_quorum:
            return {self.node_id: self.url}
        return {
            node_id: f"http://{address}"
            for node_id, address in self.voters
            if not (self.join_quorum and node_id == self.node_id)
        }


def _parse_list(value: object, parse: Callable[[str], str]) -> object:
    """The entries of a comma-separated list; raises what `parse` raises."""
    if not isinstance(value, str):
        return value
    return tuple(parse(piece) for piece in value.split(",") if piece.strip())


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 hosts in brackets).

    Raises:
        ValueError: it is not of that form or the port is out of range.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"'{address}' is not of the form host:port")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Read flags and environment once.

    Raises:
        SettingsError: with one line that names the setting and the rule.
    """
    _refuse_unknown_names(environment)
    try:
        return Settings(_cli_parse_args=list(arguments))  # type: ignore[call-arg]  # pydantic-settings takes its source options as keywords
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from error
    except Exception as error:
        if type(error).__module__.startswith("pydantic_settings"):
            raise SettingsError(str(error).replace("\n", " ")) from error
        raise


def _refuse_unknown_names(environment: Mapping[str, str]) -> None:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if (
            name.startswith(ENVIRONMENT_PREFIX)
            and name not in known
            and name not in CLIENT_VARIABLES
        ):
            nearest = difflib.get_close_matches(name, known | CLIENT_VARIABLES, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise SettingsError(f"unknown setting {name}{hint}")


def _one_line(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if not name:
        return message
    setting = name.replace("-", "_")
    return f"{ENVIRONMENT_PREFIX}{setting.upper()} (--{setting.replace('_', '-')}): {message}"


def exit_with_usage(error: Exception) -> int:
    """Tell the one line that says why the broker cannot start; the exit code is 2."""
    print(f"ottla broker: {error}", file=sys.stderr, flush=True)
    return 2
