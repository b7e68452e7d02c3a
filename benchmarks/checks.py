"""Whether a figure may be believed: the same answer from all, and every request logged, counted and exported."""

import json
import math
from dataclasses import dataclass

from .catalogue import Candidate
from .load import ITEM, Request
from .processes import BenchError
from .serving import ADMIN, Bench, Running, Tally, fetch

ITEM_ANSWER = {"id": 1, "name": "item 1"}
INVALID_ITEM = Request("/items", '{"name":"item 1","quantity":0,"tags":[]}')
# How far a random share may stray before it's an error: one run in a million is refused by chance.
STANDARD_DEVIATIONS = 5.0
# The SDK's ratio sampler decides by the lower half of the trace id.
LOWER_HALF = slice(16, 32)
MEMBERS = frozenset(
    {"timestamp", "level", "method", "route", "path", "status", "duration_ms", "request_id", "trace_id", "span_id"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison of what a candidate did with what it told of it."""

    candidate: str
    subject: str
    expected: str
    found: int
    holds: bool


def check_answer(running: Running, request: Request = ITEM) -> None:
    """The answer that all candidates give, byte for byte the same as JSON text without spaces."""
    status, body = running.ask(request)
    if isinstance(request.post, int):
        expected = f'{{"bytes":{request.post}}}'.encode()
    elif request.path.startswith("/blob/"):
        expected = b"x" * int(request.path.rpartition("/")[2])
    else:
        expected = json.dumps(ITEM_ANSWER, separators=(",", ":")).encode()
    if (status, body) != (200, expected):
        raise BenchError(f"{running.candidate.name} answers {request.path} with {status} {body[:200]!r}")


def check_validation(running: Running) -> None:
    """A body that isn't valid is refused, so that a valid one has been looked at."""
    status, body = running.ask(INVALID_ITEM)
    if status != 422 or b"quantity" not in body:
        raise BenchError(f"{running.candidate.name} answers an invalid body with {status} {body[:200]!r}")


def findings(candidate: Candidate, tally: Tally) -> list[Finding]:
    """Lines, counter and spans beside the requests that were answered."""
    least, most = tally.requests, tally.requests + tally.in_flight
    expected = f"{least} to {most}" if tally.in_flight else str(least)
    found = []
    if tally.lines is not None:
        found.append(Finding(candidate.name, "access lines", expected, tally.lines, least <= tally.lines <= most))
    if tally.counted is not None:
        found.append(Finding(candidate.name, "counter", expected, tally.counted, least <= tally.counted <= most))
        if tally.lines is not None:
            same = tally.lines == tally.counted
            found.append(Finding(candidate.name, "access lines = counter", str(tally.counted), tally.lines, same))
    if tally.spans is not None and candidate.sampled is not None:
        told = tally.counted if tally.counted is not None else tally.lines
        found.append(_spans(candidate, tally.spans, least if told is None else told, most if told is None else told))
    return found


def _spans(candidate: Candidate, spans: int, least: int, most: int) -> Finding:
    share = candidate.sampled or 0.0
    spread = STANDARD_DEVIATIONS * math.sqrt(most * share * (1 - share))
    low, high = math.floor(least * share - spread), math.ceil(most * share + spread)
    expected = str(low) if low == high else f"{low} to {high}"
    return Finding(candidate.name, f"spans, {share:.0%} sampled", expected, spans, low <= spans <= high)


def check_each_line(bench: Bench, candidate: Candidate, *, seconds: float) -> list[Finding]:
    """A load that isn't timed, each of whose lines is read, and each of whose spans is looked for by its id."""
    kept = bench.folder / "lines.jsonl"
    fetch(bench.collector_port, "/keep", "POST", "")
    with Running(bench, candidate, keep_lines=kept) as running:
        check_answer(running)
        running.load(seconds=seconds)
        tally = running.finish()
    spans = json.loads(fetch(bench.collector_port, "/ids")[1])
    arrived = {trace_id for span, trace_id in spans if not span.endswith(ADMIN)}
    lines = [json.loads(line) for line in kept.read_bytes().splitlines()]
    kept.unlink()
    access = [line for line in lines if line.get("event") == "request"]
    bound = round((candidate.sampled or 0.0) * 2**64)
    sampled = {line["trace_id"] for line in access if int(line["trace_id"][LOWER_HALF], 16) < bound}
    complete = sum(line.keys() >= MEMBERS for line in access)
    different = len({line["trace_id"] for line in access})
    name = candidate.name
    return [
        *findings(candidate, tally),
        Finding(name, "complete lines", str(len(access)), complete, complete == len(access)),
        Finding(name, "different trace ids", str(len(access)), different, different == len(access)),
        Finding(name, "ids of spans = ids of sampled lines", str(len(sampled)), len(arrived), arrived == sampled),
    ]
