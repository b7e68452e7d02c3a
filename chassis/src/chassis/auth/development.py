"""An OpenID provider for development: discovery, keys, authorization code with PKCE, client credentials.

python -m chassis.auth.development order_service orders:read orders:write -- python -m order_service

It starts the provider, and runs the command with `APP_AUTH_ISSUER`. It prints a token with the scopes. If
`APP_AUTH_ISSUER` is set, it only runs the command.

The provider asks for no passwords. So it listens on the loopback address alone, its key is new at each start, and it
sends nobody to another machine.
"""

import asyncio
import base64
import hashlib
import hmac
import html
import os
import secrets
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from ..api.handler import Handler
from ..api.sources import Form, Query
from ..app import App
from ..launcher import Launcher
from ..problem import Problem
from ..server import Server
from ..settings import ChassisSettings, load_settings
from .issuer import Issuer

HOST = "127.0.0.1"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LOCAL_ORIGIN = r"http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
CODE_SECONDS = 60.0
TOKEN_SECONDS = 8 * 3600
DOCS_CLIENT = "docs"
USAGE = "usage: python -m chassis.auth.development <package> [<scope> …] -- <command>"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Development login</title>
<link rel="icon" href="data:,">
</head>
<body>
<h1>Development login</h1>
<p>This provider asks for no password. Choose who you are, and what you may do.</p>
<form method="post">
<p><label>Name <input name="subject" value="ada" required></label></p>
<p><label>Scopes <input name="scope" value="{scope}" size="60"></label></p>
<p><label>Roles <input name="roles" size="60"></label></p>
<p><button>Log in</button></p>
</form>
</body>
</html>
"""


class AuthorizationRequest(BaseModel):
    """The query of the authorization endpoint (RFC 6749, section 4.1.1; RFC 7636, section 4.3)."""

    response_type: str
    client_id: str
    redirect_uri: str
    code_challenge: str
    code_challenge_method: str
    scope: str = ""
    state: str = ""

    def check(self) -> None:
        """Raise a `Problem` for a request that this provider does not allow."""
        if self.response_type != "code" or self.code_challenge_method != "S256":
            raise Problem(400, "Use response_type=code and code_challenge_method=S256.")
        if urlsplit(self.redirect_uri).hostname not in LOOPBACK:
            raise Problem(400, "redirect_uri must be on this machine: this provider is for development.")


class Grant(NamedTuple):
    """A login that was not exchanged for a token yet."""

    request: AuthorizationRequest
    subject: str
    scope: str
    roles: str
    expires_at: float


class Discovery(Handler):
    """The metadata of OpenID Connect Discovery 1.0."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def get(self) -> dict[str, Any]:
        url = self._issuer.url
        return {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/keys",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "client_credentials"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "authorization_response_iss_parameter_supported": True,
        }


class Keys(Handler):
    """The public keys."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def get(self) -> dict[str, Any]:
        return self._issuer.keys


class Authorize(Handler):
    """A page that asks for a name, and then returns to the client with a code."""

    def __init__(self, issuer: Issuer, grants: dict[str, Grant]) -> None:
        self._issuer = issuer
        self._grants = grants

    async def get(self, asked: Annotated[AuthorizationRequest, Query()]) -> Response:
        asked.check()
        headers = {"content-security-policy": "default-src 'none'; img-src data:; frame-ancestors 'none'"}
        return HTMLResponse(PAGE.format(scope=html.escape(asked.scope)), headers=headers)

    async def post(
        self,
        asked: Annotated[AuthorizationRequest, Query()],
        subject: Annotated[str, Form()],
        granted: Annotated[str, Form("scope")] = "",
        roles: Annotated[str, Form()] = "",
    ) -> Response:
        asked.check()
        code = secrets.token_urlsafe()
        self._grants[code] = Grant(asked, subject, granted, roles, time.monotonic() + CODE_SECONDS)
        answer = urlencode({"code": code, "state": asked.state, "iss": self._issuer.url})
        separator = "&" if urlsplit(asked.redirect_uri).query else "?"
        return RedirectResponse(f"{asked.redirect_uri}{separator}{answer}", 303)


class Tokens(Handler):
    """Access tokens (RFC 6749, sections 4.1.3 and 4.4)."""

    def __init__(self, issuer: Issuer, grants: dict[str, Grant]) -> None:
        self._issuer = issuer
        self._grants = grants

    async def post(
        self,
        grant_type: Annotated[str, Form()],
        client_id: Annotated[str, Form()] = "machine",
        code: Annotated[str, Form()] = "",
        redirect_uri: Annotated[str, Form()] = "",
        code_verifier: Annotated[str, Form()] = "",
        scope: Annotated[str, Form()] = "",
        roles: Annotated[str, Form()] = "",
    ) -> Response:
        if grant_type == "client_credentials":
            return self._token(client_id, scope, roles)
        if grant_type != "authorization_code":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        grant = self._grants.pop(code, None)  # a code is valid once
        if (
            grant is None
            or time.monotonic() > grant.expires_at
            or (client_id, redirect_uri) != (grant.request.client_id, grant.request.redirect_uri)
            or not hmac.compare_digest(challenge_of(code_verifier), grant.request.code_challenge.encode())
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return self._token(grant.subject, grant.scope, grant.roles)

    def _token(self, subject: str, scope: str, roles: str) -> Response:
        token = self._issuer.token(subject, scopes=scope.split(), roles=roles.split(), seconds=TOKEN_SECONDS)
        return JSONResponse(
            {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS, "scope": scope},
            headers={"cache-control": "no-store"},
        )


def challenge_of(verifier: str) -> bytes:
    """The challenge for a verifier, by the method S256 (RFC 7636, section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")


def make_provider(issuer: Issuer) -> App:
    """The application of the provider. The URL of `issuer` is read when it is needed."""
    grants = dict[str, Grant]()
    app = App(ChassisSettings.from_values(log_level="WARNING", drain_seconds=0.0), name="development-provider")
    # Pages of other sites that the developer visits must not get tokens.
    app.add_middleware(CORSMiddleware, allow_origin_regex=LOCAL_ORIGIN, allow_methods=["GET", "POST"])
    app.add_route("/.well-known/openid-configuration", Discovery(issuer))
    app.add_route("/keys", Keys(issuer))
    app.add_route("/authorize", Authorize(issuer, grants))
    app.add_route("/token", Tokens(issuer, grants))
    return app


@asynccontextmanager
async def provider(audience: str, *, configures_logs: bool = False) -> AsyncIterator[Issuer]:
    """Run the provider on a free port of the loopback address. Yields its issuer.

    With `configures_logs`, the process logs warnings and errors alone. Only the launcher may do that.
    """
    app = make_provider(issuer := Issuer("", audience))
    if configures_logs:
        app.telemetry.install()
    async with Server(app, host=HOST, port=0) as server:
        issuer.url = f"http://{HOST}:{server.port}"
        yield issuer


@contextmanager
def provider_in_thread(audience: str) -> Iterator[Issuer]:
    """Run the provider beside the code of the block, in a thread with an event loop of its own."""
    started, stopping, issuers = threading.Event(), asyncio.Event(), list[Issuer]()
    runner = asyncio.Runner()

    async def serve() -> None:
        try:
            async with provider(audience, configures_logs=True) as issuer:
                issuers.append(issuer)
                started.set()
                await stopping.wait()
        finally:
            started.set()

    thread = threading.Thread(target=runner.run, args=(serve(),), name="development provider", daemon=True)
    thread.start()
    started.wait()
    try:
        yield issuers[0]
    finally:
        runner.get_loop().call_soon_threadsafe(stopping.set)
        thread.join()
        runner.close()


class _IssuerSettings(ChassisSettings):
    """The settings that say whether there is a provider, and what the service expects of its tokens."""

    auth_issuer: str | None = None
    auth_audience: str | None = None
    auth_docs_client_id: str | None = None


def launch(package: str, scopes: Sequence[str], command: Sequence[str], settings: _IssuerSettings) -> int:
    """Run a command beside the provider. Returns the exit status of the command."""
    audience = settings.auth_audience or package.replace("_", "-")
    launcher = Launcher()
    with launcher.signals(), provider_in_thread(audience) as issuer:
        token = issuer.token("developer", scopes=scopes, seconds=TOKEN_SECONDS)
        sys.stderr.write(
            f"The OpenID provider for development runs at {issuer.url}: log in at /docs of the service, without a "
            f"password.\nA token of it, with {'the scopes ' + ' '.join(scopes) if scopes else 'no scopes'}:\n"
            f"TOKEN={token}\n"
        )
        variables = {
            "APP_AUTH_ISSUER": issuer.url,
            "APP_AUTH_AUDIENCE": audience,
            "APP_AUTH_DOCS_CLIENT_ID": settings.auth_docs_client_id or DOCS_CLIENT,
        }
        return launcher.run(command, os.environ | variables)
    return launcher.status


def main(arguments: list[str]) -> int:
    """Run the command of the arguments. Returns its exit status."""
    options, separator, command = split(arguments)
    if not options or not separator or not command:
        sys.stderr.write(f"error: expected a package and a command; {USAGE}\n")
        return 2
    settings = load_settings(_IssuerSettings, warns=False)
    try:
        if settings.auth_issuer is not None:
            os.execvp(command[0], command)  # noqa: S606 - the command of the Makefile
        return launch(options[0], options[1:], command, settings)
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """The arguments before and after the first `--`, and whether there is one."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], place < len(arguments), arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
