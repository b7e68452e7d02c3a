"""Starlette: an application with a route, a path parameter converted, and its JSON response; nothing observed."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .serving import other_routes, serve


async def read_item(request: Request) -> JSONResponse:
    item_id = request.path_params["item_id"]
    return JSONResponse({"id": item_id, "name": f"item {item_id}"})


if __name__ == "__main__":
    others = [Route(path, read_item) for path in other_routes()]
    serve(Starlette(routes=[*others, Route("/items/{item_id:int}", read_item)]))
