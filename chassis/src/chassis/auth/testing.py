"""Tokens for the tests of a service: an issuer without HTTP, whose tokens an app accepts."""

from ..api.dependencies import ProviderError
from ..app import App
from .app import Auth
from .issuer import Issuer


def issuer_for(app: App) -> Issuer:
    """An issuer of tokens that `app` accepts instead of those of its provider. Call it before the app starts.

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
    return issuer
