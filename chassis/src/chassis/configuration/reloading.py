"""Applies settings that change while the service runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic

import structlog
from structlog.typing import FilteringBoundLogger

from ..threads import in_thread
from .changed_files import ChangedFiles, Settings
from .changes import Changes, Path, variable_of
from .sources import Given, given_for, note_given

log: FilteringBoundLogger = structlog.get_logger()

POLL_SECONDS = 2.0
UNKNOWN = object()


class Reloading(Generic[Settings]):
    """Looks for changed secret files every few seconds, and passes on the settings that have changed.

    Files are read in a thread. A value that is wrong, or a file that cannot be read, is an error in the log, and the
    last value stays. A setting that needs a restart is a warning, once for each value.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[Given], Settings],
        on_change: Callable[[Settings, Settings], Awaitable[None]],
    ) -> None:
        """`on_change` gets the settings before and after a change. See `ChangedFiles` for `make`."""
        self._settings = settings
        self._files = ChangedFiles(settings, make)
        self._schema = self._files.schema
        self._on_change = on_change
        self._wanted = settings
        self._reading = asyncio.Lock()
        self._waiting: dict[Path, object] = {}
        """The values that need a restart, and were warned of."""

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the files if they have changed, and apply their values."""
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        reading = await asyncio.wrap_future(in_thread(self._files.read_if_changed, name="settings"))
        if reading is None:
            return
        for line in reading.warnings:
            log.warning("setting ignored", reason=line)
        for line in reading.errors:
            log.error("setting not applied; its last value stays in use", reason=line)
        if reading.settings is not None:
            await self._apply(reading.settings)

    def after_restart(self) -> Settings:
        """The last settings that were read. From now on, those that need a restart count as applied, too."""
        self._settings, self._waiting = self._wanted, {}
        return self._wanted

    async def _apply(self, wanted: Settings) -> None:
        self._wanted = wanted
        changes = Changes()
        before = self._settings
        after = changes.apply(before, wanted)
        for path, value in changes.waiting.items():
            if self._waiting.get(path, UNKNOWN) != value:
                log.warning("setting changed; restart the service to apply it", variable=self._variable(path))
        self._waiting = changes.waiting
        if changes.applied:
            note_given(after, self._given_after(changes, before, wanted))
            self._settings = after
            log.info("settings changed", variables=[self._variable(path) for path in changes.applied])
            await self._on_change(before, after)

    def _given_after(self, changes: Changes, before: Settings, wanted: Settings) -> Given:
        """The variables in effect: a setting that needs a restart still has its last one."""
        waiting = [name for path in changes.waiting for name in self._schema.at(path)[0][-1].variables]
        return given_for(wanted).with_last_files(given_for(before).files, waiting)

    def _variable(self, path: Path) -> str:
        return variable_of(self._schema, path)
