"""`/readiness`: whether operators let the service be ready."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.requests import Request

from ..api.handler import Handler
from .access import client_of
from .readiness_switch import ReadinessSwitch

DAY_SECONDS = 86_400


class ReadinessChange(BaseModel):
    """Whether the service may be ready."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    ready: bool
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""
    seconds: float | None = Field(default=None, ge=1, le=DAY_SECONDS)

    @model_validator(mode="after")
    def _has_reason(self) -> Self:
        if not self.ready and not self.reason:
            raise ValueError("set reason too, so that others learn why the service is out of rotation")
        return self


class ReadinessByHand(Handler):
    """The readiness that operators have set. `/readyz` is the readiness that counts."""

    def __init__(self, switch: ReadinessSwitch) -> None:
        self._switch = switch

    async def get(self) -> dict[str, Any]:
        return self._switch.document()

    async def put(self, request: Request, body: ReadinessChange) -> dict[str, Any]:
        by = client_of(request.scope)
        if body.ready:
            self._switch.enable(by=by)
        else:
            self._switch.disable(body.reason, body.seconds, by=by)
        return self._switch.document()

    async def delete(self, request: Request) -> None:
        self._switch.enable(by=client_of(request.scope))
