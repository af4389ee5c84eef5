"""The comparison with Kafka, held against the code: all options and configs, and their defaults."""

import dataclasses
import re
from pathlib import Path

import pytest

from ottla import ConfigError, ConsumerConfig, ProducerConfig
from ottla._config import _PRODUCER
from ottla._consumer_config import _CONSUMER
from ottla_cluster.controller import limits
from ottla_cluster.controller.topic_configs import TOPIC_CONFIGS
from ottla_cluster.groups import limits as group_limits

PAGE = (Path(__file__).parents[3] / "docs" / "kafka.md").read_text()
CLIENTS = {
    "Producer options": (ProducerConfig, _PRODUCER, {}),
    "Consumer options": (ConsumerConfig, _CONSUMER, {"group.id": "a-group"}),
}
VALUES = {"true": True, "false": False, "all": -1}
each_client = pytest.mark.parametrize("section", CLIENTS)


def rows(section):
    """The rows of a section's table: (what Kafka's column names, Ottla's column, the default)."""
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    table = re.findall(r"^\| (`.*?) \| (.*?) \|(?: (.*?))? \|$", body, re.MULTILINE)
    assert table
    return [(re.findall(r"`([^`]+)`", kafka), ottla, default) for kafka, ottla, default in table]


@each_client
def test_every_option_is_told_and_exists(section):
    _, options, _ = CLIENTS[section]
    told = {
        re.match(r"`(\w+)`", ottla)[1]: names[0]
        for names, ottla, _ in rows(section)
        if ottla.startswith("`")
    }
    assert told == {
        keyword: option.kafka_name or keyword.replace("_", ".")
        for keyword, option in options.items()
    }


@each_client
def test_what_is_said_to_be_refused_is(section):
    config, _, needed = CLIENTS[section]
    refusals = [(names, ottla) for names, ottla, _ in rows(section) if not ottla.startswith("`")]
    assert refusals
    for names, ottla in refusals:
        for name in names:
            with pytest.raises(ConfigError) as refused:
                config.from_options({"bootstrap.servers": "127.0.0.1:7101", name: "1"} | needed)
            known_to_kafka = "is not supported" in str(refused.value)
            assert known_to_kafka == ottla.startswith("refused"), str(refused.value)


@each_client
def test_defaults_are_as_told(section):
    config, _, _ = CLIENTS[section]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for _, ottla, told in rows(section):
        number = re.match(r"(\d+)\b", told)
        word = re.match(r"`([^`]+)`", told)
        if not ottla.startswith("`") or not (number or word):
            continue
        keyword = re.match(r"`(\w+)`", ottla)[1]
        default = defaults[keyword]
        if keyword == "compression":
            default = default.name.lower()
        elif keyword == "assignor":
            continue
        expected = int(number[1]) if number else VALUES.get(word[1], word[1])
        if keyword != "rebalance_timeout_ms":
            assert default == expected, keyword


def test_topic_configs_and_their_defaults_are_as_told():
    told = {}
    for names, ottla, default in rows("Topic configs"):
        if ottla == "same":
            told[names[0]] = default.strip("`")
        elif ottla.startswith("`"):
            told[re.match(r"`([\w.]+)`", ottla)[1]] = default.strip("`")
        else:
            assert ottla.startswith("none")
            assert not TOPIC_CONFIGS.keys() & set(names)
    assert told == {
        name: str(config.default).lower()
        if isinstance(config.default, bool)
        else str(config.default)
        for name, config in TOPIC_CONFIGS.items()
    }


def test_limits_are_as_told():
    assert f"| brokers | {limits.MAX_BROKERS} |" in PAGE
    assert limits.MAX_TOPICS == limits.MAX_PARTITIONS
    assert f"all topics together | {limits.MAX_PARTITIONS:,} |" in PAGE
    assert f"| partitions of a topic | {limits.MAX_PARTITIONS_PER_TOPIC:,} |" in PAGE
    groups, members = group_limits.MAX_GROUPS, group_limits.MAX_MEMBERS
    assert f"| {groups:,} at each coordinator, {members:,} |" in PAGE
