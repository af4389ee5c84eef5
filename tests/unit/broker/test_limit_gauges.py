"""Limits are told with what is taken of them, as of the scrape."""

from prometheus_client import CollectorRegistry

from ottla_broker.limit_gauges import LimitGauges, LimitUse


def test_each_limit_is_told_as_it_is_now():
    registry = CollectorRegistry()
    limits = LimitGauges()
    registry.register(limits)
    taken = [3]
    limits.watch("places", lambda: LimitUse(taken[0], 10))
    limits.watch("bytes", lambda: LimitUse(0, 1 << 20))

    def told(name, limit):
        return registry.get_sample_value(f"ottla_limit_{name}", {"limit": limit})

    assert (told("used", "places"), told("max", "places")) == (3, 10)
    taken[0] = 10
    assert (told("used", "places"), told("max", "bytes")) == (10, 1 << 20)
