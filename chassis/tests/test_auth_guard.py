"""Credentials of requests: bearer tokens (RFC 6750) and API keys, and the responses to requests without valid ones."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware as FastApiCors
from opentelemetry.trace import get_current_span
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

from chassis import PUBLIC, App, ChassisSettings, Handler, requires
from chassis.api.access import AccessControl
from chassis.auth import InvalidTokenError, KeysUnavailableError, Principal
from chassis.auth.guard import BearerGuard, quoted
from chassis.testing import Records, connect, record

from .support.application import TEST_SETTINGS

TOKENS = {
    "ada.token": Principal("ada", "https://login.example", frozenset({"orders:read"}), frozenset({"clerk"})),
    "bob.token==": Principal("bob", "https://login.example"),
    "odd.subject": Principal("Zoë \ud800", "https://login.example", frozenset({"orders:read"})),
}
KEYS = {"k3y": Principal("importer", "api keys", frozenset({"orders:read"}), scheme="api_key")}
ERRORS: dict[str, Exception] = {
    "expired": InvalidTokenError("the token has expired"),
    "odd": InvalidTokenError('the "kid" is ünknown\\'),
    "early": KeysUnavailableError("no keys"),
}
BEARER = 'Bearer realm="te\\"st"'


class KnownTokens:
    """A verifier of fixed tokens, which caches those that were verified."""

    def __init__(self) -> None:
        self.verified: dict[str, Principal] = {}

    def cached(self, token: str) -> Principal | None:
        return self.verified.get(token)

    async def verify(self, token: str) -> Principal:
        if token in ERRORS:
            raise ERRORS[token]
        if token not in TOKENS:
            raise InvalidTokenError("the token is unknown")
        self.verified[token] = TOKENS[token]
        return TOKENS[token]


class KnownKeys:
    """API keys."""

    def principal_of(self, key: str) -> Principal | None:
        return KEYS.get(key)


class Orders(Handler):
    """Orders, for readers and for administrators."""

    @requires(scopes=["orders:read"])
    async def get(self) -> str:
        return "orders"

    @requires(scopes=["orders:read", "orders:write"])
    async def post(self) -> str:
        return "ordered"

    @requires(roles=["admin", "owner"])
    async def delete(self) -> str:
        return "deleted"

    @requires(roles=["clerk", "owner"])
    async def put(self) -> str:
        return "put"


def make_app(*, with_keys: bool = True) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | {"log_format": "json"}), name='te"st', version="1")
    keys: Any = KnownKeys() if with_keys else None
    app.set_access_control(AccessControl(BearerGuard(KnownTokens(), keys, realm=app.name), {}))
    app.add_route("/orders", Orders())
    return app


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with connect(make_app()) as client:
        yield client


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer ada.token",
        "bearer ada.token",
        "BEARER ada.token",
        "Bearer   ada.token",
    ],
)
async def test_token_is_accepted(client: httpx.AsyncClient, authorization: str) -> None:
    for _ in ("verified", "cached"):
        response = await client.get("/orders", headers={"authorization": authorization})
        assert (response.status_code, response.json()) == (200, "orders")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Basic YTpi"},
        {"authorization": ""},
        {"authorization": "Bearings ada.token"},
        {"authorization": "ada.token"},
        {"cookie": "token=ada.token"},
    ],
)
async def test_request_without_a_token_gets_a_challenge_without_an_error(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    response = await client.get("/orders", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == BEARER
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["detail"] == "Send a bearer token (Authorization: Bearer …) or an API key (X-API-Key: …)."


async def test_token_in_the_query_or_in_a_form_is_not_accepted(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders?access_token=ada.token")).status_code == 401
    assert (await client.post("/orders", data={"access_token": "ada.token"})).status_code == 401


@pytest.mark.parametrize(
    "authorization", ["Bearer", "Bearer ", "Bearer a b", "Bearer a,b", 'Bearer "a"', "Bearer\tada.token", "Bearer =a"]
)
async def test_malformed_credentials_get_400(client: httpx.AsyncClient, authorization: str) -> None:
    response = await client.get("/orders", headers={"authorization": authorization})
    assert response.status_code == 400
    assert response.headers["www-authenticate"] == (
        f'{BEARER}, error="invalid_request", '
        'error_description="the Authorization field is not Bearer, one space, and the token"'
    )


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("authorization", "Bearer ada.token")] * 2, "the request has two Authorization fields"),
        ([("x-api-key", "k3y")] * 2, "the request has two X-API-Key fields"),
        (
            [("authorization", "Bearer ada.token"), ("x-api-key", "k3y")],
            "the request has a bearer token and an X-API-Key; send one of them",
        ),
    ],
)
async def test_two_credentials_get_400(client: httpx.AsyncClient, headers: list[tuple[str, str]], reason: str) -> None:
    response = await client.get("/orders", headers=headers)
    assert (response.status_code, response.json()["detail"]) == (400, f"The credentials are malformed: {reason}.")


@pytest.mark.parametrize(
    ("token", "description", "detail"),
    [
        ("expired", "the token has expired", "the token has expired"),
        ("odd", "the ?kid? is ?nknown?", 'the "kid" is ünknown\\'),
    ],
)
async def test_invalid_token_gets_401_with_a_reason(
    client: httpx.AsyncClient, token: str, description: str, detail: str
) -> None:
    response = await client.get("/orders", headers={"authorization": f"Bearer {token}"})
    assert response.status_code == 401
    challenge = f'{BEARER}, error="invalid_token", error_description="{description}"'
    assert response.headers["www-authenticate"] == challenge
    assert response.json()["detail"] == f"The bearer token is invalid: {detail}."


async def test_missing_scope_gets_403_that_names_it(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", headers={"authorization": "Bearer ada.token"})
    assert response.status_code == 403
    challenge = f'{BEARER}, error="insufficient_scope", scope="orders:read orders:write"'
    assert response.headers["www-authenticate"] == challenge
    assert response.json()["missing_scopes"] == ["orders:write"]
    assert response.json()["detail"] == "The token lacks the scope orders:write."


async def test_any_one_of_the_roles_is_enough(client: httpx.AsyncClient) -> None:
    ada = {"authorization": "Bearer ada.token"}
    denied = await client.delete("/orders", headers=ada)
    assert denied.status_code == 403
    assert denied.headers["www-authenticate"] == f'{BEARER}, error="insufficient_scope"'
    assert denied.json()["required_roles"] == ["admin", "owner"]
    assert denied.json()["detail"] == "The token lacks one of the roles admin, owner."
    assert (await client.put("/orders", headers=ada)).status_code == 200


async def test_keys_that_are_not_known_yet_get_503(client: httpx.AsyncClient) -> None:
    response = await client.get("/orders", headers={"authorization": "Bearer early"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


async def test_api_key_is_the_second_scheme(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders", headers={"x-api-key": "k3y"})).status_code == 200
    denied = await client.post("/orders", headers={"x-api-key": "k3y"})
    assert denied.json()["detail"] == "The API key lacks the scope orders:write."
    wrong = await client.get("/orders", headers={"x-api-key": "other"})
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, BEARER)
    # A proxy may have credentials of its own.
    both = await client.get("/orders", headers={"x-api-key": "k3y", "authorization": "Basic YTpi"})
    assert both.status_code == 200


async def test_api_key_is_ignored_without_api_keys() -> None:
    async with connect(make_app(with_keys=False)) as client:
        denied = await client.get("/orders", headers={"x-api-key": "k3y"})
        both = await client.get("/orders", headers={"x-api-key": "k3y", "authorization": "Bearer ada.token"})
    assert (denied.status_code, both.status_code) == (401, 200)
    assert denied.json()["detail"] == "Send a bearer token (Authorization: Bearer …)."


def lines_of(records: Records) -> list[dict[str, Any]]:
    return records.events("request")


async def test_subject_is_on_the_access_line_and_the_span_and_the_token_is_nowhere() -> None:
    app = make_app()
    with record(app) as records:
        async with connect(app) as client:
            sampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            await client.get("/orders", headers=sampled | {"authorization": "Bearer ada.token"})
            await client.get("/orders", headers=sampled | {"authorization": "Bearer expired"})
            await client.get("/orders", headers=sampled | {"authorization": "Bearer odd.subject"})
        granted, denied, odd = await records.access_lines(3)
        span, *_ = records.spans
        output = repr(records.lines) + repr([dict(span.attributes or {}) for span in records.spans])
    assert (granted["subject"], odd["subject"]) == ("ada", "Zoë ?")
    assert "subject" not in denied
    assert (span.attributes or {})["user.id"] == "ada"
    assert (denied["status"], denied["auth_failure"]) == (401, "the token has expired")
    assert "ada.token" not in output
    assert "Bearer" not in output


async def test_user_id_that_the_service_has_set_on_the_span_is_kept() -> None:
    class Named(Handler):
        async def get(self) -> str:
            get_current_span().set_attribute("user.id", "7")
            return "named"

    app = make_app()
    app.add_route("/named", Named())
    with record(app) as records:
        async with connect(app) as client:
            sampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            await client.get("/named", headers=sampled | {"authorization": "Bearer ada.token"})
        [line] = await records.access_lines(1)
        [span] = records.spans
    assert (line["subject"], (span.attributes or {})["user.id"]) == ("ada", "7")


async def test_mounted_application_finds_the_principal_as_its_user() -> None:
    async def show(request: Request) -> Response:
        return JSONResponse(request.user.subject)

    app = make_app()
    app.add_routes(StarletteRoute("/user", show))
    async with connect(app) as client:
        response = await client.get("/user", headers={"authorization": "Bearer ada.token"})
    assert response.json() == "ada"


async def test_mounted_fastapi_is_protected_as_a_whole() -> None:
    legacy = FastAPI()
    legacy.add_middleware(FastApiCors, allow_origins=["https://shop.example"], allow_headers=["authorization"])

    @legacy.get("/user")
    def user(request: Request) -> str:
        subject: str = request.user.subject
        return subject

    app = make_app()
    app.mount("/legacy", legacy, requires={"OPTIONS": PUBLIC})
    ada = {"authorization": "Bearer ada.token"}
    preflight = {"origin": "https://shop.example", "access-control-request-method": "GET"}
    async with connect(app) as client:
        for path in ("/legacy/user", "/legacy/openapi.json", "/legacy/docs", "/legacy/nothing"):
            assert (await client.get(path)).status_code == 401
        assert (await client.get("/legacy/user", headers=ada)).json() == "ada"
        assert (await client.get("/legacy/nothing", headers=ada)).status_code == 404
        assert (await client.options("/legacy/user", headers=preflight)).status_code == 200


@pytest.mark.parametrize(
    ("text", "expected"), [("a b", '"a b"'), ('a"b\\c', '"a\\"b\\\\c"'), ("a\r\nset-cookie: x", '"a??set-cookie: x"')]
)
def test_value_is_quoted(text: str, expected: str) -> None:
    assert quoted(text) == expected
    assert re.fullmatch(r'"([^"\\]|\\.)*"', quoted(text))
