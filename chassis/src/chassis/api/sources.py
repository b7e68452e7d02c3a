"""Markers for `Annotated` that set the source of a handler's parameter, such as a header or a cookie."""

from typing import ClassVar

from starlette.datastructures import UploadFile

__all__ = ["Cookie", "Form", "Header", "Query", "Source", "UploadFile"]


class Source:
    """A marker. `name` is the parameter's name in the request; the default is the argument's name.

    A marked pydantic model is a group: each of its fields is a parameter.
    """

    where: ClassVar[str] = ""
    """The name of the source in problem documents and OpenAPI."""

    def __init__(self, name: str | None = None) -> None:
        self.name: str | None = name

    def default_name(self, argument: str) -> str:
        """The name in the request for an argument or field without an explicit name."""
        return argument


class Header(Source):
    """A header field: `user_agent: Annotated[str, Header()]`, or `Header("X-Tenant_Id")`.

    Underscores in the argument's name become hyphens. The values of a repeated field are joined by commas (RFC 9110,
    section 5.3). A list parameter gets the values between the commas (section 5.6.1).
    """

    where = "header"

    def default_name(self, argument: str) -> str:
        """The name in the request for an argument or field without an explicit name."""
        return argument.replace("_", "-")


class Cookie(Source):
    """A cookie: `session: Annotated[str, Cookie()]` (RFC 6265)."""

    where = "cookie"


class Query(Source):
    """Query parameters as a group: `filter: Annotated[OrderFilter, Query()]`. Single ones need no marker."""

    where = "query"


class Form(Source):
    """A field of a form: `name: Annotated[str, Form()]`, sent as `application/x-www-form-urlencoded` or multipart.

    An empty field with a default counts as not sent, because browsers send empty fields. A file is an `UploadFile` and
    needs no marker.
    """

    where = "form"


class Path(Source):
    """A path parameter. It needs no marker, because the route's path names it."""

    where = "path"
