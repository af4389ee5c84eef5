"""The throttle in the metadata: set, kept in snapshots, and unknown to an older version."""

from dataclasses import replace

import msgspec
import pytest

from ottla_cluster.controller.commands import AlterReplicationThrottle
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.limits import MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND
from ottla_cluster.controller.records import ReplicationThrottleChanged
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_cluster.controller.throttle_handlers import alter_replication_throttle
from ottla_protocol.errors import InvalidRequestError, UnsupportedFeatureLevelError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def test_it_is_set_changed_and_taken_away():
    metadata = MetadataUnderTest()
    for rate in (5_000_000, 7_000_000, None):
        metadata.apply(AlterReplicationThrottle(rate))
        assert metadata.image.replication_throttle_bytes_per_second == rate
        assert decode_image(encode_image(metadata.image)) == metadata.image


def test_the_same_rate_again_is_no_record():
    image = replace(MetadataUnderTest().image, replication_throttle_bytes_per_second=5_000_000)
    assert alter_replication_throttle(image, AlterReplicationThrottle(5_000_000)).records == ()
    changed = alter_replication_throttle(image, AlterReplicationThrottle(None))
    assert changed.records == (ReplicationThrottleChanged(None),)


@pytest.mark.parametrize("rate", [0, -1, MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND - 1, 1 << 50])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(InvalidRequestError, match="throttle_bytes_per_second"):
        alter_replication_throttle(MetadataUnderTest().image, AlterReplicationThrottle(rate))


def test_an_older_version_is_told_nothing_of_it():
    image = MetadataImage(version=1, cluster_id="c", feature_level=1)
    with pytest.raises(UnsupportedFeatureLevelError):
        alter_replication_throttle(image, AlterReplicationThrottle(5_000_000))
    fields_of_level_1 = 7
    (_, rows) = msgspec.msgpack.decode(encode_image(image))
    assert len(rows) == fields_of_level_1
    assert decode_image(encode_image(image)) == image
    newer = replace(image, feature_level=2)
    assert len(msgspec.msgpack.decode(encode_image(newer))[1]) > fields_of_level_1
