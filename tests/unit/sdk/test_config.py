"""Options: both spellings, Kafka's defaults and bounds, and errors that help."""

import dataclasses
from typing import get_type_hints

import pytest

from ottla._config import AdminConfig, AdminOptions, ProducerConfig, ProducerOptions
from ottla._errors import ConfigError
from ottla._options import MAX_INT
from ottla._serializers import serialize_bytes, serialize_json, serialize_string
from ottla_protocol.record_batch import Compression

SERVER = {"bootstrap_servers": "127.0.0.1:7101"}


class Interceptor:
    def on_send(self, record):
        return record


INTERCEPTOR = Interceptor()


def partition(*arguments):
    return 0


def producer(**options):
    return ProducerConfig.from_options({**SERVER, **options})


def refusal(config, options):
    with pytest.raises(ConfigError) as caught:
        config.from_options(options)
    return caught.value


class TestDefaults:
    def test_they_are_kafkas(self):
        assert producer() == ProducerConfig(
            bootstrap_servers=("http://127.0.0.1:7101",),
            client_id="ottla-producer",
            key_serializer=serialize_bytes,
            value_serializer=serialize_bytes,
            partitioner=None,
            interceptors=(),
            acks=-1,
            enable_idempotence=True,
            transactional_id=None,
            transaction_timeout_ms=60000,
            compression=Compression.NONE,
            batch_size=16384,
            linger_ms=0,
            buffer_memory=33554432,
            max_block_ms=60000,
            max_request_size=1048576,
            max_in_flight=5,
            retries=2147483647,
            retry_backoff_ms=100,
            retry_backoff_max_ms=1000,
            request_timeout_ms=30000,
            delivery_timeout_ms=120000,
            metadata_max_age_ms=300000,
        )

    def test_an_admins_are_kafkas(self):
        config = AdminConfig.from_options(SERVER)
        assert (config.request_timeout_ms, config.default_api_timeout_ms) == (30000, 60000)

    def test_a_config_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            producer().acks = 1


EVERY_OPTION = [
    # keyword, Kafka's name, value as text or object, what it becomes
    ("client_id", "client.id", "flights", "flights"),
    ("key_serializer", "key.serializer", "string", serialize_string),
    ("value_serializer", "value.serializer", "json", serialize_json),
    ("partitioner", "partitioner.class", partition, partition),
    ("interceptors", "interceptor.classes", [INTERCEPTOR], (INTERCEPTOR,)),
    ("acks", "acks", "all", -1),
    ("enable_idempotence", "enable.idempotence", "false", False),
    ("transactional_id", "transactional.id", "flights-1", "flights-1"),
    ("transaction_timeout_ms", "transaction.timeout.ms", "5000", 5000),
    ("compression", "compression.type", "zstd", Compression.ZSTD),
    ("batch_size", "batch.size", "1", 1),
    ("linger_ms", "linger.ms", "2", 2),
    ("buffer_memory", "buffer.memory", "3", 3),
    ("max_block_ms", "max.block.ms", "4", 4),
    ("max_request_size", "max.request.size", "5", 5),
    ("max_in_flight", "max.in.flight.requests.per.connection", "4", 4),
    ("retries", "retries", "7", 7),
    ("retry_backoff_ms", "retry.backoff.ms", "8", 8),
    ("retry_backoff_max_ms", "retry.backoff.max.ms", "9", 9),
    ("request_timeout_ms", "request.timeout.ms", "10", 10),
    ("delivery_timeout_ms", "delivery.timeout.ms", "30011", 30011),
    ("metadata_max_age_ms", "metadata.max.age.ms", "12", 12),
]


class TestSpellings:
    @pytest.mark.parametrize(("keyword", "kafka_name", "value", "parsed"), EVERY_OPTION)
    def test_keyword_and_kafkas_name_mean_the_same(self, keyword, kafka_name, value, parsed):
        needed = {"transactional_id": "t"} if keyword == "transaction_timeout_ms" else {}
        for name in (keyword, kafka_name, kafka_name.replace(".", "_")):
            assert getattr(producer(**{name: value}, **needed), keyword) == parsed, name

    def test_every_option_of_the_config_is_listed_here(self):
        listed = {keyword for keyword, *_ in EVERY_OPTION} | {"bootstrap_servers"}
        assert {field.name for field in dataclasses.fields(ProducerConfig)} == listed

    @pytest.mark.parametrize(
        ("config", "options", "positional"),
        [
            (ProducerConfig, ProducerOptions, {"bootstrap_servers"}),
            (AdminConfig, AdminOptions, {"bootstrap_servers"}),
        ],
    )
    def test_type_checkers_know_every_option(self, config, options, positional):
        fields = {field.name for field in dataclasses.fields(config)}
        assert set(get_type_hints(options)) | positional == fields

    def test_one_option_in_two_spellings_is_refused(self):
        error = refusal(ProducerConfig, {**SERVER, "linger_ms": 1, "linger.ms": 2})
        assert "linger_ms" in error.detail
        assert "linger.ms" in error.detail


class TestUnknownOptions:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("linger", "linger_ms"),
            ("bootstrap_server", "bootstrap_servers"),
            ("bootstrap.server", "bootstrap.servers"),
            ("compression.typ", "compression.type"),
            ("enable_idempotent", "enable_idempotence"),
        ],
    )
    def test_the_nearest_is_named_in_the_same_spelling(self, written, meant):
        error = refusal(ProducerConfig, {**SERVER, written: 1})
        assert error.option == written
        assert f"did you mean {meant!r}" in error.detail

    def test_without_a_near_one_all_are_named(self):
        error = refusal(AdminConfig, {**SERVER, "zzz": 1})
        assert "did you mean" not in error.detail
        assert "default_api_timeout_ms" in error.hint

    def test_a_producers_option_is_none_of_an_admin(self):
        assert "unknown option" in refusal(AdminConfig, {**SERVER, "acks": 1}).detail

    def test_what_is_not_supported_says_why(self):
        for name in ("security_protocol", "security.protocol"):
            assert "no TLS" in refusal(ProducerConfig, {**SERVER, name: "x"}).detail


class TestValues:
    @pytest.mark.parametrize(
        ("option", "value", "rule"),
        [
            ("acks", 2, "one of 0, 1, -1"),
            ("acks", "some", "one of 0, 1, -1"),
            ("acks", True, "one of 0, 1, -1"),
            ("compression", "brotli", "one of none, gzip, snappy, lz4, zstd"),
            ("enable_idempotence", 1, "true or false"),
            ("enable_idempotence", "yes", "true or false"),
            ("batch_size", -1, "from 0 to"),
            ("linger_ms", -1, "from 0 to"),
            ("linger_ms", 0.5, "integer, not float"),
            ("linger_ms", True, "integer, not bool"),
            ("linger_ms", "soon", "integer, not 'soon'"),
            ("linger_ms", None, "integer, not NoneType"),
            ("buffer_memory", -1, "from 0 to"),
            ("max_block_ms", -1, "from 0 to"),
            ("max_request_size", 0, "from 1 to"),
            ("max_in_flight", 0, "from 1 to"),
            ("retries", -1, "from 0 to"),
            ("retries", MAX_INT + 1, f"to {MAX_INT}"),
            ("retry_backoff_ms", -1, "from 0 to"),
            ("request_timeout_ms", 0, "from 1 to"),
            ("delivery_timeout_ms", -1, "from 0 to"),
            ("metadata_max_age_ms", -1, "from 0 to"),
            ("client_id", "", "1 to 249"),
            ("client_id", "a" * 250, "1 to 249"),
            ("client_id", "a\r\nb", "visible ASCII"),
            ("client_id", "größe", "visible ASCII"),
            ("interceptors", [Interceptor], "on_send"),
            ("interceptors", [object()], "on_send"),
            ("interceptors", "on_send", "list"),
            ("key_serializer", "text", "must be one of bytes, string"),
        ],
    )
    def test_out_of_range_names_the_option_and_the_rule(self, option, value, rule):
        error = refusal(ProducerConfig, {**SERVER, option: value})
        assert error.option == option
        assert option in error.detail
        assert rule in error.detail

    @pytest.mark.parametrize(
        ("acks", "wire"), [(0, 0), (1, 1), (-1, -1), ("0", 0), ("1", 1), ("-1", -1), ("ALL", -1)]
    )
    def test_acks(self, acks, wire):
        assert producer(acks=acks).acks == wire

    def test_no_compression_by_either_name(self):
        assert producer(compression=None).compression is Compression.NONE
        assert producer(compression="none").compression is Compression.NONE

    @pytest.mark.parametrize(
        ("servers", "urls"),
        [
            ("localhost:7101", ("http://localhost:7101",)),
            ("http://a:1/, http://b:2", ("http://a:1", "http://b:2")),
            (["a:1", "b:2", "a:1"], ("http://a:1", "http://b:2")),
            ("[::1]:7101", ("http://[::1]:7101",)),
            (("http://a:1",), ("http://a:1",)),
        ],
    )
    def test_servers(self, servers, urls):
        assert ProducerConfig.from_options({"bootstrap_servers": servers}).bootstrap_servers == urls

    @pytest.mark.parametrize(
        "servers",
        [
            "a",
            "a:b",
            "a:0",
            "a:99999",
            "ftp://a:1",
            "http://a:1/path",
            "http://user@a:1",
            "http://a:1?x=1",
            "a b:1",
            ":1",
            [1],
            5,
            b"a:1",
            "",
            [],
            [f"a:{port}" for port in range(1, 66)],
        ],
    )
    def test_wrong_servers_are_refused(self, servers):
        assert "bootstrap_servers" in refusal(ProducerConfig, {"bootstrap_servers": servers}).detail

    def test_servers_are_needed(self):
        error = refusal(ProducerConfig, {})
        assert error.option == "bootstrap_servers"
        assert "7101" in error.hint


class TestIdempotence:
    CONFLICTS = (("acks", 1), ("acks", 0), ("retries", 0), ("max_in_flight", 6))

    @pytest.mark.parametrize(("option", "value"), CONFLICTS)
    def test_asked_for_it_refuses_what_is_at_odds(self, option, value):
        error = refusal(ProducerConfig, {**SERVER, "enable_idempotence": True, option: value})
        assert error.option == option
        assert "enable_idempotence" in error.detail

    @pytest.mark.parametrize(("option", "value"), CONFLICTS)
    def test_not_asked_for_it_gives_way(self, option, value):
        assert producer(**{option: value}).enable_idempotence is False

    @pytest.mark.parametrize(
        ("option", "value"), [("acks", "all"), ("retries", 1), ("max_in_flight", 5)]
    )
    def test_what_agrees_keeps_it_on(self, option, value):
        assert producer(**{option: value}).enable_idempotence is True


class TestTransactions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [*TestIdempotence.CONFLICTS, ("enable_idempotence", False)],
    )
    def test_what_is_at_odds_is_refused(self, option, value):
        error = refusal(ProducerConfig, {**SERVER, "transactional_id": "t", option: value})
        assert error.option == option

    def test_it_is_idempotent(self):
        assert producer(transactional_id="t").enable_idempotence is True

    @pytest.mark.parametrize("value", ["", "x" * 250, "a\nb", ".", "..", 5])
    def test_a_name_that_brokers_refuse_is_refused(self, value):
        error = refusal(ProducerConfig, {**SERVER, "transactional_id": value})
        assert error.option == "transactional_id"

    def test_none_is_none(self):
        assert producer(transactional_id=None, enable_idempotence=False).transactional_id is None

    def test_a_timeout_without_an_id_is_refused(self):
        error = refusal(ProducerConfig, {**SERVER, "transaction_timeout_ms": 1})
        assert "transactional_id" in error.detail


class TestDeliveryTimeout:
    def test_too_small_for_a_request_is_refused(self):
        error = refusal(ProducerConfig, {**SERVER, "linger_ms": 5, "delivery_timeout_ms": 30004})
        assert "30005" in error.detail

    def test_it_may_be_exactly_as_long_as_linger_and_request(self):
        config = producer(linger_ms=5, request_timeout_ms=10, delivery_timeout_ms=15)
        assert config.delivery_timeout_ms == 15

    def test_not_given_it_grows(self):
        assert producer(linger_ms=100_000, request_timeout_ms=30_000).delivery_timeout_ms == 130_000
