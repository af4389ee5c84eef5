"""What hostile and broken clients send: each gets its status, and the others go on being served.

`serving` writes before and behind every attack, and looks at the broker's memory. Slow heads and
bodies are in test_slow_clients, malformed ones in test_bad_input, browsers in test_browsers; here
is what comes in numbers or in size.
"""

import json
import re
import resource
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic

import cramjam
import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.raw_http import connect, exchange, receive, request

pytestmark = pytest.mark.cluster

JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
MEMORY_GROWTH_MB_MAX = 150
"""What one attack may add to a broker, which has bodies of 8 MiB and their parsing in hand."""
IDLE_CONNECTIONS = 10_000
FEWEST_IDLE_CONNECTIONS = 1_000
OPENING_S = 30.0
"""How long idle connections are opened: a busy machine gets to fewer of them."""

DESCRIPTORS_FOR_OTHERS = 1_000
BOMB_BYTES = 200 << 20
GZIP_WINDOW_BITS = 31
"""zlib's way to ask for gzip's header."""


def records(topic, partition=0):
    return f"/v1/topics/{topic}/partitions/{partition}/records"


def post(topic, *fields, body=b"", length=None):
    return request("POST", records(topic), *fields, body=body, length=length)


def memory_mb(client, node_id):
    status = Path(f"/proc/{client.cluster.broker(node_id).pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def is_taken(connection, sent):
    """Whether these bytes found room on their way."""
    try:
        connection.sendall(sent)
    except TimeoutError:
        return False
    return True


@contextmanager
def serving(client, topic):
    """Other clients write and read before, after and, where it takes long, beside an attack."""
    before_mb = memory_mb(client, client.live_node_ids[0])
    client.append(topic, "before")
    yield
    last = client.append(topic, "after")
    assert client.values(topic)[last] == "after"
    grown_mb = memory_mb(client, client.live_node_ids[0]) - before_mb
    assert grown_mb < MEMORY_GROWTH_MB_MAX, f"{grown_mb:.0f} MiB more"


class TestInNumbers:
    def test_idle_connections_in_great_number(self, start_cluster):
        """As many as descriptors and half a minute allow, up to 10,000."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = max(16, min(IDLE_CONNECTIONS, allowed - DESCRIPTORS_FOR_OTHERS))
        # Half of what segments leave serves clients; here nearly all of it does.
        settings = {"OTTLA_MAX_CONNECTIONS": str(count + 100), "OTTLA_MAX_OPEN_SEGMENTS": "16"}
        client = start_cluster(brokers=1, settings=settings)
        client.create_topic("t", partitions=1, replication_factor=1)
        client.wait_led("t")
        begun = [b"", b"GET /livez", b"POST /v1/topics/t/records HTTP/1.1\r\nHost: x\r\n"]
        with serving(client, "t"), ExitStack() as idle:
            until_s = monotonic() + OPENING_S
            for number in range(count):
                if number >= FEWEST_IDLE_CONNECTIONS and monotonic() > until_s:
                    break
                connection = idle.enter_context(closing(connect(client.any_url())))
                connection.sendall(begun[number % len(begun)])
            client.append("t", "beside")
            answer = exchange(client.any_url(), request("GET", "/livez"))
            assert answer.status == 200
        print(f"{number + 1} of {count} idle connections")

    def test_a_flood_of_chunks(self, shared, topic):
        """A byte in each: what it costs to say so must not be kept for each."""
        flood = b"1\r\n \r\n" * 10_000
        with serving(shared, topic), closing(connect(shared.any_url())) as connection:
            connection.sendall(post(topic, JSON, CHUNKED).replace(b"Content-Length: 0\r\n", b""))
            for _ in range(5):
                connection.sendall(flood)
                shared.append(topic, "beside")
            connection.sendall(b"2\r\n{}\r\n0\r\n\r\n")
            assert receive(connection).status == 422
            # What is no chunk at all is refused where it stands.
            head = post(topic, JSON, CHUNKED).replace(b"Content-Length: 0\r\n", b"")
            answer = exchange(shared.any_url(), head, b"FFFFFFFFFFFFFFFFF\r\nx")
            assert answer.status == 400
        with closing(connect(shared.any_url())) as connection:
            connection.sendall(head + b"1\r\n \r\n")
            shared.append(topic, "meanwhile")
            connection.sendall(b"FFFFFFFFFFFFFFFFF\r\nx")
            assert receive(connection).status == 400

    def test_requests_sent_in_advance_without_taking_an_answer(self, shared, topic):
        with serving(shared, topic), closing(connect(shared.any_url())) as connection:
            connection.settimeout(0.2)
            sent = post(topic, JSON, body=b'{"records":[{"value":1}]}') * 100
            assert not all(is_taken(connection, sent) for _ in range(10_000))

    def test_polls_of_clients_that_are_gone_are_freed(self, shared, topic):
        node_id = shared.live_node_ids[0]
        read = f"{records(topic)}?offset=latest&max_wait_ms=30000"
        before = shared.metric(node_id, "ottla_parked_requests")
        with ExitStack() as polls:
            for number in range(200):
                connection = polls.enter_context(closing(connect(shared.url(node_id))))
                connection.sendall(request("GET", read))
                if number % 2:
                    connection.shutdown(socket.SHUT_WR)
                else:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        eventually(lambda: shared.metric(node_id, "ottla_parked_requests") <= before + 20, 10)
        shared.append(topic, "after")


class TestInSize:
    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_200_kb_that_inflate_to_200_mb(self, shared, topic, encoding):
        bomb = gzip_bomb() if encoding == "gzip" else zstd_bomb()
        assert len(bomb) < 300 << 10
        sent = post(topic, JSON, f"Content-Encoding: {encoding}", body=bomb)
        with serving(shared, topic), ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: exchange(shared.any_url(), sent), range(4)))
            shared.append(topic, "beside")
        assert {(answer.status, answer.code) for answer in answers} <= {
            (413, "MESSAGE_TOO_LARGE"),
            (503, "THROTTLING_QUOTA_EXCEEDED"),
        }

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_deep_json(self, shared, topic, opening):
        deep = opening * 200_000
        bodies = [deep, b'{"records":[{"value":' + deep, b'{"records":' + deep]
        with serving(shared, topic):
            for body in bodies:
                assert exchange(shared.any_url(), post(topic, JSON, body=body)).status in (400, 422)
                created = request("POST", "/v1/topics", JSON, body=body)
                assert exchange(shared.any_url(), created).status in (400, 422)

    def test_huge_integers(self, shared, topic):
        digits = "9" * 100_000
        with serving(shared, topic):
            for field in ("timestamp", "partition"):
                body = b'{"records":[{"value":1,"%b":%b}]}' % (field.encode(), digits.encode())
                assert exchange(shared.any_url(), post(topic, JSON, body=body)).status in (400, 422)
            body = b'{"name":"x","partitions":%b}' % digits.encode()
            answer = exchange(shared.any_url(), request("POST", "/v1/topics", JSON, body=body))
            assert answer.status in (400, 422)
            for query in ("offset=", "max_bytes=", "timestamp=", "max_wait_ms=", "max_records="):
                target = f"{records(topic)}?{query}{digits[:4_000]}"
                assert exchange(shared.any_url(), request("GET", target)).status == 422

        # A value is the client's own: it comes back as it went in.
        sent = post(topic, JSON, body=b'{"records":[{"value":%b}]}' % digits.encode())
        assert exchange(shared.any_url(), sent).status == 200
        assert digits in shared.read(topic).expect(200).text

    def test_heads_of_any_size(self, shared, topic):
        with serving(shared, topic):
            for sent, statuses in (
                (request("GET", "/" + "a" * 9_000), (431,)),
                (request("GET", "/livez", "X: " + "a" * 9_000), (431,)),
                (request("GET", "/livez", *[f"X{n}: y" for n in range(200)]), (400,)),
                (request("GET", "/livez", *[f"X{n}: {'a' * 8_000}" for n in range(40)]), (431,)),
            ):
                assert exchange(shared.any_url(), sent).status in statuses, sent[:60]


class TestTargets:
    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [
            # RFC 9112 section 3.2: a target may be no path at all.
            ("OPTIONS", "*", 404),
            ("CONNECT", "localhost:1", 404),
            ("OPTIONS", "*x", 400),
            ("GET", "*", 400),
            ("GET", "http://[", 400),
            ("GET", "//[", 404),
            ("GET", "http://localhost/livez", 200),
        ],
    )
    def test_targets_that_are_no_path(self, shared, method, target, status):
        assert exchange(shared.any_url(), request(method, target)).status == status

    def test_what_nobody_can_expect(self, shared):
        for target in ("/v1/topics", "/nowhere"):
            sent = request("POST", target, JSON, "Expect: miracles", body=b"{}")
            answer = exchange(shared.any_url(), sent)
            assert (answer.status, answer.code) == (422, "INVALID_REQUEST")
            assert "ottla-served-by" in answer.headers


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a%00b", "%00", "a%2fb", "%2f", "%2e%2e", "..%2f..%2fetc", "a%0d%0ab", "%ff", "%"]
    )
    def test_names_are_judged_as_they_are_decoded(self, shared, topic, name):
        with serving(shared, topic):
            for method, target in (
                ("GET", f"/v1/topics/{name}"),
                ("POST", f"/v1/topics/{name}/records"),
                ("GET", f"/v1/topics/{name}/partitions/0/records"),
                ("DELETE", f"/v1/topics/{name}"),
                ("POST", f"/v1/groups/{name}/members"),
                ("GET", f"/v1/groups/{name}"),
                ("GET", f"/v1/topics/{topic}/partitions/{name}/records"),
            ):
                body = b'{"records":[{"value":1}],"topics":["t"]}' if method == "POST" else b""
                answer = exchange(shared.any_url(), request(method, target, JSON, body=body))
                assert answer.status in (400, 404, 422), (method, target, answer)
                assert b"\r\nb" not in answer.body

    def test_no_topic_of_such_a_name_is_made(self, shared):
        for name in ("a\0b", "a/b", "..", "a\r\nb", "\ud800", "é", "x" * 250):
            body = json.dumps({"name": name}).encode()
            answer = exchange(shared.any_url(), request("POST", "/v1/topics", JSON, body=body))
            assert answer.status in (400, 422), name

    def test_line_breaks_in_headers_begin_no_header(self, shared, topic):
        for field in (
            "X: a\rSet-Cookie: b",
            "X: a\nSet-Cookie: b",
            "X\r: a",
            "X: a\0b",
            " X: a",
            "X : a",
        ):
            for method in ("GET", "POST"):
                sent = request(method, records(topic), field, JSON)
                answer = exchange(shared.any_url(), sent)
                assert answer.status in (200, 400, 422), (field, answer)
                assert "set-cookie" not in answer.headers
        keyed = post(topic, JSON, "Idempotency-Key: a%0d%0aX-Evil: b", body=b'{"records":[{}]}')
        assert "x-evil" not in exchange(shared.any_url(), keyed).headers


class TestBroken:
    def test_half_closed_sockets_get_their_answer(self, shared, topic):
        body = b'{"records":[{"value":"half"}]}'
        with serving(shared, topic):
            for sent, status in (
                (post(topic, JSON, body=body), 200),
                (request("GET", "/v1/topics"), 200),
                (post(topic, JSON, body=body, length=500), 400),
                (request("POST", "/v1/topics", JSON, body=b'{"na', length=50), 400),
            ):
                answer = exchange(shared.any_url(), sent, half_close=True)
                assert answer.status == status, (sent, answer)
        assert list(shared.values(topic).values()) == ["before", "half", "after"]

    @pytest.mark.parametrize(
        "content_type",
        ["application/xml", "text/html", "application/msgpack", "multipart/x", ";", "a"],
    )
    def test_wrong_content_types(self, shared, topic, content_type):
        with serving(shared, topic):
            for target in ("/v1/topics", "/v1/produce", "/v1/fetch", "/v1/groups/g/poll"):
                sent = request("POST", target, f"Content-Type: {content_type}", body=b"\xc1<a>")
                answer = exchange(shared.any_url(), sent)
                expected = (400, 422) if target in ("/v1/produce", "/v1/fetch") else (415,)
                assert answer.status in expected, (target, answer)

    @pytest.mark.parametrize("target", ["/v1/topics", "/v1/nothing", "/v3/clusters", "/docs"])
    def test_no_answer_tells_the_versions_of_libraries(self, shared, target):
        answer = exchange(shared.any_url(), request("GET", target))
        assert answer.headers["server"] == "ottla"

    def test_an_unknown_content_encoding(self, shared, topic):
        for encoding in ("br", "gzip, gzip", "identity, gzip", "x"):
            sent = post(topic, JSON, f"Content-Encoding: {encoding}", body=b"{}")
            assert exchange(shared.any_url(), sent).status == 415


def gzip_bomb():
    packer = zlib.compressobj(9, wbits=GZIP_WINDOW_BITS)
    bomb = packer.compress(b'{"records":[{"value":"')
    piece = b"x" * (1 << 20)
    bomb += b"".join(packer.compress(piece) for _ in range(BOMB_BYTES >> 20))
    return bomb + packer.compress(b'"}]}') + packer.flush()


def zstd_bomb():
    packer = cramjam.zstd.Compressor()
    packer.compress(b'{"records":[{"value":"')
    piece = b"x" * (1 << 20)
    for _ in range(BOMB_BYTES >> 20):
        packer.compress(piece)
    packer.compress(b'"}]}')
    return bytes(packer.finish())
