"""The endpoints with which operators see and change a service."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog

from chassis import Handler, Problem, Route, Server, annotate
from chassis.client.testing import FakeService
from chassis.operations.audit import Audit
from chassis.operations.log_levels import MAX_CHANGES, LogLevels, TooManyChangesError
from chassis.telemetry.logs import Logs

from .support.application import make_app
from .support.service import SAMPLED, TRACE_ID, Service, connect, observed, serve, until

log = structlog.get_logger()


class Work(Handler):
    """Fails, or says something, as it is asked."""

    async def get(self, status: int = 200, says: str = "") -> str:
        annotate(order=7, password="hunter2")  # noqa: S106 - to be redacted
        log.debug("detail")
        if says:
            log.info("said", text=says, api_key="sk-1234")
        if status == 500:
            raise RuntimeError
        if status != 200:
            raise Problem(status)
        return "done"


class Numbered(Handler):
    """The same with a path parameter."""

    async def get(self, number: str, status: int = 200) -> str:
        return await Work().get(status)


@asynccontextmanager
async def operated(**app: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service, and a client of its admin port."""
    routes = [Route("/jobs", Work()), Route("/jobs/{number}", Numbered())]
    async with serve(*routes, **{"admin_port": 0} | app) as service, connect(service.server.admin_port or 0) as admin:
        yield service, admin


@pytest.fixture(scope="module")
async def operated_service() -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with operated() as both:
        yield both


@pytest.fixture
async def parts(operated_service: tuple[Service, httpx.AsyncClient]) -> tuple[Service, httpx.AsyncClient]:
    await operated_service[0].fresh()
    return operated_service


Parts = tuple[Service, httpx.AsyncClient]


async def get(admin: httpx.AsyncClient, path: str) -> Any:
    response = await admin.get(path)
    assert response.status_code == 200, response.text
    return response.json()


async def ended(service: Service, count: int) -> None:
    await service.access_lines(count)


# /requests


async def test_requests_have_the_facts_of_the_access_line(parts: Parts) -> None:
    service, admin = parts
    await service.client.get("/jobs/4?status=404", headers=SAMPLED)
    line = await service.access_line()
    (request, *_) = await get(admin, "/requests")
    names = ("method", "route", "path", "status", "duration_ms", "client", "request_id", "trace_id", "span_id")
    assert {name: request[name] for name in names} == {name: line[name] for name in names}
    assert request["facts"] == {"order": 7, "password": line["password"]}
    assert "hunter2" not in str(request)
    assert abs(datetime.fromisoformat(request["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_requests_are_filtered(parts: Parts) -> None:
    service, admin = parts
    await service.client.get("/jobs?status=404", headers=SAMPLED)
    await service.client.get("/jobs?status=409")
    await service.client.get("/jobs/1")
    await ended(service, 3)
    assert {one["status"] for one in await get(admin, "/requests?status=404")} == {404}
    assert {404, 409} <= {one["status"] for one in await get(admin, "/requests?status=4xx")} <= {404, 409}
    assert {one["path"] for one in await get(admin, "/requests?route=/jobs/{number}")} <= {"/jobs/1", "/jobs/4"}
    assert {one["trace_id"] for one in await get(admin, f"/requests?trace_id={TRACE_ID}")} == {TRACE_ID}
    assert [one["path"] for one in await get(admin, "/requests?limit=1")] == ["/jobs/1"]


@pytest.mark.parametrize("query", ["status=600", "status=4x", "kind=odd", "limit=0", "limit=1001", "limit=-1"])
async def test_invalid_filter_is_422(parts: Parts, query: str) -> None:
    _, admin = parts
    assert (await admin.get(f"/requests?{query}")).status_code == 422


async def test_failed_requests_are_kept_longer_than_the_others() -> None:
    async with operated() as (service, admin):
        await service.client.get("/jobs?status=500")
        await asyncio.gather(*(service.client.get("/jobs") for _ in range(1010)))
        await ended(service, 1011)
        assert len(await get(admin, "/requests?limit=1000")) == 1000
        assert {one["status"] for one in await get(admin, "/requests?limit=1000")} == {200}
        (failed,) = await get(admin, "/requests?kind=failed")
        assert (failed["status"], failed["error"]) == (500, "RuntimeError")
        slow = [one["duration_ms"] for one in await get(admin, "/requests?kind=slow&limit=1000")]
        assert slow == sorted(slow, reverse=True)
        assert 50 <= len(slow) <= 100


async def test_long_path_is_cut(parts: Parts) -> None:
    service, admin = parts
    await service.client.get("/jobs/" + "x" * 5000)
    await ended(service, 1)
    (request,) = await get(admin, "/requests?limit=1")
    assert len(request["path"]) == 300


async def test_requests_of_the_admin_port_are_not_listed(parts: Parts) -> None:
    _, admin = parts
    await admin.get("/readyz")
    assert not [one for one in await get(admin, "/requests") if one["path"] == "/readyz"]


async def test_requests_that_are_rejected_do_not_replace_the_failed_ones() -> None:
    async with operated() as (service, admin):
        assert (await service.client.request("BREW", "/jobs/1")).status_code == 501
        await until(lambda: service.seen.events("request"))
        assert [one["status"] for one in await get(admin, "/requests")] == [501]
        assert await get(admin, "/requests?kind=failed") == []


async def test_failed_probes_are_not_listed() -> None:
    async with operated() as (service, admin):
        await admin.put("/readiness", json={"ready": False, "reason": "drill"})
        assert (await admin.get("/readyz")).status_code == 503
        (line,) = await until(lambda: service.seen.events("request"))
        assert line["status"] == 503
        assert await get(admin, "/requests?kind=failed") == []


# /logs


async def test_logs_are_objects_with_growing_numbers(parts: Parts) -> None:
    service, admin = parts
    await service.client.get("/jobs?says=first")
    await service.client.get("/jobs?says=second")
    await ended(service, 2)
    lines = await get(admin, "/logs")
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(lines)))
    first, second = (line for line in lines[-4:] if line["line"]["event"] == "said")
    assert (first["line"]["text"], second["line"]["text"]) == ("first", "second")
    assert "sk-1234" not in str(lines)
    after = await get(admin, f"/logs?after={first['number']}")
    assert [line["number"] for line in after] == [number for number in numbers if number > first["number"]]
    assert len(await get(admin, f"/logs?after={first['number']}&limit=1")) == 1


async def test_logs_without_new_lines_are_empty(parts: Parts) -> None:
    _, admin = parts
    last = (await get(admin, "/logs?limit=1"))[0]["number"]
    assert await get(admin, f"/logs?after={last}") == []


async def test_logs_on_a_terminal_are_texts_without_colours() -> None:
    async with operated(logs={"format": "console"}) as (service, admin):
        await service.client.get("/jobs?says=hello")
        texts = [line["line"] for line in await get(admin, "/logs")]
        assert any("said" in text and "hello" in text for text in texts)
        assert not any("\x1b" in text for text in texts)


# /loggers


@pytest.fixture
def _restored() -> Any:
    yield
    logging.getLogger("some.library").setLevel(logging.NOTSET)


async def test_level_of_the_service_changes_for_some_time() -> None:
    async with operated() as (service, admin):
        await service.client.get("/jobs")
        response = await admin.put("/loggers/root", json={"level": "debug", "seconds": 60})
        document = response.json()
        assert (document["name"], document["level"], document["configured"]) == ("root", "DEBUG", "INFO")
        ends_in = datetime.fromisoformat(document["until"]) - datetime.now(UTC)
        assert timedelta(seconds=50) < ends_in <= timedelta(seconds=60)
        assert service.seen.events("detail") == []
        await service.client.get("/jobs")
        assert len(service.seen.events("detail")) == 1
        assert (await admin.delete("/loggers/root")).status_code == 204
        assert (await get(admin, "/loggers"))[0] == {
            "name": "root",
            "level": "INFO",
            "configured": "INFO",
            "until": None,
        }
        lines = service.seen.events("operator changed a log level")
        assert [(line["by"], line["log_level"]) for line in lines] == [("127.0.0.1", "DEBUG"), ("127.0.0.1", "INFO")]
        assert [line["before"] for line in lines] == ["INFO", "DEBUG"]
        assert lines[0]["seconds"] == 60
        assert lines[0]["trace_id"] == lines[0]["request_id"]


async def test_level_expires() -> None:
    async with operated() as (service, admin):
        await admin.put("/loggers/root", json={"level": "ERROR", "seconds": 1})
        lines = await until(
            lambda: found if len(found := service.seen.events("operator changed a log level")) > 1 else []
        )
        assert (lines[1]["by"], lines[1]["log_level"]) == ("expiry", "INFO")
        assert (await get(admin, "/loggers"))[0]["until"] is None


@pytest.mark.usefixtures("_restored")
async def test_level_of_one_library_changes(parts: Parts) -> None:
    service, admin = parts
    library = logging.getLogger("some.library")
    await admin.put("/loggers/some.library", json={"level": "DEBUG"})
    library.debug("library detail")
    logging.getLogger("other.library").debug("other detail")
    assert len(service.seen.events("library detail")) == 1
    assert service.seen.events("other detail") == []
    (entry,) = [entry for entry in await get(admin, "/loggers") if entry["name"] == "some.library"]
    assert (entry["level"], entry["configured"]) == ("DEBUG", None)
    await admin.delete("/loggers/some.library")
    assert library.level == logging.NOTSET


async def test_one_logger_is_shown_and_an_unknown_one_is_not_made(parts: Parts) -> None:
    _, admin = parts
    document = await get(admin, "/loggers/root")
    assert (document["name"], document["level"]) == ("root", "INFO")
    assert (await admin.get("/loggers/never.made")).status_code == 404
    assert "never.made" not in logging.root.manager.loggerDict


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("root", {"level": "LOUD"}),
        ("root", {"level": 10}),
        ("root", {"level": "DEBUG", "seconds": 0}),
        ("root", {"level": "DEBUG", "seconds": 86_401}),
        ("root", {"level": "DEBUG", "second": 60}),
        ("a%0Ab", {"level": "DEBUG"}),
        ("x" * 201, {"level": "DEBUG"}),
        ("root", []),
    ],
)
async def test_invalid_change_of_a_level_is_422(parts: Parts, name: str, body: Any) -> None:
    service, admin = parts
    assert (await admin.put(f"/loggers/{name}", json=body)).status_code == 422
    assert service.seen.events("operator changed a log level") == []


async def test_audit_lines_are_written_at_any_level() -> None:
    async with operated() as (service, admin):
        await admin.put("/loggers/root", json={"level": "CRITICAL"})
        await admin.put("/readiness", json={"ready": False, "reason": "drill"})
        assert len(service.seen.events("operator changed readiness")) == 1
        await admin.delete("/loggers/root")


@pytest.fixture
def levels() -> Iterator[tuple[LogLevels, Logs]]:
    with observed() as seen:
        yield LogLevels(seen.telemetry.logs, Audit(seen.telemetry.logs)), seen.telemetry.logs


async def test_second_change_ends_with_the_level_before_the_first(levels: tuple[LogLevels, Logs]) -> None:
    changes, logs = levels
    changes.set("root", "DEBUG", 600, by="ada")
    changes.set("root", "ERROR", 600, by="grace")
    assert changes.document("root")["configured"] == "INFO"
    changes.reset("root", by="ada")
    assert logs.level == logging.INFO


async def test_first_expiry_does_not_end_the_second_change(levels: tuple[LogLevels, Logs]) -> None:
    changes, logs = levels
    changes.set("root", "DEBUG", 0.01, by="ada")
    changes.set("root", "ERROR", 600, by="grace")
    await asyncio.sleep(0.05)
    assert logs.level == logging.ERROR
    changes.reset("root", by="ada")


async def test_expiry_keeps_a_level_that_code_has_set_meanwhile(levels: tuple[LogLevels, Logs]) -> None:
    changes, logs = levels
    changes.set("root", "DEBUG", 0.01, by="ada")
    logs.set_level("WARNING")
    await until(lambda: changes.document("root")["until"] is None)
    assert logs.level == logging.WARNING


async def test_setting_that_changes_is_in_effect_after_the_expiry(levels: tuple[LogLevels, Logs]) -> None:
    changes, logs = levels
    changes.set("root", "DEBUG", 0.05, by="ada")
    changes.configure("WARNING")
    assert logs.level == logging.DEBUG
    await until(lambda: changes.document("root")["until"] is None)
    assert logs.level == logging.WARNING


async def test_number_of_changed_loggers_is_bounded(levels: tuple[LogLevels, Logs]) -> None:
    changes, _ = levels
    names = [f"bounded.{number}" for number in range(MAX_CHANGES)]
    for name in names:
        changes.set(name, "DEBUG", 600, by="ada")
    with pytest.raises(TooManyChangesError):
        changes.set("one.more", "DEBUG", 600, by="ada")
    for name in names:
        changes.reset(name, by="ada")


# /readiness


async def test_service_is_taken_out_of_rotation_and_back_in() -> None:
    async with operated() as (service, admin):
        empty = {"ready": True, "reason": None, "by": None, "since": None, "until": None}
        assert await get(admin, "/readiness") == empty
        document = (await admin.put("/readiness", json={"ready": False, "reason": "drill"})).json()
        assert (document["ready"], document["reason"], document["by"]) == (False, "drill", "127.0.0.1")
        probe = await admin.get("/readyz")
        assert (probe.status_code, probe.json()["status"]) == (503, "disabled")
        assert "service_ready 0.0" in (await admin.get("/metrics")).text
        assert (await service.client.get("/jobs")).status_code == 200
        assert (await admin.get("/healthz")).status_code == 200
        await admin.delete("/readiness")
        assert (await admin.get("/readyz")).status_code == 200
        lines = service.seen.events("operator changed readiness")
        assert [(line["ready"], line.get("reason")) for line in lines] == [(False, "drill"), (True, None)]
        assert [line["was_ready"] for line in lines] == [True, False]


async def test_end_of_the_time_out_of_rotation_is_shown() -> None:
    async with operated() as (_, admin):
        change = {"ready": False, "reason": "drill", "seconds": 60}
        document = (await admin.put("/readiness", json=change)).json()
        ends_in = datetime.fromisoformat(document["until"]) - datetime.now(UTC)
        assert timedelta(seconds=50) < ends_in <= timedelta(seconds=60)
        assert (await get(admin, "/readiness"))["until"] == document["until"]
        without = (await admin.put("/readiness", json={"ready": False, "reason": "until put back"})).json()
        assert without["until"] is None


async def test_ready_true_is_the_same_as_delete() -> None:
    async with operated() as (_, admin):
        await admin.put("/readiness", json={"ready": False, "reason": "drill"})
        assert (await admin.put("/readiness", json={"ready": True})).json()["ready"] is True
        assert (await admin.get("/readyz")).status_code == 200


async def test_readiness_by_hand_can_end_by_itself() -> None:
    async with operated() as (service, admin):
        await admin.put("/readiness", json={"ready": False, "reason": "drill", "seconds": 1})
        lines = await until(
            lambda: found if len(found := service.seen.events("operator changed readiness")) > 1 else []
        )
        assert (lines[1]["by"], lines[1]["ready"]) == ("expiry", True)
        assert (await admin.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    "body", [{"ready": False}, {"ready": False, "reason": " "}, {"reason": "x"}, {"ready": False, "reason": "x" * 501}]
)
async def test_invalid_change_of_readiness_is_422(parts: Parts, body: Any) -> None:
    _, admin = parts
    assert (await admin.put("/readiness", json=body)).status_code == 422


# /dependencies


async def test_dependencies_show_breaker_and_replicas() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, admin_port=0)
        catalogue = app.client("catalogue", base_url="http://catalogue")
        catalogue.use(FakeService({"GET /products": []}))
        async with Server(app) as server, connect(server.admin_port or 0) as admin:
            await catalogue.get("/products")
            (dependency,) = await get(admin, "/dependencies")
            assert (dependency["name"], dependency["breaker"], dependency["in_progress"]) == ("catalogue", "closed", 0)
            (replica,) = dependency["replicas"]
            assert (replica["is_ejected"], round(replica["recent_successes"])) == (False, 1)
