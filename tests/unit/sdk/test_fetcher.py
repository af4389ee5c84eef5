"""What is fetched from whom and when, and what answers and errors do to the positions."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla import _fetcher
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_types import TopicPartition
from ottla._fetcher import (
    EMPTY_ANSWER_PAUSE_MS,
    LATE_AFTER_MS,
    MAX_CALLS_PER_BROKER,
    SHUN_FOLLOWER_MS,
    Fetcher,
)
from ottla._handout import Handout
from ottla._metadata import Metadata
from ottla._positions import Positions, Start
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import (
    BrokerDescription,
    FetchedPartition,
    MetadataResponse,
    PartitionDescription,
    TopicDescription,
)
from ottla_protocol.record_codec import RecordData, encode_batch

URLS = {1: "http://a:1", 2: "http://b:2", 3: "http://c:3"}
BACKOFF_MS = 50


def name(partition):
    return TopicPartition("t", partition)


class Bench:
    """A fetcher over a log in memory, with a clock of its own."""

    def __init__(self, *, partitions=2, leaders=None, **options):
        self.config = ConsumerConfig.from_options(
            {
                "bootstrap_servers": list(URLS.values()),
                "auto_offset_reset": "earliest",
                "retry_backoff_ms": BACKOFF_MS,
                **options,
            }
        )
        self.now_ms = 1_000
        self.wakes = 0
        self.leaders = leaders or [1 + each % 3 for each in range(partitions)]
        self.epochs = [0] * partitions
        self.topic_id = "id"
        self.metadata = Metadata(
            self.config.bootstrap_servers, max_age_ms=10**9, retry_backoff_ms=BACKOFF_MS
        )
        self.positions = Positions()
        self.fetcher = Fetcher(self.config, self.positions, self.metadata)
        self.handout = Handout(
            self.positions,
            NoLock(),
            key_deserializer=self.config.key_deserializer,
            value_deserializer=self.config.value_deserializer,
            may_read=lambda _: True,
            wake=self.wake,
            most_buffered_bytes=self.config.max_partition_fetch_bytes,
        )
        self.positions.assign([name(each) for each in range(partitions)])
        for state in self.positions.states.values():
            state.move_to(0)
            self.metadata.watch("t")
        self.learn()

    def wake(self):
        self.wakes += 1

    def learn(self):
        """Ask for metadata if that is wanted, and get the truth."""
        fetch = self.metadata.next_fetch(self.now_ms)
        if fetch is not None:
            changed = self.metadata.on_answer(fetch, self.truth(), self.now_ms)
            self.fetcher.on_new_leaders(changed)

    def truth(self):
        brokers = [
            BrokerDescription(node_id, url, f"rack-{node_id}", "active", 1)
            for node_id, url in URLS.items()
        ]
        partitions = [
            PartitionDescription(number, leader, epoch, [1, 2, 3], [1, 2, 3])
            for number, (leader, epoch) in enumerate(zip(self.leaders, self.epochs, strict=True))
        ]
        topic = TopicDescription("t", self.topic_id, partitions, {})
        return MetadataResponse("c", 1, 1, brokers, [topic])

    def calls(self):
        return self.fetcher.next_calls(self.now_ms)

    def state(self, partition=0):
        return self.positions.states[name(partition)]

    def answer(self, call, results):
        self.fetcher.on_answer(call, results, self.now_ms)


class NoLock:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def batch(first, count, size=20, epoch=0):
    records = [RecordData(1_000, None, b"x" * size) for _ in range(count)]
    return memoryview(encode_batch(records, base_offset=first, leader_epoch=epoch))


def fetched(partition, *batches, error=None, topic_id=None):
    problem = None if error is None else error.problem()
    return FetchedPartition("t", partition, list(batches), 100, 0, problem, topic_id)


def offsets(call):
    return {(each.partition, each.offset) for each in call.request.partitions}


class TestAsking:
    def test_each_leader_gets_one_request_for_what_it_leads(self):
        bench = Bench(partitions=6)
        calls = {call.url: offsets(call) for call in bench.calls()}
        assert calls == {URLS[each + 1]: {(each, 0), (each + 3, 0)} for each in range(3)}
        assert bench.calls() == []

    def test_a_request_names_the_options_and_the_leader_epoch(self):
        bench = Bench(
            partitions=1, fetch_min_bytes=7, fetch_max_wait_ms=8, max_partition_fetch_bytes=9_000,
            fetch_max_bytes=10_000, isolation_level="read_committed", request_timeout_ms=11,
        )  # fmt: skip
        [call] = bench.calls()
        request = call.request
        assert (request.min_bytes, request.max_wait_ms, request.max_bytes) == (7, 8, 10_000)
        assert (request.isolation, request.replica) == ("read_committed", "leader")
        assert (request.partitions[0].max_bytes, request.partitions[0].leader_epoch) == (9_000, 0)
        assert call.timeout_ms == 19

    def test_the_next_fetch_is_out_while_records_wait(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10))])
        [ahead] = bench.calls()
        assert offsets(ahead) == {(0, 10)}

    def test_but_not_when_a_fetch_worth_of_records_waits(self):
        bench = Bench(partitions=1, max_partition_fetch_bytes=400)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10), batch(10, 10))])
        assert bench.calls() == []
        assert bench.handout.take(1)
        assert offsets(bench.calls()[0]) == {(0, 20)}

    def test_all_that_waits_and_comes_is_bounded(self, monkeypatch):
        monkeypatch.setattr(_fetcher, "MAX_BUFFERED_BYTES", 3_000)
        bench = Bench(partitions=8, leaders=[1] * 8, max_partition_fetch_bytes=1_000)
        [call] = bench.calls()
        assert call.request.max_bytes == 1_000
        assert bench.calls() == []
        bench.answer(call, [fetched(each, batch(0, 15)) for each in range(8)])
        assert bench.calls() == []
        assert bench.wakes == 0
        bench.handout.take(1)
        # Whoever drives it is told that there is room, though no partition was full.
        assert bench.wakes == 1
        while bench.handout.take(100):
            pass
        assert bench.calls() != []

    def test_a_partition_that_was_full_has_the_driver_look_again(self):
        bench = Bench(partitions=1, max_partition_fetch_bytes=400)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10), batch(10, 10), batch(20, 1))])
        bench.handout.take(1)
        assert bench.wakes == 0
        bench.handout.take(10)
        assert bench.wakes == 1
        bench.handout.take(100)
        assert bench.wakes == 1

    def test_what_begins_to_be_wanted_does_not_wait_for_the_others(self):
        bench = Bench(partitions=3, leaders=[1, 1, 1])
        for each in (1, 2):
            bench.state(each).is_paused = True
        assert [offsets(call) for call in bench.calls()] == [{(0, 0)}]
        bench.state(1).is_paused = False
        assert [offsets(call) for call in bench.calls()] == [{(1, 0)}]
        bench.positions.seek(name(1), 5)
        assert [offsets(call) for call in bench.calls()] == [{(1, 5)}]

    def test_a_broker_gets_so_many_requests_and_no_more(self):
        bench = Bench(partitions=1)
        for number in range(MAX_CALLS_PER_BROKER):
            bench.positions.seek(name(0), number)
            assert len(bench.calls()) == 1
        bench.positions.seek(name(0), 99)
        assert bench.calls() == []

    def test_paused_held_and_unknown_positions_are_not_fetched(self):
        bench = Bench(partitions=3, leaders=[1, 1, 1])
        bench.state(0).is_paused = True
        bench.positions.hold([name(1)])
        bench.positions.seek_to(name(2), Start.LATEST)
        assert bench.calls() == []

    def test_a_broker_that_answers_with_nothing_at_once_is_left_alone_for_a_moment(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.answer(call, [fetched(0)])
        assert bench.calls() == []
        assert bench.fetcher.next_call_ms(bench.now_ms) == bench.now_ms + EMPTY_ANSWER_PAUSE_MS
        bench.now_ms += EMPTY_ANSWER_PAUSE_MS
        [call] = bench.calls()
        bench.now_ms += 500
        bench.answer(call, [fetched(0)])
        assert len(bench.calls()) == 1


class TestAnswers:
    def test_of_an_older_position_are_dropped(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.positions.seek(name(0), 50)
        bench.answer(call, [fetched(0, batch(0, 10))])
        assert not bench.state().has_records
        assert bench.state().fetch_offset == 50

    def test_of_a_partition_that_was_lost_are_dropped(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.positions.remove([name(0)])
        bench.positions.add([name(0)], is_announced=True)
        bench.answer(call, [fetched(0, batch(0, 10))])
        assert not bench.state().has_records
        assert bench.handout.take(10) == {}

    def test_a_batch_that_begins_before_the_position_is_trimmed(self):
        bench = Bench(partitions=1)
        bench.positions.seek(name(0), 4)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10))])
        [records] = bench.handout.take(100).values()
        assert [record.offset for record in records] == list(range(4, 10))

    def test_control_batches_are_stepped_over(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        control = memoryview(
            encode_batch([RecordData(1, b"k", b"v")], base_offset=0, is_control=True)
        )
        bench.answer(call, [fetched(0, control, batch(1, 2))])
        [records] = bench.handout.take(100).values()
        assert [record.offset for record in records] == [1, 2]
        [call] = bench.calls()
        bench.answer(call, [fetched(0, memoryview(encode_batch(
            [RecordData(1, b"k", b"v")], base_offset=3, is_control=True)))])  # fmt: skip
        assert bench.handout.take(100) == {}
        assert bench.state().position == 4

    def test_damage_is_an_error_that_stays_until_a_seek(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        broken = bytearray(batch(0, 10))
        broken[-1] ^= 1
        bench.answer(call, [fetched(0, memoryview(broken))])
        for _ in range(2):
            with pytest.raises(CorruptMessageError, match="t-0 at offset 0"):
                bench.handout.take(10)
        bench.positions.seek(name(0), 10)
        assert bench.handout.take(10) == {}
        assert any((0, 10) in offsets(call) for call in bench.calls())

    def test_that_do_not_go_on_are_an_error(self):
        bench = Bench(partitions=1)
        bench.positions.seek(name(0), 50)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10))])
        with pytest.raises(CorruptMessageError, match="ends at 10"):
            bench.handout.take(10)


class TestErrors:
    def test_a_hint_at_the_new_leader_is_followed_at_once(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        moved = NotLeaderOrFollowerError("moved", leader=2, leader_epoch=1, leader_url=URLS[2])
        bench.answer(call, [fetched(0, error=moved)])
        [call] = bench.calls()
        assert (call.url, offsets(call)) == (URLS[2], {(0, 0)})
        assert call.request.partitions[0].leader_epoch == 1

    @pytest.mark.parametrize(
        "error", [FencedLeaderEpochError("old"), NotLeaderOrFollowerError("not me")]
    )
    def test_a_stale_leader_is_asked_about_and_the_position_stays(self, error):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.leaders[0], bench.epochs[0] = 3, 4
        bench.answer(call, [fetched(0, error=error)])
        assert bench.calls() == []
        bench.learn()
        [call] = bench.calls()
        assert (call.url, offsets(call)) == (URLS[3], {(0, 0)})

    def test_a_leader_that_is_down_is_left_for_the_next_one(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.fetcher.on_failure(call, BrokerUnreachableError("refused"), bench.now_ms)
        assert bench.calls() == []
        bench.leaders[0], bench.epochs[0] = 2, 1
        bench.learn()
        assert [call.url for call in bench.calls()] == [URLS[2]]

    def test_the_same_leader_is_asked_again_after_a_while(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.fetcher.on_failure(call, BrokerUnreachableError("refused"), bench.now_ms)
        bench.learn()
        assert bench.calls() == []
        assert bench.fetcher.next_call_ms(bench.now_ms) == bench.now_ms + BACKOFF_MS
        bench.now_ms += BACKOFF_MS
        assert [call.url for call in bench.calls()] == [URLS[1]]

    @pytest.mark.parametrize(
        ("reset", "start"), [("earliest", Start.EARLIEST), ("latest", Start.LATEST)]
    )
    def test_out_of_range_begins_anew_where_the_option_says(self, reset, start):
        bench = Bench(partitions=1, auto_offset_reset=reset)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, error=OffsetOutOfRangeError("gone"))])
        assert (bench.state().position, bench.state().start) == (None, start)

    def test_out_of_range_is_told_without_a_reset(self):
        bench = Bench(partitions=1, auto_offset_reset="none")
        [call] = bench.calls()
        error = OffsetOutOfRangeError("gone", log_start_offset=5, log_end_offset=9)
        bench.answer(call, [fetched(0, error=error)])
        with pytest.raises(OffsetOutOfRangeError) as caught:
            bench.handout.take(1)
        assert caught.value.members["log_start_offset"] == 5
        assert bench.calls() == []
        bench.positions.seek(name(0), 5)
        assert bench.handout.take(1) == {}
        assert len(bench.calls()) == 1

    def test_out_of_range_waits_until_what_is_there_was_handed_out(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10))])
        [call] = bench.calls()
        bench.answer(call, [fetched(0, error=OffsetOutOfRangeError("gone"))])
        assert bench.state().position == 0
        bench.handout.take(10)
        bench.now_ms += BACKOFF_MS
        [call] = bench.calls()
        bench.answer(call, [fetched(0, error=OffsetOutOfRangeError("gone"))])
        assert bench.state().start is Start.EARLIEST

    def test_records_of_another_topic_of_that_name_are_not_taken(self):
        """The topic was deleted and made again, and the metadata is still the former's."""
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10), topic_id="id")])
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(10, 10), topic_id="another")])
        assert bench.state().fetch_offset == 10
        bench.now_ms += BACKOFF_MS
        bench.topic_id = "another"
        bench.learn()
        # What is left of the former topic is handed out first.
        assert bench.calls() == []
        bench.handout.take(10)
        assert bench.calls() == []
        assert (bench.state().position, bench.state().start) == (None, Start.COMMITTED)
        bench.state().move_to(0)
        [call] = bench.calls()
        bench.answer(call, [fetched(0, batch(0, 10), topic_id="another")])
        assert bench.state().fetch_offset == 10

    def test_a_topic_that_does_not_exist_is_told_by_every_poll(self):
        bench = Bench(partitions=1)
        bench.positions.assign([TopicPartition("x", 0)])
        bench.positions.states["x", 0].move_to(0)
        for _ in range(2):
            assert bench.calls() == []
            fetch = bench.metadata.next_fetch(bench.now_ms)
            assert fetch.topics == ("x",)
            error = UnknownTopicOrPartitionError("no topic x")
            bench.metadata.on_failure(fetch, error, bench.now_ms)
            assert bench.calls() == []
            with pytest.raises(UnknownTopicOrPartitionError, match="no topic x"):
                bench.handout.take(1)
            bench.now_ms += BACKOFF_MS

    def test_a_partition_that_does_not_exist_is_told(self):
        bench = Bench(partitions=1)
        bench.positions.assign([name(7)])
        bench.positions.states[name(7)].move_to(0)
        bench.calls()
        with pytest.raises(UnknownTopicOrPartitionError, match="not 7"):
            bench.handout.take(1)

    def test_of_a_group_a_deleted_topic_is_no_error(self):
        bench = Bench(partitions=1)
        bench.fetcher.tells_unknown = False
        bench.positions.assign([name(7)])
        bench.positions.states[name(7)].move_to(0)
        bench.calls()
        assert bench.handout.take(1) == {}


class TestLate:
    def test_a_leader_that_hangs_is_left_as_soon_as_there_is_another(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        due_ms = bench.now_ms + bench.config.fetch_max_wait_ms + LATE_AFTER_MS
        assert bench.fetcher.next_call_ms(bench.now_ms) == due_ms
        bench.now_ms = due_ms
        bench.leaders[0], bench.epochs[0] = 3, 1
        assert bench.calls() == []
        bench.learn()
        [other] = bench.calls()
        assert (other.url, offsets(other)) == (URLS[3], {(0, 0)})
        bench.answer(call, [fetched(0, batch(0, 5))])
        assert not bench.state().has_records
        bench.answer(other, [fetched(0, batch(0, 10))])
        assert len(bench.handout.take(100)[name(0)]) == 10

    def test_its_answer_counts_as_long_as_it_leads(self):
        bench = Bench(partitions=1)
        [call] = bench.calls()
        bench.now_ms += bench.config.fetch_max_wait_ms + LATE_AFTER_MS
        bench.learn()
        assert bench.calls() == []
        bench.answer(call, [fetched(0, batch(0, 5))])
        assert bench.state().has_records

    def test_a_follower_that_hangs_is_left_for_the_leader(self):
        bench = Bench(partitions=1, leaders=[1], client_rack="rack-3")
        [call] = bench.calls()
        bench.now_ms += bench.config.fetch_max_wait_ms + LATE_AFTER_MS
        assert [each.url for each in bench.calls()] == [URLS[1]]
        bench.fetcher.on_failure(call, BrokerUnreachableError("no answer"), bench.now_ms)
        assert bench.calls() == []


class TestRacks:
    def test_a_replica_of_the_same_rack_is_read_from(self):
        bench = Bench(partitions=1, leaders=[1], client_rack="rack-3")
        [call] = bench.calls()
        assert (call.url, call.request.replica) == (URLS[3], "any")

    def test_the_leader_is_where_the_rack_has_no_replica_in_sync(self):
        bench = Bench(partitions=1, leaders=[1], client_rack="rack-9")
        assert [call.url for call in bench.calls()] == [URLS[1]]

    def test_a_follower_that_cannot_serve_is_left_alone_for_a_while(self):
        bench = Bench(partitions=1, leaders=[1], client_rack="rack-3")
        [call] = bench.calls()
        bench.answer(call, [fetched(0, error=OffsetNotAvailableError("not here yet"))])
        [call] = bench.calls()
        assert call.url == URLS[1]
        bench.now_ms += SHUN_FOLLOWER_MS
        bench.answer(call, [fetched(0, batch(0, 1))])
        assert [call.url for call in bench.calls()] == [URLS[3]]


COUNT_BYTE = 60
"""Where the record count of a small batch stands."""


class Brokers:
    """Serves the bench's fetches from logs in memory, more or less of them at a time."""

    def __init__(self, bench, chance):
        self.bench = bench
        self.chance = chance
        self.logs = [[], [], []]
        for log in self.logs:
            end = 0
            for _ in range(12):
                count = chance.randint(1, 8)
                log.append((end, batch(end, count)))
                end += count + chance.choice([0, 0, 3])

    def serve(self, call):
        return [self.result(call.url, asked) for asked in call.request.partitions]

    def result(self, url, asked):
        number = asked.partition
        if URLS[self.bench.leaders[number]] != url:
            return fetched(number, error=NotLeaderOrFollowerError("moved"))
        if asked.leader_epoch != self.bench.epochs[number]:
            return fetched(number, error=FencedLeaderEpochError("old"))
        # Kafka's rule: from the batch that holds the offset.
        there = [
            each for first, each in self.logs[number] if first + each[COUNT_BYTE] > asked.offset
        ]
        return fetched(number, *there[: self.chance.randint(0, 3)])

    def move_a_leader(self):
        number = self.chance.randrange(3)
        self.bench.leaders[number] = self.chance.randint(1, 3)
        self.bench.epochs[number] += 1

    def offsets(self, number):
        return [first + each for first, one in self.logs[number] for each in range(one[COUNT_BYTE])]


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_whatever_happens_records_come_once_and_in_order(seed):
    """L7: without a seek, polls neither leave a record out nor go back."""
    chance = random.Random(seed)
    bench = Bench(partitions=3, max_partition_fetch_bytes=600)
    brokers = Brokers(bench, chance)
    out, seen = [], [[], [], []]
    for _ in range(300):
        action = chance.choice(["call", "answer", "fail", "move", "poll", "tick", "call", "answer"])
        if action == "call":
            bench.learn()
            out += bench.calls()
        elif action == "answer" and out:
            call = out.pop(chance.randrange(len(out)))
            bench.answer(call, brokers.serve(call))
        elif action == "fail" and out:
            call = out.pop(chance.randrange(len(out)))
            bench.fetcher.on_failure(call, BrokerUnreachableError("cut"), bench.now_ms)
        elif action == "move" and chance.random() < 0.3:
            brokers.move_a_leader()
        elif action == "poll":
            bench.positions.finish()
            for taken in bench.handout.take(chance.randint(1, 20)).values():
                seen[taken[0].partition] += [record.offset for record in taken]
        else:
            bench.now_ms += chance.randint(1, 80)
    for number in range(3):
        assert seen[number] == brokers.offsets(number)[: len(seen[number])]
        state = bench.state(number)
        assert state.buffered_bytes == sum(len(each) for each in state.buffered)
    assert sum(map(len, seen)) > 0


class TestFairness:
    def test_no_broker_does_without_because_of_the_others(self):
        bench = Bench(partitions=100)
        assert {call.url for call in bench.calls()} == set(URLS.values())

    def test_no_partition_does_without_while_others_have_records(self):
        bench = Bench(
            partitions=4, leaders=[1] * 4, max_partition_fetch_bytes=400, fetch_max_bytes=400
        )
        seen = set()
        for _ in range(8):
            for call in bench.calls():
                # The broker fills the answer in the order of the request.
                results = [fetched(each.partition) for each in call.request.partitions]
                first = call.request.partitions[0]
                results[0] = fetched(first.partition, batch(first.offset, 20))
                bench.answer(call, results)
            seen |= {each.partition for each in bench.handout.take(1_000)}
        assert seen == {0, 1, 2, 3}

    def test_paused_partitions_leave_room_to_the_others(self, monkeypatch):
        monkeypatch.setattr(_fetcher, "MAX_BUFFERED_BYTES", 3_000)
        bench = Bench(partitions=4, leaders=[1] * 4, max_partition_fetch_bytes=1_000)
        [call] = bench.calls()
        bench.answer(call, [*(fetched(each, batch(0, 40)) for each in range(3)), fetched(3)])
        assert bench.handout.take(1) != {}
        for each in range(3):
            bench.state(each).is_paused = True
        bench.now_ms += EMPTY_ANSWER_PAUSE_MS
        [call] = bench.calls()
        assert offsets(call) == {(3, 0)}
        bench.answer(call, [fetched(3, batch(0, 2))])
        assert {each.partition for each in bench.handout.take(9)} == {3}
        bench.state(0).is_paused = bench.state(1).is_paused = False
        again = {each for call in bench.calls() for each in offsets(call)}
        assert again >= {(0, 40), (1, 0)}
        assert [each.offset for each in bench.handout.take(2)[name(0)]] == [1, 2]
