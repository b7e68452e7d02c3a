"""gRPC beside HTTP over a real connection: the kinds of calls, statuses, deadlines, limits and dependencies."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode
from starlette.requests import Request

from chassis import App, Problem, request_deadline
from chassis.grpc import GrpcListenError, GrpcServiceError, add_grpc
from chassis.middleware.load_shedder import LoadShedder

from .support.application import make_app
from .support.grpc_service import SERVICE, Context, Words, add_words, failure, received, serve, settings
from .support.service import observed


async def test_all_kinds_of_calls_succeed() -> None:
    async with serve() as service:
        calls = service.calls
        assert (await calls.one("hello")).value == "hello"
        assert await received(calls.split("one two three")) == ["one", "two", "three"]
        assert (await calls.join("one", "two")).value == "one two"
        assert await received(calls.each("one", "two")) == ["one", "two"]
        lines = await service.call_lines(4)
    assert [line["code"] for line in lines] == ["OK"] * 4
    counts = {line["method"]: (line["request_messages"], line["response_messages"]) for line in lines}
    assert counts == {
        f"{SERVICE}/One": (1, 1),
        f"{SERVICE}/Split": (1, 3),
        f"{SERVICE}/Join": (2, 1),
        f"{SERVICE}/Each": (2, 2),
    }


async def test_method_that_reads_and_writes_by_itself_succeeds() -> None:
    class Own(Words):
        async def Each(self, _messages: Any, context: Context) -> None:  # type: ignore[override]  # noqa: N802
            while (message := await context.read()) is not grpc.aio.EOF:
                await context.write(message)

    async with serve(Own()) as service:
        assert await received(service.calls.each("one", "two")) == ["one", "two"]
        line = await service.call_line()
    assert (line["request_messages"], line["response_messages"]) == (2, 2)


class NoSuchWordError(Exception):
    """An error of the domain."""


class WordExistsError(Exception):
    """Another one."""


PROBLEMS: dict[type[Exception], Any] = {NoSuchWordError: 404, WordExistsError: 409}


def raising(error: Exception) -> Words:
    async def work(_text: str, _context: Context) -> str:
        raise error

    return Words(work)


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (NoSuchWordError("no word x"), StatusCode.NOT_FOUND, "no word x"),
        (Problem(400, "bad"), StatusCode.INVALID_ARGUMENT, "bad"),
        (Problem(403, "never"), StatusCode.PERMISSION_DENIED, "never"),
        (Problem(418, "a teapot"), StatusCode.FAILED_PRECONDITION, "a teapot"),
        (Problem(503, "later"), StatusCode.UNAVAILABLE, "later"),
        (Problem(507, "full"), StatusCode.INTERNAL, "full"),
        (WordExistsError("there already"), StatusCode.ALREADY_EXISTS, "there already"),
        (ExceptionGroup("several", [NoSuchWordError("no word y")]), StatusCode.NOT_FOUND, "no word y"),
    ],
)
async def test_expected_exceptions_become_status_codes(error: Exception, code: StatusCode, details: str) -> None:
    codes = {"codes": {WordExistsError: StatusCode.ALREADY_EXISTS}}
    async with serve(raising(error), prepare=lambda app: app.add_problems(PROBLEMS), server=codes) as service:
        failed = await failure(service.calls.one())
        line = await service.call_line()
        logged = service.seen.events("unhandled exception")
    assert (failed.code(), failed.details()) == (code, details)
    assert line["code"] == code.name
    assert logged == []


@pytest.mark.parametrize("kind", ["one", "split", "join", "each"])
async def test_unexpected_exception_is_logged_once_and_not_shown(kind: str) -> None:
    async with serve(raising(ValueError("secret of the database"))) as service:
        call = getattr(service.calls, kind)("hello")
        failed = await failure(call if kind in ("one", "join") else received(call))
        line = await service.call_line()
        (logged,) = [line for line in service.seen.lines if "secret of the database" in str(line)]
    assert failed.code() is StatusCode.INTERNAL
    assert "secret" not in str(failed)
    assert "ValueError" not in (failed.details() or "")
    assert logged["event"] == "unhandled exception"
    assert logged["trace_id"] == line["trace_id"]
    assert (line["level"], line["code"], line["error"]) == ("error", "INTERNAL", "ValueError")


async def test_failure_after_messages_ends_the_stream() -> None:
    async def work(text: str, _context: Context) -> str:
        if text == "two":
            raise NoSuchWordError("two")
        return text

    async with serve(Words(work), prepare=lambda app: app.add_problems(PROBLEMS)) as service:
        call = service.calls.split("one two")
        assert (await call.read()).value == "one"
        assert await call.code() is StatusCode.NOT_FOUND
        line = await service.call_line()
    assert (line["response_messages"], line["code"]) == (1, "NOT_FOUND")


async def test_retry_after_becomes_the_pushback_of_the_retry_policy() -> None:
    async with serve(raising(Problem(503, "later", headers={"Retry-After": "2"}))) as service:
        failed = await failure(service.calls.one())
    assert ("grpc-retry-pushback-ms", "2000") in list(failed.trailing_metadata())


async def test_abort_and_set_code_are_the_status() -> None:
    async def work(text: str, context: Context) -> str:
        if text == "abort":
            await context.abort(StatusCode.DATA_LOSS, "gone", (("key", "value"),))
        context.set_code(StatusCode.OUT_OF_RANGE)
        context.set_details("too far")
        return text

    async with serve(Words(work)) as service:
        aborted = await failure(service.calls.one("abort"))
        failed = await failure(service.calls.one("set"))
        lines = await service.call_lines(2)
    assert (aborted.code(), aborted.details()) == (StatusCode.DATA_LOSS, "gone")
    assert ("key", "value") in list(aborted.trailing_metadata())
    assert (failed.code(), failed.details()) == (StatusCode.OUT_OF_RANGE, "too far")
    assert [line["code"] for line in lines] == ["DATA_LOSS", "OUT_OF_RANGE"]


async def test_abort_inside_of_a_task_group_is_the_status() -> None:
    async def work(text: str, context: Context) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(context.abort(StatusCode.NOT_FOUND, "none"))
        return text

    async with serve(Words(work)) as service:
        failed = await failure(service.calls.one())
        line = await service.call_line()
        assert service.seen.events("unhandled exception") == []
    assert failed.code() is StatusCode.NOT_FOUND
    assert line["code"] == "NOT_FOUND"


async def test_unknown_method_is_unimplemented_and_has_a_line() -> None:
    async with serve() as service:
        failed = await failure(service.calls.raw("/test.v1.Nothing/At", b"x"))
        line = await service.call_line()
        count = await service.sample("rpc_server_call_duration_seconds_count", rpc_method="_OTHER")
    assert failed.code() is StatusCode.UNIMPLEMENTED
    assert (line["method"], line["code"]) == ("test.v1.Nothing/At", "UNIMPLEMENTED")
    assert count == 1


async def test_message_that_cannot_be_parsed_is_an_invalid_argument() -> None:
    async with serve() as service:
        failed = await failure(service.calls.raw(f"/{SERVICE}/One", b"\xff\xff"))
        line = await service.call_line()
        assert service.seen.events("unhandled exception") == []
    assert (failed.code(), failed.details()) == (StatusCode.INVALID_ARGUMENT, "The message cannot be parsed.")
    assert line["code"] == "INVALID_ARGUMENT"


async def test_response_of_another_type_is_an_internal_error() -> None:
    async def work(_text: str, _context: Context) -> Any:
        return 5

    async with serve(Words(work)) as service:
        failed = await failure(service.calls.one())
        (logged,) = service.seen.events("unhandled exception")
    assert failed.code() is StatusCode.INTERNAL
    assert "TypeError" in str(logged)


async def test_message_beyond_the_limit_is_rejected_and_has_a_line() -> None:
    async with serve(grpc_max_message_bytes=1000) as service:
        assert (await service.calls.one("x" * 900)).value
        failed = await failure(service.calls.one("x" * 2000))
        lines = await service.call_lines(2)
    assert failed.code() is StatusCode.RESOURCE_EXHAUSTED
    assert lines[1]["code"] == "CANCELLED"


async def test_calls_beyond_the_limit_are_rejected_at_once() -> None:
    release = asyncio.Event()

    async def work(text: str, _context: Context) -> str:
        await release.wait()
        return text

    async with serve(Words(work), grpc_max_calls=2) as service:
        waiting = [service.calls.one(str(number)) for number in range(2)]
        await service.active_calls(2)
        failed = await failure(service.calls.one())
        release.set()
        assert [(await call).value for call in waiting] == ["0", "1"]
        assert (await service.calls.one("after")).value == "after"
    assert failed.code() is StatusCode.RESOURCE_EXHAUSTED
    assert ("grpc-retry-pushback-ms", "1000") in list(failed.trailing_metadata())


async def test_calls_without_streams_share_the_limit_of_requests() -> None:
    release = asyncio.Event()

    async def work(text: str, _context: Context) -> str:
        if text == "wait":
            await release.wait()
        return text

    async with serve(Words(work), app={"max_requests": 1}) as service:
        stream = asyncio.create_task(received(service.calls.split("wait")))
        await service.active_calls(1)
        waiting = service.calls.one("wait")
        await service.active_calls(2)
        failed = await failure(service.calls.one())
        assert (await service.client.get("/text")).status_code == 503
        release.set()
        assert (await waiting).value == "wait"
        await stream
        assert (await service.calls.one("after")).value == "after"
        assert service.app.load_shedder.in_progress == 0
    assert failed.code() is StatusCode.UNAVAILABLE
    assert ("grpc-retry-pushback-ms", "1000") in list(failed.trailing_metadata())


async def test_calls_are_shed_while_requests_wait_for_the_cpu() -> None:
    def compute() -> None:
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass

    async def ask(shedder: LoadShedder) -> None:
        """As requests over HTTP do, again and again."""
        while True:
            read_at = time.monotonic()
            await asyncio.sleep(0)
            waits = shedder.enter(read_at)
            if waits is None or await waits is None:
                compute()
                shedder.leave()

    async with serve() as service:
        requests = [asyncio.create_task(ask(service.app.load_shedder)) for _ in range(40)]
        async with asyncio.timeout(30):
            while True:
                answers = await asyncio.gather(*(service.calls.one() for _ in range(10)), return_exceptions=True)
                errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
                if errors:
                    break
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        assert (await service.calls.one("after")).value == "after"
    assert {(error.code(), error.details()) for error in errors} == {
        (StatusCode.UNAVAILABLE, "The service is overloaded; retry later.")
    }


async def forever(text: str, _context: Context) -> str:
    """Never end."""
    await asyncio.Event().wait()
    return text


async def test_deadline_of_the_client_ends_the_call() -> None:
    ended = []

    async def work(text: str, context: Context) -> str:
        try:
            return await forever(text, context)
        finally:
            ended.append(text)

    async with serve(Words(work)) as service:
        failed = await failure(service.calls.one("late", timeout=0.1))
        line = await service.call_line()
    assert failed.code() is StatusCode.DEADLINE_EXCEEDED
    assert ended == ["late"]
    assert (line["code"], line["deadline"], line["level"]) == ("DEADLINE_EXCEEDED", "caller", "warning")


async def test_own_deadline_ends_a_call_without_streams() -> None:
    async with serve(Words(forever), grpc_deadline_seconds=0.05) as service:
        failed = await failure(service.calls.one("late", timeout=10))
        line = await service.call_line()
    assert failed.code() is StatusCode.DEADLINE_EXCEEDED
    assert failed.details() == "The service did not respond within the deadline of the call."
    assert (line["code"], line["deadline"], line["level"]) == ("DEADLINE_EXCEEDED", "own", "error")


async def test_deadline_is_known_to_the_method() -> None:
    async def work(_text: str, _context: Context) -> str:
        return str(request_deadline())

    async with serve(Words(work), grpc_deadline_seconds=5.0) as service:
        calls = service.calls
        seconds = [float((await calls.one(timeout=timeout)).value) for timeout in (2, 60, None)]
        (streamed,) = await received(calls.split("one", timeout=50))
        (endless,) = await received(calls.split("one"))
    assert 1 < seconds[0] <= 2.1
    assert all(4 < rest <= 5 for rest in seconds[1:])
    assert 40 < float(streamed) <= 51  # gRPC rounds up
    assert endless == "None"


async def test_cancelled_call_is_cancelled_and_has_a_line() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(text: str, context: Context) -> str:
        begun.set()
        try:
            return await forever(text, context)
        finally:
            ended.set()

    async with serve(Words(work)) as service:
        call = service.calls.each("one")
        reading = asyncio.create_task(call.read())
        await begun.wait()
        call.cancel()
        await asyncio.wait({reading})
        async with asyncio.timeout(5):
            await ended.wait()
        line = await service.call_line()
    assert (line["code"], line["level"]) == ("CANCELLED", "info")


async def test_client_that_leaves_before_its_message_has_a_line() -> None:
    async with serve() as service:
        never = asyncio.Event()

        async def nothing() -> AsyncIterator[StringValue]:
            await never.wait()
            yield StringValue()

        make: Any = service.calls.channel.stream_unary
        call = make(f"/{SERVICE}/One")(nothing())
        await service.active_calls(1)
        call.cancel()
        line = await service.call_line()
    assert (line["code"], line["request_messages"]) == ("CANCELLED", 0)


class Session:
    """A dependency."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.events: list[str] = []


class WithSession(Words):
    """Its methods have dependencies."""

    async def One(  # type: ignore[override]  # noqa: N802
        self, request: StringValue, context: Context, session: Session, http: Request
    ) -> StringValue:
        session.events.append("called")
        if request.value == "fail":
            raise NoSuchWordError("fail")
        return StringValue(value=f"{session.path} {http.headers['x-color']} {len(context.peer()) > 0}")

    async def Split(  # type: ignore[override]  # noqa: N802
        self, request: StringValue, context: Context, session: Session
    ) -> AsyncIterator[StringValue]:
        for word in request.value.split():
            session.events.append(word)
            yield StringValue(value=word)


async def test_dependencies_are_made_for_each_call_and_exit_before_its_end() -> None:
    sessions: list[Session] = []

    async def session(request: Request) -> AsyncIterator[Session]:
        made = Session(request.url.path)
        sessions.append(made)
        try:
            yield made
        except NoSuchWordError:
            made.events.append("rolled back")
            raise
        else:
            made.events.append("committed")

    def prepare(app: App) -> None:
        app.provide(Session, session)
        app.add_problems(PROBLEMS)

    async with serve(WithSession(), prepare=prepare) as service:
        metadata = (("x-color", "red"),)
        assert (await service.calls.one(metadata=metadata)).value == f"/{SERVICE}/One red True"
        assert (await failure(service.calls.one("fail", metadata=metadata))).code() is StatusCode.NOT_FOUND
        assert await received(service.calls.split("a b")) == ["a", "b"]
    events = [made.events for made in sessions]
    assert events == [["called", "committed"], ["called", "rolled back"], ["a", "b", "committed"]]


async def test_dependency_that_fails_at_its_exit_fails_the_call() -> None:
    async def session() -> AsyncIterator[Session]:
        yield Session("")
        raise ValueError("commit failed")

    async with serve(WithSession(), prepare=lambda app: app.provide(Session, session)) as service:
        failed = await failure(service.calls.one(metadata=(("x-color", "red"),)))
    assert failed.code() is StatusCode.INTERNAL


async def test_dependency_without_a_provider_stops_the_start() -> None:
    with pytest.raises(GrpcServiceError, match=r"WithSession.One: parameter 'session' is Session, which has no provid"):
        async with serve(WithSession()):
            pass


async def start(servicer: object, add: Any = add_words) -> None:
    with observed() as seen:
        add_grpc(make_app(seen.telemetry), settings()).add_service(add, servicer)


async def test_unusable_services_stop_the_start() -> None:
    class Blocking(Words):
        def One(self, request: StringValue, context: Context) -> StringValue:  # type: ignore[override]  # noqa: N802
            return request

    with pytest.raises(GrpcServiceError, match=r"Blocking\.One is not an async def"):
        await start(Blocking())
    with pytest.raises(GrpcServiceError, match="object has no method 'One', which its service has"):
        await start(object())
    with pytest.raises(GrpcServiceError, match="add_nothing adds no methods; generate the code again"):
        await start(Words(), add_nothing)


def add_nothing(_servicer: object, _server: object) -> None:
    """As code for another kind of server."""


async def test_service_that_is_added_twice_stops_the_start() -> None:
    with observed() as seen:
        server = add_grpc(make_app(seen.telemetry), settings())
        server.add_service(add_words, Words())
        with pytest.raises(GrpcServiceError, match=f"two services have the method /{SERVICE}/One"):
            server.add_service(add_words, Words())


async def test_port_in_use_stops_the_start() -> None:
    async with serve() as service:
        with pytest.raises(GrpcListenError, match=f"cannot listen on 127.0.0.1:{service.grpc.port} for gRPC"):
            async with serve(grpc_port=service.grpc.port):
                pass


async def test_interceptors_of_the_owner_are_inside_of_telemetry() -> None:
    class Rejecting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            metadata = dict(handler_call_details.invocation_metadata)
            if "x-raise" in metadata:
                raise NoSuchWordError("raised")
            if "x-reject" in metadata:

                async def reject(_request: Any, context: Context) -> None:
                    await context.abort(StatusCode.PERMISSION_DENIED, "no")

                return grpc.unary_unary_rpc_method_handler(reject)
            return await continuation(handler_call_details)

    server = {"interceptors": [Rejecting()]}
    async with serve(prepare=lambda app: app.add_problems(PROBLEMS), server=server) as service:
        calls = service.calls
        assert (await calls.one("in")).value == "in"
        assert (await failure(calls.one(metadata=(("x-reject", "1"),)))).code() is StatusCode.PERMISSION_DENIED
        assert (await failure(calls.one(metadata=(("x-raise", "1"),)))).code() is StatusCode.NOT_FOUND
        lines = await service.call_lines(3)
    assert [line["code"] for line in lines] == ["OK", "PERMISSION_DENIED", "NOT_FOUND"]


async def test_exit_of_the_interpreter_in_a_method_is_a_failure() -> None:
    async def work(_text: str, _context: Context) -> str:
        raise SystemExit(3)

    async with serve(Words(work)) as service:
        assert (await failure(service.calls.one())).code() is StatusCode.INTERNAL
        assert (await service.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("library", ["grpc", "grpc_health"])
def test_import_without_a_library_is_explained_in_one_line(library: str) -> None:
    code = f"import sys; sys.modules['{library}'] = None; import chassis.grpc"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: chassis.grpc needs grpcio and grpcio-health-checking, and one of them is not installed; "
        "depend on asgi-chassis[grpc]"
    )


def test_core_does_not_import_grpcio() -> None:
    code = "import chassis, chassis.app, chassis.server, chassis.run, sys; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
