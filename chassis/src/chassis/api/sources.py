"""Where a parameter of a handler comes from, when its name and type do not say it: markers for `Annotated`."""

from dataclasses import dataclass
from typing import ClassVar

from starlette.datastructures import UploadFile

__all__ = ["Cookie", "Form", "Header", "Query", "Source", "UploadFile"]


@dataclass(frozen=True, slots=True)
class Source:
    """A marker; `name` is the parameter's name in the request, by default that of the argument.

    Around a pydantic model it makes each field of the model a parameter of its own: a group.
    """

    where: ClassVar[str] = ""
    """The place as problem documents and OpenAPI name it."""
    name: str | None = None

    def default_name(self, argument: str) -> str:
        """The name in a request of an argument or field without an explicit one."""
        return argument


@dataclass(frozen=True, slots=True)
class Header(Source):
    """A header field: `user_agent: Annotated[str, Header()]`, or `Header("X-Tenant_Id")`.

    Underscores of the argument's name become dashes. A field that comes several times is one value, joined by commas
    (RFC 9110, section 5.3). A list gets the values between the commas (section 5.6.1).
    """

    where = "header"

    def default_name(self, argument: str) -> str:
        """The name in a request of an argument or field without an explicit one."""
        return argument.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Cookie(Source):
    """A cookie: `session: Annotated[str, Cookie()]` (RFC 6265)."""

    where = "cookie"


@dataclass(frozen=True, slots=True)
class Query(Source):
    """The query of the URL: `filter: Annotated[OrderFilter, Query()]` for a group, since other names need no marker."""

    where = "query"


@dataclass(frozen=True, slots=True)
class Form(Source):
    """A field of a form: `name: Annotated[str, Form()]`, sent as `application/x-www-form-urlencoded` or multipart.

    A field that a browser sends empty counts as not sent, if it has a default. A file is an `UploadFile` and needs no
    marker.
    """

    where = "form"


@dataclass(frozen=True, slots=True)
class Path(Source):
    """The path of the URL; the name in the route says so, and no marker."""

    where = "path"
