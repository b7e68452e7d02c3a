"""The metrics of one process as bytes, for the process that adds them up."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

Labels = dict[str, str]
ExemplarFacts = tuple[Labels, float, float | None]
SampleFacts = tuple[str, Labels, float, ExemplarFacts | None]


class Family(NamedTuple):
    """A metric with all its samples."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[SampleFacts]


class Snapshot(NamedTuple):
    """All metrics of a process. `merges` says how gauges of the service's owner are merged."""

    families: list[Family]
    merges: dict[str, str]


def encode_snapshot(registry: CollectorRegistry, merges: Mapping[str, str]) -> bytes:
    """Collect the metrics. JSON of the standard library, because it keeps NaN and infinity.

    The exposition formats would be slower to parse, and stricter than what collectors of an owner may produce.
    """
    families: list[Any] = []
    for metric in registry.collect():
        samples: list[Any] = []
        for sample in metric.samples:
            exemplar = sample.exemplar
            samples.append(
                (
                    sample.name,
                    sample.labels,
                    sample.value,
                    exemplar and (exemplar.labels, exemplar.value, exemplar.timestamp and float(exemplar.timestamp)),
                )
            )
        families.append((metric.name, metric.documentation, metric.type, metric.unit, samples))
    return json.dumps((families, merges), separators=(",", ":")).encode()


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot that `encode_snapshot` has made."""
    families, merges = json.loads(data)
    return Snapshot([Family(*family) for family in families], merges)
