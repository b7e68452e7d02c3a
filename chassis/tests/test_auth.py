"""`add_auth`: an app whose clients have tokens of an OpenID provider; here the one for development."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from chassis import App, ChassisSettings, Handler, ProviderError, public, requires
from chassis.api.sources import Header
from chassis.auth import AuthSettings, Principal, add_auth, api_keys
from chassis.auth.app import Auth
from chassis.auth.development import challenge_of, main, provider, split
from chassis.auth.issuer import Issuer
from chassis.auth.keys import KeySet
from chassis.auth.testing import issuer_for
from chassis.testing import connect

from .support.application import TEST_SETTINGS


class Settings(ChassisSettings, AuthSettings):
    """The settings of the service."""


class Orders(Handler):
    """Shows who asks."""

    async def get(self, principal: Principal) -> dict[str, str | list[str]]:
        return {"subject": principal.subject, "scopes": sorted(principal.scopes), "roles": sorted(principal.roles)}

    @requires(scopes=["orders:write"])
    async def post(self, x_count: Annotated[int, Header()]) -> int:
        return x_count

    @public
    async def put(self, principal: Principal | None) -> str:
        return principal.subject if principal else "nobody"

    @public
    async def delete(self, principal: Principal) -> str:
        return principal.subject


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    async with provider("orders") as issuer:
        yield issuer


def make_app(issuer: Issuer, *, group: bool = False, **values: Any) -> App:
    values |= {"auth_issuer": issuer.url, "auth_audience": ["orders"], "auth_docs_client_id": "docs"}
    settings = Settings.from_values(**TEST_SETTINGS, **values)
    app = App(settings, name="orders", version="1")
    if group:
        v2 = app.group("/v2")
        add_auth(app, settings, routes=v2)
        v2.add_route("/orders", Orders())
    else:
        add_auth(app, settings)
        app.add_route("/orders", Orders())
    return app


async def test_service_uses_api_keys_that_are_added_while_it_runs(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "POLL_SECONDS", 0.001)
    file = tmp_path / "keys"
    file.touch()
    key, line = api_keys.new_key("billing")
    async with connect(make_app(issuer, auth_api_keys_file=file)) as client:
        headers = {"x-api-key": key}
        assert (await client.get("/orders", headers=headers)).status_code == 401
        file.write_text(line)
        async with asyncio.timeout(5):
            while (response := await client.get("/orders", headers=headers)).status_code != 200:
                await asyncio.sleep(0.005)
        assert response.json()["subject"] == "billing"


@asynccontextmanager
async def ready(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that has the keys of its issuer."""
    async with connect(app) as client:
        async with asyncio.timeout(5):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.005)
        yield client


@pytest.fixture(scope="module")
async def client(issuer: Issuer) -> AsyncIterator[httpx.AsyncClient]:
    async with ready(make_app(issuer)) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    """The header of a request with a token."""
    return {"authorization": f"Bearer {token}"}


async def test_handler_gets_the_principal(client: httpx.AsyncClient, issuer: Issuer) -> None:
    token = issuer.token("ada", scopes=["orders:read"], roles=["clerk"])
    response = await client.get("/orders", headers=bearer(token))
    assert response.json() == {"subject": "ada", "scopes": ["orders:read"], "roles": ["clerk"]}


async def test_every_route_denies_by_default(client: httpx.AsyncClient, issuer: Issuer) -> None:
    assert (await client.get("/orders")).status_code == 401
    assert (await client.post("/orders", headers=bearer(issuer.token()))).status_code == 403


async def test_public_method_may_know_who_asks(client: httpx.AsyncClient, issuer: Issuer) -> None:
    assert (await client.put("/orders")).json() == "nobody"
    assert (await client.put("/orders", headers=bearer(issuer.token()))).json() == "ada"
    assert (await client.put("/orders", headers=bearer("wrong"))).status_code == 401


async def test_principal_of_a_public_method_needs_credentials(client: httpx.AsyncClient, issuer: Issuer) -> None:
    assert (await client.delete("/orders")).status_code == 401
    assert (await client.delete("/orders", headers=bearer(issuer.token()))).json() == "ada"


async def test_token_of_another_issuer_with_the_same_key_id_is_rejected(client: httpx.AsyncClient) -> None:
    response = await client.get("/orders", headers=bearer(Issuer("https://evil.example", "orders").token()))
    assert response.status_code == 401


async def test_readiness_has_a_check_of_the_keys(client: httpx.AsyncClient) -> None:
    assert "authentication keys" in (await client.get("/readyz")).text


async def test_openapi_document_has_the_security_schemes(client: httpx.AsyncClient, issuer: Issuer) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "openIdConnect": {
            "type": "openIdConnect",
            "openIdConnectUrl": f"{issuer.url}/.well-known/openid-configuration",
        },
    }
    assert document["paths"]["/orders"]["post"]["security"] == [
        {"bearer": ["orders:write"]},
        {"openIdConnect": ["orders:write"]},
    ]


async def test_documentation_page_may_ask_the_token_endpoint_alone(client: httpx.AsyncClient, issuer: Issuer) -> None:
    policy = (await client.get("/docs")).headers["content-security-policy"]
    assert f"connect-src 'self' {issuer.url};" in policy


async def test_group_alone_is_protected(issuer: Issuer) -> None:
    async with ready(make_app(issuer, group=True)) as client:
        assert (await client.get("/v2/orders")).status_code == 401
        assert (await client.get("/v2/orders", headers=bearer(issuer.token()))).status_code == 200
        assert "chassis-login" in (await client.get("/v2/docs")).text


@pytest.mark.parametrize(
    "metadata",
    [
        {"authorization_endpoint": "https://login.example/authorize", "token_endpoint": 7},
        {
            "authorization_endpoint": ["https://login.example/authorize"],
            "token_endpoint": "https://login.example/token",
        },
        {"authorization_endpoint": "javascript:alert(1)", "token_endpoint": "https://login.example/token"},
        {"authorization_endpoint": "https://login.example/authorize", "token_endpoint": "https://*;script-src *"},
        {"authorization_endpoint": "https://login.example/authorize"},
    ],
)
async def test_page_has_no_login_with_endpoints_that_are_no_urls(
    monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any]
) -> None:
    monkeypatch.setattr(KeySet, "metadata", metadata)
    app = make_app(Issuer("https://login.example", "orders"))
    issuer_for(app)
    auth: Auth = app.parts.providers[Auth].make
    async with connect(app) as client:
        page = await client.get("/docs")
    assert page.status_code == 200
    assert auth.login() is None


async def test_clients_of_tests_have_all_scopes_and_roles_of_the_routes() -> None:
    app = make_app(Issuer("https://login.example", "orders"))
    issuer_for(app)
    async with connect(app) as client:
        shown = (await client.get("/orders")).json()
        posted = await client.post("/orders", headers={"x-count": "1"})
        del client.headers["authorization"]
        denied = await client.get("/orders")
    assert shown == {"subject": "tester", "scopes": ["orders:write"], "roles": []}
    assert (posted.status_code, denied.status_code) == (200, 401)


async def test_issuer_for_tests_needs_no_provider() -> None:
    app = make_app(Issuer("https://login.example", "orders"))
    issuer = issuer_for(app)
    async with connect(app) as client:
        assert (await client.get("/orders", headers=issuer.headers("bob"))).json()["subject"] == "bob"
        denied = await client.post("/orders", headers=issuer.headers(scopes=["orders:read"]))
        expired = await client.get("/orders", headers=bearer(issuer.token(seconds=-100)))
        ready = await client.get("/readyz")
    assert (denied.status_code, expired.status_code, ready.status_code) == (403, 401, 200)


def test_issuer_for_an_app_without_authentication_is_rejected() -> None:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="orders", version="1")
    with pytest.raises(ProviderError, match=r"^orders has no authentication; call add_auth"):
        issuer_for(app)


AUTHORIZATION = {
    "response_type": "code",
    "client_id": "docs",
    "redirect_uri": "http://127.0.0.1:8000/docs",
    "scope": 'orders:read"><script>',
    "state": "a state",
    "code_challenge": challenge_of("the verifier").decode(),
    "code_challenge_method": "S256",
}


async def exchanged(issuer: Issuer, verifier: str, **form: str) -> tuple[httpx.Response, httpx.Response]:
    """The responses to a login whose code is exchanged twice."""
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as client:
        login = await client.post("/authorize", params=AUTHORIZATION, data={"subject": "bob", "scope": "a b"})
        returned = parse_qs(urlsplit(login.headers["location"]).query)
        assert (returned["state"], returned["iss"]) == (["a state"], [issuer.url])
        data = {
            "grant_type": "authorization_code",
            "code": returned["code"][0],
            "redirect_uri": AUTHORIZATION["redirect_uri"],
            "client_id": "docs",
            "code_verifier": verifier,
        }
        return await client.post("/token", data=data | form), await client.post("/token", data=data | form)


async def test_provider_exchanges_a_code_once(client: httpx.AsyncClient, issuer: Issuer) -> None:
    first, second = await exchanged(issuer, "the verifier")
    assert (first.json()["token_type"], first.json()["scope"]) == ("Bearer", "a b")
    response = await client.get("/orders", headers=bearer(first.json()["access_token"]))
    assert response.json() == {"subject": "bob", "scopes": ["a", "b"], "roles": []}
    assert (second.status_code, second.json()) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    ("verifier", "form"),
    [
        ("another verifier", {}),
        ("", {}),
        ("the verifier", {"client_id": "other"}),
        ("the verifier", {"redirect_uri": "http://127.0.0.1:8000/other"}),
    ],
)
async def test_provider_rejects_a_code_of_another_client(issuer: Issuer, verifier: str, form: dict[str, str]) -> None:
    response, _ = await exchanged(issuer, verifier, **form)
    assert (response.status_code, response.json()) == (400, {"error": "invalid_grant"})


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.example/docs"},
        {"redirect_uri": "//evil.example"},
        {"code_challenge_method": "plain"},
        {"response_type": "token"},
    ],
)
async def test_provider_rejects_an_authorization_request(issuer: Issuer, changed: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as client:
        assert (await client.get("/authorize", params=AUTHORIZATION | changed)).status_code == 400
        answer = await client.post("/authorize", params=AUTHORIZATION | changed, data={"subject": "bob"})
    assert answer.status_code == 400


async def test_page_of_the_provider_escapes_the_request(issuer: Issuer) -> None:
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as client:
        page = await client.get("/authorize", params=AUTHORIZATION)
    assert 'value="orders:read&quot;&gt;&lt;script&gt;"' in page.text


async def test_provider_gives_tokens_to_machines(client: httpx.AsyncClient, issuer: Issuer) -> None:
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as other:
        data = {"grant_type": "client_credentials", "client_id": "importer", "scope": "orders:write"}
        token = (await other.post("/token", data=data)).json()["access_token"]
        unknown = await other.post("/token", data={"grant_type": "password"})
    response = await client.post("/orders", headers=bearer(token) | {"x-count": "3"})
    assert (response.status_code, response.json()) == (200, 3)
    assert (unknown.status_code, unknown.json()) == (400, {"error": "unsupported_grant_type"})


@pytest.mark.parametrize(("origin", "is_allowed"), [("http://localhost:8000", True), ("https://evil.example", False)])
async def test_pages_of_this_machine_alone_may_read_tokens(issuer: Issuer, origin: str, is_allowed: bool) -> None:
    async with httpx.AsyncClient(base_url=issuer.url, trust_env=False) as client:
        data = {"grant_type": "client_credentials"}
        response = await client.post("/token", data=data, headers={"origin": origin})
    assert response.headers.get("access-control-allow-origin") == (origin if is_allowed else None)


@pytest.mark.parametrize("arguments", [[], ["orders"], ["orders", "--"], ["--", "run"]])
def test_launcher_needs_a_package_and_a_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: expected a package and a command; usage: python -m chassis.auth.")


def test_launcher_only_runs_the_command_if_there_is_a_provider() -> None:
    arguments = [sys.executable, "-m", "chassis.auth.development", "orders", "--", "printenv", "APP_AUTH_ISSUER"]
    variables = os.environ | {"APP_AUTH_ISSUER": "https://login.example"}
    done = subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "https://login.example\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["p", "a", "--", "run", "--", "x"], (["p", "a"], True, ["run", "--", "x"])),
        (["p"], (["p"], False, [])),
    ],
)
def test_arguments_of_the_launcher_are_split(arguments: list[str], expected: tuple[list[str], bool, list[str]]) -> None:
    assert split(arguments) == expected
