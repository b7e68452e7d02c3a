"""The formats in which trace context and baggage are read from requests and written to calls (`OTEL_PROPAGATORS`)."""

from collections.abc import Iterable

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..request_info import RequestInfo
from .environment import Environment

VARIABLE = "OTEL_PROPAGATORS"
ENTRY_POINTS = "opentelemetry_propagator"

Carrier = dict[str, list[str]]

BUILT_IN: dict[str, type[TextMapPropagator]] = {
    "tracecontext": TraceContextTextMapPropagator,
    "baggage": W3CBaggagePropagator,
}
# W3C trace context and baggage, the default of the specification.
W3C = CompositePropagator([propagator() for propagator in BUILT_IN.values()])


def propagator_from(environment: Environment) -> TextMapPropagator | None:
    """The propagator that the environment asks for; None for the default, which `W3C` is.

    A name that cannot be used is ignored. Without any usable name, the default remains.
    """
    names = environment.listed(VARIABLE)
    if "none" in names:
        return CompositePropagator([])
    propagators = {name: made for name in names if (made := _propagator(name, environment)) is not None}
    if not propagators or propagators.keys() == BUILT_IN.keys():
        return None
    return CompositePropagator(list(propagators.values()))


def _propagator(name: str, environment: Environment) -> TextMapPropagator | None:
    make = BUILT_IN.get(name) or environment.plugin(ENTRY_POINTS, name, variable=VARIABLE, value=name)
    if make is None:
        return None
    try:
        made = make()
    except Exception as error:  # noqa: BLE001 - another package's code; without it the service still starts
        environment.ignore(VARIABLE, name, f"it cannot be made: {error!r}")
        return None
    if not isinstance(made, TextMapPropagator):
        environment.ignore(VARIABLE, name, "it is not a propagator of opentelemetry")
        return None
    return made


def carrier_of(info: RequestInfo) -> Carrier:
    """The headers that the W3C's propagators read."""
    carrier = dict(info.context_fields or {})
    if info.traceparent is not None:
        carrier["traceparent"] = [info.traceparent.decode("latin-1")]
    return carrier


def extract_with(
    propagator: TextMapPropagator, info: RequestInfo, headers: Iterable[tuple[bytes, bytes]], empty: Context
) -> Context:
    """The context that a request brings in any format; `empty` if the propagator fails."""
    carrier: Carrier = {}
    for name, value in headers:
        carrier.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    if info.traceparent is not None:
        carrier["traceparent"] = [info.traceparent.decode("latin-1")]
    try:
        return propagator.extract(carrier, empty, AnyCaseGetter())
    except Exception:  # noqa: BLE001 - another package's code, and the client's input; the request must not fail of it
        return empty


class AnyCaseGetter(Getter[Carrier]):
    """Finds headers by name, in upper or lower case."""

    def get(self, carrier: Carrier, key: str) -> list[str] | None:
        """All values of a header."""
        return carrier.get(key.lower())

    def keys(self, carrier: Carrier) -> list[str]:
        """The names of all headers."""
        return list(carrier)
