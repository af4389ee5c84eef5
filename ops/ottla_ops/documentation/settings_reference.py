"""The reference of settings and of topics' configs, made from the code that checks them."""

import types
from collections.abc import Iterator
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ottla_broker.settings import ENVIRONMENT_PREFIX, Settings
from ottla_cluster.controller.topic_configs import (
    TOPIC_CONFIGS,
    BooleanConfig,
    ChoiceConfig,
    IntegerConfig,
    TopicConfig,
)
from ottla_ops.documentation.markdown import code, table

UNITS: Final = {
    "_bytes_per_second": "bytes per second",
    "_bytes_per_s": "bytes per second",
    "_bytes": "bytes",
    "_ms": "milliseconds",
}
"""What a setting's name ends in, and its unit."""

HEADER: Final = """\
# Settings

## Of a process

A setting is a flag of `python -m ottla_broker` or a variable of the environment; the flag goes
first. Lists are comma-separated. A variable that begins with `OTTLA_` and is no setting ends the
process with exit code 2 and names the nearest one. What is wrong is said in one line, before
anything is opened.

"""

TOPIC_HEADER: Final = """
## Of a topic

`ottla topic create NAME --config name=value`, `ottla topic alter`, or `configs` over HTTP. Where
a setting of the process is called the same, it is the default of topics that the controller
creates from then on.

"""


def settings_reference() -> str:
    """The reference, as Markdown."""
    settings = table(
        ("Variable", "Flag", "Default", "Unit", "Limits", "Meaning"), map(_setting, _fields())
    )
    topic_configs = table(
        ("Config", "Default", "Limits", "Meaning"), map(_topic_config, TOPIC_CONFIGS.values())
    )
    return HEADER + settings + TOPIC_HEADER + topic_configs


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    return iter(sorted(Settings.model_fields.items()))


def _setting(named: tuple[str, FieldInfo]) -> tuple[str, ...]:
    name, field = named
    return (
        code(ENVIRONMENT_PREFIX + name.upper()),
        code("--" + name.replace("_", "-")),
        "required" if field.is_required() else code(_shown(field.default)),
        next((unit for ending, unit in UNITS.items() if name.endswith(ending)), ""),
        _limits(field),
        field.description or "",
    )


def _limits(field: FieldInfo) -> str:
    found = {
        bound: getattr(each, bound)
        for each in field.metadata
        for bound in ("ge", "le", "max_length", "pattern")
        if getattr(each, bound, None) is not None
    }
    words = [code(word) for word in _choices(field.annotation)]
    if "ge" in found:
        words.append(f"{found['ge']} to {found['le']}" if "le" in found else f"from {found['ge']}")
    if "max_length" in found:
        words.append(f"at most {found['max_length']} characters")
    if "pattern" in found:
        words.append(code(found["pattern"]))
    return ", ".join(words)


def _choices(annotation: Any) -> list[str]:
    """The words that a type allows, if it allows a few words only."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return [word for part in get_args(annotation) for word in _choices(part)]
    return []


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else str(default)


def _topic_config(config: TopicConfig) -> tuple[str, ...]:
    return (code(config.name), code(_shown(config.default)), _topic_limits(config), config.doc)


def _topic_limits(config: TopicConfig) -> str:
    if isinstance(config, IntegerConfig):
        return f"{config.minimum} to {config.maximum}"
    if isinstance(config, ChoiceConfig):
        return ", ".join(map(code, config.choices))
    return "`true`, `false`" if isinstance(config, BooleanConfig) else "0 to 1"
