"""FastAPI: typed path parameter, pydantic models in and out; nothing observed."""

from time import perf_counter

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from .serving import other_routes, serve


class Item(BaseModel):
    id: int
    name: str


class NewItem(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    quantity: int = Field(ge=1, le=1000)
    tags: list[str] = Field(max_length=10)


async def read_item(item_id: int) -> Item:
    return Item(id=item_id, name=f"item {item_id}")


async def create_item(body: NewItem) -> Item:
    return Item(id=1, name=body.name)


def compute(seconds: float) -> dict[str, float]:
    until = perf_counter() + seconds
    while perf_counter() < until:
        sum(range(1000))
    return {"seconds": seconds}


async def read_blob(size: int) -> Response:
    return Response(b"x" * size, media_type="application/octet-stream")


async def receive_blob(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


def create_app() -> FastAPI:
    app = FastAPI()
    for path in other_routes():
        app.get(path)(read_item)
    app.get("/items/{item_id}")(read_item)
    app.post("/items")(create_item)
    app.get("/computing/{seconds}")(compute)
    app.get("/blob/{size}")(read_blob)
    app.post("/blob")(receive_blob)
    return app


if __name__ == "__main__":
    serve(create_app())
