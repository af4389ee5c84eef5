"""Producer spans: what they say, and that consumers can go on from the headers."""

import gc
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ottla._errors import ConfigError, SerializationError
from ottla._telemetry import OpenTelemetryInterceptor
from ottla.testing import FakeCluster
from ottla_protocol.errors import MessageTooLargeError


@pytest.fixture
def cluster():
    made = FakeCluster()
    made.create_topic("bookings", partitions=3)
    return made


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def interceptor(provider):
    return OpenTelemetryInterceptor(provider)


def test_a_span_lasts_until_the_acknowledgement_and_says_where_the_record_is(
    cluster, exporter, interceptor
):
    with cluster.producer(interceptors=[interceptor]) as producer:
        metadata = producer.send("bookings", b"1").get(timeout=10)
    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("send bookings", SpanKind.PRODUCER)
    assert dict(span.attributes) == {
        "messaging.system": "ottla",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "bookings",
        "messaging.destination.partition.id": str(metadata.partition),
        "messaging.ottla.offset": 0,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_the_context_is_in_the_headers_beside_those_given(cluster, exporter, interceptor):
    with cluster.producer(interceptors=[interceptor]) as producer:
        producer.send("bookings", b"1", partition=0)
        producer.send("bookings", b"2", partition=1, headers={"a": b"b", "traceparent": b"old"})
        producer.send("bookings", b"3", partition=2, headers=[("a", b"1"), ("a", b"2")])
    contexts = [
        f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}".encode()
        for span in sorted(
            exporter.get_finished_spans(),
            key=lambda span: span.attributes["messaging.destination.partition.id"],
        )
    ]
    assert [record.headers for record in cluster.records("bookings")] == [
        (("traceparent", contexts[0]),),
        (("a", b"b"), ("traceparent", contexts[1])),
        (("a", b"1"), ("a", b"2"), ("traceparent", contexts[2])),
    ]


def test_the_span_belongs_to_the_trace_of_the_caller(cluster, exporter, provider, interceptor):
    with cluster.producer(interceptors=[interceptor]) as producer:
        with trace.get_tracer("test", tracer_provider=provider).start_as_current_span("order"):
            producer.send("bookings", b"1")
        producer.flush()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["send bookings"].parent.span_id == spans["order"].context.span_id


def test_a_failure_is_told_with_its_code_and_the_callers_callback_still_called(
    cluster, exporter, interceptor
):
    cluster.fail(MessageTooLargeError("too large"))
    seen = []
    with cluster.producer(interceptors=[interceptor]) as producer:
        producer.send("bookings", b"1", on_delivery=lambda *told: seen.append(told))
        producer.flush()
    [span] = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "MESSAGE_TOO_LARGE"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    [(error, metadata)] = seen
    assert isinstance(error, MessageTooLargeError)
    assert metadata is None


def test_a_record_that_was_never_sent_ends_its_span_too(cluster, exporter, interceptor):
    with cluster.producer(interceptors=[interceptor]) as producer:
        with pytest.raises(SerializationError):
            producer.send("bookings", {"not": "bytes"})
        gc.collect()
        [span] = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "not_taken"


async def test_asyncio(cluster, exporter, interceptor):
    async with cluster.async_producer(interceptors=[interceptor]) as producer:
        await (await producer.send("bookings", None, key=b"k"))
    [span] = exporter.get_finished_spans()
    assert span.attributes["messaging.ottla.record.tombstone"] is True


def test_without_opentelemetry_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError) as caught:
        OpenTelemetryInterceptor()
    assert "ottla[otel]" in caught.value.hint
