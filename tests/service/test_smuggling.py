"""Where a request ends: the service and who stands in front of it never differ, so nothing can be hidden in between."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bakery import add_handler, render
from fronts import Front, targets
from running import Service, running
from wire_cases import CASES, Case

# Responds with the request, so that a response to another request is noticed.
ECHO = '''"""What was asked."""

from starlette.requests import Request

from chassis import Handler


class Echo(Handler):
    """Answers with the path and the body's length."""

    async def get(self, request: Request) -> dict[str, str | int]:
        """Tell what was asked."""
        return {"path": request.url.path, "bytes": len(await request.body())}

    post = get
'''
ROUTES = """
app.add_route("/asked/{number}", Echo())
app.add_route("/hidden/{number}", Echo())
"""
SHORT = {"APP_KEEP_ALIVE_SECONDS": "1", "APP_HEAD_SECONDS": "1", "APP_BODY_SECONDS": "1"}
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Told:
    """The responses to a case."""

    wire: bytes

    @property
    def statuses(self) -> tuple[int, ...]:
        """Of all final responses."""
        return tuple(int(status) for status in re.findall(rb"HTTP/1\.[01] ([2-5]\d\d) ", self.wire))

    @property
    def paths(self) -> list[str]:
        """The requests that the service says it received."""
        return [path.decode() for path in re.findall(rb'\{"path":"([^"]*)","bytes":\d+\}', self.wire)]


async def tell(port: int, sent: bytes) -> Told:
    """Send, and collect what comes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(sent)
            while part := await reader.read(65536):
                received += part
    except ConnectionError:
        received += b"(reset)"
    finally:
        writer.close()
    return Told(received)


async def tell_all(port: int) -> list[Told]:
    return list(await asyncio.gather(*(tell(port, case.sent(number)) for number, case in enumerate(CASES))))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = render(tmp_path_factory.mktemp("baked"), {})
    add_handler(project, "echo", ECHO, "from .echo import Echo", ROUTES)
    return project


@pytest.fixture(scope="module")
def echo(project: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(python, project, tmp_path_factory.mktemp("home"), **SHORT) as service:
        yield service.ready()


@pytest.fixture(scope="module")
def straight(echo: Service) -> list[Told]:
    """Responses of the service itself."""
    return asyncio.run(tell_all(echo.port))


each_case = pytest.mark.parametrize(("number", "case"), [*enumerate(CASES)], ids=[case.name for case in CASES])


@each_case
def test_service_responds_to_each_request_once(straight: list[Told], number: int, case: Case) -> None:
    told = straight[number]
    assert told.statuses == case.answers
    assert b"(reset)" not in told.wire
    if 200 not in case.answers:
        assert told.paths == []
    if case.answers[-1] >= 400:
        assert b"application/problem+json" in told.wire


@dataclass(frozen=True)
class Behind:
    """Results of all cases behind a proxy."""

    told: list[Told]
    front_saw: Counter[str]
    service_saw: Counter[str]
    errors: list[str]


@pytest.fixture(scope="module", params=["haproxy", "lax haproxy", "nginx"])
def behind(
    request: pytest.FixtureRequest, project: Path, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Behind:
    with running(python, project, tmp_path_factory.mktemp("home"), **SHORT) as service:
        service.ready()
        with Front(request.param, tmp_path_factory.mktemp("front"), service.port) as front:
            # Twice, so that the connections which the front keeps are used again, with what may be left on them.
            told = [one for _ in range(2) for one in asyncio.run(tell_all(front.port))]
        assert service.end() == 0
        service.output.all()
        events = service.events()
        requests = "\n".join(f"{one['method']} {one['path']}" for one in events if one["event"] == "request")
        errors = [json.dumps(event) for event in events if event["level"] == "error"]
        return Behind(told, front.seen(), targets(requests), errors)


def test_service_sees_no_request_that_the_front_did_not_see(behind: Behind) -> None:
    assert behind.service_saw - behind.front_saw == Counter()
    assert behind.service_saw.total() > len(CASES)  # the harmless ones, at least, got through
    assert behind.errors == []


@each_case
def test_proxy_gets_no_response_but_its_own(behind: Behind, number: int, case: Case) -> None:
    for told in behind.told[number :: len(CASES)]:
        requests = case.text.count(" HTTP/") + case.text.count("/asked\n")
        assert len(told.statuses) <= max(1, requests)
        assert set(told.paths) <= {f"/asked/{number}", f"/hidden/{number}"}
