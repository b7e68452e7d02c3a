"""FastAPI with OpenTelemetry's instrumentation as it is documented: spans in batches, OTLP over HTTP."""

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from .bare_fastapi import create_app
from .serving import serve


def add_opentelemetry(app: FastAPI) -> None:
    """Endpoint, sampler and service name come from the environment's `OTEL_*`."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app)


if __name__ == "__main__":
    app = create_app()
    add_opentelemetry(app)
    serve(app)
