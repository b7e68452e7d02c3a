"""The service keeps the contract that it publishes: requests generated from its own `/openapi.json`."""

import re
from collections import Counter
from pathlib import Path

from bakery import add_handler, run
from conftest import Bake, Start
from running import Service

# Every phase (examples, coverage, fuzzing, stateful), valid and invalid data, the same in each run. Orders name
# what the catalogue has often enough that they can be read and deleted again by the links.
CONFIGURATION = """
continue-on-failure = true
hooks = "hooks.py"

[generation]
mode = "all"
deterministic = true
max-examples = 50

# So many that each link is followed. The phases before have sent invalid data; a link begins with a success. A link by
# the header `Location` would have the same beginning and end as another one.
[phases.stateful]
inference = { algorithms = ["dependency-analysis"] }
generation = { mode = "positive", deterministic = true, max-examples = 100 }

[dictionaries.skus]
values = ["tea", "coffee", "cocoa"]

[parameters]
"body.lines[*].sku" = { dictionary = "skus", probability = 0.8 }

[warnings]
fail-on = true

# No schema tells which cursors the service has made.
[[operations]]
include-name = "GET /orders"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]

# Nor which idempotency keys have been sent with another body.
[[operations]]
include-name = "POST /orders"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "409", "422", "507"]

# A change needs the version that it is based on; see HOOKS.
[[operations]]
include-name = "PUT /orders/{order_id}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "412", "428"]
"""

# Most changes are of any version; `*` stands for that. The others are of a version that never was, or of none.
HOOKS = """
from itertools import cycle

import schemathesis

CONDITIONS = cycle([*["*"] * 6, '"0"', None])


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.operation.label == "PUT /orders/{order_id}" and (condition := next(CONDITIONS)):
        case.headers["If-Match"] = condition
"""

# pydantic's lax mode accepts more than its JSON Schema: `0` is a date, and `false` a number. It also rejects values
# that the schema accepts, such as a text that isn't a decimal.
MATTERS_OF_PYDANTIC = "negative_data_rejection,positive_data_acceptance"

SAMPLES = '''"""A parameter and a field of each kind."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from chassis import Handler, Reply, responds


class Colour(StrEnum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """Something that holds others of its kind."""

    name: Annotated[str, Field(pattern=r"^[a-z]{1,8}$")]
    weight: float = 1.0
    parts: list["Part"] = []


class Sample(BaseModel):
    """A field of each kind."""

    count: int
    ratio: float
    flag: bool
    text: Annotated[str, Field(max_length=20)]
    price: Decimal
    key: UUID
    at: AwareDatetime
    day: date
    clock: time
    colour: Colour
    order: Literal["up", "down", 3]
    maybe: int | None = None
    either: int | str | bool = 0
    several: set[int] = set()
    by_name: dict[str, list[Decimal]] = {}
    part: Part | None = None


class Samples(Handler):
    """Queries and bodies."""

    async def get(
        self,
        count: Annotated[int, Field(ge=-5, lt=100)],
        ratio: float = 0.5,
        flag: bool = False,
        text: Annotated[str, Field(min_length=1, max_length=20)] = "x",
        price: Annotated[Decimal, Field(max_digits=8, decimal_places=2)] = Decimal(0),
        key: UUID | None = None,
        at: datetime | None = None,
        day: date | None = None,
        clock: time | None = None,
        span: timedelta = timedelta(0),
        colour: Colour = Colour.RED,
        order: Literal["up", "down", 3] = "up",
        either: int | bool = 0,
        several: Annotated[list[int], Field(max_length=3)] = [],
        unique: set[Colour] = set(),
    ) -> list[str]:
        """Read."""
        return [repr(value) for name, value in locals().items() if name != "self"]

    @responds(201)
    async def post(self, body: Sample) -> Reply[Sample]:
        """Keep."""
        return Reply(body)

    async def put(self, body: list[Part] | dict[str, int]) -> list[Part] | dict[str, int]:
        """Replace."""
        return body


class SampleItem(Handler):
    """Paths."""

    async def get(self, number: int, name: Annotated[str, Field(max_length=10)], colour: Colour) -> list[str | int]:
        """Read one."""
        return [number, name, colour]

    async def delete(self, number: Annotated[int, Field(ge=0)], name: date, colour: str, hard: bool = False) -> None:
        """Remove one."""

    def patch(self, number: float, name: Decimal, colour: bool, body: Part | None = None) -> Part | None:
        """Change one, in a thread."""
        return body
'''


def test_default_service_responds_as_its_document_says(start: Start, installed: Path, tmp_path: Path) -> None:
    service = start(installed).ready()

    # The response to an idempotency key is that of the first request, also when its order has been deleted since.
    said = generated_requests(service, tmp_path, "--exclude-checks=ensure_resource_availability")

    # The links between the operations were followed, so that orders were made, read, changed, deleted and missed.
    covered = re.search(r"API Links: +(\d+) covered / (\d+) selected", said)
    assert covered is not None
    assert int(covered[1]) == int(covered[2]) >= 10
    statuses = statuses_of(service)
    assert {201, 204, 400, 404, 405, 409, 412, 415, 422, 428} <= {status for _, _, status in statuses}
    assert statuses["POST", "/orders", 201] > 20
    assert statuses["GET", "/orders/{order_id}", 200] > 20
    assert statuses["PUT", "/orders/{order_id}", 200] > 5


def test_handler_of_every_type_responds_as_its_document_says(bake: Bake, start: Start, tmp_path: Path) -> None:
    project = bake()
    routes = """
    app.add_route("/samples", Samples())
    app.add_route("/samples/{number}/{name}/{colour}", SampleItem())
    """
    add_handler(project, "samples", SAMPLES, "from .samples import SampleItem, Samples", routes)
    service = start(project).ready()

    # Without links, which the default service has, too: here they would send what the other phases have sent.
    options = ["--include-path-regex=/samples", f"--exclude-checks={MATTERS_OF_PYDANTIC}", "--max-examples=25"]
    generated_requests(service, tmp_path, "--phases=coverage,fuzzing", *options)

    statuses = statuses_of(service)
    for method, status in (("GET", 200), ("POST", 201), ("PUT", 200)):
        assert statuses[method, "/samples", status]
        assert statuses[method, "/samples", 422]


def generated_requests(service: Service, folder: Path, *options: str) -> str:
    """Let schemathesis ask `service`; any failure or warning of any check fails the test. Returns what it said."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    (folder / "hooks.py").write_text(HOOKS)
    document = f"{service.http.base_url}/openapi.json"
    command = ["schemathesis", "--config-file", str(configuration), "run", document, "--checks=all", *options]

    done = run(*command, cwd=folder, HOME=str(folder), NO_PROXY="127.0.0.1")

    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


def statuses_of(service: Service) -> Counter[tuple[str, str, int]]:
    """The number of responses by operation and status, from the access lines, once all are written."""
    assert service.end() == 0
    service.output.all()
    lines = [event for event in service.events() if event["event"] == "request"]
    found = Counter((line["method"], line["route"], line["status"]) for line in lines)
    assert not [status for _, _, status in found if status >= 500]
    assert service.errors.all() == []
    return found
