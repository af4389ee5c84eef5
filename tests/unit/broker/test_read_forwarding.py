"""What a read is passed on with to a leader that may be of the version before."""

from dataclasses import replace

import pytest

from ottla_broker.http.forwarding import path_for_leader
from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.controller.image import MetadataImage
from ottla_protocol.errors import UnsupportedFeatureLevelError

PATH = "/v1/topics/caf%C3%A9/partitions/0/records"
BEFORE = replace(MetadataImage(), feature_level=TRANSACTIONS.level - 1)
SINCE = replace(BEFORE, feature_level=TRANSACTIONS.level)


@pytest.mark.parametrize(
    ("query", "passed_on"),
    [
        ("", ""),
        ("?offset=3", "?offset=3"),
        ("?isolation=read_uncommitted", ""),
        ("?offset=3&isolation=read_uncommitted&max_records=2", "?offset=3&max_records=2"),
        ("?%69solation=read_uncommitted&filter=%24.a+%3D%3D+1", "?filter=%24.a+%3D%3D+1"),
        ("?filter=", "?filter="),
    ],
)
def test_what_is_meant_without_it_is_left_out_below_its_level(query, passed_on):
    assert path_for_leader(PATH + query, BEFORE) == PATH + passed_on
    assert path_for_leader(PATH + query, SINCE) == PATH + query


def test_committed_records_need_the_level_of_transactions():
    wanted = PATH + "?isolation=read_committed"
    assert path_for_leader(wanted, SINCE) == wanted
    with pytest.raises(UnsupportedFeatureLevelError, match="feature level"):
        path_for_leader(wanted, BEFORE)
