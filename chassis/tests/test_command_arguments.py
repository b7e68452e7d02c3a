"""Commands of a service: their arguments, what is injected, their logs, spans and results."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import Field, SecretStr
from starlette.requests import Request

from chassis import App, ChassisSettings, RequestTasks
from chassis.api.errors import SignatureError
from chassis.commands.errors import UsageError
from chassis.testing import Records, connect, environment, record, run_command

from .support.application import TEST_SETTINGS


class Colour(Enum):
    """A choice."""

    RED = 1
    BLUE = 2


class Store:
    """A dependency."""


class Origin:
    """A dependency that needs a request."""

    def __init__(self, request: Request) -> None:
        self.text: str = f"{request.method} {request.url.path}"


def make_app(function: Callable[..., Any]) -> App:
    """An app with one command."""
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service")
    app.provide(Store, Store())
    app.provide(Origin, Origin)
    app.add_command("act", function)
    return app


async def given(function: Callable[..., Any], *words: str) -> int:
    """The exit status of a command with these arguments."""
    return await run_command(make_app(function), "act", *words)


async def test_parameters_without_a_default_are_positional_and_others_are_options() -> None:
    seen: list[object] = []

    async def act(order: UUID, paths: list[Path], *, batch_size: int = 5, since: str | None = None) -> None:
        seen.extend((order, paths, batch_size, since))

    order = "0b0e5c3e-6e0f-4f5e-9c58-5a1a4b6a7c11"
    assert await given(act, order, "a", "b", "--batch-size=7") == 0
    assert seen == [UUID(order), [Path("a"), Path("b")], 7, None]


async def test_flags_choices_and_repeated_options() -> None:
    seen: list[object] = []

    async def act(
        colour: Colour, *, mood: Literal["glad", "sad"], tags: Sequence[str] = (), dry: bool = False, ask: bool = True
    ) -> None:
        seen.extend((colour, mood, tags, dry, ask))

    assert await given(act, "2", "--mood", "sad", "--tags", "x", "--tags=y", "--dry", "--no-ask") == 0
    assert seen == [Colour.BLUE, "sad", ["x", "y"], True, False]


async def test_alias_is_the_name_of_an_option() -> None:
    seen: list[int] = []

    async def act(size: Annotated[int, Field(alias="batch_size")] = 5) -> None:
        seen.append(size)

    assert await given(act, "--batch-size", "6") == 0
    assert seen == [6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0"], "number='0': Input should be greater than or equal to 1"),
        (["x"], "number='x': Input should be a valid integer, unable to parse string as an integer"),
        (["1", "--mood=mad"], "--mood='mad': Input should be 'glad' or 'sad'"),
        (["1", "--key=hunter2"], r"--key=\[secret\]: "),
        ([], "the following arguments are required: number; for help: "),
        (["1", "--", "--mood=glad"], "there is no place for the argument '--mood=glad'; for help: "),
        (["1", "2"], "there is no place for the argument '2'; for help: "),
        (["1", "--moods=sad"], r"there is no option --moods; did you mean --mood\? For help: .* act --help"),
        (["1", "--mo=sad"], "there is no option --mo"),
        (["1", "--mood"], "argument --mood: expected one argument"),
    ],
)
async def test_wrong_argument_is_one_line(words: list[str], message: str) -> None:
    async def act(
        number: Annotated[int, Field(ge=1)],
        *,
        mood: Literal["glad", "sad"] = "glad",
        key: Annotated[SecretStr | None, Field(min_length=20)] = None,
    ) -> None: ...

    with pytest.raises(UsageError, match=f"^{message}") as caught:
        await given(act, *words)
    assert "\n" not in str(caught.value)


async def test_provided_types_the_settings_and_the_app_are_injected() -> None:
    seen: list[object] = []

    async def act(store: Store, app: App, settings: ChassisSettings) -> None:
        seen.extend((type(store), app.name, settings.max_body_bytes))

    assert await given(act) == 0
    assert seen == [Store, "test-service", TEST_SETTINGS["max_body_bytes"]]


async def test_provider_that_needs_a_request_gets_one_that_stands_for_the_command() -> None:
    seen: list[str] = []

    async def act(origin: Origin) -> None:
        seen.append(origin.text)

    assert await given(act) == 0
    assert seen == ["POST /act"]


async def test_transaction_is_committed_after_success_and_rolled_back_after_a_failure() -> None:
    seen: list[str] = []

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "transaction"
        except BaseException as error:
            seen.append(f"rolled back: {error!r}")
            raise
        seen.append("committed")

    def app_of(function: Callable[..., Any]) -> App:
        app = make_app(function)
        app.provide(str, transaction)
        return app

    async def succeed(text: str) -> int:
        return 4  # an exit status, not a failure of the transaction

    async def fail(text: str) -> None:
        raise LookupError("no such order")

    async def leave(text: str) -> None:
        sys.exit(3)

    async def leave_well(text: str) -> None:
        sys.exit()

    functions = (succeed, fail, leave, leave_well)
    assert [await run_command(app_of(function), "act") for function in functions] == [4, 1, 3, 0]
    assert seen == [
        "committed",
        "rolled back: LookupError('no such order')",
        "rolled back: SystemExit(3)",
        "committed",
    ]


async def test_request_tasks_start_after_success_and_end_before_the_resources_close() -> None:
    seen: list[str] = []

    async def later() -> None:
        seen.append("later")

    async def act(tasks: RequestTasks, *, fails: bool = False) -> None:
        tasks.start(later(), name="later")
        if fails:
            raise LookupError

    assert (await given(act, "--fails"), seen) == (1, [])
    assert (await given(act), seen) == (0, ["later"])


async def test_background_tasks_do_not_run_beside_a_command() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("background")

    async def act() -> None:
        seen.append("command")

    app = make_app(act)
    app.add_background_task("background", work)
    assert (await run_command(app, "act"), seen) == (0, ["command"])


async def test_command_runs_beside_an_app_that_is_open() -> None:
    async def act() -> None: ...

    app = make_app(act)
    async with connect(app) as client:
        assert await run_command(app, "act") == 0
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("in_thread", [False, True])
async def test_failure_is_one_line_and_an_error_of_the_root_span(in_thread: bool) -> None:
    async def fail() -> None:
        raise LookupError("no such order")

    def fail_in_thread() -> None:
        raise LookupError("no such order")

    with environment({}):
        app = make_app(fail_in_thread if in_thread else fail)
        with record(app) as records:
            assert await run_command(app, "act") == 1
            (line,) = records.lines
            (span,) = records.spans
    assert (line["event"], line["level"], line["command"]) == ("command failed", "error", "act")
    assert "LookupError: no such order" in line["exception"]
    assert (span.name, span.parent, span.status.status_code.name) == ("act", None, "ERROR")
    assert span.attributes is not None
    assert span.attributes["error.type"] == "LookupError"
    assert span.context is not None
    assert line["trace_id"] == f"{span.context.trace_id:032x}"


@pytest.mark.parametrize(
    ("code", "status", "facts"),
    [(7, 7, {"status": 7}), ("nothing to do", 1, {"status": 1, "reason": "nothing to do"}), (-1, 1, {"status": -1})],
)
async def test_exit_of_a_command_is_its_status(code: object, status: int, facts: dict[str, Any]) -> None:
    async def act() -> None:
        sys.exit(code)  # type: ignore[arg-type]

    def act_in_thread() -> None:
        sys.exit(code)  # type: ignore[arg-type]

    for function in (act, act_in_thread):
        with environment({}):
            app = make_app(function)
            with record(app) as records:
                assert await run_command(app, "act") == status
                (line,) = records.lines
        assert {name: line.get(name) for name in facts} == facts
        assert "exception" not in line


async def test_success_is_one_line() -> None:
    async def act() -> None: ...

    with environment({}):
        app = make_app(act)
        with record(app) as records:
            assert await run_command(app, "act") == 0
            (line,) = records.lines
            (span,) = records.spans
    assert (line["event"], line["command"]) == ("command done", "act")
    assert span.status.status_code.name == "UNSET"


def signatures() -> Iterator[tuple[Callable[..., Any], str]]:
    """Functions that cannot be commands, and what is said of them."""

    async def several(*names: str) -> None: ...

    async def bare(name) -> None: ...  # type: ignore[no-untyped-def]

    async def request(request: Request) -> None: ...

    async def document(body: dict[str, int]) -> None: ...

    async def unprovided(path: Iterator[int]) -> None: ...

    async def dependency(colours: type[Colour]) -> None: ...

    async def missing(tasks: Records) -> None: ...

    async def counts() -> list[int]:
        return []

    async def agrees() -> bool:
        return True

    async def generates() -> AsyncIterator[int]:
        yield 1

    async def helps(*, asks: Annotated[int, Field(alias="help")] = 1) -> None: ...

    async def twice(*, a_b: int = 1, other: Annotated[int, Field(alias="a-b")] = 2) -> None: ...

    yield several, "parameter 'names' cannot be passed by name"
    yield bare, "parameter 'name' has no annotation"
    yield request, "parameter 'request' is a request, and a command has none"
    yield document, "parameter 'body' cannot be read from text: "
    yield unprovided, "parameter 'path' cannot be read from text: "
    yield dependency, "parameter 'colours' cannot be read from text: "
    yield missing, r"parameter 'tasks' cannot be read from text: .* call app.provide\(Records, …\)"
    yield counts, "returns list"
    yield agrees, "returns <class 'bool'>; return None, or an exit status"
    yield generates, "is an async generator"
    yield helps, "the argument 'help' is taken already"
    yield twice, "the argument 'a-b' is taken already"


@pytest.mark.parametrize(("function", "message"), [*signatures()], ids=lambda value: getattr(value, "__name__", ""))
async def test_function_that_cannot_be_a_command_is_rejected(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(SignatureError, match=f"^the command act:? .*{message}|^the command act {message}"):
        await given(function)


@pytest.mark.parametrize("name", ["", "Act", "act_now", "-act", "act--now"])
def test_name_of_a_command_is_in_lower_case_words(name: str) -> None:
    with pytest.raises(ValueError, match="has an invalid name"):
        make_app(print).add_command(name, print)


@pytest.mark.parametrize("name", ["act", "check", "serve"])
def test_name_of_a_command_is_used_once(name: str) -> None:
    with pytest.raises(ValueError, match=f"two commands have the name '{name}'"):
        make_app(print).add_command(name, print)
