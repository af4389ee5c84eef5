"""OpenTelemetry: one producer span per record, and its context in the record's headers.

    Producer(..., interceptors=[OpenTelemetryInterceptor()])

The span lasts from send() to the acknowledgement or the failure, retries included. Its context goes
into the record's headers (`traceparent`, as the configured propagator writes it), so that whoever
consumes the record can go on with the trace. Names follow OpenTelemetry's messaging conventions.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, cast

from ottla._errors import ConfigError
from ottla._futures import RecordMetadata
from ottla._record import DeliveryCallback, HeadersOption, ProducerRecord
from ottla_protocol.errors import OttlaError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

MESSAGING_SYSTEM: Final = "ottla"
_NAME: Final = "ottla"


class OpenTelemetryInterceptor:
    """Makes a span of every record that a producer sends.

    Args:
        tracer_provider: where spans go; None is the global one.

    Raises:
        ConfigError: OpenTelemetry is not installed; the extra `otel` brings it.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None) -> None:
        try:
            from opentelemetry import propagate, trace
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"OpenTelemetryInterceptor needs the otel extra ({error.name} is missing)",
                option="interceptors",
                hint="pip install 'ottla[otel]'",
            ) from error
        self._trace = trace
        self._inject = propagate.inject
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)

    def on_send(self, record: ProducerRecord) -> ProducerRecord:
        """Begin the record's span and put its context into the headers."""
        trace = self._trace
        span = self._tracer.start_span(
            f"send {record.topic}", kind=trace.SpanKind.PRODUCER, attributes=_attributes(record)
        )
        context: dict[str, str] = {}
        self._inject(context, trace.set_span_in_context(span))
        record.headers = _with_context(record.headers, context)
        record.on_delivery = _SpanEnd(span, record.on_delivery)
        return record


class _SpanEnd:
    """An `on_delivery` that ends the span and then calls the caller's own.

    A record that send() refused is never delivered; its span ends when this is dropped.
    """

    def __init__(self, span: "Span", then: DeliveryCallback | None) -> None:
        self._span = span
        self._then = then

    def __call__(self, error: Exception | None, metadata: RecordMetadata | None) -> None:
        span = self._span
        if error is not None:
            span.record_exception(error)
            self._fail(_type_of(error), str(error))
        if metadata is not None:
            span.set_attribute("messaging.destination.partition.id", str(metadata.partition))
            if metadata.offset >= 0:
                span.set_attribute("messaging.ottla.offset", metadata.offset)
        span.end()
        if self._then is not None:
            self._then(error, metadata)

    def __del__(self) -> None:
        if self._span.is_recording():
            self._fail("not_taken", "the record was refused before it was sent")
            self._span.end()

    def _fail(self, type_: str, detail: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", type_)
        self._span.set_status(Status(StatusCode.ERROR, detail))


def _type_of(error: Exception) -> str:
    return error.code if isinstance(error, OttlaError) else type(error).__qualname__


def _attributes(record: ProducerRecord) -> dict[str, str | bool]:
    attributes: dict[str, str | bool] = {
        "messaging.system": MESSAGING_SYSTEM,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": record.topic,
    }
    if record.partition is not None:
        attributes["messaging.destination.partition.id"] = str(record.partition)
    if record.value is None:
        attributes["messaging.ottla.record.tombstone"] = True
    return attributes


def _with_context(headers: HeadersOption, context: Mapping[str, str]) -> HeadersOption:
    """The headers with those of the context, instead of older ones of the same names."""
    if headers is None:
        return context
    given = cast(
        "Iterable[tuple[str, bytes | str | None]]",
        headers.items() if isinstance(headers, Mapping) else headers,
    )
    kept = [(name, value) for name, value in given if name not in context]
    return [*kept, *context.items()]
