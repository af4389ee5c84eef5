"""How an image that came as a snapshot takes the place of the one that was replayed.

Whoever acts on images compares the identity of their parts: what is the same object has not
changed. A decoded image shares nothing with the one before, so without this every topic would look
changed, and every replica would take up its role anew.
"""

from dataclasses import replace

from ottla_cluster.controller.image import MetadataImage, Partition, Topic


def sharing_with(former: MetadataImage, image: MetadataImage) -> MetadataImage:
    """An image equal to `image` whose every part that equals the former image's is that one."""
    topics = {
        topic_id: _shared_topic(former.topics.get(topic_id), topic)
        for topic_id, topic in image.topics.items()
    }
    brokers = {
        node_id: known if (known := former.brokers.get(node_id)) == broker else broker
        for node_id, broker in image.brokers.items()
    }
    is_same = list(topics) == list(former.topics) and all(
        former.topics[topic_id] is topic for topic_id, topic in topics.items()
    )
    return replace(
        image,
        brokers=former.brokers if brokers == former.brokers else brokers,
        topics=former.topics if is_same else topics,
        drains=former.drains if image.drains == former.drains else image.drains,
        topic_ids=former.topic_ids if image.topic_ids == former.topic_ids else image.topic_ids,
    )


def _shared_topic(former: Topic | None, topic: Topic) -> Topic:
    if former is None:
        return topic
    if former == topic:
        return former
    known = former.partitions
    return replace(
        topic,
        partitions=tuple(
            _shared_partition(known[number] if number < len(known) else None, partition)
            for number, partition in enumerate(topic.partitions)
        ),
    )


def _shared_partition(former: Partition | None, partition: Partition) -> Partition:
    return former if former is not None and former == partition else partition
