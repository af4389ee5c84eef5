"""Under which names a broker answers, and which web pages may call it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.site_policy import (
    EXPOSED_HEADERS,
    SitePolicy,
    host_name,
    is_address,
    is_same_origin,
    parse_allowed_host,
    parse_origin,
)
from ottla_protocol.errors import (
    HostNotAllowedError,
    MalformedRequestError,
    OriginNotAllowedError,
)

HERE = {"host": "127.0.0.1:7101"}


def policy(*, allowed_hosts=(), own_urls=("http://127.0.0.1:7101",), cors_origins=()):
    return SitePolicy.of(allowed_hosts=allowed_hosts, own_urls=own_urls, cors_origins=cors_origins)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:7101",
        "localhost.",
        "127.0.0.1:7101",
        "10.1.2.3",
        "[::1]:7101",
        "[2001:db8::7]",
        "broker1:7101",
        "ottla_broker_1",
        "ottla-0.ottla.default.svc.cluster.local:7101",
        "ottla.default.svc",
        "logs.localhost",
        "host.docker.internal",
        "nas.home.arpa",
    ],
)
def test_what_no_stranger_can_own_is_answered(host):
    policy().check_host(host)
    assert policy().allows_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7101",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.localhost.com",
        "local.dev",
        "ottla.dev:7101",
        "0x7f.1",
        "127.1",
        "2130706433",
        "999.1.1.1",
    ],
)
def test_what_a_stranger_may_own_is_refused_and_the_setting_named(host):
    assert not policy().allows_host(host)
    with pytest.raises(HostNotAllowedError, match="OTTLA_ALLOWED_HOSTS") as refused:
        policy().check_host(host)
    assert host_name(host) in refused.value.detail


@pytest.mark.parametrize(
    "host",
    [None, "", ":7101", "a b", "a,b", "a/b", "user@localhost", "[::1", "localhost:port",
     "localhost:123456", "lo\x00cal", "l\xf6calhost", "localhost\n", "."],
)  # fmt: skip
def test_what_is_no_host_is_a_malformed_request(host):
    assert not policy().allows_host(host)
    with pytest.raises(MalformedRequestError):
        policy().check_host(host)


def test_own_names_and_those_that_it_was_told_are_answered():
    told = policy(
        allowed_hosts=("logs.example.com", ".brokers.example.net"),
        own_urls=("http://Ottla.Example.org:7101", "http://v2.example.org:7101"),
    )
    for host in (
        "logs.example.com",
        "LOGS.example.com:443",
        "a.brokers.example.net",
        "a.b.brokers.example.net:1",
        "ottla.example.org",
        "v2.example.org:9",
    ):
        told.check_host(host)
    for host in ("x.logs.example.com", "brokers.example.net", "evilbrokers.example.net"):
        assert not told.allows_host(host)
    assert policy(allowed_hosts=("*",)).allows_host("evil.example")
    assert not policy(allowed_hosts=("*",)).allows_host("")


@given(st.text(max_size=40))
def test_no_field_is_more_than_refused(host):
    if policy().allows_host(host):
        name = host_name(host)
        assert name
        labels = name.split(".")
        private = name.endswith((".localhost", ".local", ".internal", ".arpa", ".test", ".svc"))
        assert len(labels) == 1 or is_address(name) or private


class TestOrigins:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
    def test_what_changes_nothing_passes(self, method):
        policy().check_origin(method, {**HERE, "origin": "http://evil.example"})

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"content-type": "application/x-www-form-urlencoded"},
            {"sec-fetch-site": "none"},
            {"sec-fetch-site": "same-origin"},
            {"origin": "http://127.0.0.1:7101", "sec-fetch-site": "same-origin"},
            {"origin": "https://127.0.0.1:7101"},
        ],
    )
    def test_no_browser_or_a_page_of_this_host_passes(self, headers):
        policy().check_origin("POST", HERE | headers)

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "http://127.0.0.1:8080"},
            {"origin": "http://127.0.0.1"},
            {"origin": "null"},
            {"origin": ""},
            {"origin": "file://127.0.0.1:7101"},
            {"origin": "127.0.0.1:7101"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "odd"},
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT", "ODD"])
    def test_a_page_of_another_site_is_refused(self, method, headers):
        with pytest.raises(OriginNotAllowedError, match="OTTLA_CORS_ORIGINS"):
            policy().check_origin(method, HERE | headers)

    def test_trusted_pages_pass_and_are_named(self):
        told = policy(cors_origins=("https://console.example.com",))
        origin = {"origin": "https://console.example.com"}
        told.check_origin("POST", HERE | origin)
        fields = told.cors_headers("https://console.example.com")
        assert fields["Access-Control-Allow-Origin"] == "https://console.example.com"
        assert "Ottla-Leader" in fields["Access-Control-Expose-Headers"]
        assert told.cors_headers("https://console.example.com.evil.example") == {}
        assert told.cors_headers(None) == {}
        with pytest.raises(OriginNotAllowedError):
            told.check_origin("POST", HERE | {"origin": "http://console.example.com"})

    def test_all_pages_where_that_is_wanted(self):
        told = policy(cors_origins=("*",))
        told.check_origin("POST", HERE | {"origin": "null"})
        assert told.cors_headers("http://any.example")["Access-Control-Allow-Origin"] == "*"

    def test_a_preflight_is_answered_with_what_it_asks_for(self):
        told = policy(cors_origins=("https://console.example.com",))
        asked = {
            "origin": "https://console.example.com",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type, idempotency-key, ottla-header-a",
            "access-control-request-private-network": "true",
        }
        fields = told.preflight(asked)
        assert fields["Access-Control-Allow-Headers"] == asked["access-control-request-headers"]
        assert "DELETE" in fields["Access-Control-Allow-Methods"]
        assert fields["Access-Control-Allow-Private-Network"] == "true"
        for odd in ("a\r\nb", "x" * 3_000, "a;b"):
            fields = told.preflight(asked | {"access-control-request-headers": odd})
            assert "Access-Control-Allow-Headers" not in fields
        with pytest.raises(OriginNotAllowedError):
            told.preflight(asked | {"origin": "http://evil.example"})


def test_only_http_has_pages_of_the_same_host():
    assert is_same_origin("http://A:1", "a:1")
    assert not is_same_origin("ftp://a:1", "a:1")
    assert not is_same_origin("http://", "")


@pytest.mark.parametrize("text", ["Example.com", ".example.com", "*", "localhost", "a_b.c-d"])
def test_hosts_that_may_be_listed(text):
    assert parse_allowed_host(f" {text} ") == text.lower()


@pytest.mark.parametrize("text", ["", "http://a", "a:1", "*.example.com", "a..b", "a/b", "é"])
def test_hosts_that_may_not_be_listed(text):
    with pytest.raises(ValueError, match="host name"):
        parse_allowed_host(text)


@pytest.mark.parametrize(
    "text", ["http://a", "https://a.b:1", "http://[::1]:3000", "*", "null", "app+x://a"]
)
def test_origins_that_may_be_listed(text):
    assert parse_origin(f" {text.upper()}") == text


@pytest.mark.parametrize("text", ["", "a.example", "http://a/", "http://a:1/b", "http://*.a"])
def test_origins_that_may_not_be_listed(text):
    with pytest.raises(ValueError, match="origin"):
        parse_origin(text)


def test_a_page_may_read_each_field_once():
    fields = EXPOSED_HEADERS.split(", ")
    assert len(fields) == len(set(fields))
