"""Every spelling of FastAPI that the guide for migrating names; `spellings_chassis` has the counterparts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
)
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.middleware.gzip import GZipMiddleware

SENT: list[str] = []
STATES: list[str] = []


class NewBook(BaseModel):
    title: str
    pages: int = Field(1, ge=1)


class Book(NewBook):
    number: int


class Filters(BaseModel):
    author: str = ""
    year: int = 0


class SoldOutError(Exception):
    pass


class User:
    def __init__(self, name: str) -> None:
        self.name = name


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    STATES.append("open")
    yield
    STATES.append("closed")


app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=500)
router = APIRouter(prefix="/v2")


async def send_letter(to: str) -> None:
    SENT.append(to)


async def get_user(request: Request) -> User:
    if "x-user" not in request.headers:
        raise HTTPException(401, "Log in first.")
    return User(request.headers["x-user"])


@app.exception_handler(SoldOutError)
async def sold_out(request: Request, error: SoldOutError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)


@app.get("/books/{number}")
async def read_book(number: int) -> Book:
    return Book(title="Emma", pages=1, number=number)


@app.post("/books", status_code=201)
async def add_book(book: NewBook, response: Response, background: BackgroundTasks) -> Book:
    response.headers["location"] = "/books/7"
    background.add_task(send_letter, book.title)
    return Book(**book.model_dump(), number=7)


@app.get("/query")
async def query(
    q: str,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    size: Annotated[int, Query(alias="page-size")] = 5,
    tags: Annotated[list[str], Query()] = [],  # noqa: B006 - as FastAPI's documentation has it
) -> list[str | int]:
    return [q, limit, size, *tags]


@app.get("/filters")
async def by_filters(filters: Annotated[Filters, Query()]) -> Filters:
    return filters


@app.get("/header")
async def header(x_token: Annotated[str, Header()], session: Annotated[str, Cookie()] = "none") -> list[str]:
    return [x_token, session]


@app.post("/form")
async def form(name: Annotated[str, Form()], photo: UploadFile) -> list[str | int]:
    return [name, len(await photo.read())]


@app.post("/raw")
async def raw(request: Request) -> int:
    return len(await request.body())


@app.post("/numbers")
async def numbers(values: Annotated[list[int], Body()]) -> int:
    return sum(values)


@app.get("/me")
async def me(user: Annotated[User, Depends(get_user)]) -> str:
    return user.name


@app.get("/sold-out")
async def is_sold_out() -> None:
    raise SoldOutError("There is no tea left.")


@app.get("/missing", tags=["books"])
async def missing() -> None:
    raise HTTPException(404, "There is no such book.")


@app.delete("/books/{number}", status_code=204)
async def remove_book(number: int) -> None:
    return None


@app.get("/text", response_class=PlainTextResponse)
async def text() -> str:
    return "plain " * 100


async def pieces() -> AsyncIterator[bytes]:
    yield b"a"
    yield b"b"


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(pieces(), media_type="text/csv")


@app.get("/sync")
def sync() -> str:
    return "in a thread"


@router.get("/price")
async def price() -> int:
    return 450


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


app.include_router(router)
