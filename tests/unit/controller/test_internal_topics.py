"""What operators may do with the brokers' own topics: move them, and go on after a loss."""

import pytest

from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterTopicConfigs,
    CreateTopic,
    ElectUnclean,
    Reassignment,
    UncleanElection,
)
from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.topic_configs import (
    OPERATORS_CONFIGS,
    TOPIC_CONFIGS,
    effective_configs,
    obeyed_configs,
)
from ottla_cluster.controller.topic_names import INTERNAL_TOPICS
from ottla_protocol.errors import InvalidConfigError, InvalidTopicError
from tests.unit.controller.metadata_under_test import MetadataUnderTest

NAME = "__consumer_offsets"
UNCLEAN = "unclean.leader.election.enable"
MIN_ISR = "min.insync.replicas"
MADE_WITH = {"max.message.bytes": 16 * 1024 * 1024}


class InternalTopic(MetadataUnderTest):
    """Three brokers and one internal topic of one partition."""

    def __init__(self, name=NAME, *, replication_factor=1, **config):
        super().__init__(3, **config)
        self.name = name
        self.apply(
            CreateTopic(
                name,
                partitions=1,
                replication_factor=replication_factor,
                configs=MADE_WITH,
                internal=True,
            )
        )

    @property
    def configs(self):
        return dict(self.image.topic(self.name).configs)

    @property
    def now(self):
        return self.partition(self.name)

    @property
    def min_isr(self):
        return effective_min_isr(self.image.topic(self.name), self.now)

    def alter(self, **configs):
        names = {name.replace("_", "."): value for name, value in configs.items()}
        return self.apply(AlterTopicConfigs(self.name, names))

    def reassign(self, *target):
        """To these replicas; without any, the reassignment under way is called off."""
        wanted = Reassignment(self.name, 0, target or None)
        (result,) = self.apply(AlterReassignments((wanted,))).results
        return result.error

    def elect(self):
        (result,) = self.apply(ElectUnclean((UncleanElection(self.name, 0),))).results
        return result


@pytest.mark.parametrize("name", INTERNAL_TOPICS)
def test_a_topic_that_was_made_with_one_replica_gets_three(name):
    metadata = InternalTopic(name)
    (only,) = metadata.now.replicas
    target = (only, *(n for n in (1, 2, 3) if n != only))
    assert metadata.reassign(*target) is None
    assert metadata.min_isr == 1, "groups go on while the new replicas copy"
    for count in (2, 3):
        metadata.set_isr(target[:count], name=name)
    assert (metadata.now.replicas, metadata.now.is_reassigning) == (target, False)
    assert metadata.min_isr == 2


def test_a_move_is_called_off():
    metadata = InternalTopic()
    before = metadata.now.replicas
    other = next(n for n in (1, 2, 3) if n not in before)
    assert metadata.reassign(other) is None
    assert metadata.now.is_reassigning
    assert metadata.reassign() is None
    assert (metadata.now.replicas, metadata.now.is_reassigning) == (before, False)


def test_min_isr_is_lowered_and_raised_again():
    metadata = InternalTopic(replication_factor=3)
    before = metadata.configs
    assert metadata.min_isr == 2
    metadata.alter(min_insync_replicas=1)
    assert metadata.min_isr == 1
    metadata.alter(min_insync_replicas=None)
    assert (metadata.min_isr, metadata.configs) == (2, before)


def test_the_only_replica_s_broker_is_gone_and_another_one_goes_on():
    metadata = InternalTopic()
    (only,) = metadata.now.replicas
    metadata.fence(only)
    other = next(n for n in (1, 2, 3) if n != only)
    refused = metadata.elect().error
    assert refused["code"] == "POLICY_VIOLATION"
    assert UNCLEAN in refused["detail"]
    metadata.alter(unclean_leader_election_enable="true")
    assert metadata.elect().error["code"] == "ELIGIBLE_LEADERS_NOT_AVAILABLE"
    assert metadata.reassign(other) is None
    assert metadata.elect().elected
    now = metadata.now
    assert (now.leader, now.replicas, now.is_reassigning) == (other, (other,), False)
    assert now.unclean_leader_epoch is not None
    assert metadata.min_isr == 1


def test_what_operators_set_is_reset_to_what_the_brokers_made_it_with():
    """Defaults for the users' topics are none of the brokers' own."""
    metadata = InternalTopic(default_topic_configs={UNCLEAN: True})
    before = metadata.configs
    assert effective_configs(before)[UNCLEAN] is False
    metadata.alter(unclean_leader_election_enable="true", min_insync_replicas=1)
    assert metadata.configs == before | {UNCLEAN: True, MIN_ISR: 1}
    metadata.alter(unclean_leader_election_enable=None, min_insync_replicas=None)
    assert metadata.configs == before
    metadata.create("orders")
    metadata.apply(AlterTopicConfigs("orders", {UNCLEAN: None}))
    assert metadata.image.topic("orders").configs[UNCLEAN] is True


@pytest.mark.parametrize("name", [each for each in TOPIC_CONFIGS if each not in OPERATORS_CONFIGS])
def test_every_other_config_is_the_brokers_own(name):
    metadata = InternalTopic()
    before = metadata.image
    default = TOPIC_CONFIGS[name].default
    for value in (default, None):
        with pytest.raises(InvalidTopicError, match=f"only {MIN_ISR} and .* not {name}"):
            metadata.apply(AlterTopicConfigs(NAME, {MIN_ISR: 1, name: value}))
    assert metadata.image is before, "all are changed, or none"


def test_a_misspelt_config_is_unknown():
    with pytest.raises(InvalidConfigError, match=r"Did you mean 'min\.insync\.replicas'"):
        InternalTopic().apply(AlterTopicConfigs(NAME, {"min.insync.replica": 1}))


def test_it_stays_compacted_without_bounds():
    metadata = InternalTopic()
    metadata.alter(unclean_leader_election_enable="true", min_insync_replicas=1)
    obeyed = effective_configs(obeyed_configs(NAME, metadata.configs))
    assert (obeyed["cleanup.policy"], obeyed["segment.bytes"]) == ("compact", 32 * 1024 * 1024)
    assert (obeyed["retention.ms"], obeyed["retention.bytes"]) == (-1, -1)
    assert obeyed["max.message.bytes"] == MADE_WITH["max.message.bytes"]
