"""Access: `requires` and `public` on handlers, and the guard that an authentication part adds to an app."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from starlette.types import Scope

from .callables import innermost
from .errors import SignatureError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

MARK = "__requirement__"
PRINCIPAL = "chassis.principal"  # the key in an ASGI scope
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHERS = "*"
NAME = re.compile(r"[!#-\[\]-~]+")  # a scope-token (RFC 6749, section 3.3)


@dataclass(frozen=True, slots=True, init=False)
class Requirement:
    """The needs of a request: all of `scopes`, and any one of `roles`. Without both, any valid credentials.

    Raises `SignatureError` if they are not lists of names.
    """

    scopes: frozenset[str]
    roles: frozenset[str]
    is_public: bool

    def __init__(self, *, scopes: Iterable[str] = (), roles: Iterable[str] = (), is_public: bool = False) -> None:
        for field, names in (("scopes", scopes), ("roles", roles)):
            if isinstance(names, str):
                raise SignatureError(f"{field} is {names!r}, a text; pass a list of names, such as {field}=[{names!r}]")
        object.__setattr__(self, "scopes", frozenset(scopes))
        object.__setattr__(self, "roles", frozenset(roles))
        object.__setattr__(self, "is_public", is_public)
        for role in self.roles:
            if not isinstance(role, str) or not role:
                raise SignatureError(f"roles has {role!r}; a role is a text that is not empty, such as 'admin'")
        for scope in self.scopes:
            if not isinstance(scope, str) or not NAME.fullmatch(scope):
                raise SignatureError(
                    f"scopes has {scope!r}; a scope is one word of visible ASCII characters without quotation marks "
                    "and backslashes (RFC 6749), such as 'orders:read'"
                )
        if is_public and (self.scopes or self.roles):
            raise SignatureError("a public requirement has no scopes and no roles; remove one or the other")

    def __str__(self) -> str:
        """The requirement for messages, such as `the scope orders:read`."""
        scopes, roles = sorted(self.scopes), sorted(self.roles)
        parts = []
        if scopes:
            parts.append(f"the scope{'s' * (len(scopes) > 1)} {', '.join(scopes)}")
        if roles:
            parts.append(f"the role {roles[0]}" if len(roles) == 1 else f"one of the roles {', '.join(roles)}")
        return " and ".join(parts) or ("no credentials" if self.is_public else "valid credentials")


PUBLIC = Requirement(is_public=True)
"""No credentials are needed."""
AUTHENTICATED = Requirement()
"""Any valid credentials."""

Requires = Requirement | Mapping[str, Requirement]
"""The requirement of a route, or one for each HTTP method, such as `{"GET": PUBLIC, "*": Requirement(…)}`.

`*` stands for all other methods. HEAD needs the same as GET.
"""


def requires(*, scopes: Iterable[str] = (), roles: Iterable[str] = ()) -> Callable[[Decorated], Decorated]:
    """Let only clients with these scopes and roles call a method of a handler, or all methods of its class.

        @requires(scopes=["orders:write"])
        async def post(self, body: NewOrder) -> Order: ...

    A client needs all of `scopes`, and any one of `roles`. Without both, any valid credentials do. Clients without
    credentials get 401, and those without a scope or role 403, before the parameters and the body are read.

    Write it above other decorators. A method's requirement replaces that of its class; see `add_route` for that of a
    route. An app without authentication does not start: call `add_auth`. Raises `SignatureError` for invalid names.
    """
    return _marking(Requirement(scopes=scopes, roles=roles))


def public(decorated: Decorated) -> Decorated:
    """Let everybody call a method of a handler, or all methods of its class, without credentials."""
    return _marking(PUBLIC)(decorated)


def read_write(read: str, write: str) -> Mapping[str, Requirement]:
    """The requirements of a route: GET and HEAD need the scope `read`, and all other methods the scope `write`.

    `app.add_route("/orders", Orders(store), requires=read_write("orders:read", "orders:write"))`
    """
    return {"GET": Requirement(scopes=[read]), OTHERS: Requirement(scopes=[write])}


def _marking(requirement: Requirement) -> Callable[[Decorated], Decorated]:
    def mark(decorated: Decorated) -> Decorated:
        if MARK in getattr(decorated, "__dict__", ()):
            name = getattr(decorated, "__qualname__", repr(decorated))
            raise SignatureError(f"{name} has two requirements; write one @requires(…) with all scopes, or @public")
        setattr(decorated, MARK, requirement)
        return decorated

    return mark


def requirement_of(marked: object) -> Requirement | None:
    """The requirement that `requires` or `public` has set, also inside of other decorators; None without one."""
    requirement = getattr(marked, MARK, None)
    if requirement is None and callable(marked) and not isinstance(marked, type):
        requirement = getattr(innermost(marked), MARK, None)
    return requirement if isinstance(requirement, Requirement) else None


def marked_methods(cls: type) -> dict[str, Requirement]:
    """The requirements that `requires` and `public` have set on the methods of a class, by the names of the methods."""
    methods = {name: requirement_of(getattr(cls, name, None)) for name in dir(cls) if not name.startswith("__")}
    return {name: requirement for name, requirement in methods.items() if requirement is not None}


def by_method(requires: Requires | None, place: str) -> Mapping[str, Requirement]:
    """The requirements of a route by HTTP method. `place` names it in the `SignatureError` for an unknown method."""
    if requires is None:
        return {}
    if isinstance(requires, Requirement):
        return {OTHERS: requires}
    if not isinstance(requires, Mapping):
        raise SignatureError(
            f"{place}: requires is {requires!r}; pass a Requirement, PUBLIC, or a mapping of methods to them"
        )
    for method, requirement in requires.items():
        if method not in METHODS and method != OTHERS:
            raise SignatureError(
                f"{place}: requires has the method {method!r}; use one of {', '.join(METHODS)}, "
                f"or '{OTHERS}' for all others (HEAD needs the same as GET)"
            )
        if not isinstance(requirement, Requirement):
            raise SignatureError(
                f"{place}: requires[{method!r}] is {requirement!r}; pass a Requirement(scopes=[…]) or PUBLIC"
            )
    return dict(requires)


def for_method(method: str, *levels: Mapping[str, Requirement]) -> Requirement | None:
    """The requirement for an HTTP method on the first level that has one."""
    if method == "HEAD":
        method = "GET"
    for level in levels:
        requirement = level.get(method) or level.get(OTHERS)
        if requirement is not None:
            return requirement
    return None


class Guard(Protocol):
    """Checks the credentials of requests."""

    def admit(self, scope: Scope, requirement: Requirement) -> Awaitable[None] | None:
        """Let a request in, and put its principal into the scope, or raise a `Problem`.

        Returns an awaitable that does so if the credentials must be verified first, else None.
        """
        ...


class Principal(Protocol):
    """The part of a principal that this folder knows."""

    @property
    def scheme(self) -> str:
        """How the client has proved its identity."""
        ...

    @property
    def issuer(self) -> str:
        """The party that has given the subject its name."""
        ...

    @property
    def subject(self) -> str:
        """The user or the machine."""
        ...


def identity_of(scope: Scope) -> str | None:
    """A text that no other principal and no header has; None for a request that was not authenticated."""
    principal: Principal | None = scope.get(PRINCIPAL)
    return None if principal is None else f"{principal.scheme}\n{principal.issuer}\n{principal.subject}"


class Login(NamedTuple):
    """How a page gets a token for its user: the authorization code flow with PKCE (RFC 7636) of an OpenID provider."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    client_id: str
    audience: str

    @property
    def token_origin(self) -> str:
        """The origin of the token endpoint, such as `https://login.example`."""
        scheme, _, host, *_ = self.token_endpoint.split("/")
        return f"{scheme}//{host}"


def no_login() -> Login | None:
    """For an app whose documentation page has no login."""
    return None


class AccessControl(NamedTuple):
    """The authentication of an app or of a group of its routes."""

    guard: Guard
    schemes: Mapping[str, Mapping[str, Any]]
    """The security schemes of OpenAPI, by name."""
    login: Callable[[], Login | None] = no_login
    """The endpoints of the provider for `/docs`; None while they are unknown, and without a client for that page."""
    requirement: Requirement = AUTHENTICATED
    """For routes without a requirement of their own."""
