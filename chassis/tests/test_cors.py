"""CORS by the settings: which origins, with which headers, on which responses."""

from typing import Any

import pytest
from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import App, ChassisSettings, Handler, Problem
from chassis.settings import settings_table
from chassis.testing import connect, serve

from .support.application import TEST_SETTINGS
from .test_access import CONTROL

SHOP = "https://shop.example"
ORIGIN = {"origin": SHOP}
PREFLIGHT = ORIGIN | {"access-control-request-method": "PUT", "access-control-request-headers": "if-match,content-type"}


class Items(Handler):
    async def get(self, limit: int = 1) -> str:
        if limit == 0:
            raise RuntimeError("internal detail")
        if limit == 2:
            raise Problem(409, "Two are too many.")
        return "items"

    async def put(self, body: bytes) -> None:
        pass


def make(**settings: Any) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | settings), name="items", version="1")
    app.add_route("/items", Items())
    return app


async def test_without_the_setting_no_response_has_fields_of_cors() -> None:
    async with connect(make()) as client:
        for response in (await client.get("/items", headers=ORIGIN), await client.options("/items", headers=PREFLIGHT)):
            assert not [name for name in response.headers if name.startswith("access-control")]
            assert "origin" not in response.headers.get("vary", "").lower()


async def test_script_of_the_origin_reads_every_response() -> None:
    app = make(cors_origins=(SHOP,), max_body_bytes=10, rate_limit_requests=4)
    async with serve(app) as client:
        responses = [
            await client.get("/items", headers=ORIGIN),
            await client.get("/none", headers=ORIGIN),
            await client.delete("/items", headers=ORIGIN),
            await client.get("/items?limit=x", headers=ORIGIN),
            await client.get("/items?limit=0", headers=ORIGIN),
            await client.get("/items?limit=2", headers=ORIGIN),
            await client.put("/items", headers=ORIGIN, content=b"x" * 11),
            await client.get("/items", headers=ORIGIN),
        ]
        assert [response.status_code for response in responses] == [200, 404, 405, 422, 500, 409, 413, 429]
        for response in responses:
            assert response.headers["access-control-allow-origin"] == SHOP
            assert "Origin" in response.headers["vary"]
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert {"etag", "link", "location", "ratelimit", "retry-after", "x-request-id"} <= set(exposed)
            assert "access-control-allow-credentials" not in response.headers


class Raising:
    """Middleware of the owner that rejects some requests, and counts all."""

    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._seen.append(scope["method"])
        if scope["method"] == "PATCH":
            raise Problem(403, "You may not.")
        if scope["method"] == "DELETE":
            raise RuntimeError("internal detail")
        await self._app(scope, receive, send)


async def test_script_reads_the_rejections_of_other_middleware() -> None:
    seen: list[str] = []
    app = make(cors_origins=(SHOP,), max_body_bytes=10)
    app.add_middleware(Raising, seen)
    async with serve(app) as client:
        for method, status in (("GET", 200), ("PATCH", 403), ("DELETE", 500), ("PUT", 413)):
            response = await client.request(method, "/items", headers=ORIGIN, content=b"x" * 11 * (method == "PUT"))
            assert (response.status_code, response.headers["access-control-allow-origin"]) == (status, SHOP)
    assert seen == ["GET", "PATCH", "DELETE", "PUT"]


async def test_script_reads_why_its_credentials_were_rejected() -> None:
    app = make(cors_origins=(SHOP,))
    app.set_access_control(CONTROL)
    async with connect(app) as client:
        response = await client.get("/items", headers=ORIGIN)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (401, SHOP)
        assert "www-authenticate" in response.headers["access-control-expose-headers"]
        assert (await client.options("/items", headers=PREFLIGHT)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://shop.example", f"{SHOP}.evil.example", f"{SHOP}:8443", "null"]
)
async def test_other_origin_reads_nothing(origin: str) -> None:
    async with connect(make(cors_origins=(SHOP,))) as client:
        response = await client.get("/items", headers={"origin": origin})
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["vary"] == "Origin"
        preflight = await client.options("/items", headers=PREFLIGHT | {"origin": origin})
        assert preflight.status_code == 400
        assert "access-control-allow-origin" not in preflight.headers


async def test_response_without_an_origin_varies_too() -> None:
    async with connect(make(cors_origins=(SHOP,))) as client:
        assert (await client.get("/items")).headers["vary"] == "Origin"


async def test_preflight_says_what_scripts_may_send() -> None:
    async with connect(make(cors_origins=(SHOP,), cors_max_age_seconds=5)) as client:
        response = await client.options("/items", headers=PREFLIGHT)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, SHOP)
        assert response.headers["access-control-max-age"] == "5"
        assert "PUT" in response.headers["access-control-allow-methods"]
        for name in ("authorization", "content-type", "idempotency-key", "if-match"):
            assert name in response.headers["access-control-allow-headers"].lower()
        for changed in (
            {"access-control-request-method": "TRACE"},
            {"access-control-request-headers": "x-forwarded-for"},
            {"access-control-request-private-network": "true"},
        ):
            assert (await client.options("/items", headers=PREFLIGHT | changed)).status_code == 400


async def test_preflights_are_not_limited() -> None:
    async with connect(make(cors_origins=(SHOP,), rate_limit_requests=1)) as client:
        for _ in range(3):
            assert (await client.options("/items", headers=PREFLIGHT)).status_code == 200
        assert (await client.get("/items", headers=ORIGIN)).status_code == 200


async def test_all_origins_without_credentials() -> None:
    async with connect(make(cors_origins=("*",))) as client:
        response = await client.get("/items", headers={"origin": "https://any.example"})
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers


async def test_credentials_of_one_origin() -> None:
    settings = ChassisSettings.from_variables({"APP_CORS_ORIGINS": SHOP, "APP_CORS_CREDENTIALS": "true"})
    app = App(settings, name="items", version="1")
    app.add_route("/items", Items())
    async with connect(app) as client:
        response = await client.get("/items", headers=ORIGIN)
        assert response.headers["access-control-allow-credentials"] == "true"
        assert response.headers["access-control-allow-origin"] == SHOP
        other = await client.get("/items", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("https://shop.example", ("https://shop.example",)),
        ("HTTPS://Shop.Example,http://localhost:5173", ("https://shop.example", "http://localhost:5173")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
        ("capacitor://localhost", ("capacitor://localhost",)),
        ("*", ("*",)),
    ],
)
def test_origins_are_those_that_browsers_send(given: str, origins: tuple[str, ...]) -> None:
    assert ChassisSettings.from_variables({"APP_CORS_ORIGINS": given}).cors_origins == origins


def test_boolean_with_a_name_like_a_secret_is_shown() -> None:
    (row,) = [row for row in settings_table(ChassisSettings) if "APP_CORS_CREDENTIALS" in row]
    assert row.startswith("| `APP_CORS_CREDENTIALS` | `false` |")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"APP_CORS_ORIGINS": "https://shop.example/"}, "is not scheme://host or scheme://host:port, without a path"),
        ({"APP_CORS_ORIGINS": "shop.example"}, "is not scheme://host"),
        ({"APP_CORS_ORIGINS": "null"}, "is not scheme://host"),
        ({"APP_CORS_ORIGINS": "https://*.shop.example"}, "is not scheme://host"),
        ({"APP_CORS_ORIGINS": "https://user@shop.example"}, "is not scheme://host"),
        ({"APP_CORS_ORIGINS": "https://shöp.example"}, "is not scheme://host"),
        ({"APP_CORS_ORIGINS": "https://shop.example:443"}, "has the default port"),
        ({"APP_CORS_ORIGINS": "*,https://shop.example"}, "remove it, or the others"),
        ({"APP_CORS_ORIGINS": "*", "APP_CORS_CREDENTIALS": "true"}, "not possible with APP_CORS_ORIGINS="),
        ({"APP_CORS_METHODS": "*"}, "is not a method"),
        ({"APP_CORS_HEADERS": "*"}, "is not a header"),
        ({"APP_CORS_EXPOSED_HEADERS": "a b"}, "is not a header"),
        ({"APP_RATE_LIMIT_BURST": "5"}, "set APP_RATE_LIMIT_REQUESTS too"),
    ],
)
def test_wrong_setting_is_rejected(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("*", r"\*")):
        ChassisSettings.from_variables(variables)
