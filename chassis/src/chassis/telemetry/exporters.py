"""The exporters of spans that the environment asks for (`OTEL_TRACES_EXPORTER`), as span processors."""

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor, SpanExporter

from .environment import Environment
from .exporter_environment import batch_limits, names_of, timeout_seconds

VARIABLE = "OTEL_TRACES_EXPORTER"
ENTRY_POINTS = "opentelemetry_traces_exporter"
PROTOCOLS = ("http/protobuf", "grpc")
# OpenTelemetry's own exporters read this timeout in seconds, and take it as an argument.
OTLP_ENTRY_POINTS = ("otlp_proto_grpc", "otlp_proto_http")


def span_processors(environment: Environment) -> list[SpanProcessor]:
    """A processor for each exporter: our own for `otlp`, and the SDK's around any other that is installed.

    `OTEL_TRACES_EXPORTER` is a list. By default it is `otlp` where an endpoint is set, and else nothing is exported. A
    name that cannot be used is ignored.
    """
    names = environment.listed(VARIABLE)
    if "none" in names:
        return []
    made = [processor for name in names if (processor := _processor(name, environment)) is not None]
    if made or not environment.text(*names_of("ENDPOINT")):
        return made
    return [processor for processor in [_processor("otlp", environment)] if processor is not None]


def _processor(name: str, environment: Environment) -> SpanProcessor | None:
    if name == "otlp":
        protocol = environment.choice(names_of("PROTOCOL"), PROTOCOLS, PROTOCOLS[0])
        if protocol == "grpc":
            grpc = _batched("otlp_proto_grpc", environment, variable=names_of("PROTOCOL")[1], value=protocol)
            if grpc is not None:
                return grpc
        # Imported only when used. See docs/performance.md in the template.
        from .exporter import OtlpExporter

        return OtlpExporter.from_environment(environment)
    if name == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter())
    return _batched(name, environment, variable=VARIABLE, value=name)


def _batched(name: str, environment: Environment, *, variable: str, value: str) -> SpanProcessor | None:
    """An exporter of another package, in the SDK's processor for batches; None if there is none."""
    make = environment.plugin(ENTRY_POINTS, name, variable=variable, value=value)
    if make is None:
        return None
    limits = batch_limits(environment)
    options = {"timeout": timeout_seconds(environment, limits)} if name in OTLP_ENTRY_POINTS else {}
    try:
        exporter = make(**options)
        if not isinstance(exporter, SpanExporter):
            raise TypeError(f"{type(exporter).__qualname__} is not a SpanExporter of opentelemetry.sdk")
        return BatchSpanProcessor(
            exporter,
            max_queue_size=limits.max_queued,
            schedule_delay_millis=max(limits.delay_milliseconds, 1),
            max_export_batch_size=limits.batch_size,
            export_timeout_millis=limits.export_milliseconds,
        )
    except Exception as error:  # noqa: BLE001 - another package's code; without it the service still starts
        environment.ignore(variable, value, f"its exporter cannot be made: {error!r}")
        return None
