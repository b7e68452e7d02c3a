"""The spans of the last traces, which the console shows in development."""

from typing import Any

import httpx
from opentelemetry.sdk.trace import TracerProvider
from starlette.requests import Request

from chassis import App, ChassisSettings, Handler, Server
from chassis.telemetry.recent_spans import RecentSpans


class Orders(Handler):
    """Has a span of its own, from the app's provider: that of the process may be of another test."""

    async def get(self, request: Request) -> str:
        tracer = request.app.telemetry.tracing.provider.get_tracer("orders")
        with tracer.start_as_current_span("load orders") as span:
            span.set_attribute("order.sizes", [1, 2])
            span.add_event("cache missed", {"key": "orders"})
        return "orders"


def service(**values: Any) -> App:
    settings = ChassisSettings.from_values(port=0, log_level="CRITICAL", drain_seconds=0, **values)
    app = App(settings, name="orders", version="1")
    app.add_route("/orders", Orders())
    return app


async def admin_get(app: App, *paths: str) -> list[httpx.Response]:
    """The responses of the admin port after one request to the public one."""
    async with Server(app) as server, httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://127.0.0.1:{server.port}/orders")
        return [await client.get(f"http://127.0.0.1:{server.admin_port}{path}") for path in paths]


async def test_every_request_of_a_service_in_development_has_spans() -> None:
    (response,) = await admin_get(service(development=True), "/spans")

    inner, root = response.json()
    assert (root["name"], root["kind"], root["parent_span_id"]) == ("GET /orders", "server", None)
    assert (inner["name"], inner["parent_span_id"]) == ("load orders", root["span_id"])
    assert inner["attributes"] == {"order.sizes": [1, 2]}
    assert [event["name"] for event in inner["events"]] == ["cache missed"]
    assert root["start_us"] <= inner["start_us"]
    assert root["duration_us"] >= inner["duration_us"] >= 0
    assert root["attributes"]["http.route"] == "/orders"


async def test_spans_are_asked_for_by_their_trace() -> None:
    app = service(development=True)
    first, wrong = await admin_get(app, f"/spans?trace_id={'0' * 32}", "/spans?trace_id=x")
    assert first.json() == []
    assert wrong.status_code == 422


async def test_service_outside_of_development_keeps_no_spans() -> None:
    app = service(admin_port=0)
    (response,) = await admin_get(app, "/spans")
    assert response.status_code == 404
    assert app.telemetry.recent_spans is None
    assert not app.telemetry.tracing.exporting


def test_oldest_traces_are_dropped() -> None:
    recent = RecentSpans(max_traces=2)
    names = record(recent, ["first", "second", "third"])
    assert names == ["second", "third"]
    assert [span["name"] for span in recent.documents(limit=1)] == ["third"]


def test_last_spans_of_a_trace_are_kept() -> None:
    recent = RecentSpans(max_spans=2)
    provider = provider_of(recent)
    with provider.get_tracer("test").start_as_current_span("root"):
        record(recent, ["first", "second", "third"], provider)
    assert [span["name"] for span in recent.documents()] == ["third", "root"]


def test_attributes_that_json_cannot_carry_become_text() -> None:
    recent = RecentSpans()
    with provider_of(recent).get_tracer("test").start_as_current_span("root") as span:
        span.set_attribute("content", b"\xff")
        span.set_attribute("count", 2)
    (document,) = recent.documents()
    assert document["attributes"]["count"] == 2
    assert document["attributes"].get("content", "b'\\xff'") == "b'\\xff'"  # older SDKs drop it


def provider_of(recent: RecentSpans) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(recent)
    return provider


def record(recent: RecentSpans, names: list[str], provider: TracerProvider | None = None) -> list[str]:
    """End a span of each name; returns the names of those that are kept."""
    recorded = (provider or provider_of(recent)).get_tracer("test")
    for name in names:
        recorded.start_span(name).end()
    return [span["name"] for span in recent.documents()]
