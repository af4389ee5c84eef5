"""One process of clients: `python -m tests.chaos.client_process KIND OPTIONS`, OPTIONS as JSON.

Each client writes down whatever it does (`tests.chaos.history`), bounded in rate, until SIGTERM;
then it ends what it has begun and exits with 0. What no client may ever be told, an error that is
neither retriable nor expected, ends the process with another code.

Kinds:
    produce  an SDK producer (idempotent, acks=all), and plain HTTP with Idempotency-Key, which
             tries again elsewhere; now and then it hangs up in the middle of a body
    read     an SDK consumer, a plain HTTP reader of the leaders, one of a follower's own copy, and
             one that asks for ends, times and leaders
    group    an SDK consumer in a group
"""

import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from urllib.parse import urlsplit

import urllib3

from ottla import Consumer, Producer, TopicPartition
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from tests.chaos.expected_codes import EXPECTED_CODES
from tests.chaos.group_reader import poll_once, read_in_group
from tests.chaos.history import (
    COMMITTED,
    END_OFFSET,
    LEADER,
    POLL,
    SEND,
    TIME_LOOKUP,
    HistoryWriter,
)
from tests.cluster.http_client import HttpClient

REQUEST_TIMEOUT_S = 4.0
PRODUCE_TIMEOUT_MS = 3_000
GIVE_UP_AFTER_S = 12.0
DELIVERY_TIMEOUT_MS = 30_000
FLUSH_TIMEOUT_S = 35.0
CUT_SHARE = 0.05
LARGE_SHARE = 0.02
LARGE_CHARACTERS = 300_000
TAIL_RECORDS = 200
"""How far before the end a reader begins that replaces one that was killed."""
LOOKUP_AGE_MS_MAX = 20_000


class Client:
    """What the clients of one process share.

    Args:
        options: of the command line, `name`, `urls`, `topic`, `partitions`, `history`, `seed`,
            `pause_s` (between two operations) and `is_first` (it replaces nobody).
    """

    def __init__(self, options):
        self.name = options["name"]
        self.urls = options["urls"]
        self.topic = options["topic"]
        self.partitions = range(options["partitions"])
        self.pause_s = options["pause_s"]
        self.is_first = options["is_first"]
        self.group = options["group"]
        self.ended = threading.Event()
        self.failures = []
        self._options = options

    def history(self, part):
        """The history of one of this process's clients."""
        return HistoryWriter(
            f"{self._options['history']}/{self.name}-{part}.jsonl", f"{self.name}-{part}"
        )

    def random(self, part):
        return random.Random(f"{self._options['seed']}-{self.name}-{part}")

    def path(self, template, partition):
        return template.format(topic=self.topic, partition=partition)


def send_by_sdk(client):
    """Send single records to one partition after the other."""
    history, numbers = client.history("sdk"), client.random("sdk")
    with Producer(
        bootstrap_servers=client.urls,
        value_serializer="json",
        delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
        request_timeout_ms=5_000,
        linger_ms=2,
    ) as producer:
        count = 0
        while not client.ended.wait(client.pause_s):
            for partition in client.partitions:
                value = f"{client.name}-sdk-{count}"
                count += 1
                pad = LARGE_CHARACTERS if numbers.random() < LARGE_SHARE else 10
                number = history.invoke(SEND, partition=partition, value=value, is_ordered=True)

                def told(error, metadata, number=number):
                    _note_delivery(history, number, error, metadata)

                try:
                    producer.send(
                        client.topic,
                        value,
                        partition=partition,
                        headers={"pad": b"x" * pad},
                        on_delivery=told,
                    )
                except OttlaError as error:
                    # It was not taken: the buffer is full, or the topic's metadata is not there.
                    history.fail(number, detail=repr(error), codes=[error.code])
                    if not error.retriable:
                        raise
        producer.flush(FLUSH_TIMEOUT_S)


def _note_delivery(history, number, error, metadata):
    """What the callback of a send was told: an offset where it failed is written down, too."""
    if error is None:
        history.ok(number, offset=metadata.offset)
        return
    code = getattr(error, "code", type(error).__name__)
    told = {"code": code, **getattr(error, "members", {})}
    offset = offset_in(told) if metadata is None else metadata.offset
    is_refused = getattr(error, "outcome", None) is Outcome.NOT_APPLIED
    note = history.fail if is_refused else history.info
    note(number, detail=repr(error), codes=[code], offset=offset)


def send_by_http(client):
    """POST records one request after the other; a retry goes to another broker, with its key."""
    history, numbers, http = client.history("http"), client.random("http"), HttpClient()
    count = 0
    while not client.ended.wait(client.pause_s):
        partition = numbers.choice(client.partitions)
        value = f"{client.name}-http-{count}"
        count += 1
        number = history.invoke(SEND, partition=partition, value=value)
        if numbers.random() < CUT_SHARE:
            _hang_up(client, numbers, partition, value)
            history.fail(number, detail="half a body was sent")
        else:
            _send_until_known(client, numbers, http, history, number, partition, value)
    http.close()


def _send_until_known(client, numbers, http, history, number, partition, value):
    path = client.path(routes.PARTITION_RECORDS, partition)
    gives_up_s = time.monotonic() + GIVE_UP_AFTER_S
    outcome, detail, codes, offset = Outcome.NOT_APPLIED, None, [], None
    # A failure that tells an offset is a defect, and a success afterwards would hide it.
    while offset is None and time.monotonic() < gives_up_s:
        try:
            answer = http.post(
                numbers.choice(client.urls) + path,
                {"records": [{"value": value}]},
                headers={routes.HEADER_IDEMPOTENCY_KEY: value},
                timeout_s=REQUEST_TIMEOUT_S,
                timeout_ms=PRODUCE_TIMEOUT_MS,
            )
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as e:
            detail = repr(e)  # Nothing was sent.
        except urllib3.exceptions.HTTPError as error:
            outcome, detail = Outcome.UNKNOWN, repr(error)
        else:
            if answer.status == 200:
                history.ok(number, offset=answer.document["records"][0]["offset"])
                return
            problem = _retriable(answer)
            detail = problem["code"]
            codes.append(detail)
            offset = offset_in(problem)
            if problem.get("outcome") != Outcome.NOT_APPLIED:
                outcome = Outcome.UNKNOWN
        # Also at the end: what this client began is known before it goes.
        time.sleep(0.05)
    note = history.fail if outcome is Outcome.NOT_APPLIED else history.info
    note(number, detail=detail, codes=codes, offset=offset)


def _hang_up(client, numbers, partition, value):
    """Promise a body, send the half of it that has the value, and go away."""
    where = urlsplit(numbers.choice(client.urls))
    body = json.dumps({"records": [{"value": value}]}).encode()
    head = (
        f"POST {client.path(routes.PARTITION_RECORDS, partition)} HTTP/1.1\r\n"
        f"Host: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {2 * len(body)}\r\n\r\n"
    )
    try:
        with socket.create_connection(
            (where.hostname, where.port), REQUEST_TIMEOUT_S
        ) as connection:
            connection.sendall(head.encode() + body)
            if numbers.random() < 0.5:
                reset = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    except OSError:
        return


def read_by_sdk(client):
    """Read all partitions in their order, from the first record or from near the end."""
    history = client.history("sdk")
    with Consumer(
        bootstrap_servers=client.urls,
        auto_offset_reset="earliest" if client.is_first else "latest",
        enable_auto_commit=False,
        value_deserializer="json",
    ) as consumer:
        consumer.assign([TopicPartition(client.topic, number) for number in client.partitions])
        while not client.ended.wait(client.pause_s):
            poll_once(consumer, history, lambda _partition: 0)


def read_by_http(client):
    """GET what follows, from any broker; all of it is the leader's answer."""
    _read_by_http(client, "http", via=None, query={})


def read_copies(client):
    """GET one broker's own copies."""
    via = client.random("copies").randrange(len(client.urls))
    _read_by_http(client, "copies", via=via, query={"replica": "local"})


def _read_by_http(client, part, *, via, query):
    history, numbers, http = client.history(part), client.random(part), HttpClient()
    positions = dict.fromkeys(client.partitions, "earliest" if client.is_first else -TAIL_RECORDS)
    tellers = Tellers(client.partitions)
    while not client.ended.wait(client.pause_s):
        for partition in client.partitions:
            url = client.urls[via] if via is not None else numbers.choice(client.urls)
            told = {} if via is None else {"via": via + 1}
            number = history.invoke(POLL, partition=partition, **told)
            answer = _answer(
                history,
                number,
                http,
                url + client.path(routes.PARTITION_RECORDS, partition),
                offset=positions[partition],
                max_wait_ms=100,
                **query,
            )
            told_by = tellers.after(partition, answer)
            if answer is not None:
                document = answer.document
                positions[partition] = document["next_offset"]
                history.ok(
                    number,
                    records=[(record["offset"], record["value"]) for record in document["records"]],
                    high_watermark=document["high_watermark"],
                    next_offset=document["next_offset"],
                    told_by=told_by,
                )
    http.close()


class Tellers:
    """Numbers the stretches in which one broker answered all reads of a partition."""

    def __init__(self, partitions):
        self._brokers = dict.fromkeys(partitions)
        self._numbers = dict.fromkeys(partitions, 0)

    def after(self, partition, answer):
        """The number after this answer; None for one that failed, which ends a stretch."""
        broker = None if answer is None else answer.headers.get(routes.HEADER_SERVED_BY)
        if broker is None or broker != self._brokers[partition]:
            self._numbers[partition] += 1
        self._brokers[partition] = broker
        return self._numbers[partition]


def ask(client):
    """Ask any broker for ends, for times and for leaders."""
    history, numbers, http = client.history("asker"), client.random("asker"), HttpClient()
    while not client.ended.wait(client.pause_s):
        partition, url = numbers.choice(client.partitions), numbers.choice(client.urls)
        offsets = url + client.path(routes.PARTITION_OFFSETS, partition)
        number = history.invoke(END_OFFSET, partition=partition)
        told = _document(history, number, http, offsets, at="latest")
        if told is not None:
            history.ok(number, offset=told["offset"])
        at_ms = int(time.time() * 1000) - numbers.randrange(LOOKUP_AGE_MS_MAX)
        number = history.invoke(TIME_LOOKUP, partition=partition, timestamp_ms=at_ms)
        told = _document(history, number, http, offsets, at=at_ms)
        if told is not None:
            found = told.get("timestamp") is not None  # Without one it is the end.
            history.ok(number, offset=told["offset"] if found else None)
        _ask_for_leader(client, history, http, url)
        _ask_for_commits(client, history, http, url)
    http.close()


def _ask_for_leader(client, history, http, url):
    number = history.invoke(LEADER)
    topic = _document(history, number, http, f"{url}{routes.TOPICS}/{client.topic}")
    if topic is None:
        return
    history.ok(number)
    for state in topic["partitions"]:
        number = history.invoke(LEADER, partition=state["partition"])
        history.ok(number, leader=state["leader"], leader_epoch=state["leader_epoch"])


def _ask_for_commits(client, history, http, url):
    """All partitions are told at once."""
    asked = {
        partition: history.invoke(COMMITTED, partition=partition) for partition in client.partitions
    }
    told = _document(history, asked[0], http, url + routes.GROUP_OFFSETS.format(group=client.group))
    if told is None:
        return
    committed = {
        each["partition"]: each["offset"]
        for each in told["offsets"]
        if each["topic"] == client.topic
    }
    for partition, number in asked.items():
        history.ok(number, next_offset=committed.get(partition))


def _document(history, number, http, url, **query):
    """As `_answer`, read."""
    answer = _answer(history, number, http, url, **query)
    return None if answer is None else answer.document


def _answer(history, number, http, url, **query):
    """What a read was answered; None, and noted, where it did not succeed."""
    try:
        answer = http.get(url, timeout_s=REQUEST_TIMEOUT_S, **query)
    except urllib3.exceptions.HTTPError as error:
        history.info(number, detail=repr(error))
        time.sleep(0.05)
        return None
    if answer.status == 200:
        return answer
    problem = _retriable(answer)
    history.fail(number, detail=problem["code"], codes=[problem["code"]], offset=offset_in(problem))
    time.sleep(0.05)
    return None


def _retriable(answer):
    """The problem that a broker told: one that a retry may mend, or that a fault explains."""
    problem = answer.document
    assert problem["retriable"] is True or problem["code"] in EXPECTED_CODES, answer.body
    return problem


def offset_in(problem):
    """The offset that a failure tells as if it had succeeded; it should tell none.

    The bounds of a log are told for those who asked beyond them, and a broker whose files are
    damaged says where: neither reads like a success.
    """
    named = [problem, *(problem.get("results") or ()), *(problem.get("records") or ())]
    for members in named:
        for name in ("base_offset", "offset", "next_offset"):
            is_of_damage = problem.get("code") == "KAFKA_STORAGE_ERROR" and name == "offset"
            if members.get(name) is not None and not is_of_damage:
                return members[name]
    return None


def _end_with(parent):
    """Nobody reads what an orphan writes down."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


KINDS = {
    "produce": (send_by_sdk, send_by_http),
    "read": (read_by_sdk, read_by_http, read_copies, ask),
    "group": (read_in_group,),
}


def main():
    kind, options = sys.argv[1], json.loads(sys.argv[2])
    client = Client(options)

    def run(work):
        try:
            work(client)
        except Exception:
            traceback.print_exc()
            client.failures.append(work.__name__)
            client.ended.set()

    signal.signal(signal.SIGTERM, lambda *_: client.ended.set())
    threading.Thread(target=_end_with, args=(os.getppid(),), name="orphan", daemon=True).start()
    threads = [
        threading.Thread(target=run, args=(work,), name=work.__name__) for work in KINDS[kind]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit(1 if client.failures else 0)


if __name__ == "__main__":
    main()
