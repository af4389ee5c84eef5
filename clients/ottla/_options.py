"""Options as callers write them, to values that are checked: one small parser per kind.

Options come as keywords (`linger_ms=5`) or from a dict in Kafka's spelling (`"linger.ms": "5"`),
where every value may be text. Each parser takes both and raises ConfigError naming the option as
the caller spelled it, and the rule.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from ottla._errors import ConfigError

MAX_INT: Final = 2**31 - 1
MAX_LONG: Final = 2**63 - 1
MAX_BOOTSTRAP_SERVERS: Final = 64
MAX_CLIENT_ID_LENGTH: Final = 249

_MAX_PORT: Final = 65_535

Parser: TypeAlias = Callable[[str, Any], Any]
"""(option as spelled, value as given) to the value checked. Raises ConfigError."""


class Option(NamedTuple):
    """One option: its parser, and Kafka's name where that is not the keyword with dots."""

    parse: Parser
    kafka_name: str | None = None


def integer(minimum: int, maximum: int) -> Parser:
    """An int within bounds, both inclusive; text of one is taken too."""

    def parse(option: str, value: Any) -> int:
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise ConfigError(
                    f"{option} must be an integer, not {value!r}", option=option
                ) from None
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(
                f"{option} must be an integer, not {type(value).__qualname__}", option=option
            )
        if not minimum <= value <= maximum:
            raise ConfigError(
                f"{option} must be from {minimum} to {maximum}, not {value}", option=option
            )
        return value

    return parse


def boolean(option: str, value: Any) -> bool:
    """True or False, or their text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ConfigError(f"{option} must be true or false, not {value!r}", option=option)


def choice(values: Mapping[Any, Any]) -> Parser:
    """One of the keys of `values`, in any case; the parsed value is what it maps to."""

    def parse(option: str, value: Any) -> Any:
        wanted = value.lower() if isinstance(value, str) else value
        for known, meaning in values.items():
            if type(known) is type(wanted) and known == wanted:
                return meaning
        names = ", ".join(dict.fromkeys(str(known) for known in values if known is not None))
        raise ConfigError(f"{option} must be one of {names}, not {value!r}", option=option)

    return parse


def client_id(option: str, value: Any) -> str:
    """Visible ASCII, because it travels in a header."""
    if not isinstance(value, str) or not value or len(value) > MAX_CLIENT_ID_LENGTH:
        raise ConfigError(
            f"{option} must be text of 1 to {MAX_CLIENT_ID_LENGTH} characters", option=option
        )
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{option} must be visible ASCII, not {value!r}", option=option)
    return value


def servers(option: str, value: Any) -> tuple[str, ...]:
    """Base URLs of brokers: text with commas, or a list; `host:port` means `http://host:port`."""
    if isinstance(value, str):
        given: list[Any] = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        given = list(value)
    else:
        raise ConfigError(
            f"{option} must be text or a list of texts, not {type(value).__qualname__}",
            option=option,
        )
    urls = tuple(dict.fromkeys(_base_url(option, each) for each in given))
    if not 1 <= len(urls) <= MAX_BOOTSTRAP_SERVERS:
        raise ConfigError(
            f"{option} must name 1 to {MAX_BOOTSTRAP_SERVERS} brokers, not {len(urls)}",
            option=option,
            hint="for example bootstrap_servers='http://127.0.0.1:7101,http://127.0.0.1:7102'",
        )
    return urls


def _base_url(option: str, value: Any) -> str:
    rule = "is no address of a broker: http://host:port or host:port is wanted"
    if not isinstance(value, str):
        raise ConfigError(f"{option}: {value!r} {rule}", option=option)
    text = value.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{option}: {value!r} {rule} ({error})", option=option) from error
    is_whole = parts.scheme in ("http", "https") and host and port and port <= _MAX_PORT
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username
    if not is_whole or has_more or any(character.isspace() for character in text):
        raise ConfigError(f"{option}: {value!r} {rule}", option=option)
    if parts.scheme == "https":
        raise ConfigError(f"{option}: {value!r}: there is no TLS yet, use http://", option=option)
    named = f"[{host}]" if ":" in str(host) else host
    return f"{parts.scheme}://{named}:{port}"


def objects(*methods: str) -> Parser:
    """A list of objects, each with at least one of `methods`."""

    def parse(option: str, value: Any) -> tuple[Any, ...]:
        if value is None:
            return ()
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise ConfigError(
                f"{option} must be a list of objects, not {type(value).__qualname__}", option=option
            )
        given = tuple(value)
        for each in given:
            if isinstance(each, type) or not any(
                callable(getattr(each, method, None)) for method in methods
            ):
                raise ConfigError(
                    f"{option}: {each!r} has none of the methods {', '.join(methods)}",
                    option=option,
                    hint="pass instances, not classes" if isinstance(each, type) else None,
                )
        return given

    return parse


def as_given(option: str, value: Any) -> Any:  # noqa: ARG001  a parser
    """The value unchanged: whoever uses it checks it."""
    return value


def parse_options(
    given: Mapping[str, Any], options: Mapping[str, Option], unsupported: Mapping[str, str]
) -> dict[str, Any]:
    """The options given, by keyword, each parsed.

    Args:
        given: by keyword or in Kafka's spelling.
        options: every option by keyword.
        unsupported: Kafka's options that have no meaning here, with the reason.

    Raises:
        ConfigError: an option is unknown (the nearest one is named), given twice, or wrong.
    """
    keywords: dict[str, str] = {}
    for keyword, option in options.items():
        kafka_name = option.kafka_name or keyword.replace("_", ".")
        keywords |= {keyword: keyword, kafka_name: keyword, kafka_name.replace(".", "_"): keyword}
    parsed: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in given.items():
        keyword_found = keywords.get(name)
        if keyword_found is None:
            raise _unknown(name, keywords, unsupported)
        if keyword_found in spelled:
            raise ConfigError(
                f"{name} and {spelled[keyword_found]} are the same option, given twice", option=name
            )
        spelled[keyword_found] = name
        parsed[keyword_found] = options[keyword_found].parse(name, value)
    return parsed


def _unknown(name: Any, keywords: Mapping[str, str], unsupported: Mapping[str, str]) -> ConfigError:
    reason = unsupported.get(str(name).replace("_", "."))
    if reason is not None:
        return ConfigError(f"{name} is not supported: {reason}", option=str(name))
    # Whoever writes dots is helped by a name with dots.
    spelling = [known for known in keywords if ("." in known) == ("." in str(name))]
    nearest = get_close_matches(str(name), spelling, 1, 0.5)
    return ConfigError(
        f"unknown option {name!r}" + (f", did you mean {nearest[0]!r}?" if nearest else ""),
        option=str(name),
        hint="" if nearest else f"known are {', '.join(sorted(set(keywords.values())))}",
    )
