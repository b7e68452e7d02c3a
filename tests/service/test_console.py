"""The console in a real browser, on the admin port of a service."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, Route, expect
from starlette.requests import Request

from chassis import App, ChassisSettings, Handler, Problem, Server
from console_page import answer, console, ready, rows, show

HOSTILE = "<img src=x onerror=document.title='taken'>"
PHONE = {"width": 390, "height": 844}
VIEWS = ("Overview", "Requests", "Traces", "Logs", "Dependencies", "Process", "Settings", "Control")


class Orders(Handler):
    """Has a span of its own, and fails when it is asked to."""

    async def get(self, request: Request, status: int = 200, name: str = "load orders") -> str:
        tracer = request.app.telemetry.tracing.provider.get_tracer("orders")
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0.002)
        if status != 200:
            raise Problem(status, "Asked for.")
        return "orders"


def make_app(**values: Any) -> App:
    settings = ChassisSettings.from_values(
        **{"port": 0, "log_level": "CRITICAL", "drain_seconds": 0, "development": True, **values}
    )
    app = App(settings, name="order-service", version="1.4.0")
    app.add_route("/orders", Orders())
    app.add_check("order store", lambda: True)
    return app


async def request(server: Server, count: int = 1, **query: Any) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        for _ in range(count):
            await client.get("/orders", params=query)


async def test_overview_shows_state_and_traffic(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await expect(page.get_by_role("heading", level=1)).to_have_text("order-service")
        await expect(rows(page, "Readiness checks").filter(has_text="order store")).to_contain_text("pass")
        await expect(page.get_by_text("No requests yet.")).to_be_visible()
        await request(server, 3)
        await request(server, 1, status=503)

        row = page.get_by_role("region", name="Routes").get_by_role("row", name="/orders")
        await expect(row).to_contain_text("25 %")
        # The console's own requests are not the service's traffic.
        await expect(rows(page, "Routes")).to_have_count(2)
        await expect(page.get_by_role("img", name="Latency")).to_have_attribute(
            "aria-label", re.compile(r"Latency: p50 [\d.]+ ms")
        )


async def test_spans_of_a_request_are_a_waterfall(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await request(server)
        await show(page, "Traces")
        await (
            page.get_by_role("button", name="GET /orders")
            .or_(page.get_by_role("row", name="GET /orders"))
            .first.click()
        )

        detail = page.locator(".detail:visible")
        bars = detail.locator(".span")
        await expect(bars).to_have_count(2)
        await bars.nth(1).click()
        await expect(bars.nth(1)).to_contain_text("load orders")
        outer, inner = [await bars.nth(place).locator(".bar").bounding_box() for place in (0, 1)]
        assert outer is not None
        assert inner is not None
        assert outer["x"] <= inner["x"] + 1
        assert outer["x"] + outer["width"] >= inner["x"] + inner["width"] - 1


async def test_texts_of_the_service_are_never_html(browser: Browser) -> None:
    app = make_app()

    def fail() -> None:
        raise type(HOSTILE, (Exception,), {})

    app.add_check(HOSTILE, fail, required=False)
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await request(server, name=HOSTILE)
        await expect(page.get_by_role("region", name="Readiness checks").get_by_text(HOSTILE).first).to_be_visible()
        await show(page, "Traces")
        await page.get_by_role("row", name="GET /orders").click()
        await expect(page.locator(".detail:visible").get_by_text(HOSTILE).first).to_be_visible()
        assert await page.locator("img").count() == 0
        assert await page.title() != "taken"


async def test_trusted_types_forbid_html(browser: Browser) -> None:
    async with Server(make_app()) as server:
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{server.admin_port}/")
        with pytest.raises(Exception, match="TrustedHTML"):
            await page.evaluate("document.body.innerHTML = '<b>text</b>'")
        await page.close()


async def test_lost_service_and_its_restart_are_shown(browser: Browser) -> None:
    async with Server(make_app(admin_port=0)) as first:
        port = first.admin_port
        async with console(browser, port) as page:
            await ready(page)
            await request(first, 5)
            await first_stopped(first)
            await expect(page.get_by_role("status").first).to_have_text("Unreachable")
            await expect(page.locator("header")).to_contain_text("No response since")
            async with Server(make_app(admin_port=port)):
                await ready(page)


async def first_stopped(server: Server) -> None:
    server.stop(drain=False)
    await asyncio.sleep(0)
    await server.shutdown()


@pytest.fixture(scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A console for tests of its functions."""
    async with Server(make_app()) as server, console(browser, server.admin_port) as one:
        yield one


HISTOGRAM = """([bounds, share]) => {
  const histogram = new Histogram();
  for (const [bound, count] of bounds) histogram.addBucket(bound === null ? Infinity : bound, count);
  return histogram.quantile(share);
}"""


# As Prometheus' documentation of histogram_quantile says. JSON has no infinity: None is +Inf.
@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([(0.1, 10), (0.2, 20), (None, 20)], 0.5, 0.1),
        ([(0.1, 10), (0.2, 20), (None, 20)], 0.75, 0.15),
        ([(0.1, 10), (0.2, 20), (None, 20)], 0.25, 0.05),
        ([(0.1, 0), (0.2, 4), (0.4, 4), (None, 4)], 0.5, 0.15),
        ([(0.1, 1), (0.2, 2), (None, 10)], 0.99, 0.2),
        ([(0.1, 0), (None, 0)], 0.5, None),
    ],
)
async def test_percentiles_are_those_of_prometheus(
    page: Page, buckets: list[tuple[float | None, int]], share: float, expected: float | None
) -> None:
    found = await page.evaluate(HISTOGRAM, [buckets, share])
    assert found == (None if expected is None else pytest.approx(expected))


HISTORY = """(texts) => {
  const history = new History();
  texts.forEach((text, i) => history.add(snapshot(text, 1000 * (i + 1) * 2, () => false)));
  const { steps } = history;
  return [steps.map((step) => traffic([step]).rate), steps.map((step) => step.cpu), history.restarts.length];
}"""


def metrics(count: int, *, cpu: float, started: float) -> str:
    labels = 'http_request_method="GET",http_route="/a{b}\\\\\\"",http_response_status_code="200"'
    return f"""process_cpu_seconds_total {cpu}
process_start_time_seconds {started}
http_server_request_duration_seconds_bucket{{{labels},le="0.1"}} {count}
http_server_request_duration_seconds_bucket{{{labels},le="+Inf"}} {count}
"""


async def test_counters_that_go_back_are_a_restart_and_no_negative_rate(page: Page) -> None:
    texts = [
        metrics(100, cpu=9, started=1),
        metrics(120, cpu=10, started=1),
        metrics(4, cpu=1, started=2),
        metrics(8, cpu=2, started=2),
    ]
    rates, cores, restarts = await page.evaluate(HISTORY, texts)
    assert rates == [10, 2, 2]
    assert cores == [1, 1, 1]
    assert restarts == 1


async def test_labels_are_read_as_they_are_escaped(page: Page) -> None:
    routes = await page.evaluate(
        "(text) => [...snapshot(text, 1, () => false).routes.keys()]", metrics(1, cpu=1, started=1)
    )
    assert routes == ['GET /a{b}\\"']


async def test_views_without_their_endpoint_are_hidden(browser: Browser) -> None:
    async with Server(make_app(development=False, admin_port=0)) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await expect(page.get_by_role("navigation").get_by_role("link", name="Traces")).to_be_hidden()
        await expect(page.get_by_role("navigation").get_by_role("link", name="Overview")).to_be_visible()
        await page.goto(f"http://127.0.0.1:{server.admin_port}/#traces")
        await expect(page.get_by_role("alert")).to_contain_text("This service has no /spans")


async def test_address_that_cannot_be_decoded_is_shown_as_it_is(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await page.goto("about:blank")
        await page.goto(f"http://127.0.0.1:{server.admin_port}/#requests/100%")
        await ready(page)
        await expect(page.get_by_label("Trace or request id")).to_have_value("100%")


async def test_reason_of_a_rejection_is_shown(browser: Browser) -> None:
    problem = {"title": "Forbidden", "detail": "Use kubectl port-forward."}
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await answer(page, "requests", lambda _: {"status": 403, "json": problem})
        await page.reload()
        await show(page, "Requests")
        await expect(page.get_by_role("alert")).to_have_text("Use kubectl port-forward.")


OPERATOR = "one-of-the-operators"


async def test_token_is_asked_for_and_kept_in_the_tab(browser: Browser) -> None:
    app = make_app(admin_token=OPERATOR)
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await request(server)
        await show(page, "Requests")
        field = page.get_by_role("textbox", name="Token")
        await field.fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("did not accept this token")).to_be_visible()
        await field.fill(OPERATOR)
        await page.keyboard.press("Enter")
        await expect(rows(page, "Requests")).to_have_count(2)
        await expect(field).to_be_hidden()
        assert await page.evaluate("Object.values(sessionStorage)") == [OPERATOR]
        assert await page.evaluate("localStorage.length + document.cookie.length") == 0


async def test_requests_are_filtered_and_lead_to_their_spans(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await request(server, 2)
        await request(server, 1, status=503)
        await show(page, "Requests")
        await expect(rows(page, "Requests")).to_have_count(4)
        await page.get_by_role("searchbox", name="Status").fill("5xx")
        await expect(rows(page, "Requests")).to_have_count(2)
        await rows(page, "Requests").nth(1).click()
        await expect(page.locator(".detail:visible")).to_contain_text("503")
        await page.get_by_role("link", name="Spans").click()
        await expect(page.locator(".detail:visible .span")).to_have_count(2)


async def test_requests_of_several_workers_are_in_one_order(browser: Browser) -> None:
    def made(route: Route) -> dict[str, Any]:
        times = [("0", 7, 2.0), ("0", 5, 9.0), ("1", 6, 4.0)]  # of workers, each with its newest or slowest first
        if "kind=slow" in route.request.url:
            times = [("0", 5, 9.0), ("0", 7, 2.0), ("1", 6, 4.0)]
        return {
            "json": [
                {
                    "worker": int(worker),
                    "timestamp": f"2026-01-01T00:00:0{second}.000Z",
                    "status": 200,
                    "method": "GET",
                    "path": f"/second/{second}",
                    "duration_ms": duration,
                    "span_id": str(second),
                    "trace_id": str(second) * 32,
                }
                for worker, second, duration in times
            ]
        }

    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await answer(page, "requests", made)
        await show(page, "Requests")
        await expect(rows(page, "Requests")).to_contain_text(["Time", "/second/7", "/second/6", "/second/5"])
        await page.get_by_label("Kind of requests").select_option("slow")
        await expect(rows(page, "Requests")).to_contain_text(["Time", "/second/5", "/second/6", "/second/7"])


async def test_log_lines_of_a_trace_are_shown(browser: Browser) -> None:
    app = make_app(log_level="INFO", log_format="json")
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await request(server, 3)
        await show(page, "Requests")
        await rows(page, "Requests").nth(1).click()
        await page.get_by_role("link", name="Log lines").click()
        await expect(rows(page, "Log lines").filter(has_text="route=/orders")).to_have_count(1)
        await page.get_by_label("Lowest level").select_option("error")
        await expect(page.get_by_text("No line matches these filters.")).to_be_visible()


async def test_log_level_is_changed_for_some_time(browser: Browser) -> None:
    app = make_app(log_level="ERROR")
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await show(page, "Control")
        form = page.get_by_role("form", name="Log level")
        await form.get_by_label("For seconds").fill("120")
        await form.get_by_role("button", name="Set level").click()
        await expect(form.get_by_role("status")).to_have_text("root logs DEBUG and above for 2 min.")
        assert app.telemetry.logs.level == logging.DEBUG
        await page.get_by_role("button", name="Reset root").click()
        await expect(page.get_by_text("root has its configured level again.")).to_be_visible()
        assert app.telemetry.logs.level == logging.ERROR


async def test_service_is_taken_out_of_rotation_and_put_back(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await show(page, "Control")
        await page.get_by_label("Reason").fill("a slow disk")
        await page.get_by_role("button", name="Take out of rotation").click()
        await expect(page.get_by_role("status").first).to_have_text("Out of rotation")
        await expect(page.get_by_text("Out of rotation: a slow disk")).to_be_visible()
        await page.get_by_role("button", name="Put back into rotation").click()
        await ready(page)


async def test_faults_are_injected_and_removed(browser: Browser) -> None:
    app = make_app(fault_injection=True, fault_injection_namespace="local", admin_port=0)
    faults = app.faults
    assert faults is not None
    async with Server(app) as server, console(browser, server.admin_port) as page:
        await show(page, "Control")
        form = page.get_by_role("form", name="Fault")
        await form.get_by_role("button", name="Inject").click()
        await expect(form.get_by_role("status")).to_contain_text("the rule injects nothing")
        await form.get_by_label("Route").fill("/orders")
        await form.get_by_label("Status").fill("503")
        await form.get_by_role("button", name="Inject").click()
        await expect(rows(page, "Faults").nth(1)).to_contain_text("route=/orders")
        assert [(rule.route, rule.status) for rule in faults.rules] == [("/orders", 503)]
        await page.get_by_role("button", name="Remove", exact=True).click()
        await expect(page.get_by_text("No faults are injected.").first).to_be_visible()
        assert faults.rules == []


async def test_many_routes_and_requests_are_shown(browser: Browser) -> None:
    text = metrics(5, cpu=1, started=1)
    lines = [text.replace("/a{b}", f"/route-{number}/{{b}}") for number in range(500)]
    requests = [
        {
            "timestamp": "2026-01-01T00:00:00.000Z",
            "method": "GET",
            "route": "/orders",
            "path": f"/orders/{number}",
            "status": 200,
            "duration_ms": 1.5,
            "trace_id": f"{number:032x}",
            "span_id": f"{number:016x}",
        }
        for number in range(1000)
    ]
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await answer(page, "metrics", lambda _: {"body": "".join(lines), "content_type": "text/plain"})
        await answer(page, "requests", lambda _: {"json": requests})
        await page.reload()
        await expect(rows(page, "Routes")).to_have_count(501)
        await page.get_by_label("Filter routes").fill("route-77/")
        await expect(rows(page, "Routes")).to_have_count(2)
        await show(page, "Requests")
        await page.get_by_label("Route or path").fill("/orders/")
        await expect(rows(page, "Requests")).to_have_count(1001)


async def test_hidden_page_asks_for_nothing(browser: Browser) -> None:
    hide = """(isHidden) => {
      Object.defineProperty(document, "hidden", { get: () => isHidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await page.evaluate(hide, True)
        await page.wait_for_timeout(500)
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        await page.wait_for_timeout(2500)
        assert asked == []
        async with page.expect_request("**/metrics"):
            await page.evaluate(hide, False)


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 900}])
async def test_no_view_is_wider_than_the_screen(browser: Browser, size: dict[str, int]) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port, viewport=size) as page:
        await ready(page)
        await request(server, 2)
        for view in VIEWS:
            link = page.get_by_role("navigation").get_by_role("link", name=view, exact=True)
            if await link.is_visible():
                await link.click()
                await page.wait_for_timeout(200)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


async def test_controls_have_names_and_work_by_keyboard(browser: Browser) -> None:
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await request(server, 2)
        unnamed = """[...document.querySelectorAll("input, select, button")].map((one) => [one.outerHTML,
          one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent.trim()])
          .filter(([html, name]) => !name && !html.includes("hidden")).map(([html]) => html)"""
        row = page.get_by_role("region", name="Routes").get_by_role("button", name="/orders")
        await expect(row).to_be_visible()
        assert await page.evaluate(unnamed) == []
        await row.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Show all routes")).to_be_visible()
        chart = page.get_by_role("img", name="Latency")
        await chart.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("figure", has=chart).locator(".time")).not_to_be_empty()


async def test_polling_moves_nothing(browser: Browser) -> None:
    shifts = """new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.shifted = (window.shifted ?? 0) + entry.value;
    }).observe({ type: "layout-shift", buffered: false })"""
    async with Server(make_app()) as server, console(browser, server.admin_port) as page:
        await ready(page)
        await request(server, 2)
        await expect(rows(page, "Routes")).to_have_count(2)
        await page.evaluate(shifts)
        for _ in range(3):
            await request(server, 5)
            async with page.expect_response("**/metrics"):
                pass
        assert await page.evaluate("window.shifted ?? 0") < 0.01
