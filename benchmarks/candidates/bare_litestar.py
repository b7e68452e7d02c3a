"""Litestar: typed path parameter, pydantic model out; nothing observed."""

from litestar import Litestar, get
from pydantic import BaseModel

from .serving import serve


class Item(BaseModel):
    id: int
    name: str


@get("/items/{item_id:int}")
async def read_item(item_id: int) -> Item:
    return Item(id=item_id, name=f"item {item_id}")


if __name__ == "__main__":
    serve(Litestar([read_item]))
