"""The variables that are given: in the environment, in `.env`, and as secret files."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from .schema import Schema
from .secret_files import Fingerprint, SecretFiles, fingerprint_of, generation_of, list_files
from .values import decode

DEFAULT_SECRETS_DIR = "/run/secrets"
MAX_FILE_BYTES = 1_048_576  # Kubernetes allows no larger Secret


@dataclass(frozen=True, slots=True)
class Variable:
    """A value that is given for a setting."""

    name: str
    """As it is spelled there."""
    text: str = field(repr=False)
    place: str
    """Empty for the environment, else a path."""


Source = Mapping[str, Variable]
"""Variables by their names in lower case."""


class ConfigurationError(SettingsError):
    """Settings cannot be read from a file or directory. Each of `lines` describes one error."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Given(NamedTuple):
    """All given variables, and the warnings about them."""

    sources: tuple[Source, ...]
    """The first one that has a variable wins."""
    warnings: tuple[str, ...]
    secrets_dir: Path | None = None
    """The directory of secret files, if there is one."""
    fingerprint: Fingerprint = ()
    """That of the secret files when they were read."""

    @property
    def files(self) -> Source:
        """The secret files; empty without a directory of them."""
        return {} if self.secrets_dir is None else self.sources[-1]

    def with_files(self, files: Source) -> "Given":
        """The same with other secret files."""
        return self._replace(sources=(*self.sources[:-1], files))

    def with_last_files(self, last: Source, names: Iterable[str]) -> "Given":
        """The same with the files of an earlier reading for the variables of these names."""
        lower = {name.lower() for name in names}
        files = {name: variable for name, variable in self.files.items() if name not in lower}
        return self.with_files(files | {name: last[name] for name in lower if name in last})

    def find(self, names: Iterable[str]) -> Variable | None:
        """The variable that is used for a setting of these names."""
        lower = [name.lower() for name in names]
        return next((source[name] for source in self.sources for name in lower if name in source), None)


NOTHING_GIVEN = Given((), ())
# In the `__dict__` of settings, beside their fields: so it is copied with them, but not compared, shown or dumped.
GIVEN = "_given"


def note_given(settings: BaseSettings, given: Given) -> None:
    """Note the variables that settings were read from."""
    vars(settings)[GIVEN] = given


def given_for(settings: BaseSettings) -> Given:
    """The variables that settings were read from; none if they were made from values."""
    given: Given = vars(settings).get(GIVEN, NOTHING_GIVEN)
    return given


def read(settings: type[BaseSettings], schema: Schema) -> Given:
    """Read the environment, `.env` and the secret files. An empty value counts as not given.

    Raises `ConfigurationError` for a file or directory that cannot be read. No message contains a value.
    """
    warnings: list[str] = []
    environment = _by_name(((name, text, "") for name, text in os.environ.items()), schema, warnings)
    env_files: dict[str, Variable] = {}
    for path in _env_files(settings):
        pairs = _read_env_file(path, warnings)
        env_files |= _by_name(((name, text, str(path)) for name, text in pairs), schema, warnings)
    variable = f"{schema.prefix}SECRETS_DIR".upper()
    configured = Given((environment, env_files), ()).find([variable])
    secrets_dir = Path(configured.text if configured else DEFAULT_SECRETS_DIR)
    fingerprint = fingerprint_of(secrets_dir, schema.knows)  # before they are read, so that no change is missed
    listed = _list_secrets(secrets_dir, configured is not None, variable)
    files: Source = {} if listed is None else _read_one_generation(secrets_dir, variable, listed, schema, warnings)
    for source in (environment, env_files):
        for name, given in sorted(source.items()):
            if name.startswith(schema.prefix.lower()) and name != variable.lower() and not schema.knows(name):
                warnings.append(_unknown(schema, given))
    return Given((environment, env_files, files), tuple(warnings), None if listed is None else secrets_dir, fingerprint)


def read_again(given: Given, schema: Schema, fingerprint: Fingerprint) -> Given:
    """The same with the secret files as they are now, whose fingerprint was taken before.

    The environment of a process does not change, and `.env` is for development. Raises `ConfigurationError`. The
    warnings are those about the files.
    """
    directory = given.secrets_dir
    if directory is None:
        return given
    variable = f"{schema.prefix}SECRETS_DIR".upper()
    warnings: list[str] = []
    listed = _list_secrets(directory, True, variable)
    files = _read_one_generation(directory, variable, listed, schema, warnings)
    return given.with_files(files)._replace(warnings=tuple(warnings), fingerprint=fingerprint)


class VariablesSource(EnvSettingsSource):
    """Passes variables of any source to pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], source: Source) -> None:
        super().__init__(settings_cls, case_sensitive=False)
        self.env_vars: Mapping[str, str | None] = {name: variable.text for name, variable in source.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """Decode the text of a field that is not a plain value; `field` is None for a member of a plain `dict`."""
        return decode(field or FieldInfo(annotation=dict[str, Any] | str), value) if isinstance(value, str) else value


def _by_name(given: Iterable[tuple[str, str, str]], schema: Schema, warnings: list[str]) -> Source:
    """Variables by lower-case name, without empty ones. `APP_PORT` takes precedence over `app_port`, in any order."""
    variables: dict[str, Variable] = {}
    for name, text, place in sorted(given, key=lambda entry: entry[0]):
        key = name.lower()
        if text == "":
            continue
        if (first := variables.setdefault(key, Variable(name, text, place))).name != name and schema.knows(key):
            where = f" in {place}" if place else ""
            warnings.append(f"{first.name} and {name}{where} are the same setting; {first.name} is used")
    return variables


def _env_files(settings: type[BaseSettings]) -> list[Path]:
    configured = settings.model_config.get("env_file")
    if configured is None:
        return []
    paths = [configured] if isinstance(configured, (str, os.PathLike)) else configured
    return [Path(path).expanduser() for path in paths]


def _read_env_file(path: Path, warnings: list[str]) -> list[tuple[str, str]]:
    if not os.path.lexists(path):
        return []
    if path.is_dir():
        # This happens with a virtual environment of that name, or with a mount of a missing file.
        warnings.append(f"{path} is a directory, so no settings are read from it")
        return []
    text = _read_text(path, path)
    from dotenv import dotenv_values  # few processes have such a file
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            statement = binding.original.string
            line = binding.original.line + statement[: len(statement) - len(statement.lstrip())].count("\n")
            raise ConfigurationError(f"{path}, line {line}: not NAME=value, or a quote is not closed")
    return [(name, value) for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None]


def _list_secrets(directory: Path, is_configured: bool, variable: str) -> SecretFiles | None:
    try:
        return list_files(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_configured:
            return None
        raise ConfigurationError(
            f"{variable}={str(directory)!r}: not a directory; create it, or set {variable} to another directory"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{variable}={str(directory)!r}: the directory cannot be read: {error.strerror}; "
            f"allow this user to read it, or set {variable} to another directory"
        ) from error


def _read_one_generation(
    directory: Path, variable: str, listed: SecretFiles | None, schema: Schema, warnings: list[str]
) -> Source:
    """Read the files of one generation, those that were listed or newer ones. `variable` names the directory."""
    while listed is not None:
        own: list[str] = []
        try:
            files = _read_secret_files(directory, listed, schema, own)
        except ConfigurationError:
            if generation_of(directory) == listed.generation:
                raise
            # They were replaced meanwhile, and their folder is gone.
            listed = _list_secrets(directory, True, variable)
        else:
            warnings += own
            return files
    return {}


def _read_secret_files(directory: Path, listed: SecretFiles, schema: Schema, warnings: list[str]) -> Source:
    given: list[tuple[str, str, str]] = []
    errors: list[str] = []
    for name, path in listed.paths.items():
        shown = directory / name
        if schema.knows(name):
            try:
                given.append((name, _read_text(path, shown, must_be_regular=True).strip(), str(shown)))
            except ConfigurationError as error:
                errors += error.lines
        elif schema.knows(schema.prefix + name):
            warnings.append(f"{shown} is ignored; did you mean {schema.prefix.lower()}{name}?")
        elif name.lower().startswith(schema.prefix.lower()):
            warnings.append(_unknown(schema, Variable(name, "", str(shown))))
    if errors:
        raise ConfigurationError(*errors)
    return _by_name(given, schema, warnings)


def _read_text(path: Path, shown: Path, *, must_be_regular: bool = False) -> str:
    """The text of a file that messages call `shown`. Raises `ConfigurationError`."""
    try:
        if must_be_regular and not stat.S_ISREG(path.stat().st_mode):
            # A pipe would never end.
            raise ConfigurationError(f"{shown}: not a regular file; put the value into a file of this name")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{shown}: a symbolic link to a file that does not exist; create that file, or remove the link"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{shown}: cannot be read: {error.strerror}; allow this user to read it, or remove it"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{shown}: larger than the allowed {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{shown}: not UTF-8 text; save it in UTF-8") from error
    if "\0" in text:
        raise ConfigurationError(f"{shown}: contains a NUL byte; save it as UTF-8 text")
    return text


def _unknown(schema: Schema, variable: Variable) -> str:
    in_file = variable.place.endswith(variable.name)
    spell: Callable[[str], str] = str.lower if in_file else str.upper
    subject = variable.place if in_file else variable.name
    where = f" in {variable.place}" if variable.place and not in_file else ""
    close = schema.closest(variable.name)
    hint = f"; did you mean {spell(close)}?" if close else ""
    return f"{subject}{where} is not a setting of this service{hint}"
