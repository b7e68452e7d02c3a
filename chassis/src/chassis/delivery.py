"""Messages that are delivered later, by an outbox: what it and its destinations have in common."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

import httpx

from .unavailable import UnavailableError

__all__ = ["Deliver", "HttpDestination", "OutboundMessage", "RejectedError", "UnavailableError"]

# The characters that a header of CloudEvents has as they are.
PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
# Responses that say that the message itself is wrong. All others, such as 401, may go away while it waits.
REJECTED = frozenset({400, 405, 409, 410, 413, 414, 415, 422})


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """A message on its way to a destination."""

    id: str
    """Unique, and the same in all attempts to deliver the message."""
    subject: str
    key: str | None
    """Messages with the same key are delivered in order."""
    payload: bytes
    headers: Mapping[str, str]
    created_at: datetime


Deliver = Callable[[OutboundMessage], Awaitable[object]]
"""Delivers a message to a destination. Raises `RejectedError` if it never accepts the message, else any exception."""


class RejectedError(Exception):
    """The destination does not accept this message as it is, however often it is sent."""


class HttpDestination:
    """Delivers messages to an HTTP endpoint: each is the body of a POST.

    The request has the message's headers, and `Idempotency-Key` with its id, so that the endpoint can recognize a
    message that it gets again. The envelope is in the headers of CloudEvents' binary mode: `ce-id`, `ce-type` (the
    subject), `ce-source`, `ce-time`, and `ce-partitionkey`. Responses of 2xx accept the message.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, *, source: str) -> None:
        """`client` is one of `http_client()`, so that requests carry the trace. `source` names this service."""
        self._client = client
        self._url = url
        parts = httpx.URL(url)
        # Without user, password and query, which may be secret: the text is in the log and in the table.
        self._name = str(parts.copy_with(userinfo=b"", query=None, fragment=None))
        self._source = source

    async def __call__(self, message: OutboundMessage) -> None:
        """Deliver a message. Raises `RejectedError` or an `httpx.HTTPError`."""
        envelope = {
            "content-type": "application/json",
            **message.headers,
            "idempotency-key": message.id,
            "ce-specversion": "1.0",
            "ce-id": message.id,
            "ce-type": _encoded(message.subject),
            "ce-source": _encoded(self._source),
            "ce-time": message.created_at.isoformat(),
        }
        if message.key is not None:
            envelope["ce-partitionkey"] = _encoded(message.key)
        try:
            headers = httpx.Headers(envelope)
        except UnicodeEncodeError as error:
            raise RejectedError(f"a header of the message is not ASCII: {error.object!r}") from error
        response = await self._client.post(self._url, content=message.payload, headers=headers)
        if response.status_code in REJECTED:
            raise RejectedError(f"{self._name} responds with {response.status_code}")
        if not response.is_success:
            raise httpx.HTTPStatusError(
                f"{self._name} responds with {response.status_code}", request=response.request, response=response
            )


def _encoded(text: str) -> str:
    """A value of a header, as the HTTP binding of CloudEvents encodes it (section 3.1.3.2)."""
    return quote(text, safe=PLAIN)
