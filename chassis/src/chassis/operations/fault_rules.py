"""`/faults`: the faults that are injected."""

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request

from ..api.handler import Handler
from ..faults import MAX_RULES, FaultRule, Faults, UnknownClientError
from ..problem import Problem
from .access import client_of


class FaultRules(Handler):
    """The faults that are injected. Only the admin port has them, and only with `APP_FAULT_INJECTION`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def get(self) -> list[dict[str, Any]]:
        return self._faults.documents()

    async def put(
        self, request: Request, body: Annotated[list[FaultRule], Field(max_length=MAX_RULES)]
    ) -> list[dict[str, Any]]:
        try:
            self._faults.set(body, by=client_of(request.scope))
        except UnknownClientError as error:
            raise Problem(422, f"{error}.") from None
        return self._faults.documents()

    async def delete(self, request: Request) -> None:
        self._faults.clear(by=client_of(request.scope))
