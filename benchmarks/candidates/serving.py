"""The one way in which every peer is served: uvicorn with httptools and uvloop, one process."""

import os
from collections.abc import Callable
from typing import Any, Literal

import uvicorn


def serve(app: Callable[..., Any], *, lifespan: Literal["on", "off"] = "on") -> None:
    """Serve `app` on `$PORT` until a signal comes, with everything off that uvicorn does on its own."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan=lifespan,
        interface="asgi3",
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
    )


def other_routes() -> list[str]:
    """The parametrised paths that are registered before the measured one."""
    return [f"/other{number}/{{item_id}}" for number in range(int(os.environ.get("OTHER_ROUTES", "0")))]
