"""What pages of other sites have a browser do, and what they are let do."""

import pytest

from ottla_ops.local_cluster import LocalCluster
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.raw_http import exchange, request

pytestmark = pytest.mark.cluster

JSON = "Content-Type: application/json"
RECORD = b'{"records":[{"value":"from a page"}]}'
CONSOLE = "https://console.example.com"


def post(topic, *fields, host="localhost", body=RECORD):
    return request("POST", f"/v1/topics/{topic}/records", *fields, host=host, body=body)


def test_a_name_that_a_stranger_may_own_is_refused_on_every_way(shared, topic):
    for sent in (
        post(topic, JSON, host="evil.example"),
        post(topic, JSON, "Content-Encoding: identity", host="evil.example:7101"),
        request("GET", "/v1/topics", host="evil.example"),
        request("GET", "/livez", host="evil.example"),
        request("POST", "/internal/raft", "Ottla-Cluster-Id: local", host="evil.example"),
    ):
        answer = exchange(shared.any_url(), sent)
        assert (answer.status, answer.code) == (403, "HOST_NOT_ALLOWED"), sent
        assert b"OTTLA_ALLOWED_HOSTS" in answer.body
    assert shared.values(topic) == {}


def test_names_that_no_stranger_can_own_are_answered(shared, topic):
    for number, host in enumerate(("broker1:7101", "10.0.0.1", "[::1]:7101", "a.b.svc", "x.local")):
        assert exchange(shared.any_url(), post(topic, JSON, host=host)).status == 200
        assert exchange(shared.any_url(), request("GET", "/livez", host=host)).status == 200
        assert len(shared.values(topic)) == number + 1


def test_a_request_without_a_host_is_malformed(shared, topic):
    for sent in (post(topic, JSON, host=None), request("GET", "/livez", host=None)):
        answer = exchange(shared.any_url(), sent)
        assert (answer.status, answer.code) == (400, "MALFORMED_REQUEST")
    two = request("GET", "/livez", "Host: evil.example")
    assert exchange(shared.any_url(), two).status == 400
    assert exchange(shared.any_url(), b"GET /livez HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "fields",
    [
        ("Origin: http://evil.example", "Content-Type: text/plain"),
        ("Origin: http://evil.example", "Content-Type: application/x-www-form-urlencoded"),
        ("Origin: http://evil.example", "Content-Type: multipart/form-data; boundary=x"),
        ("Origin: http://evil.example", JSON),
        ("Origin: null", JSON),
        ("Sec-Fetch-Site: cross-site", "Content-Type: text/plain"),
        ("Origin: http://localhost:1", JSON),
    ],
)
def test_a_page_of_another_site_posts_nothing(shared, topic, fields):
    answer = exchange(shared.any_url(), post(topic, *fields))
    assert (answer.status, answer.code) == (403, "ORIGIN_NOT_ALLOWED")
    assert b'"outcome":"not_applied"' in answer.body
    assert b"OTTLA_CORS_ORIGINS" in answer.body
    assert shared.values(topic) == {}


def test_what_is_no_browser_posts_whatever_its_content_type(shared, topic):
    """curl -d says that it sends a form, and sends no Origin."""
    form = "Content-Type: application/x-www-form-urlencoded"
    before = len(shared.values(topic))
    assert exchange(shared.any_url(), post(topic, JSON)).status == 200
    assert exchange(shared.any_url(), post(topic, form)).status != 403
    same = post(topic, JSON, "Origin: http://localhost:7101", host="localhost:7101")
    assert exchange(shared.any_url(), same).status == 200
    assert len(shared.values(topic)) >= before + 2


def test_by_default_no_page_of_another_site_reads_anything(shared, topic):
    answer = exchange(shared.any_url(), request("GET", "/v1/topics", f"Origin: {CONSOLE}"))
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = request(
        "OPTIONS", "/v1/topics", f"Origin: {CONSOLE}", "Access-Control-Request-Method: POST"
    )
    answer = exchange(shared.any_url(), asked)
    assert answer.status == 405
    assert "access-control-allow-origin" not in answer.headers


def test_forwarding_fields_of_a_client_count_for_nothing(shared, topic):
    """A broker that believed it had been asked by a peer would not pass the read on."""
    shared.append(topic, "v")
    [other, *_] = shared.others(shared.leader(topic))
    read = f"/v1/topics/{topic}/partitions/0/records?max_wait_ms=0"
    for field in ("Ottla-Forwarded-By: 7", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"):
        answer = exchange(shared.url(other), request("GET", read, field))
        assert (answer.status, answer.headers["ottla-leader"]) == (200, str(shared.leader(topic)))
    for stranger in ("elsewhere", ""):
        fields = ("Ottla-Forwarded-By: 7", f"Ottla-Cluster-Id: {stranger}")
        assert exchange(shared.url(other), request("GET", read, *fields)).status in (200, 403)


@pytest.fixture(scope="module")
def trusting(tmp_path_factory, http, launch):
    """A broker that trusts the pages of a console, and was told what it is called."""
    settings = {
        "OTTLA_CORS_ORIGINS": CONSOLE,
        "OTTLA_ALLOWED_HOSTS": "logs.example.com,.brokers.example.net",
    }
    directory = tmp_path_factory.mktemp("trusting")
    with LocalCluster(directory, brokers=1, settings=settings, launch=launch) as cluster:
        client = ClusterClient(cluster, http)
        client.create_topic("t", partitions=1, replication_factor=1)
        client.wait_led("t")
        yield client


class TestTrustedPages:
    def test_they_ask_first_then_post_and_read(self, trusting):
        url, origin = trusting.any_url(), f"Origin: {CONSOLE}"
        asked = request(
            "OPTIONS",
            "/v1/topics/t/records",
            origin,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type,idempotency-key",
        )
        answer = exchange(url, asked)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == CONSOLE
        assert answer.headers["access-control-allow-headers"] == "content-type,idempotency-key"
        answer = exchange(url, post("t", JSON, origin))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, CONSOLE)
        assert "Origin" in answer.headers["vary"]
        assert "Ottla-Leader" in answer.headers["access-control-expose-headers"]
        missing = exchange(url, request("GET", "/v1/topics/absent", origin))
        assert (missing.status, missing.headers["access-control-allow-origin"]) == (404, CONSOLE)
        others = exchange(url, post("t", JSON, "Origin: https://evil.example"))
        assert (others.status, others.code) == (403, "ORIGIN_NOT_ALLOWED")
        assert "access-control-allow-origin" not in others.headers

    def test_names_that_the_broker_was_told_are_answered(self, trusting):
        for host, status in (
            ("logs.example.com", 200),
            ("a.brokers.example.net:7101", 200),
            ("evil.example", 403),
        ):
            assert exchange(trusting.any_url(), post("t", JSON, host=host)).status == status
