"""The counterparts of `spellings_fastapi`, which the guide for migrating puts beside them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import Field
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from chassis import (
    App,
    ChassisSettings,
    Cookie,
    Form,
    Handler,
    Header,
    Problem,
    Query,
    Reply,
    Tasks,
    UploadFile,
    documented,
    responds,
)
from spellings_fastapi import SENT, STATES, Book, Filters, NewBook, SoldOutError, User, pieces, send_letter


class Books(Handler):
    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    @responds(201)
    async def post(self, body: NewBook) -> Reply[Book]:
        self._tasks.start(send_letter(body.title), name="send letter")
        return Reply(Book(**body.model_dump(), number=7), headers={"location": "/books/7"})


class BookItem(Handler):
    async def get(self, number: int) -> Book:
        return Book(title="Emma", pages=1, number=number)

    async def delete(self, number: int) -> None:
        return None


class ByQuery(Handler):
    async def get(
        self,
        q: str,
        tags: list[str] = [],  # noqa: B006 - copied for each request
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
        size: Annotated[int, Field(alias="page-size")] = 5,
    ) -> list[str | int]:
        return [q, limit, size, *tags]


class ByFilters(Handler):
    async def get(self, filters: Annotated[Filters, Query()]) -> Filters:
        return filters


class ByHeader(Handler):
    async def get(self, x_token: Annotated[str, Header()], session: Annotated[str, Cookie()] = "none") -> list[str]:
        return [x_token, session]


class ByForm(Handler):
    async def post(self, name: Annotated[str, Form()], photo: UploadFile) -> list[str | int]:
        return [name, len(await photo.read())]


class Raw(Handler):
    async def post(self, body: bytes) -> int:
        return len(body)


class Numbers(Handler):
    async def post(self, body: list[int]) -> int:
        return sum(body)


class Me(Handler):
    async def get(self, user: User) -> str:
        return user.name


class SoldOut(Handler):
    async def get(self) -> None:
        raise SoldOutError("There is no tea left.")


class Missing(Handler):
    @documented(tags=["books"])
    async def get(self) -> None:
        raise Problem(404, "There is no such book.")


class Text(Handler):
    async def get(self) -> PlainTextResponse:
        return PlainTextResponse("plain " * 100)


class Stream(Handler):
    async def get(self) -> StreamingResponse:
        return StreamingResponse(pieces(), media_type="text/csv")


class Sync(Handler):
    def get(self) -> str:
        return "in a thread"


class Price(Handler):
    async def get(self) -> int:
        return 450


async def get_user(request: Request) -> User:
    if "x-user" not in request.headers:
        raise Problem(401, "Log in first.")
    return User(request.headers["x-user"])


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


@asynccontextmanager
async def pool() -> AsyncIterator[None]:
    STATES.append("open")
    yield
    STATES.append("closed")


def create_app(settings: ChassisSettings) -> App:
    """Put the service together."""
    app = App(settings, name="spellings", version="1")
    app.add_middleware(GZipMiddleware, minimum_size=500)
    app.add_resource(pool())
    app.add_problems({SoldOutError: 409})
    app.provide(User, get_user)
    app.add_route("/books", Books(app.tasks))
    app.add_route("/books/{number}", BookItem())
    handlers = {"query": ByQuery(), "filters": ByFilters(), "header": ByHeader(), "form": ByForm(), "raw": Raw()}
    handlers |= {"numbers": Numbers(), "me": Me(), "sold-out": SoldOut(), "missing": Missing()}
    handlers |= {"text": Text(), "stream": Stream(), "sync": Sync()}
    for name, handler in handlers.items():
        app.add_route(f"/{name}", handler)
    v2 = app.group("/v2")
    v2.add_route("/price", Price())
    app.add_routes(WebSocketRoute("/echo", echo))
    return app


__all__ = ["SENT", "STATES", "create_app"]
