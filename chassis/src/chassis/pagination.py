"""Pages of a collection: opaque cursors, and links to the other pages (RFC 8288)."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, get_args
from urllib.parse import quote, quote_plus, unquote_plus

import pydantic_core
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema
from starlette.requests import Request
from starlette.types import Scope

from .api.handler import Reply

Item = TypeVar("Item")
Position = TypeVar("Position")

VERSION = "1"
MAX_CURSOR_CHARACTERS = 1024
# The characters that are allowed in the query of a URI (RFC 3986, section 3.4), and the percent sign of encoded text.
QUERY_CHARACTERS = "!$%&'()*+,-./:;=?@_~"


class Cursor(Generic[Position]):
    """An opaque position in a collection: clients send it back without reading it.

        async def get(self, request: Request, cursor: Cursor[UUID] | None = None) -> Reply[list[Order]]: ...

    As a parameter, `Cursor[UUID]` is validated: its `position` is a `UUID`, and an invalid cursor gets 422.
    `str(cursor)` is the text: a version, and the position as JSON in URL-safe Base64 (RFC 4648, section 5). The
    position can be of any type that pydantic reads from JSON. Use `tuple[AwareDatetime, UUID]` if several orders can
    have the same time: Python cannot compare a time without an offset with one that has one.

    A cursor is neither secret nor signed: a client can create one with another position. Treat it like any other
    parameter, and restrict the query itself to the items that the client may see.
    """

    __slots__ = ("position",)

    def __init__(self, position: Position) -> None:
        self.position: Position = position

    def __str__(self) -> str:
        content = pydantic_core.to_json(self.position)
        return VERSION + base64.urlsafe_b64encode(content).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"Cursor({self.position!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cursor) and self.position == other.position

    def __hash__(self) -> int:
        return hash(self.position)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        (position,) = get_args(source) or (Any,)
        adapter: TypeAdapter[Any] = TypeAdapter(position)

        def read(value: object) -> "Cursor[Any]":
            if isinstance(value, Cursor):
                return value
            try:
                return cls(adapter.validate_json(_decode(value)))
            except (ValidationError, ValueError) as error:
                raise PydanticCustomError(
                    "cursor", "The cursor is not valid for this collection; start again from the first page"
                ) from error

        return core_schema.no_info_plain_validator_function(read, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "description": "The position of a page, from the link to it."}


def page(
    request: Request,
    items: Sequence[Item],
    *,
    limit: int,
    position: Callable[[Item], object],
    parameter: str = "cursor",
) -> Reply[list[Item]]:
    """A page of at most `limit` items, with links to the first page and, if there are more items, the next page.

        orders = self._store.after(cursor.position if cursor else None, limit + 1)
        return page(request, orders, limit=limit, position=lambda order: order.order_id)

    `items` start after the position of the cursor. Query one item more than `limit`: it shows that there is a next
    page, and is not sent. `position` returns the position of an item; the next page starts after the last one.
    """
    sent = list(items[:limit])
    next_page = Cursor(position(sent[-1])) if sent and len(items) > limit else None
    return Reply(sent, {"link": page_links(request, next=next_page, parameter=parameter)})


def page_links(
    request: Request,
    *,
    next: "Cursor[Any] | None" = None,  # noqa: A002 - the name of the relation
    prev: "Cursor[Any] | None" = None,
    first: bool = True,
    parameter: str = "cursor",
) -> str:
    """The value of a `Link` header (RFC 8288) with links to other pages of the requested collection.

    A target is only a query, such as `<?limit=20&cursor=1Nw>`. Clients resolve it against the path that they
    requested (RFC 3986, section 5.2.2), so it is right behind a proxy that changes the path. The other parameters of
    the request are kept. `parameter` is set to the cursor, and removed for the first page. Empty if there is no link.
    """
    other_parameters = [
        part for part in request.scope["query_string"].decode("latin-1").split("&") if part and _name(part) != parameter
    ]
    targets: list[tuple[str, Cursor[Any] | None]] = [("first", None)] if first else []
    targets += [(relation, cursor) for relation, cursor in (("prev", prev), ("next", next)) if cursor is not None]
    return ", ".join(
        f'<{_target(request.scope, other_parameters, parameter, cursor)}>; rel="{relation}"'
        for relation, cursor in targets
    )


def _target(scope: Scope, other_parameters: list[str], parameter: str, cursor: Cursor[Any] | None) -> str:
    parts = other_parameters if cursor is None else [*other_parameters, f"{quote_plus(parameter)}={cursor}"]
    if not parts:  # some clients, such as Python's urljoin, resolve "?" to the query that they have sent
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        parts = [path.decode("latin-1").rpartition("/")[2]]
        prefix = "./"
    else:
        prefix = "?"
    # Encoded, because characters of the client's query must not end the target or the field.
    return prefix + quote("&".join(parts), safe=QUERY_CHARACTERS, encoding="latin-1")


def _name(part: str) -> str:
    return unquote_plus(part.partition("=")[0])


def _decode(value: object) -> bytes:
    """The JSON in a cursor. Raises `ValueError` for anything else."""
    if not isinstance(value, str) or not value.startswith(VERSION) or len(value) > MAX_CURSOR_CHARACTERS:
        raise ValueError(f"not a cursor of version {VERSION}")
    content = value.removeprefix(VERSION).encode("ascii")
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("the cursor is not valid Base64") from error
