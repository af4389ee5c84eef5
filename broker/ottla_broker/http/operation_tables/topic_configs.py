"""The schema of a topic's configs, made from their definitions."""

from typing import Any

from ottla_cluster.controller.topic_configs import (
    TOPIC_CONFIGS,
    ChoiceConfig,
    FractionConfig,
    IntegerConfig,
    TopicConfig,
)

AS_TEXT = {"type": "string", "description": "The same as text, as Kafka's tools send it."}


def _value_schema(config: TopicConfig) -> dict[str, Any]:
    if isinstance(config, ChoiceConfig):
        return {"type": "string", "enum": list(config.choices)}
    if isinstance(config, IntegerConfig):
        number = {"type": "integer", "minimum": config.minimum, "maximum": config.maximum}
        return {"anyOf": [number, AS_TEXT]}
    if isinstance(config, FractionConfig):
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, AS_TEXT]}
    return {"anyOf": [{"type": "boolean"}, AS_TEXT]}


def configs_schema(*, may_reset: bool) -> dict[str, Any]:
    """Configs by name; with `may_reset` null stands for the default."""
    properties = {}
    for name, config in TOPIC_CONFIGS.items():
        schema = _value_schema(config)
        if may_reset:
            schema = {"anyOf": [schema, {"type": "null"}]}
        properties[name] = schema | {"description": config.doc, "default": config.default}
    return {"properties": properties, "additionalProperties": False}
