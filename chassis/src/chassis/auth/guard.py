"""The guard of an app: finds the credentials of a request, and turns them into a principal or into a problem."""

import re
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from prometheus_client import Counter
from starlette.types import Scope

from ..api.access import PRINCIPAL, Requirement
from ..context import annotate
from ..problem import Problem
from ..request_info import REQUEST_INFO
from .api_keys import ApiKeys
from .errors import InvalidTokenError, KeysUnavailableError
from .principal import Principal

BEARER = b"Bearer "
API_KEY = "X-API-Key"
API_KEY_FIELD = API_KEY.lower().encode()
FIELDS = frozenset({b"authorization", API_KEY_FIELD})
TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # b64token (RFC 6750, section 2.1)
NOT_IN_DESCRIPTION = re.compile(r"[^ !#-\[\]-~]")  # RFC 6750, section 3
RETRY_SECONDS = 5


class Verifier(Protocol):
    """The interface of a token verifier that this module uses."""

    def cached(self, token: str) -> Principal | None:
        """The principal of a token that was verified before and is still valid."""
        ...

    async def verify(self, token: str) -> Principal:
        """The principal of a token. Raises `InvalidTokenError` or `KeysUnavailableError`."""
        ...


class BearerGuard:
    """Lets requests with a valid bearer token (RFC 6750) or API key in.

    Credentials in the query or in a form are not accepted, because logs and browsers keep URLs. A token that was
    verified before costs no await.
    """

    def __init__(
        self, verifier: Verifier, api_keys: ApiKeys | None, *, realm: str, rejected: Counter | None = None
    ) -> None:
        """`realm` is the name of the service in challenges. `rejected` counts rejected requests by reason."""
        self._verifier = verifier
        self._api_keys = api_keys
        self._rejected = rejected
        self._challenge = f"Bearer realm={quoted(realm)}"
        wanted = "a bearer token (Authorization: Bearer …)"
        self._wanted = wanted if api_keys is None else f"{wanted} or an API key ({API_KEY}: …)"

    def admit(self, scope: Scope, requirement: Requirement) -> Awaitable[None] | None:
        """Let a request in; see `chassis.api.access.Guard`. Raises a `Problem` of 400, 401, 403 or 503."""
        authorization: bytes | None = None
        key: bytes | None = None
        for name, value in scope["headers"]:
            if name not in FIELDS:
                continue
            if name == b"authorization":
                if authorization is not None:
                    raise self._malformed("the request has two Authorization fields")
                authorization = value
            elif self._api_keys is not None:
                if key is not None:
                    raise self._malformed(f"the request has two {API_KEY} fields")
                key = value
        if authorization is not None:
            token = authorization[7:] if authorization[:7] == BEARER else self._token_of(authorization)
            if token is not None and key is None:
                text = token.decode("latin-1")
                principal = self._verifier.cached(text)
                if principal is None:
                    return self._verify(token, text, scope, requirement)
                self._let_in(principal, scope, requirement)
                return None
            if token is not None:
                raise self._malformed(f"the request has a bearer token and an {API_KEY}; send one of them")
        if key is None or self._api_keys is None:
            raise self._unauthorized("no_credentials", f"Send {self._wanted}.")
        principal = self._api_keys.principal_of(key.decode("latin-1"))
        if principal is None:
            raise self._unauthorized("invalid_api_key", f"The API key is invalid. Send {self._wanted}.")
        self._let_in(principal, scope, requirement)
        return None

    def _token_of(self, authorization: bytes) -> bytes | None:
        """The token in an Authorization field that does not begin as most do; None for another scheme."""
        scheme, _, token = authorization.strip(b" ").partition(b" ")
        if scheme.lower() != b"bearer":
            if scheme.lower().startswith(b"bearer"):  # such as with a tab
                raise self._malformed("the Authorization field is not Bearer, one space, and the token")
            return None
        return token.lstrip(b" ")

    async def _verify(self, token: bytes, text: str, scope: Scope, requirement: Requirement) -> None:
        if not TOKEN.fullmatch(token.strip(b" ")):
            raise self._malformed("the Authorization field is not Bearer, one space, and the token")
        try:
            principal = await self._verifier.verify(text.strip(" "))
        except InvalidTokenError as error:
            reason = str(error)
            self._count("invalid_token", reason)
            headers = self._headers({"error": "invalid_token", "error_description": reason})
            raise Problem(401, f"The bearer token is invalid: {reason}.", headers=headers) from None
        except KeysUnavailableError:
            self._count("keys_unavailable", "the keys of the issuer are not known yet")
            detail = "The keys that verify tokens are not available yet; retry later."
            raise Problem(503, detail, headers={"retry-after": str(RETRY_SECONDS)}) from None
        self._let_in(principal, scope, requirement)

    def _let_in(self, principal: Principal, scope: Scope, requirement: Requirement) -> None:
        scope[PRINCIPAL] = principal
        if REQUEST_INFO in scope:
            subject = principal.subject
            # A claim may have lone surrogates, which no log line can hold.
            scope[REQUEST_INFO].subject = subject if subject.isascii() else subject.encode(errors="replace").decode()
        if requirement.scopes <= principal.scopes and not (
            requirement.roles and requirement.roles.isdisjoint(principal.roles)
        ):
            return
        raise self._forbidden(principal, requirement)

    def _forbidden(self, principal: Principal, requirement: Requirement) -> Problem:
        missing = sorted(requirement.scopes - principal.scopes)
        lacks: list[str] = []
        members: dict[str, Any] = {}
        if missing:
            members["missing_scopes"] = missing
            lacks.append(f"the scope{'s' * (len(missing) > 1)} {', '.join(missing)}")
        if requirement.roles and requirement.roles.isdisjoint(principal.roles):
            members["required_roles"] = roles = sorted(requirement.roles)
            lacks.append(f"the role {roles[0]}" if len(roles) == 1 else f"one of the roles {', '.join(roles)}")
        what = "API key" if principal.scheme == "api_key" else "token"
        detail = f"The {what} lacks {' and '.join(lacks)}."
        self._count("insufficient_scope", detail)
        parameters = {"error": "insufficient_scope"}
        if requirement.scopes:
            parameters["scope"] = " ".join(sorted(requirement.scopes))
        return Problem(403, detail, headers=self._headers(parameters), **members)

    def _malformed(self, reason: str) -> Problem:
        self._count("invalid_request", reason)
        headers = self._headers({"error": "invalid_request", "error_description": reason})
        return Problem(400, f"The credentials are malformed: {reason}.", headers=headers)

    def _unauthorized(self, reason: str, detail: str) -> Problem:
        """401 without an error code, because the request has no token (RFC 6750, section 3.1)."""
        self._count(reason, reason.replace("_", " "))
        return Problem(401, detail, headers=self._headers({}))

    def _headers(self, parameters: Mapping[str, str]) -> dict[str, str]:
        described = [f"{name}={quoted(NOT_IN_DESCRIPTION.sub('?', text))}" for name, text in parameters.items()]
        return {"www-authenticate": ", ".join([self._challenge, *described])}

    def _count(self, reason: str, detail: str) -> None:
        annotate(auth_failure=detail)
        if self._rejected is not None:
            self._rejected.labels(reason).inc()


def quoted(text: str) -> str:
    """A quoted-string (RFC 9110, section 5.6.4) of printable ASCII."""
    printable = re.sub(r"[^ -~]", "?", text)
    return '"' + re.sub(r'(["\\])', r"\\\1", printable) + '"'
