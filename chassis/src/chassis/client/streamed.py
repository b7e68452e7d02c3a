"""`StreamedResponse`: a response whose body is read in parts."""

from collections.abc import AsyncIterator, Mapping

from .errors import BadResponseError
from .transport import ConnectionLostError, InboundResponse, ResponseTooLargeError


class StreamedResponse:
    """A response whose header section has arrived. Names in `headers` are case-insensitive."""

    def __init__(self, dependency: str, response: InboundResponse, max_bytes: int) -> None:
        self.dependency: str = dependency
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._max_bytes = max_bytes

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body as they arrive, decoded. Raises `BadResponseError` if the connection is lost."""
        try:
            async for chunk in self._response.chunks():
                yield chunk
        except ConnectionLostError as error:
            raise BadResponseError(self.dependency, "closed the connection before its response was complete") from error

    async def read(self) -> bytes:
        """The whole body, decoded. Raises `BadResponseError` if it is incomplete or longer than its limit."""
        try:
            return await self._response.read(self._max_bytes)
        except ResponseTooLargeError as error:
            raise BadResponseError(self.dependency, "responded with a body that is too large") from error
        except ConnectionLostError as error:
            raise BadResponseError(self.dependency, "closed the connection before its response was complete") from error
