"""OpenTelemetry spans of requests, when the extra `otel` is installed and an endpoint is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hyla.errors import ConfigError


class Traces:
    """Makes one span for each request, inside the caller's trace when it sends a `traceparent` header.

    exporter: anything that OpenTelemetry's SDK exports with; None: OTLP over HTTP to `endpoint`.
    Raises ConfigError when the extra is not installed.
    """

    def __init__(self, endpoint: str | None = None, *, exporter=None, service_name: str = "hyla"):
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if exporter is None:
                # Of the extra `otel`, which need not be there.
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
                    OTLPSpanExporter,
                )

                exporter = OTLPSpanExporter(endpoint=endpoint)
        except ImportError as error:
            raise ConfigError(f"traces need an extra; install it with: pip install 'hyla[otel]' ({error})") from error
        # A provider of our own: the process-wide one belongs to whoever runs the process.
        self._provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hyla.server")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """A server span around a request."""
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(dict(headers))
        with self._tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER) as span:
            yield Span(span)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


class Span:
    """What the server tells a span."""

    def __init__(self, span):
        self._span = span

    def finish(self, fields: Mapping[str, Any]) -> None:
        """Set attributes by OpenTelemetry's names; an HTTP status from 500 on is an error."""
        from opentelemetry.trace import StatusCode

        for name, value in fields.items():
            if value is not None:
                self._span.set_attribute(name, value)
        if fields.get("http.response.status_code", 0) >= 500:
            self._span.set_status(StatusCode.ERROR)
