"""`add_auth`: authentication for an app, or for groups of its routes."""

import re
from collections.abc import Iterable
from typing import Any, Self

from prometheus_client import Counter
from starlette.requests import Request

from ..api.access import AUTHENTICATED, PRINCIPAL, AccessControl, Guard, Login
from ..app import App
from ..groups import Group
from .api_keys import ApiKeys
from .guard import API_KEY, FIELDS, BearerGuard
from .keys import KeySet
from .principal import Principal
from .settings import AuthSettings
from .verifier import TokenVerifier

CHECK = "authentication keys"
ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/|$)")


def add_auth(app: App, settings: AuthSettings, *, routes: Group | Iterable[Group] | None = None) -> "Auth":
    """Add authentication: from now on, every route of the app denies by default, unless it is `@public`.

        app = App(settings)
        add_auth(app, settings)

    Clients send a bearer token of the issuer, or an API key. Handlers may have a parameter of the type `Principal`. In
    a public method, `Principal | None` is None for a client without credentials. The keys of the issuer are fetched at
    the start and make readiness. `/openapi.json`, `/docs` and the endpoints for operation stay open.

    With `routes`, only the routes of these groups are protected. Call it once, in `create_app`. Raises `ValueError` for
    a second call.
    """
    auth = app.add_resource(Auth(app, settings))
    app.add_check(CHECK, auth.keys.check)
    control = AccessControl(auth.guard, security_schemes(settings), auth.login)
    tables: list[App | Group] = [app] if routes is None else [routes] if isinstance(routes, Group) else [*routes]
    for table in tables:
        table.set_access_control(control)
    app.provide(Auth, auth)
    app.provide(Principal, auth.principal_of)
    app.provide(Principal | None, auth.principal_if_any)
    return auth


class Auth:
    """The authentication of an app: the keys of the issuer, the verifier of tokens, and the guard of the routes."""

    def __init__(self, app: App, settings: AuthSettings) -> None:
        rejected = Counter(
            "auth_rejected_requests",
            "Requests rejected because of their credentials.",
            ["reason"],
            registry=app.registry,
        )
        self._api_keys = None if settings.auth_api_keys_file is None else ApiKeys(settings.auth_api_keys_file)
        self.keys: KeySet = KeySet(settings, registry=app.registry)
        self.verifier: TokenVerifier = TokenVerifier(settings, self.keys)
        self.guard: Guard = BearerGuard(self.verifier, self._api_keys, realm=app.name, rejected=rejected)
        self.issuer: str = settings.auth_issuer
        self.audience: str = settings.auth_audience[0]
        self._docs_client_id = settings.auth_docs_client_id

    async def __aenter__(self) -> Self:
        await self.keys.__aenter__()
        if self._api_keys is not None:
            await self._api_keys.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._api_keys is not None:
            await self._api_keys.__aexit__()
        await self.keys.__aexit__(*error)

    async def principal_of(self, request: Request) -> Principal:
        """The principal of a request: the provider of `Principal`. In a public method, it asks the guard."""
        if PRINCIPAL not in request.scope:
            waits = self.guard.admit(request.scope, AUTHENTICATED)
            if waits is not None:
                await waits
        principal: Principal = request.scope[PRINCIPAL]
        return principal

    async def principal_if_any(self, request: Request) -> Principal | None:
        """The principal of a request, or None if it has no credentials. Invalid credentials are rejected."""
        names = {name for name, _ in request.scope["headers"]}
        if PRINCIPAL not in request.scope and names.isdisjoint(FIELDS):
            return None
        return await self.principal_of(request)

    def login(self) -> Login | None:
        """The endpoints of the provider for `/docs`, when they are known; None without `auth_docs_client_id`."""
        authorization, token = self._endpoint("authorization_endpoint"), self._endpoint("token_endpoint")
        if self._docs_client_id is None or authorization is None or token is None:
            return None
        return Login(self.issuer, authorization, token, self._docs_client_id, self.audience)

    def _endpoint(self, name: str) -> str | None:
        """A URL of the metadata. The page opens it, or its origin becomes a part of the page's security policy."""
        url = self.keys.metadata.get(name)
        return url if isinstance(url, str) and ORIGIN.match(url) else None


def security_schemes(settings: AuthSettings) -> dict[str, dict[str, str]]:
    """The security schemes for the OpenAPI document."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "openIdConnect": {
            "type": "openIdConnect",
            "openIdConnectUrl": f"{settings.auth_issuer.removesuffix('/')}/.well-known/openid-configuration",
        },
    }
    if settings.auth_api_keys_file is not None:
        schemes["apiKey"] = {"type": "apiKey", "in": "header", "name": API_KEY}
    return schemes
