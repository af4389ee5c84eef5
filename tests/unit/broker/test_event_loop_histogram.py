"""The histogram of the hot path tells Prometheus what the client library's would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from ottla_broker.event_loop_histogram import EventLoopHistogram

BUCKETS = (0.5, 1.0, 2.5)


def own(registry, labels=("kind",)):
    return EventLoopHistogram("x_seconds", "Meaning", labels, buckets=BUCKETS, registry=registry)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from((0, 0.5, 0.7, 1.0, 2.5, 9)))))
def test_it_renders_as_the_librarys_own(observations):
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    histograms = [
        own(mine),
        Histogram("x_seconds", "Meaning", ["kind"], buckets=BUCKETS, registry=theirs),
    ]
    for kind, amount in observations:
        for histogram in histograms:
            histogram.labels(kind).observe(amount)
    assert generate_latest(mine) == generate_latest(theirs)


def test_without_labels_it_is_there_from_the_beginning():
    registry = CollectorRegistry()
    histogram = own(registry, labels=())
    assert registry.get_sample_value("x_seconds_count") == 0
    histogram.observe(1.0)
    assert registry.get_sample_value("x_seconds_bucket", {"le": "0.5"}) == 0
    assert registry.get_sample_value("x_seconds_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("x_seconds_sum") == 1


def test_a_block_is_observed_however_it_ends():
    registry = CollectorRegistry()
    series = own(registry).labels("a")
    with series.time():
        pass
    with pytest.raises(KeyError), series.time():
        raise KeyError
    assert registry.get_sample_value("x_seconds_count", {"kind": "a"}) == 2
    assert 0 < registry.get_sample_value("x_seconds_sum", {"kind": "a"}) < 60
