"""Each follower's lag over all partitions is one series, and there are only so many of them."""

from prometheus_client import CollectorRegistry

from ottla_broker.follower_gauges import FOLLOWERS_TOLD_MAX, FollowerGauges
from ottla_cluster.replication.leader import FollowerLag


def scrape(lags):
    registry = CollectorRegistry()
    gauges = FollowerGauges()
    registry.register(gauges)
    gauges.watch(lambda: lags)
    return registry


def test_partitions_are_added_up_by_follower():
    registry = scrape(
        [
            FollowerLag(2, 0, 0),
            FollowerLag(2, 40, 1_500),
            FollowerLag(2, 2, 500),
            FollowerLag(3, 0, 0),
            FollowerLag(3, None, 9_000),
        ]
    )

    def told(name, follower):
        return registry.get_sample_value(f"ottla_follower_{name}", {"follower": follower})

    names = ("partitions", "partitions_behind", "lag_records", "lag_seconds")
    assert [told(name, "2") for name in names] == [3, 2, 42, 1.5]
    # One that has not fetched yet lacks nobody knows how much, and is behind all the same.
    assert [told(name, "3") for name in names] == [2, 1, 0, 9]


def test_beyond_the_bound_the_worst_are_told():
    lags = [FollowerLag(number, 1, number) for number in range(1, FOLLOWERS_TOLD_MAX + 11)]
    registry = scrape(lags)
    (family,) = [f for f in registry.collect() if f.name == "ottla_follower_lag_seconds"]
    told = {int(sample.labels["follower"]) for sample in family.samples}
    assert told == set(range(11, FOLLOWERS_TOLD_MAX + 11))
