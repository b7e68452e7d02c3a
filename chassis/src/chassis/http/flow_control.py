"""Backpressure between a transport and the application, in both directions."""

import asyncio

HIGH_WATER_BYTES = 65_536  # of a body that the application has not read; beyond it nothing more is read


class FlowControl:
    """Pauses reading, and lets the application wait until the transport takes more."""

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable: asyncio.Event | None = None
        self.read_paused: bool = False
        self.write_paused: bool = False

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Wait until the transport takes more, or the connection is lost."""
        if self.write_paused and self._writable is not None:
            await self._writable.wait()
