"""The feature level: it rises, it never falls, and what needs a higher one waits for it."""

import msgspec
import pytest

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import FormCluster, RegisterBroker, UpgradeFeatureLevel
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.features import (
    FEATURES,
    LATEST_FEATURE_LEVEL,
    OLDEST_FEATURE_LEVEL,
    Feature,
    FeatureLevelTooHighError,
    check_supported,
    is_enabled,
    require,
)
from ottla_cluster.controller.handlers import handle
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.records import FeatureLevelChanged
from ottla_cluster.controller.replay import replay
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InvalidRequestError,
    Outcome,
    UnsupportedFeatureLevelError,
)
from tests.unit.controller.metadata_under_test import CLUSTER_ID

CONFIG = ControllerConfig(cluster_id=CLUSTER_ID)


def image_at(level):
    image = MetadataImage()
    return decided(image, FormCluster(CLUSTER_ID, level))[0]


def decided(image, command):
    result = handle(image, command, 0, None, CONFIG)
    return replay(image, result.records, image.version + 1), result


def test_the_level_rises_once():
    image, result = decided(image_at(1), UpgradeFeatureLevel(2))
    assert (image.feature_level, result.records) == (2, (FeatureLevelChanged(2),))
    assert (result.response.former_level, result.response.feature_level) == (1, 2)
    again, repeated = decided(image, UpgradeFeatureLevel(2))
    assert (again.feature_level, repeated.records) == (2, ())
    assert repeated.response.former_level == 2


@pytest.mark.parametrize(
    ("present", "wanted", "rule"),
    [(2, 1, "at least 2"), (1, LATEST_FEATURE_LEVEL + 1, f"at most {LATEST_FEATURE_LEVEL}")],
)
def test_it_neither_falls_nor_rises_above_what_is_known(present, wanted, rule):
    with pytest.raises(InvalidRequestError, match=rule):
        decided(image_at(present), UpgradeFeatureLevel(wanted))


def test_it_survives_a_snapshot():
    image, _ = decided(image_at(1), UpgradeFeatureLevel(2))
    assert decode_image(encode_image(image)) == image


@pytest.mark.parametrize("level", [1, 2])
def test_a_new_cluster_has_the_level_that_its_controller_is_told(level):
    config = ControllerConfig(cluster_id=CLUSTER_ID, initial_feature_level=level)
    active = ActiveController(MetadataImage(), config, None, 0)
    assert active.due(0) == (FormCluster(CLUSTER_ID, level),)


def test_what_needs_a_level_waits_for_it():
    feature = Feature("wheels", 2, "Rolling")
    assert not is_enabled(image_at(1), feature)
    with pytest.raises(UnsupportedFeatureLevelError, match="Rolling needs feature level 2"):
        require(image_at(1), feature)
    assert is_enabled(image_at(2), feature)
    require(image_at(2), feature)


def test_a_process_that_has_not_heard_of_the_level_yet_refuses_for_now_only():
    feature = Feature("wheels", 2, "Rolling")
    with pytest.raises(ControllerNotAvailableError, match="not known here yet") as refusal:
        require(MetadataImage(), feature)
    assert refusal.value.retriable
    assert refusal.value.outcome is Outcome.NOT_APPLIED


def test_a_version_stops_at_a_level_above_its_own():
    check_supported(LATEST_FEATURE_LEVEL)
    with pytest.raises(FeatureLevelTooHighError, match=f"level {LATEST_FEATURE_LEVEL + 1}"):
        check_supported(LATEST_FEATURE_LEVEL + 1)


def registration(**fields):
    return RegisterBroker(1, "first", "http://b", "", CLUSTER_ID, **fields)


def test_a_broker_that_does_not_support_the_level_is_not_registered():
    with pytest.raises(UnsupportedFeatureLevelError, match=r"level 2.*up to 1"):
        decided(image_at(2), registration())
    image, _ = decided(image_at(2), registration(latest_feature_level=2))
    assert image.brokers


def test_a_first_registration_has_nothing_that_an_older_controller_refuses():
    sent = msgspec.msgpack.decode(encode_message(registration()))
    assert set(sent) == {"type", "node_id", "incarnation_id", "url", "rack", "cluster_id"}
    image, _ = decided(image_at(1), registration())
    assert image.brokers


def test_features_are_in_order_and_within_what_is_supported():
    levels = [feature.level for feature in FEATURES]
    assert levels == sorted(levels)
    assert all(OLDEST_FEATURE_LEVEL < level <= LATEST_FEATURE_LEVEL for level in levels)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
