"""`/loggers`: the log levels."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request

from ..api.handler import Handler
from ..problem import Problem
from .access import client_of
from .log_levels import LogLevels, TooManyChangesError

DAY_SECONDS = 86_400


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class LevelChange(BaseModel):
    """A level, and for how long."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
    seconds: float = Field(default=600.0, ge=1, le=DAY_SECONDS)


LoggerName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.:-]+$")]


class Loggers(Handler):
    """The levels of all loggers."""

    def __init__(self, levels: LogLevels) -> None:
        self._levels = levels

    async def get(self) -> list[dict[str, Any]]:
        return self._levels.documents()


class Logger(Handler):
    """The level of one logger; `root` is that of the service."""

    def __init__(self, levels: LogLevels) -> None:
        self._levels = levels

    async def get(self, name: LoggerName) -> dict[str, Any]:
        if not self._levels.is_known(name):
            raise Problem(404, "There is no logger of this name; GET /loggers lists them.")
        return self._levels.document(name)

    async def put(self, request: Request, name: LoggerName, body: LevelChange) -> dict[str, Any]:
        try:
            self._levels.set(name, body.level, body.seconds, by=client_of(request.scope))
        except TooManyChangesError as error:
            raise Problem(409, f"{error}.") from None
        return self._levels.document(name)

    async def delete(self, request: Request, name: LoggerName) -> None:
        self._levels.reset(name, by=client_of(request.scope))
