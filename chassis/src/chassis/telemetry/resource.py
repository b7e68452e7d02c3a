"""The resource: the attributes of the service that every span has in common."""

import re
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource

from ..worker_slot import WorkerSlot
from .environment import Environment, hidden

# The version of the semantic conventions that names of attributes follow.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
VARIABLE = "OTEL_RESOURCE_ATTRIBUTES"
# Variables that manifests set from the fields of a pod, by the names that the OpenTelemetry Operator uses.
OF_THE_POD = {
    "POD_NAME": "k8s.pod.name",
    "POD_NAMESPACE": "k8s.namespace.name",
    "POD_UID": "k8s.pod.uid",
    "NODE_NAME": "k8s.node.name",
}
INVALID_ENCODING = re.compile("%(?![0-9A-Fa-f]{2})")


def make_resource(service: str, version: str, environment: Environment) -> Resource:
    """The service's resource; the environment has priority over `service` and `version`, as the Resource SDK says.

    `OTEL_SERVICE_NAME` has priority over `service.name` in `OTEL_RESOURCE_ATTRIBUTES`. The pod, its namespace and its
    node are added where the variables `POD_NAME`, `POD_NAMESPACE`, `POD_UID` and `NODE_NAME` name them. With several
    workers, `service.worker` is the number of this one.
    """
    attributes = {"service.name": service, "service.version": version}
    attributes |= {name: value for variable, name in OF_THE_POD.items() if (value := environment.text(variable))}
    if WorkerSlot.number is not None:
        attributes["service.worker"] = str(WorkerSlot.number)
    attributes |= {name: value for name, value in _attributes(environment).items() if value or name not in attributes}
    if name := environment.text("OTEL_SERVICE_NAME"):
        attributes["service.name"] = name
    # Not read by the SDK, which would keep the other entries beside an invalid one, and would not report it here.
    with hidden(VARIABLE, "OTEL_SERVICE_NAME"):
        detected = Resource.create()
    # Not merged, because that would drop ours where a detector follows another version of the conventions.
    return Resource({**detected.attributes, **attributes}, SCHEMA_URL)


def _attributes(environment: Environment) -> dict[str, str]:
    """The attributes of the variable; none if one of them is invalid (Resource SDK: the entire value is discarded)."""
    attributes = {}
    for entry in environment.text(VARIABLE).split(","):
        if not entry.strip():
            continue
        name, separator, value = entry.partition("=")
        try:
            if not separator or not name.strip() or INVALID_ENCODING.search(entry):
                raise ValueError
            attributes[_decoded(name)] = _decoded(value)
        except ValueError:
            environment.ignore(
                VARIABLE, entry.strip(), "entries are name=value, percent-encoded; none of the others is used either"
            )
            return {}
    return attributes


def _decoded(encoded: str) -> str:
    return unquote(encoded.strip(), errors="strict")
