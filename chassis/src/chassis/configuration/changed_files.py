"""Reads the secret files of settings again when they have changed. It blocks, so it runs in a thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from .errors import explain
from .schema import Schema
from .secret_files import Fingerprint, fingerprint_of
from .sources import ConfigurationError, Given, Source, Variable, given_for, note_given, read_again

# A file that is written in place may be incomplete when it is read. So files must not have changed for this time.
SETTLE_SECONDS = 0.5

Settings = TypeVar("Settings", bound=BaseSettings)
Problem = tuple[str, tuple[Variable, ...]]


@dataclass
class Reading(Generic[Settings]):
    """The result of reading files that have changed."""

    settings: Settings | None = None
    """The settings that the service would have after a restart; None if the last ones stay."""
    errors: list[str] = field(default_factory=list[str])
    """A line for each value that is wrong, and for each file that cannot be read. None has a secret."""
    warnings: list[str] = field(default_factory=list[str])
    """A line for each file that has no effect."""


class ChangedFiles(Generic[Settings]):
    """The secret files of a service. In place of a wrong value, the last valid one stays."""

    def __init__(self, settings: Settings, make: Callable[[Given], Settings]) -> None:
        """`make` creates settings from variables, or raises `ValidationError`."""
        given = given_for(settings)
        self.directory: Path | None = given.secrets_dir
        self.schema: Schema = Schema(type(settings))
        self._make = make
        self._given = given
        """The variables of the last settings."""
        self._fingerprint = given.fingerprint
        self._files: Source = given.files
        """The files as they were read last, right or wrong."""
        self._warnings = given.warnings
        self._problems: set[Problem] = set()

    def read_if_changed(self) -> Reading[Settings] | None:
        """Read the files if they have changed since the last time. Returns None if not, or if they still change."""
        if self.directory is None or self._read_fingerprint() == self._fingerprint:
            return None
        fingerprint = self._settled()
        reading = Reading[Settings]()
        try:
            read = read_again(self._given, self.schema, fingerprint)
        except ConfigurationError as error:
            reading.errors += error.lines
        else:
            if self._read_fingerprint() != fingerprint:
                return None
            self._note_warnings(read, reading)
            reading.settings = self._made(read, reading)
            if reading.settings is None:  # perhaps because of another file, which a setting names
                return reading
        self._fingerprint = fingerprint
        return reading

    def _read_fingerprint(self) -> Fingerprint:
        return () if self.directory is None else fingerprint_of(self.directory, self.schema.knows)

    def _settled(self) -> Fingerprint:
        """The fingerprint, when it has not changed for a moment."""
        fingerprint = self._read_fingerprint()
        while True:
            time.sleep(SETTLE_SECONDS)
            before, fingerprint = fingerprint, self._read_fingerprint()
            if fingerprint == before:
                return fingerprint

    def _note_warnings(self, read: Given, reading: Reading[Settings]) -> None:
        reading.warnings += [line for line in read.warnings if line not in self._warnings]
        self._warnings = read.warnings
        for name, variable in sorted(read.files.items()):
            used = next((source[name] for source in read.sources[:-1] if name in source), None)
            if used is not None and variable != self._files.get(name):
                place = used.place or "the environment"
                reading.warnings.append(
                    f"{variable.place} has changed, but {used.name} in {place} has priority; remove it there"
                )
        self._files = read.files

    def _made(self, read: Given, reading: Reading[Settings]) -> Settings | None:
        """The settings. Each wrong value is an error, once, and the last valid one stays."""
        problems = set[Problem]()
        given = read
        while True:
            try:
                settings = self._make(given)
                break
            except ValidationError as error:
                lines = explain(error, self.schema, given)
                last = self._with_last(given, error)
            except Exception as error:  # noqa: BLE001 - of a validator of the service's owner; its text may have a secret
                lines, last = [f"{type(error).__qualname__} while the settings were checked"], given
            wrong = [name for name in sorted(given.files) if last == given or given.files[name] != last.files.get(name)]
            for line in lines:
                problem = (line, tuple(given.files[name] for name in wrong))
                problems.add(problem)
                if problem not in self._problems:
                    reading.errors.append(line)
            if last == given:
                self._problems = problems
                return None
            given = last
        self._problems = problems
        self._given = given
        note_given(settings, given)
        return settings

    def _with_last(self, given: Given, error: ValidationError) -> Given:
        """The variables with the last files of the wrong settings; the same if they are not the reason."""
        names: list[str] = []
        for detail in error.errors(include_url=False, include_context=False, include_input=False):
            settings, _ = self.schema.at(detail["loc"])
            path = settings[-1].path if settings else ()
            below = [setting for setting in self.schema.settings if setting.path[: len(path)] == path]
            names += [name for setting in (*settings, *below) for name in setting.variables]
        return given.with_last_files(self._given.files, names)
