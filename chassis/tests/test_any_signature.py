"""Any signature with any input: a response with 200 or 4xx, never a failure."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Optional, Union
from urllib.parse import quote, urlencode
from uuid import UUID

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model

from chassis import App, ChassisSettings, Handler, SignatureError, Telemetry
from chassis.health import State
from chassis.wiring import make_telemetry

steady = settings(
    max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
SIGNATURES = 5  # in each example
SETTINGS = ChassisSettings.from_values(log_level="CRITICAL", log_format="json", max_body_bytes=1_000_000)


class Colour(Enum):
    """A choice."""

    RED = "red"
    TWO = 2


class Leaf(BaseModel):
    """Something small."""

    name: str
    size: int = 0


SCALARS: list[Any] = [int, float, bool, str, Decimal, UUID, date, datetime, time, timedelta, Colour, Literal["a", 1]]
constrained: list[Any] = [
    Annotated[int, Field(ge=-3, lt=10)],
    Annotated[float, Field(gt=0, multiple_of=0.5)],
    Annotated[str, Field(min_length=1, max_length=5, pattern="^[a-z]*$")],
    Annotated[Decimal, Field(max_digits=4, decimal_places=2)],
]
scalars = st.sampled_from(SCALARS + constrained)
unions = st.one_of(
    scalars.map(lambda one: Optional[one]),  # noqa: UP045
    st.tuples(scalars, scalars).map(lambda both: Union[both]),  # noqa: UP007
)
lists = st.one_of(
    scalars.map(lambda one: list[one]),  # type: ignore[valid-type]
    scalars.filter(lambda one: one not in constrained).map(lambda one: set[one]),  # type: ignore[valid-type]
    scalars.map(lambda one: Annotated[list[one], Field(max_length=2)]),  # type: ignore[valid-type]
)
simple = st.one_of(scalars, unions)
parameters = st.one_of(simple, lists)
bodies = st.recursive(
    st.one_of(simple, st.just(Leaf)),
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),  # type: ignore[valid-type]
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]
        st.lists(inner, min_size=1, max_size=3).map(
            lambda kinds: create_model("Made", **{f"field_{n}": (kind, ...) for n, kind in enumerate(kinds)})  # type: ignore[call-overload]
        ),
    ),
    max_leaves=4,
)
plausible = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(str),
    st.decimals().map(str),
    st.uuids().map(str),
    st.datetimes().map(lambda one: one.isoformat()),
    st.dates().map(str),
    st.times().map(str),
    st.sampled_from(["red", "2", "a", "1", "P1D", "", "null", "NaN", "1e999", "-0", "٣", "1_0", " 1", "9" * 5000]),
)
texts = st.one_of(plausible, st.text(max_size=20))
keys = st.one_of(st.sampled_from(["name", "size", "field_0", "field_1"]), st.text(max_size=5))
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), plausible),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["name", "size", "field_0", "field_1"]), st.text(max_size=5)), inner, max_size=3
        ),
    ),
    max_leaves=6,
)


@cache
def telemetry() -> Telemetry:
    """Shared by all applications, because creating one is slow."""
    return make_telemetry(SETTINGS, service="test-service", version="1.2.3")


class Service:
    """An application for several signatures, because creating one takes longer than a request."""

    def __init__(self) -> None:
        self.app = App(SETTINGS, name="test-service", version="1.2.3", telemetry=telemetry())
        self.app.health.state = State.READY
        self._requests: list[tuple[str, str, bytes | None]] = []

    def add(self, method: Callable[..., Awaitable[Any]], verb: str, path: str) -> bool:
        """Add a handler with this method; False if the signature is rejected."""
        handler: Handler = type("Any", (Handler,), {verb: method})()
        try:
            self.app.add_route(path, handler)
        except SignatureError:  # `test_signatures.py` holds its text
            return False
        return True

    def will_ask(self, verb: str, target: str, content: bytes | None = None) -> None:
        """Add a request."""
        self._requests.append((verb, target, content))

    def responses(self) -> list[httpx.Response]:
        """The responses to the requests, in process."""

        async def request() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return [
                    await client.request(
                        verb,
                        target,
                        content=content,
                        headers={"content-type": "application/json"} if content is not None else {},
                    )
                    for verb, target, content in self._requests
                ]

        return asyncio.run(request())


def method_with(annotations: dict[str, Any], defaults: dict[str, Any]) -> Callable[..., Awaitable[Any]]:
    """A method with these parameters that returns its arguments."""
    names = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in annotations)
    space: dict[str, Any] = {"defaults": defaults}
    got = ", ".join(f"repr({name})" for name in annotations)
    source = (
        f"async def method(self, *, {names}):\n    return [{got}]"
        if names
        else "async def method(self):\n    return []"
    )
    exec(source, space)  # noqa: S102 - our own words
    method: Callable[..., Awaitable[Any]] = space["method"]
    method.__annotations__ = {**annotations, "return": list[str]}
    return method


@steady
@given(st.lists(st.lists(parameters, max_size=3), min_size=SIGNATURES, max_size=SIGNATURES), st.data())
def test_any_query(signatures: list[list[Any]], data: st.DataObject) -> None:
    service = Service()
    for path, kinds in enumerate(signatures):
        annotations = {f"field_{number}": kind for number, kind in enumerate(kinds)}
        defaults = {name: None for name in annotations if data.draw(st.booleans())}
        if service.add(method_with(annotations, defaults), "get", f"/{path}"):
            names = st.sampled_from([*annotations, "other"])
            query = data.draw(st.lists(st.tuples(names, texts), max_size=5))
            encoded = urlencode([(name, text.encode("utf-8", "replace")) for name, text in query])
            service.will_ask("GET", f"/{path}?{encoded}")
    for response in service.responses():
        assert response.status_code in (200, 400, 422), response.text


@steady
@given(st.lists(st.lists(simple, min_size=1, max_size=2), min_size=SIGNATURES, max_size=SIGNATURES), st.data())
def test_any_path(signatures: list[list[Any]], data: st.DataObject) -> None:
    service = Service()
    for path, kinds in enumerate(signatures):
        annotations = {f"field_{number}": kind for number, kind in enumerate(kinds)}
        template = "".join(f"/{{{name}}}" for name in annotations)
        if service.add(method_with(annotations, {}), "get", f"/{path}{template}"):
            texts_drawn = [data.draw(texts).encode("utf-8", "replace") for _ in annotations]
            service.will_ask("GET", f"/{path}" + "".join(f"/{quote(text, safe='')}" for text in texts_drawn))
    for response in service.responses():
        assert response.status_code in (200, 400, 404, 422), response.text


contents = st.one_of(documents.map(lambda one: json.dumps(one).encode()), st.binary(max_size=40))


@steady
@given(st.lists(st.tuples(bodies, contents), min_size=SIGNATURES, max_size=SIGNATURES))
def test_any_body(pairs: list[tuple[Any, bytes]]) -> None:
    service = Service()
    for path, (kind, content) in enumerate(pairs):
        assert service.add(method_with({"body": kind}, {}), "post", f"/{path}")
        service.will_ask("POST", f"/{path}", content)
    for response in service.responses():
        assert response.status_code in (200, 400, 422), response.text


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**62), 2**62),
    bool: st.booleans(),
    str: st.text(st.characters(codec="utf-8"), max_size=20),
    UUID: st.uuids(),
    date: st.dates(),
    datetime: st.datetimes().map(lambda one: one.replace(fold=0)),
    time: st.times().map(lambda one: one.replace(fold=0)),
    Colour: st.just(Colour.RED),  # pydantic reads no number from the text that a query is
}


@steady
@given(st.lists(st.sampled_from(sorted(VALUES, key=str)), min_size=SIGNATURES, max_size=SIGNATURES), st.data())
def test_serialized_values_are_read_back_by_parameters_of_the_same_type(kinds: list[Any], data: st.DataObject) -> None:
    service = Service()
    values = [data.draw(VALUES[kind]) for kind in kinds]
    for path, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        assert service.add(method_with({"field": kind, "fields": GenericAlias(list, (kind,))}, {}), "get", f"/{path}")
        text = str(TypeAdapter(kind).dump_python(value, mode="json"))
        service.will_ask("GET", f"/{path}?{urlencode([('field', text), ('fields', text), ('fields', text)])}")
    for value, response in zip(values, service.responses(), strict=True):
        assert response.status_code == 200, response.text
        assert response.json() == [repr(value), repr([value, value])]
