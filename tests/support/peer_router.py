"""A plugin for Starlette's own tests: whatever they route goes through the router of the chassis."""

import starlette.applications
import starlette.routing
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from chassis.api.routing import Router


class Routed(starlette.routing.Router):
    """Starlette's router to those who add routes; ours dispatches requests and WebSockets."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch. Without an application around it, which would do so, it responds to what has no route."""
        if scope["type"] == "lifespan":
            await super().app(scope, receive, send)
            return
        try:
            await Router(self.routes)(scope, receive, send)
        except HTTPException as error:
            if "app" in scope:
                raise
            response = PlainTextResponse(error.detail, error.status_code, error.headers)
            await response(scope, receive, send)


# Before the tests import it, and after the chassis has imported Starlette's.
starlette.routing.Router = Routed  # type: ignore[misc]
starlette.applications.Router = Routed  # type: ignore[misc]
