"""Secrets don't reach the log, however deep they are, and whatever they are in."""

import logging
from collections import UserDict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import attrs
import httpx
import pytest
import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from starlette.datastructures import FormData, Headers, QueryParams
from starlette.responses import Response
from structlog.typing import EventDict

from chassis import Handler, Route

from .support.service import Observed, observed, serve

SECRET = "s3cr3t"  # noqa: S105 - what must not be shown


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed(redact=["iban", "X-Api-Key"]) as seen:
        yield seen


@pytest.mark.parametrize(
    "values",
    [
        {"authorization": SECRET},
        {"Authorization": SECRET},
        {"cookie": SECRET},
        {"set_cookie": SECRET},
        {"proxy_authorization": SECRET},
        {"password": SECRET},
        {"token": SECRET},
        {"iban": SECRET},
        {"IBAN": SECRET},
        {"x_api_key": SECRET},
        {"headers": {"Authorization": SECRET, "x-api-key": SECRET}},
        {"order": {"payment": {"iban": SECRET}}},
        {"password": {"hash": SECRET}},
        {"payments": [{"iban": SECRET}]},
        {"payments": ({"iban": SECRET},)},
        {"headers": [("authorization", SECRET)]},
        {"headers": [(b"authorization", SECRET.encode())]},
        {"headers": {b"cookie": SECRET}},
    ],
    ids=str,
)
@pytest.mark.parametrize("library", [True, False])
def test_secret_is_redacted(seen: Observed, values: dict[str, Any], library: bool) -> None:
    if library:
        logging.getLogger("some.library").warning("said", extra=values)
    else:
        structlog.get_logger().warning("said", **values)
    (line,) = seen.lines
    assert SECRET not in seen.output.decode()
    assert line.keys() >= values.keys()


@dataclass
class Login:
    """Values that people log by mistake."""

    user: str
    password: str
    note: str = field(default=SECRET, repr=False)


@dataclass(slots=True)
class SlottedLogin:
    user: str
    password: str


@dataclass
class LoginError(Exception):
    """An exception with fields."""

    token: str


@pydantic_dataclass
class CheckedLogin:
    user: str
    password: str


class LoginModel(BaseModel):
    """The same as a model."""

    model_config = ConfigDict(extra="allow")

    user: str
    password: str
    inner: Login | None = None
    card: str = Field(default=SECRET, repr=False)
    pin: str = Field(default="1234", exclude=True)


@attrs.define
class AttrsLogin:
    """The same with slots, by attrs."""

    user: str
    password: str
    note: str = attrs.field(default=SECRET, repr=False)


class NamedLogin(NamedTuple):
    user: str
    password: str


OldLogin = namedtuple("OldLogin", ["user", "password"])


class Printed:
    """Shows its attributes in its text."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        return f"Printed({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


class Vault:
    """Has secrets in what JSON writers look into."""

    def __init__(self) -> None:
        self.password = SECRET


HEADERS = {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "accept": "*/*"}
RAW_HEADERS = [(b"authorization", f"Bearer {SECRET}".encode()), (b"cookie", f"a=b; session={SECRET}".encode())]
INSIDE: dict[str, Any] = {
    "dataclass": Login("ada", SECRET),
    "dataclass with slots": SlottedLogin("ada", SECRET),
    "dataclass of pydantic": CheckedLogin("ada", SECRET),
    "dataclass that is an exception": LoginError(SECRET),
    "model": LoginModel(user="ada", password=SECRET),
    "model with more": LoginModel.model_validate({"user": "ada", "password": SECRET, "api_key": SECRET}),
    "model in a model": LoginModel(user="ada", password="", inner=Login("ada", SECRET)),
    "attrs": AttrsLogin("ada", SECRET),
    "named tuple": NamedLogin("ada", SECRET),
    "old named tuple": OldLogin("ada", SECRET),
    "mapping": MappingProxyType({"password": SECRET}),
    "UserDict": UserDict({"password": SECRET}),
    "headers of Starlette": Headers(HEADERS),
    "raw headers of Starlette": Headers(raw=RAW_HEADERS),
    "headers of httpx": httpx.Headers(HEADERS),
    "query": QueryParams(f"access_token={SECRET}&page=2"),
    "form": FormData([("password", SECRET), ("user", "ada")]),
    "pairs": RAW_HEADERS,
    "lists of two": [[b"cookie", SECRET.encode()]],
    "set": {("token", SECRET)},
    "deque": deque([{"token": SECRET}]),
    "items of a dictionary": HEADERS.items(),
    "scope": {"type": "http", "headers": RAW_HEADERS},
    "objects in lists": [[Login("ada", SECRET)], (LoginModel(user="ada", password=SECRET),)],
    "objects in a mapping": MappingProxyType({"login": Headers(HEADERS)}),
    "namespace": SimpleNamespace(password=SECRET, user="ada"),
    "object with a text": Printed(password=SECRET, headers=HEADERS),
    "object with a text of bytes": Printed(raw=RAW_HEADERS),
    "object with nested text": Printed(inner=Printed(cookies={"session": SECRET}), token=Printed(value=SECRET)),
    "object without one": Vault(),
    "exception": ValueError(f"cannot connect with password={SECRET}"),
    "bytes": f"GET / HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\nHost: x\r\n".encode(),
    "errors of pydantic": [{"type": "string_type", "loc": ("body", "password"), "msg": "too short", "input": SECRET}],
    "words together": {
        "access_token": SECRET,
        "refreshToken": SECRET,
        "DB_PASSWORD": SECRET,
        "client_secret": SECRET,
        "apiKey": SECRET,
        "auth.token": SECRET,
        "customerIban": SECRET,
        b"X-Api-Key": SECRET,
        "X_Auth_Token": SECRET,
        "cookies": {"session": SECRET},
        "user": "ada",
    },
}
TEXTS = {
    "address": f"cannot reach postgresql://ada:{SECRET}@db:5432/orders",
    "address without a user": f"redis://:{SECRET}@cache/0",
    "repr of headers": str(Headers(HEADERS)),
    "repr of a dictionary": str({"user": "ada", "password": SECRET, "n": 1}),
    "repr with quotes inside": str({"password": f'it\'s "{SECRET}" here'}),
    "JSON": f'{{"user": "ada", "password": "x\\"{SECRET}"}}',
    "JSON in JSON": f'{{"body": "{{\\"password\\": \\"{SECRET}\\"}}"}}',
    "header": f"Authorization: Bearer {SECRET}",
    "headers": f"Host: x\r\nCookie: a=b; session={SECRET}\r\nSet-Cookie: id={SECRET}; Path=/",
    "digest": f'Authorization: Digest username="ada", response="{SECRET}"',
    "query": f"GET /login?access_token={SECRET}&page=2",
    "assignment": f"connecting with password={SECRET} user=ada",
    "comma in a word": f"password=a,{SECRET} user=ada",
    "prose": f"the token: {SECRET}",
    "httpcore": f"return_value=(b'HTTP/1.1', 200, b'OK', [(b'Set-Cookie', b'session={SECRET}; Secure')])",
    "nested": f"Config(token=Token(value='{SECRET}'), cookies={{'a': ['{SECRET}']}})",
    "cut off": f"{{'password': '{SECRET}",
    "pydantic": f"1 error for Login\npassword\n  too short [type=short, input_value='{SECRET}', input_type=str]",
}


@pytest.fixture(params=["json", "console"])
def either(request: pytest.FixtureRequest) -> Iterator[Observed]:
    with observed(redact=["iban", "X-Api-Key"], format=request.param) as seen:
        yield seen


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("library", [True, False])
def test_secret_is_redacted_whatever_it_is_in(either: Observed, name: str, library: bool) -> None:
    if library:
        logging.getLogger("some.library").warning("said", extra={"value": INSIDE[name]})
    else:
        structlog.get_logger().warning("said", value=INSIDE[name])
    assert "said" in either.output.decode()
    assert SECRET not in either.output.decode()


@pytest.mark.parametrize("name", INSIDE)
def test_secret_in_the_arguments_of_a_library_is_redacted(either: Observed, name: str) -> None:
    logging.getLogger("some.library").warning("said %s and %r", "this", INSIDE[name])
    assert "said this" in either.output.decode()
    assert SECRET not in either.output.decode()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("way", ["event", "value", "argument", "library", "exception"])
def test_secret_in_text_is_redacted(either: Observed, name: str, way: str) -> None:
    log: Any = structlog.get_logger()
    match way:
        case "event":
            log.warning(f"said {TEXTS[name]}")  # noqa: G004 - as people write it
        case "value":
            log.warning("said", value=TEXTS[name])
        case "argument":
            log.warning("said %s", TEXTS[name])
        case "library":
            logging.getLogger("some.library").debug("not shown")
            logging.getLogger("some.library").warning("said %s", TEXTS[name])
        case "exception":
            try:
                raise RuntimeError(TEXTS[name])
            except RuntimeError:
                log.exception("said")
    assert "said" in either.output.decode()
    assert SECRET not in either.output.decode()


def test_rest_of_a_text_with_a_secret_is_shown(seen: Observed) -> None:
    structlog.get_logger().info(
        "said",
        headers=str(Headers(HEADERS)),
        query=f"/login?access_token={SECRET}&page=2",
        pairs=f"password={SECRET} user=ada",
        address=f"cannot reach postgresql://ada:{SECRET}@db:5432/orders",
        bracket=f"Config(token=Token(value='{SECRET}'), size=2)",
    )
    (line,) = seen.lines
    expected = "Headers({'authorization': [redacted], 'x-api-key': [redacted], 'accept': '*/*'})"
    assert line["headers"] == expected
    assert line["query"] == "/login?access_token=[redacted]&page=2"
    assert line["pairs"] == "password=[redacted] user=ada"
    assert line["address"] == "cannot reach postgresql://ada:[redacted]@db:5432/orders"
    assert line["bracket"] == "Config(token=[redacted], size=2)"


def test_traceback_without_its_secret_keeps_its_code(seen: Observed) -> None:
    class Account(BaseModel):
        password: int

    secret = SECRET
    try:
        Account.model_validate({"password": secret})
    except ValidationError:
        structlog.get_logger().exception("failed", secret=secret)
    (line,) = seen.lines
    assert SECRET not in seen.output.decode()
    assert '{"password": secret}' in line["exception"]
    assert "input_value=[redacted], input_type=str" in line["exception"]


def test_secret_that_a_processor_of_yours_adds_is_redacted() -> None:
    shown: list[EventDict] = []

    def add_headers(_logger: object, _method: str, event: EventDict) -> EventDict:
        shown.append(dict(event))
        return {**event, "headers": Headers(HEADERS)}

    with observed(processors=[add_headers]) as seen:
        structlog.get_logger().info("said", login=Login("ada", SECRET))
        seen.telemetry.logs.access_logger().line("info", {"event": "request"})
        assert SECRET not in seen.output.decode()
        assert [line["headers"]["accept"] for line in seen.lines] == ["*/*"] * 2
    # Nor is it shown to one that may send events elsewhere.
    assert shown[0]["login"] == {"user": "ada", "password": "[redacted]"}


@pytest.mark.parametrize("secret", ["", "token"])
def test_object_has_the_same_form_with_and_without_a_secret(seen: Observed, secret: str) -> None:
    values = {
        "login": SlottedLogin("ada", ""),
        "model": LoginModel(user="ada", password="", inner=None),
        "named": NamedLogin("ada", ""),
        "headers": Headers({"accept": "*/*"}),
        "hidden": SecretStr("x"),
        "set": {1},
    }
    structlog.get_logger().info("said", **values, note=secret)
    (line,) = seen.lines
    assert {key: line[key] for key in values} == {
        "login": {"user": "ada", "password": "[redacted]"},
        "model": {"user": "ada", "password": "[redacted]", "inner": None},
        "named": {"user": "ada", "password": "[redacted]"},
        "headers": {"accept": "*/*"},
        "hidden": "**********",
        "set": [1],
    }


async def test_headers_that_httpcore_logs_at_debug_are_redacted() -> None:
    cookie = f"session={SECRET}; Path=/"

    class Signed(Handler):
        async def get(self) -> Response:
            return Response(headers={"set-cookie": cookie})

    async with serve(Route("/signed", Signed()), logs={"level": "DEBUG"}) as service:
        answer = await service.client.get("/signed", headers={"authorization": f"Bearer {SECRET}"})
        assert answer.headers["set-cookie"] == cookie
        assert any(str(line.get("logger")).startswith("httpcore") for line in service.seen.lines)
        assert SECRET not in service.seen.output.decode()


def test_what_is_logged_is_not_changed(seen: Observed) -> None:
    headers = {"authorization": SECRET, "inner": {"token": SECRET}, "list": [{"token": SECRET}]}
    structlog.get_logger().info("said", headers=headers)
    assert headers == {"authorization": SECRET, "inner": {"token": SECRET}, "list": [{"token": SECRET}]}


def test_what_only_looks_like_a_secret_is_shown(seen: Observed) -> None:
    shown = {"tokens": 3, "author": "Ada", "password_changed": True, "token_count": 2, "says": "a token has expired"}
    shown |= {"address": "http://catalogue:8000/items?of=ada@example.com", "at": "http://ada@catalogue:8000"}
    structlog.get_logger().info("said", **shown)
    (line,) = seen.lines
    assert {key: line[key] for key in shown} == shown
