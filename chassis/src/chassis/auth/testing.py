"""Tokens for the tests of a service: an issuer without HTTP, whose tokens an app accepts."""

from ..api.dependencies import ProviderError
from ..api.routing import handler_routes
from ..app import App
from .app import Auth
from .issuer import Issuer


def issuer_for(app: App) -> Issuer:
    """An issuer of tokens that `app` accepts instead of those of its provider. Call it before the app starts.

    The clients of `connect(app)` and `serve(app)` then send a token with all scopes and roles that its routes need.

        @pytest.fixture
        def issuer(app: App) -> Issuer:
            return issuer_for(app)

        async def test_order_needs_a_scope(client: httpx.AsyncClient, issuer: Issuer) -> None:
            headers = issuer.headers("ada", scopes=["orders:read"])
            assert (await client.post("/orders", headers=headers)).status_code == 403

    Raises `ProviderError` if the app has no authentication.
    """
    provider = app.parts.providers.get(Auth)
    if provider is None:
        raise ProviderError(f"{app.name} has no authentication; call add_auth(app, settings) in create_app")
    auth: Auth = provider.make
    issuer = Issuer(auth.issuer, auth.audience)
    auth.keys.use(issuer.keys)
    app.parts.test_headers = lambda: headers_for_all_routes(app, issuer)
    return issuer


def headers_for_all_routes(app: App, issuer: Issuer) -> dict[str, str]:
    """The headers of a user who has all scopes and roles that the handlers of a started app need."""
    needs = [need for route in handler_routes(app.routes) for need in route.resource.requirements.values()]
    scopes, roles = ({name for need in needs for name in getattr(need, field)} for field in ("scopes", "roles"))
    return issuer.headers("tester", scopes=sorted(scopes), roles=sorted(roles))
