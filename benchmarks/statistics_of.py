"""Median and spread of a figure over rounds."""

from collections.abc import Sequence
from statistics import median, quantiles
from typing import TypedDict


class Spread(TypedDict):
    """What several rounds gave; `q1` and `q3` bound the middle half."""

    median: float
    min: float
    max: float
    q1: float
    q3: float
    rounds: list[float]


def spread(values: Sequence[float]) -> Spread:
    """`values` in the order of the rounds."""
    q1, _, q3 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return Spread(
        median=_short(median(values)),
        min=_short(min(values)),
        max=_short(max(values)),
        q1=_short(q1),
        q3=_short(q3),
        rounds=[_short(value) for value in values],
    )


def ratios(values: Sequence[float], to: Sequence[float]) -> Spread:
    """`values` to the figures of the same rounds, since a machine's speed drifts from round to round."""
    return spread([one / other for one, other in zip(values, to, strict=True)])


def _short(value: float) -> float:
    return float(f"{value:.5g}")
