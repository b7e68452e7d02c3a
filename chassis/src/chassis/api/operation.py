"""One method of a handler: binds a request to its parameters, calls the method, and sends the response."""

import inspect
from collections.abc import Callable, Hashable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from starlette.convertors import Convertor
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..response_sender import JSON, LENGTH, ResponseSender, send_response
from ..threads import threads_of
from .annotations import holds_file
from .dependencies import Dependencies, Providers
from .errors import SignatureError, UnprovidedError
from .handler import (
    DeclaredResponses,
    Documentation,
    Handler,
    declared_responses,
    documentation_of,
)
from .idempotency import Idempotency, idempotency_of
from .negotiation import Encoder
from .parameters import Parameter, Parameters
from .repeatable import attempts_of, repeat
from .request_body import bind_bytes, bind_json, read_body, read_form
from .request_tasks import RequestTasks
from .results import WITHOUT_LENGTH, Encoded, Results
from .signature import Signature


class Operation:
    """An ASGI application for one method of a handler. Its signature is compiled once, at the start."""

    def __init__(self, handler: Handler, verb: str, convertors: Mapping[str, Convertor[Any]]) -> None:
        """`verb` names the method of `handler`, such as `get`. `convertors` are those of the route's path parameters.

        Raises `SignatureError` for an unsupported signature.
        """
        self.verb = verb
        self.method: Callable[..., Any] = getattr(handler, verb)
        self.name: str = f"{type(handler).__name__}.{verb}"
        if not callable(self.method):
            raise SignatureError(f"{self.name} is {self.method!r}, not a method; define it with def or async def")
        self.idempotency: Idempotency | None = idempotency_of(self.method)
        self.attempts: int = attempts_of(self.method)
        self._convertors = convertors
        self._unprovided: UnprovidedError | None = None
        self._dependencies: Dependencies | None = None
        self.encoders: Mapping[str, Encoder] = {}
        try:
            self._compile(Signature(self.name, self.method, convertors))
        except UnprovidedError as error:  # the application may provide the type later
            self._unprovided = error
        self._serves_fully = self._needs_more()

    def use(self, providers: Providers, encoders: Mapping[str, Encoder]) -> None:
        """Use the providers of the application, and its encoders for media types other than JSON.

        Raises `SignatureError` for a parameter whose type has no provider.
        """
        self.encoders = encoders
        self._serves_fully = self._needs_more()
        if self._unprovided is None:
            annotations = self._signature.annotations
            if not any(isinstance(annotation, Hashable) and annotation in providers for annotation in annotations):
                return
        signature = Signature(self.name, self.method, self._convertors, providers)
        self._compile(signature)
        self._dependencies = Dependencies(providers, signature.provided)
        self._unprovided = None
        # A store may write the response of an idempotent method with the transaction of the request.
        self._serves_fully = self._needs_more() or self.idempotency is not None

    def _needs_more(self) -> bool:
        """Whether a request needs more than parameters, JSON and constants, which `__call__` handles itself."""
        return self._unprovided is not None or self._takes_other_content or bool(self.encoders) or self.attempts > 1

    def check(self) -> None:
        """Raise `SignatureError` for a parameter that cannot be read from a request and is not provided."""
        if self._unprovided is not None:
            raise self._unprovided

    def _compile(self, signature: Signature) -> None:
        self._signature = signature
        function = signature.function
        if inspect.isasyncgenfunction(function):
            raise SignatureError(
                f"{self.name} is an async generator; return EventStream(…), JsonLines(…) or another response instead"
            )
        self.idempotency = self.idempotency or idempotency_of(function)
        self.attempts = max(self.attempts, attempts_of(function))
        documentation = documentation_of(self.method) or documentation_of(function) or Documentation()
        self.documentation: Documentation = documentation
        self.docstring: str = inspect.cleandoc(function.__doc__ or "")
        self.parameters: list[Parameter] = signature.parameters
        self.body: TypeAdapter[Any] | None = signature.body
        self.body_is_raw: bool = signature.body_is_raw
        self.streams_body: bool = signature.streams_body
        self.body_is_optional: bool = signature.body_is_optional
        self.has_form: bool = signature.has_form
        self.has_files: bool = any(holds_file(parameter.annotation) for parameter in signature.parameters)
        if self.idempotency is not None and (self.verb == "get" or signature.streams_body):
            reason = (
                "GET is idempotent already; remove the decorator"
                if self.verb == "get"
                else "its body is streamed; use 'body: bytes' or a model"
            )
            raise SignatureError(f"{self.name} cannot be @idempotent: {reason}")
        if self.attempts > 1 and signature.streams_body:
            raise SignatureError(
                f"{self.name} cannot be @repeatable: its body is streamed; use 'body: bytes' or a model"
            )
        self._has_json = signature.body is not None and not signature.body_is_raw
        self._takes_other_content = signature.has_form or signature.body_is_raw or signature.streams_body
        self._needs_request = signature.needs_request
        self._parameters = Parameters(signature.parameters) if signature.parameters else None
        responses = declared_responses(self.method) or declared_responses(function) or DeclaredResponses()
        self.results: Results = Results(self.name, signature, responses)
        # For each request: a name less to look up.
        self._encode = self.results.encode
        self._status = self.results.status
        self._result_type = self.results.model
        self._to_json = self.results.to_json
        self._sends_length = self._status not in WITHOUT_LENGTH
        self._is_async = inspect.iscoroutinefunction(self.method)
        # Such as a decorator's plain function around an `async def`, which returns its coroutine.
        self._is_wrapped_async = not self._is_async and inspect.iscoroutinefunction(function)

    @property
    def runs_in_thread(self) -> bool:
        """Whether the method is a `def`, which cannot be cancelled."""
        return not (self._is_async or self._is_wrapped_async)

    # For each request.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        dependencies = self._dependencies
        if self._serves_fully or (dependencies is not None and not dependencies.are_constant):
            await self._serve_fully(scope, receive, send)
            return
        arguments: dict[str, Any] = {}
        errors: list[dict[str, Any]] = []
        request = Request(scope, receive, send) if self._needs_request else None
        if self._parameters is not None:
            arguments = self._parameters.bind(scope, errors)
        if self.body is not None:
            # `request.body()` caches the body, so that a method with `request` can read its bytes too.
            content = await (read_body(receive) if request is None else request.body())
            if content or not self.body_is_optional:
                bind_json(self.body, scope, content, arguments, errors)
        if errors:
            raise invalid(errors)
        if request is not None:
            arguments["request"] = request
        if dependencies is not None:
            dependencies.add_constants(arguments)
        try:
            result = await (self.method(**arguments) if self._is_async else self._call(scope, arguments))
        except (SystemExit, KeyboardInterrupt) as error:  # raised by a library; only a signal ends the process
            raise RuntimeError(f"{self.name} raised {type(error).__qualname__}") from error
        if type(result) is self._result_type:  # the most frequent case
            body = self._to_json(result)
            if self._sends_length and isinstance(send, ResponseSender) and send.send_json(self._status, body):
                return
            headers = [JSON]
            if self._sends_length:
                headers.append((LENGTH, b"%d" % len(body)))
            # The response to HEAD has the length and no content (RFC 9110, section 9.3.2).
            await send_response(send, self._status, headers, b"" if scope["method"] == "HEAD" else body)
        else:
            await self._encode(result).send(scope, receive, send)

    async def _serve_fully(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of a method with a form, a raw body, content negotiation, or dependencies to be made."""
        if self._unprovided is not None:
            raise self._unprovided
        errors: list[dict[str, Any]] = []
        request = Request(scope, receive, send)
        try:
            arguments = await self._bind(request, errors)
            # Errors in the values are raised after the dependencies: a client without access gets 401, and not 422.
            call = partial(self._call_provided, self._dependencies, request, arguments, errors)
            encoded = await (call() if self.attempts == 1 else repeat(call, self.attempts, self.name))
            await encoded.send(scope, receive, send)
        finally:
            await request.close()  # the files of a form

    async def _bind(self, request: Request, errors: list[dict[str, Any]]) -> dict[str, Any]:
        scope, arguments = request.scope, dict[str, Any]()
        form: FormData | None = None
        if self.has_form:
            form = await read_form(request, has_files=self.has_files)
        if self._parameters is not None:
            arguments = self._parameters.bind(scope, errors, form)
        if self.streams_body:
            arguments["body"] = request.stream()
        elif self.body is not None:
            content = await request.body()
            if content or not self.body_is_optional:
                if self.body_is_raw:
                    bind_bytes(self.body, content, arguments, errors)
                else:
                    bind_json(self.body, scope, content, arguments, errors)
        if self._needs_request:
            arguments["request"] = request
        return arguments

    async def _call_provided(
        self,
        dependencies: Dependencies | None,
        request: Request,
        arguments: dict[str, Any],
        errors: list[dict[str, Any]],
    ) -> Encoded:
        """Call the method, and start its background tasks when its dependencies have exited without an error."""
        provided: dict[Hashable, Any] = {Request: request}
        try:
            encoded = await self._call_within(dependencies, request, arguments, errors, provided)
        except BaseException:
            if RequestTasks in provided:
                provided[RequestTasks].discard()
            raise
        if RequestTasks in provided:
            provided[RequestTasks].begin()
        return encoded

    async def _call_within(
        self,
        dependencies: Dependencies | None,
        request: Request,
        arguments: dict[str, Any],
        errors: list[dict[str, Any]],
        provided: dict[Hashable, Any],
    ) -> Encoded:
        """Call the method, and encode its result before the dependencies exit, because encoding may need them."""
        failure: BaseException = RuntimeError(f"{self.name} was not called")
        encoded: Encoded | None = None
        async with AsyncExitStack() as stack:
            try:
                if dependencies is not None:
                    await dependencies.fill(arguments, provided, stack)
                if errors:
                    raise invalid(errors)
                result = await (self.method(**arguments) if self._is_async else self._call(request.scope, arguments))
                encoded = self._encode(result, request.headers.get("accept", ""), self.encoders)
                if self.idempotency is not None:
                    from .idempotent_operation import record

                    await record(request.scope, *encoded, provided)
            except (SystemExit, KeyboardInterrupt) as error:
                failure = RuntimeError(f"{self.name} raised {type(error).__qualname__}")
                raise failure from error
            except BaseException as error:
                failure = error
                raise
        if encoded is None:
            raise failure  # a provider has suppressed it
        return encoded

    async def _call(self, scope: Scope, arguments: dict[str, Any]) -> Any:
        """Call a method that is a plain function: in a thread, unless it wraps an `async def`."""
        if self._is_wrapped_async:
            result = self.method(**arguments)
        else:
            result = await threads_of(scope).run(partial(self.method, **arguments))
        return await result if inspect.isawaitable(result) else result


def invalid(errors: list[dict[str, Any]]) -> Problem:
    """422 for a request with invalid values; `errors` lists them."""
    return Problem(422, "The request has invalid values; `errors` lists them.", errors=errors)
