"""A plugin for Starlette's own tests: whatever they route goes through the router of the chassis."""

import starlette.applications
import starlette.routing
from starlette.types import Receive, Scope, Send

from chassis.api.routing import Router


class Routed(starlette.routing.Router):
    """Starlette's router to those who add routes; requests and WebSockets are dispatched by ours."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().app(scope, receive, send)
        else:
            await Router(self.routes)(scope, receive, send)


# Before the tests import it, and after the chassis has imported Starlette's.
starlette.routing.Router = Routed  # type: ignore[misc]
starlette.applications.Router = Routed  # type: ignore[misc]
