"""Services: their methods, with the sources of their arguments and the credentials that they need."""

import inspect
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import grpc
from starlette.requests import Request

from ..api.access import PUBLIC, AccessControl, Requirement, requirement_of
from ..api.callables import annotated, innermost, parameters_of
from ..api.dependencies import Dependencies, Providers, name_of
from .call import current_call
from .errors import GrpcServiceError

AddService = Callable[[Any, Any], object]
Behavior = Callable[[Any, Any], Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # not generic at run time
GIVEN = 2  # parameters that gRPC passes: the request (or its messages), and the context
GENERATED = "_pb2_grpc"  # the end of the names of generated modules


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service."""

    path: str
    handler: Handler
    behavior: Behavior
    requirement: Requirement | None = None
    """The credentials that clients need; None for the default of the app, until it is `resolved`."""
    is_probe: bool = False


class _Recorder:
    """A server for generated code that only keeps the methods of the services that are added to it."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods again, in a form that cannot be listed."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Keep the methods of a service."""
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


def methods_of(add: AddService, servicer: object) -> list[Method]:
    """The methods of a service that generated code, such as `add_OrdersServicer_to_server`, adds.

    Raises `GrpcServiceError` for one that is not usable.
    """
    recorder = _Recorder()
    try:
        add(servicer, recorder)
    except AttributeError as error:
        if error.obj is not servicer:
            raise
        raise GrpcServiceError(
            f"{type(servicer).__name__} has no method {error.name!r}, which its service has"
        ) from error
    if not recorder.handlers:
        name = getattr(add, "__name__", repr(add))
        raise GrpcServiceError(f"{name} adds no methods; generate the code again with grpcio-tools 1.64 or newer")
    default = requirement_of(type(servicer))
    methods = []
    for path, handler in recorder.handlers.items():
        behavior = behavior_of(handler)
        _check(behavior)
        methods.append(Method(path, handler, behavior, requirement_of(behavior) or default))
    return methods


def behavior_of(handler: Handler) -> Behavior:
    """The function of a handler."""
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    behavior: Behavior = next(function for function in kinds if function is not None)
    return behavior


def with_behavior(handler: Handler, behavior: Behavior) -> Handler:
    """The same kind of handler, with another function."""
    if handler.request_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def resolved(method: Method, providers: Providers, control: AccessControl | None, app: object) -> Method:
    """The method with its dependencies. Raises `GrpcServiceError` for a parameter without a source."""
    requirement = method.requirement
    if control is None:
        if requirement is not None and not requirement.is_public:
            raise GrpcServiceError(
                f"{method.path} needs {requirement}, but the app has no authentication; call add_auth in create_app"
            )
        requirement = PUBLIC
    elif requirement is None:
        requirement = control.requirement
    behavior = _with_dependencies(method.behavior, _sources(method.behavior, providers), providers, app)
    handler = method.handler if behavior is method.behavior else with_behavior(method.handler, behavior)
    return replace(method, handler=handler, behavior=behavior, requirement=requirement)


def _name(behavior: Behavior) -> str:
    return str(getattr(behavior, "__qualname__", repr(behavior)))


def _check(behavior: Behavior) -> None:
    function = innermost(behavior)
    if inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior):
        return
    if getattr(function, "__module__", "").endswith(GENERATED):
        return  # not overridden: it responds UNIMPLEMENTED
    raise GrpcServiceError(
        f"{_name(behavior)} is not an async def; write 'async def', and run code that blocks in asyncio.to_thread"
    )


def _sources(behavior: Behavior, providers: Providers) -> dict[str, Hashable]:
    """The types of the parameters beyond those that gRPC passes, by name."""
    name = _name(behavior)
    further = list(parameters_of(behavior).values())[GIVEN:]
    if not further:
        return {}
    try:
        hints = get_type_hints(annotated(behavior), include_extras=True)
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise GrpcServiceError(f"{name}: cannot evaluate the annotation of a parameter: {error}") from error
    sources: dict[str, Hashable] = {}
    for parameter in further:
        annotation = hints.get(parameter.name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise GrpcServiceError(
                f"{name}: parameter {parameter.name!r} cannot be passed by name; declare it by its name"
            )
        if isinstance(annotation, Hashable) and (annotation is Request or annotation in providers):
            sources[parameter.name] = annotation
        else:
            raise GrpcServiceError(
                f"{name}: parameter {parameter.name!r} is {name_of(annotation)}, which has no provider; "
                f"call app.provide({name_of(annotation)}, …)"
            )
    return sources


def _with_dependencies(
    behavior: Behavior, sources: Mapping[str, Hashable], providers: Providers, app: object
) -> Behavior:
    """The method with only the two parameters of gRPC. Its dependencies exit before its status is sent."""
    if not sources:
        return behavior
    requests = [name for name, key in sources.items() if key is Request]
    dependencies = Dependencies(providers, {name: key for name, key in sources.items() if key is not Request})

    async def arguments_of(stack: AsyncExitStack) -> dict[str, Any]:
        request = current_call.get().request(app)
        arguments: dict[str, Any] = dict.fromkeys(requests, request)
        await dependencies.fill(arguments, {Request: request}, stack)
        return arguments

    async def call(request: Any, context: Any) -> Any:
        is_complete = False
        response: Any = None
        async with AsyncExitStack() as stack:
            response = await behavior(request, context, **await arguments_of(stack))
            is_complete = True
        _must_be(is_complete, behavior)
        return response

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        is_complete = False
        async with AsyncExitStack() as stack:
            responses = behavior(request, context, **await arguments_of(stack))
            async with aclosing(responses):
                async for response in responses:
                    yield response
            is_complete = True
        _must_be(is_complete, behavior)

    return stream if inspect.isasyncgenfunction(behavior) else call


def _must_be(is_complete: bool, behavior: Behavior) -> None:
    if not is_complete:
        raise RuntimeError(f"{_name(behavior)} failed, and a provider has suppressed its exception")
