"""Slips in paths: the path that was meant is named, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.known_paths import MAX_PATH_CHARACTERS, KnownPaths
from ottla_broker.http.operation_tables import OPERATIONS

KNOWN = KnownPaths(each.path for each in OPERATIONS)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/topic", "/v1/topics"),
        ("/v1/topics/", "/v1/topics"),
        ("/v1/topics/flights/record", "/v1/topics/flights/records"),
        (
            "/v1/topics/flights/partition/0/records",
            "/v1/topics/flights/partitions/0/records",
        ),
        ("/v1/group/reports/poll", "/v1/groups/reports/poll"),
        ("/v1/groups/reports/pol", "/v1/groups/reports/poll"),
        ("/V1/topics", "/v1/topics"),
        ("/v3/clusters/local/topic", "/v3/clusters/local/topics"),
        ("/topic", "/topics"),
        ("/doc", "/docs"),
        ("/v1/toipcs", "/v1/topics"),
        ("/v1/rec", None),
        ("/v1/group/reports/pol", None),
        ("/favicon.ico", None),
        ("/v1/topics//records", None),
        ("/" + "v1/topic".zfill(MAX_PATH_CHARACTERS), None),
    ],
)
def test_the_path_that_was_meant_is_named(path, meant):
    assert KNOWN.nearest(path) == meant


@given(st.text().map("/{}".format))
def test_any_path_is_dealt_with(path):
    meant = KNOWN.nearest(path)
    assert meant is None or "{" not in meant or "{" in path
