"""Each hosted partition is told of, up to a bound, and those that are led come first."""

from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest

from ottla_broker.partition_gauges import PARTITIONS_TOLD_MAX, UNTOLD, PartitionGauges


def hosted(topic, partition, *, leads=False):
    return SimpleNamespace(
        state=SimpleNamespace(topic=topic, partition=partition),
        leader=object() if leads else None,
        high_watermark=20,
        last_stable_offset=15,
        log=SimpleNamespace(log_start_offset=10, log_end_offset=30, size_bytes=4096),
    )


def scraped(replicas):
    registry = CollectorRegistry()
    gauges = PartitionGauges()
    registry.register(gauges)
    gauges.watch(replicas)
    lines = generate_latest(registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_partition_has_its_offsets_and_its_size():
    samples = scraped({("id", 3): hosted("orders", 3)})
    labels = '{partition="3",topic="orders"}'
    assert {name: float(value) for name, value in samples.items()} == {
        f"ottla_partition_log_start_offset{labels}": 10,
        f"ottla_partition_high_watermark{labels}": 20,
        f"ottla_partition_last_stable_offset{labels}": 15,
        f"ottla_partition_log_end_offset{labels}": 30,
        f"ottla_partition_size_bytes{labels}": 4096,
        UNTOLD: 0,
    }


def test_what_is_gone_is_told_no_more():
    registry = CollectorRegistry()
    gauges = PartitionGauges()
    registry.register(gauges)
    replicas = {("id", 3): hosted("orders", 3)}
    gauges.watch(replicas)
    assert b"orders" in generate_latest(registry)
    replicas.clear()
    assert b"orders" not in generate_latest(registry)


def test_beyond_the_bound_those_that_are_led_have_their_series():
    followed = {("id", n): hosted("a", n) for n in range(PARTITIONS_TOLD_MAX + 5)}
    samples = scraped({**followed, ("led", 0): hosted("z", 0, leads=True)})
    assert float(samples[UNTOLD]) == 6
    ends = [name for name in samples if name.startswith("ottla_partition_log_end_offset")]
    assert len(ends) == PARTITIONS_TOLD_MAX
    assert 'ottla_partition_log_end_offset{partition="0",topic="z"}' in ends
