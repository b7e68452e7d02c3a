"""`Consumer`: the base class of consumers of events, and how its method is called."""

import inspect
from collections.abc import Hashable
from contextlib import AsyncExitStack
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from ..api.callables import annotated, parameters_of
from ..api.dependencies import Dependencies, Providers, name_of
from ..api.repeatable import attempts_of
from ..tasks import contained
from .errors import DeadLetterError
from .inbox import Inbox
from .message import Message

# No parameter has this name.
INBOX = " inbox"
MAX_SHOWN_ERRORS = 3


class ConsumerError(TypeError):
    """A consumer, its stream or its options are not usable. Raised at the start."""


class Consumer:
    """A consumer of events: subclass it, and define `async def handle`.

        class Confirmations(Consumer):
            async def handle(self, event: OrderCreated, transaction: Transaction) -> None: ...

    One instance, created with its collaborators, gets all events of its subject (`Events.add_consumer`). Parameters
    are bound by name and annotation:

    - `event` is the payload, validated against its annotation, such as a pydantic model; `event: bytes` is the raw
      payload;
    - a parameter of the type `Message` is the event with its id, its headers and the number of its deliveries;
    - a type that the application provides (`App.provide`) is a dependency, such as `Transaction`: one a message.

    When the method returns, the dependencies exit, so a transaction is committed. Then the message is acknowledged. If
    the process dies in between, the event is delivered again: handle each event so that a second time does no harm, or
    pass an `inbox` to `add_consumer`.

    A failure is logged, and the event is delivered again after a growing delay. After the last delivery, and for a
    payload that is not valid, it goes to the dead letters. Raise `DeadLetterError` to send it there at once. While a
    dependency cannot be reached (`UnavailableError`), such as the database, the message waits, and no further ones are
    taken.

    A method with `@repeatable` is called again after a `RepeatableError`, such as a deadlock.
    """


class ConsumerMethod:
    """The method of a consumer, with the sources of its arguments."""

    def __init__(self, consumer: Consumer, providers: Providers, inbox: Inbox | None) -> None:
        """Raises `ConsumerError` for an unsupported signature."""
        self.name: str = f"{type(consumer).__name__}.handle"
        self._method: Any = getattr(consumer, "handle", None)
        if not inspect.iscoroutinefunction(self._method):
            raise ConsumerError(f"{self.name} is not an async def; define 'async def handle(self, event: …) -> None'")
        self.attempts: int = attempts_of(self._method)
        self._inbox = inbox
        self._message_names: list[str] = []
        self._request_names: list[str] = []
        self._event: TypeAdapter[Any] | None = None
        self._has_event = False
        provided = self._sources(providers)
        if inbox is not None:
            if inbox.needs not in providers:
                raise ConsumerError(
                    f"{self.name}: its inbox needs {name_of(inbox.needs)}, which has no provider; "
                    "call add_database before"
                )
            provided[INBOX] = inbox.needs
        self._dependencies = Dependencies(providers, provided)

    def _sources(self, providers: Providers) -> dict[str, Hashable]:
        try:
            parameters = parameters_of(self._method)
            hints = get_type_hints(annotated(self._method), include_extras=True)
        except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
            raise ConsumerError(f"{self.name}: cannot evaluate the annotation of a parameter: {error}") from error
        provided: dict[str, Hashable] = {}
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConsumerError(f"{self.name}: parameter {name!r} cannot be passed by name; declare it by its name")
            annotation = hints.get(name)
            if annotation is None:
                raise ConsumerError(f"{self.name}: parameter {name!r} has no annotation; add a type")
            if annotation is Message:
                self._message_names.append(name)
            elif annotation is Request:
                self._request_names.append(name)
            elif name == "event":
                self._has_event = True
                self._event = None if annotation is bytes else TypeAdapter(annotation)
            elif isinstance(annotation, Hashable) and annotation in providers:
                provided[name] = annotation
            else:
                raise ConsumerError(
                    f"{self.name}: parameter {name!r} is {name_of(annotation)}, which has no provider; "
                    f"call app.provide({name_of(annotation)}, …), or call the parameter 'event' if it is the payload"
                )
        return provided

    def parse(self, message: Message) -> Any:
        """The argument `event`. Raises `DeadLetterError` if the payload is not valid."""
        if self._event is None:
            return message.data
        try:
            return self._event.validate_json(message.data)
        except ValidationError as error:
            # Without the values: they may be personal, and the payload is in the dead letter anyway.
            shown = [
                f"{'.'.join(map(str, detail['loc'])) or 'event'}: {detail['msg']}"
                for detail in error.errors(include_url=False, include_input=False)[:MAX_SHOWN_ERRORS]
            ]
            raise DeadLetterError(f"invalid payload: {'; '.join(shown)}") from error

    async def call(self, message: Message, event: Any, request: Request, consumer: str) -> bool:
        """Call the method in one transaction. False if the inbox knows the message already."""
        is_complete = False
        is_new = True
        async with AsyncExitStack() as stack:
            arguments: dict[str, Any] = {}
            await self._dependencies.fill(arguments, {Request: request}, stack)
            if self._inbox is not None:
                is_new = await self._inbox.add(arguments.pop(INBOX), consumer, message.id)
            if is_new:
                if self._has_event:
                    arguments["event"] = event
                arguments |= dict.fromkeys(self._message_names, message)
                arguments |= dict.fromkeys(self._request_names, request)
                await contained(self._method(**arguments))
            is_complete = True
        if not is_complete:
            raise RuntimeError(f"{self.name} failed, and a provider has suppressed its exception")
        return is_new
