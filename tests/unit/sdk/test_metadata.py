"""When metadata is asked for, of whom, and what is believed."""

from ottla._metadata import MAX_TOPICS_PER_FETCH, Metadata
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import UnknownTopicOrPartitionError
from ottla_protocol.models import (
    BrokerDescription,
    MetadataResponse,
    PartitionDescription,
    TopicDescription,
)

BOOTSTRAP = ("http://a:1", "http://b:2")


def metadata(**options):
    return Metadata(BOOTSTRAP, **{"max_age_ms": 1_000, "retry_backoff_ms": 100, **options})


def answer(*topics, leader=1, leader_epoch=5, topic_id="id", partitions=1):
    return MetadataResponse(
        "c",
        1,
        1,
        [BrokerDescription(each, f"http://broker:{each}", "", "active", 1) for each in (1, 2)],
        [
            TopicDescription(
                name,
                topic_id,
                [
                    PartitionDescription(index, leader, leader_epoch, [1, 2], [1])
                    for index in range(partitions)
                ],
                {},
            )
            for name in topics
        ],
    )


def learn(machine, *topics, now_ms=0, **facts):
    for topic in topics:
        machine.watch(topic)
    fetch = machine.next_fetch(now_ms)
    return machine.on_answer(fetch, answer(*fetch.topics, **facts), now_ms)


def test_a_new_topic_is_asked_for_once_and_again_when_it_is_old():
    machine = metadata()
    assert machine.next_fetch(0) is None
    machine.watch("t")
    fetch = machine.next_fetch(0)
    assert (fetch.topics, fetch.path) == (("t",), "/v1/metadata?topics=t")
    assert fetch.url in BOOTSTRAP
    assert machine.next_fetch(0) is None, "one question at a time"
    assert machine.on_answer(fetch, answer("t"), 10) == [("t", 0)]
    assert machine.leader("t", 0) == (1, "http://broker:1", 5)
    assert machine.next_fetch(1_009) is None
    assert machine.next_fetch_ms(500) == 1_010
    assert machine.next_fetch(1_010).topics == ("t",)


def test_many_topics_are_asked_for_in_groups():
    machine = metadata()
    for number in range(MAX_TOPICS_PER_FETCH + 1):
        machine.watch(f"t{number}")
    assert len(machine.next_fetch(0).topics) == MAX_TOPICS_PER_FETCH


def test_every_broker_is_tried_before_it_waits():
    machine = metadata()
    machine.watch("t")
    tried = []
    for _ in BOOTSTRAP:
        fetch = machine.next_fetch(0)
        tried.append(fetch.url)
        machine.on_failure(fetch, BrokerUnreachableError(f"{fetch.url}: refused"), 0)
    assert sorted(tried) == sorted(BOOTSTRAP)
    assert machine.reasons == dict.fromkeys(tried, "refused")
    assert machine.next_fetch(99) is None
    assert machine.next_fetch_ms(0) == 100
    assert machine.next_fetch(100) is not None


def test_an_unknown_topic_among_others_is_found_by_asking_for_each():
    machine = metadata()
    machine.watch("here")
    machine.watch("nowhere")
    unknown = UnknownTopicOrPartitionError("there is no topic 'nowhere'")
    machine.on_failure(machine.next_fetch(0), unknown, 0)
    for _ in range(2):
        fetch = machine.next_fetch(0)
        if fetch.topics == ("here",):
            machine.on_answer(fetch, answer("here"), 0)
        else:
            machine.on_failure(fetch, unknown, 0)
    assert machine.leader("here", 0) is not None
    assert machine.gone("nowhere") is unknown
    assert machine.next_fetch(50) is None
    machine.watch("nowhere")
    assert machine.gone("nowhere") is None
    assert machine.next_fetch(50).topics == ("nowhere",)


def test_a_suspect_leader_is_asked_for_until_there_is_a_newer_one():
    machine = metadata()
    learn(machine, "t")
    machine.suspect("t", 0, 4)
    assert machine.next_fetch(10) is None, "a newer leader is known already"
    machine.suspect("t", 0, 5)
    fetch = machine.next_fetch(10)
    assert machine.on_answer(fetch, answer("t"), 10) == []
    assert machine.next_fetch(109) is None
    fetch = machine.next_fetch(110)
    assert machine.on_answer(fetch, answer("t", leader=2, leader_epoch=6), 110) == [("t", 0)]
    assert machine.next_fetch(300) is None
    machine.suspect("t", 0, 6)
    machine.trust("t", 0)
    assert machine.next_fetch(300) is None


def test_an_older_answer_does_not_bring_an_older_leader_back():
    machine = metadata(max_age_ms=1)
    learn(machine, "t", partitions=2)
    learn(machine, "t", now_ms=10, leader=2, leader_epoch=4)
    assert machine.leader("t", 0) == (1, "http://broker:1", 5)
    assert machine.leader("t", 1) is not None, "partitions are never lost"
    learn(machine, "t", now_ms=20, leader=2, leader_epoch=0, topic_id="another")
    assert machine.leader("t", 0) == (2, "http://broker:2", 0), "a new topic of that name"


def test_a_hint_is_news_only_with_a_newer_epoch():
    machine = metadata()
    learn(machine, "t")
    assert not machine.hint("t", 0, 2, "http://broker:2", 5)
    assert not machine.hint("t", 3, 2, "http://broker:2", 6)
    assert machine.hint("t", 0, 3, "http://broker:3", 6)
    assert machine.leader("t", 0) == (3, "http://broker:3", 6)


def test_without_a_leader_there_is_none():
    machine = metadata()
    learn(machine, "t", leader=None)
    assert machine.leader("t", 0) is None
    assert machine.leader("t", 9) is None
    assert machine.leader("other", 0) is None
    assert machine.age_ms(70) == 70
