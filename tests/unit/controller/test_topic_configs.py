import pytest

from ottla_cluster.controller.topic_configs import (
    TOPIC_CONFIGS,
    cleanup_policies,
    effective_configs,
    fraction_config,
    integer_config,
    parse_configs,
    require_consistent,
)
from ottla_protocol.errors import InvalidConfigError


def test_values_become_their_own_type():
    parsed = parse_configs({"segment.bytes": "65536", "min.insync.replicas": 1, "durability": "os"})
    assert parsed == {"durability": "os", "min.insync.replicas": 1, "segment.bytes": 65536}
    assert list(parsed) == sorted(parsed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min.insync.replicas", 0),
        ("min.insync.replicas", True),
        ("min.insync.replicas", "two"),
        ("min.insync.replicas", "1.5"),
        ("segment.bytes", 10),
        ("max.message.bytes", 10**12),
        ("durability", "always"),
        ("durability", 1),
    ],
)
def test_wrong_values_are_refused_naming_the_config(name, value):
    with pytest.raises(InvalidConfigError, match=name):
        parse_configs({name: value})


def test_an_unknown_config_lists_the_known_ones_and_the_nearest():
    with pytest.raises(InvalidConfigError) as refused:
        parse_configs({"min.isync.replica": 1})
    assert "Did you mean 'min.insync.replicas'?" in refused.value.detail
    assert all(name in refused.value.detail for name in TOPIC_CONFIGS)


def test_a_config_that_no_broker_honours_yet_is_refused():
    with pytest.raises(InvalidConfigError, match="not supported"):
        parse_configs({"compression.type": "zstd"})


def test_every_default_is_a_legal_value():
    defaults = {name: known.default for name, known in TOPIC_CONFIGS.items()}
    assert parse_configs(defaults) == defaults == effective_configs({})


def test_effective_values_prefer_what_the_topic_sets():
    assert effective_configs({"durability": "os"})["durability"] == "os"
    assert integer_config({"segment.bytes": 4096}, "segment.bytes") == 4096
    assert integer_config({}, "segment.bytes") == TOPIC_CONFIGS["segment.bytes"].default


@pytest.mark.parametrize("value", [-1, 0, "86400000", 2**63 - 1])
@pytest.mark.parametrize("name", ["retention.ms", "retention.bytes"])
def test_a_retention_is_a_bound_or_none(name, value):
    assert parse_configs({name: value}) == {name: int(value)}


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("retention.ms", -2, "-1.."),
        ("retention.bytes", "much", "whole number"),
        ("segment.ms", 0, "1.."),
        ("cleanup.policy", "compacted", "one of delete, compact, delete,compact, compact,delete"),
        ("min.cleanable.dirty.ratio", 1.1, "within 0..1"),
        ("min.cleanable.dirty.ratio", "nan", "within 0..1"),
        ("min.cleanable.dirty.ratio", True, "a number"),
        ("delete.retention.ms", -1, "0.."),
        ("max.compaction.lag.ms", 0, "1.."),
        ("retention.ms", 1.5, "whole number"),
        ("message.timestamp.type", "logappendtime", "one of CreateTime, LogAppendTime"),
        ("message.timestamp.after.max.ms", -1, "0.."),
    ],
)
def test_what_is_no_retention_is_refused_with_its_rule(name, value, rule):
    with pytest.raises(InvalidConfigError, match=rule.replace(".", r"\.")):
        parse_configs({name: value})


@pytest.mark.parametrize(("value", "parsed"), [("0.25", 0.25), (1, 1.0), (0, 0.0), (0.5, 0.5)])
def test_a_fraction_comes_as_text_or_as_a_number(value, parsed):
    configs = parse_configs({"min.cleanable.dirty.ratio": value})
    assert fraction_config(configs, "min.cleanable.dirty.ratio") == parsed
    assert fraction_config({}, "min.cleanable.dirty.ratio") == 0.5


@pytest.mark.parametrize(
    ("value", "policies"),
    [
        ("delete", {"delete"}),
        ("compact", {"compact"}),
        ("delete,compact", {"delete", "compact"}),
        ("compact,delete", {"delete", "compact"}),
    ],
)
def test_a_topic_deletes_or_compacts_or_both(value, policies):
    assert cleanup_policies(parse_configs({"cleanup.policy": value})) == policies
    assert cleanup_policies({}) == {"delete"}


def test_a_record_cannot_have_to_be_compacted_before_it_may():
    require_consistent({"min.compaction.lag.ms": 10, "max.compaction.lag.ms": 10})
    with pytest.raises(InvalidConfigError, match=r"min\.compaction\.lag\.ms \(11\)"):
        require_consistent({"min.compaction.lag.ms": 11, "max.compaction.lag.ms": 10})
