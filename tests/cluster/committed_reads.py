"""What readers of committed records get of a whole topic."""

from ottla import Consumer, TopicPartition

WAIT_S = 60


def committed_values(client, topic, partitions=3):
    """The values of each partition, as text, up to where such a reader may read now."""
    names = [TopicPartition(topic, each) for each in range(partitions)]
    found = {name: [] for name in names}
    servers = [client.url(node_id) for node_id in client.node_ids]
    with Consumer(bootstrap_servers=servers, isolation_level="read_committed") as consumer:
        consumer.assign(names)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(names, timeout=WAIT_S)
        while any(consumer.position(name, WAIT_S) < end for name, end in ends.items()):
            for name, records in consumer.poll(timeout=1).items():
                found[name] += [record.value.decode() for record in records]
    return [found[name] for name in names]
