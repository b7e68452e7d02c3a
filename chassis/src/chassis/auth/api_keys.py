"""`ApiKeys`: credentials of machines, in a file that has only their hashes.

python -m chassis.auth.api_keys new billing --scope orders:read --days 365

It prints the key, which is shown only once, and the line for the file.
"""

import argparse
import asyncio
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import NamedTuple, Self

import structlog
from structlog.typing import FilteringBoundLogger

from ..threads import in_thread
from .principal import Principal

log: FilteringBoundLogger = structlog.get_logger()

ISSUER = "api-keys"
SECRET_BYTES = 32
POLL_SECONDS = 1.0
MAX_FILE_BYTES = 1_048_576
MAX_KEY_CHARACTERS = 256
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
HASH = re.compile(r"sha256:([0-9a-f]{64})")
WORD = re.compile(r"[!#-+\--\[\]-~]+")  # a scope of RFC 6749, section 3.3, without the comma
NOBODY = bytes(32)
"""The hash that unknown names are compared with. No key has it."""


class ApiKeysError(ValueError):
    """The file with API keys cannot be read, or has a malformed line. The text names the line."""


class ApiKey(NamedTuple):
    """A line of the file."""

    digest: bytes
    principal: Principal


class ApiKeys:
    """The API keys of a file. A resource: while it is open, the file is read again when it changes, in a thread.

    Each line has a name, the SHA-256 of a key, and optionally `scopes=`, `roles=` and `expires=`. Several lines may
    have one name, so that a key can be replaced without an outage.

    A fast hash is right here. Slow ones, such as Argon2, protect passwords that people choose, because an attacker can
    guess them. A key has 256 random bits: nobody can guess it, however fast the hash is.
    """

    def __init__(self, path: Path) -> None:
        """Read the file at `path`. Raises `ApiKeysError`."""
        self._path = path
        self._state = _state_of(path)
        self._keys = read_api_keys(path)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="API keys watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel("the service is stopping")
            await asyncio.wait({self._watching})
        self._watching = None

    def principal_of(self, key: str) -> Principal | None:
        """The principal of a key; None if it is unknown, malformed or has expired."""
        name, _, _ = key.partition(".")
        digest = sha256(key[: MAX_KEY_CHARACTERS + 1].encode(errors="replace")).digest()
        found: Principal | None = None
        # All lines of the name are compared, and one in any case, so that the time says nothing about them.
        for expected, principal in self._keys.get(name) or [ApiKey(NOBODY, _NO_PRINCIPAL)]:
            if compare_digest(digest, expected):
                found = principal
        if found is None or found is _NO_PRINCIPAL:
            return None
        return None if found.expires_at is not None and found.expires_at <= time.time() else found

    async def refresh(self) -> None:
        """Read the file again if it has changed. A file that is wrong is an error in the log, and changes nothing."""
        try:
            keys = await asyncio.wrap_future(in_thread(self._read_if_changed, name="API keys"))
        except ApiKeysError as error:
            log.error("API keys not read; the last ones stay in use", reason=str(error))
            return
        if keys is not None:
            self._keys = keys
            log.info("API keys read again", keys=sum(map(len, keys.values())))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    def _read_if_changed(self) -> Mapping[str, list[ApiKey]] | None:
        state = _state_of(self._path)
        if state == self._state:
            return None
        self._state = state
        return read_api_keys(self._path)


_NO_PRINCIPAL = Principal("", ISSUER, scheme="api_key")


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """A value that differs when the file was changed or replaced; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_api_keys(path: Path) -> Mapping[str, list[ApiKey]]:
    """The keys of a file, by name. Raises `ApiKeysError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiKeysError(f"the file with API keys, {path}, cannot be read: {error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ApiKeysError(f"the file with API keys, {path}, is longer than {MAX_FILE_BYTES} bytes; split the service")
    keys: dict[str, list[ApiKey]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = _parse(words)
        except ValueError as error:
            reason = str(error)
        else:
            keys.setdefault(words[0], []).append(key)
            continue
        raise ApiKeysError(f"line {number} of {path}: {reason}")
    return keys


def _parse(words: Sequence[str]) -> ApiKey:
    """A line. The messages have no part of it except names of members: somebody may write a key into the file."""
    name, digest, *members = words if len(words) > 1 else (words[0], "")
    match = HASH.fullmatch(digest)
    if not NAME.fullmatch(name) or match is None:
        raise ValueError(
            "expected a name and sha256:<64 hexadecimal digits>; make a line with chassis.auth.api_keys new"
        )
    values = dict.fromkeys(("scopes", "roles", "expires"), "")
    for member in members:
        field, _, value = member.partition("=")
        if field not in values or values[field] or not value:
            raise ValueError("after the hash, each of scopes=, roles= and expires= is allowed once, with a value")
        values[field] = value
    principal = Principal(
        subject=name,
        issuer=ISSUER,
        scopes=_words(values["scopes"]),
        roles=_words(values["roles"]),
        scheme="api_key",
        expires_at=_end_of(values["expires"]) if values["expires"] else None,
    )
    return ApiKey(bytes.fromhex(match[1]), principal)


def _words(text: str) -> frozenset[str]:
    words = frozenset(text.split(",")) - {""}
    if not all(map(WORD.fullmatch, words)):
        raise ValueError("scopes and roles are words of visible ASCII characters, separated by commas")
    return words


def _end_of(text: str) -> float:
    """The begin of a day in UTC, in seconds since 1970."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None:
        raise ValueError("expires= must be a day in UTC, such as 2030-12-31")
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def new_key(
    name: str, *, scopes: Sequence[str] = (), roles: Sequence[str] = (), expires: date | None = None
) -> tuple[str, str]:
    """A new key, and the line for the file. Raises `ValueError` for a name or scope that is not allowed."""
    if not NAME.fullmatch(name):
        raise ValueError(f"the name is {name!r}; use up to 64 letters, digits, _ and -, such as billing")
    for word in (*scopes, *roles):
        if not WORD.fullmatch(word):
            raise ValueError(f"the scope or role is {word!r}; use visible ASCII characters without quotes and commas")
    key = f"{name}.{secrets.token_urlsafe(SECRET_BYTES)}"
    members = {"scopes": ",".join(scopes), "roles": ",".join(roles), "expires": expires.isoformat() if expires else ""}
    given = [f"{field}={value}" for field, value in members.items() if value]
    return key, " ".join([name, f"sha256:{sha256(key.encode()).hexdigest()}", *given])


def main(arguments: Sequence[str]) -> int:
    """Make a key. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m chassis.auth.api_keys", description="Make API keys.")
    command = parser.add_subparsers(required=True).add_parser("new", help="make a key, and the line with its hash")
    command.add_argument("name", help="name of the machine that gets the key: the subject on log lines")
    command.add_argument("--scope", action="append", default=[], help="a scope that it has; may be repeated")
    command.add_argument("--role", action="append", default=[], help="a role that it has; may be repeated")
    command.add_argument("--days", type=int, help="number of days until it expires; default: it does not expire")
    given = parser.parse_args(arguments)
    try:
        expires = None if given.days is None else datetime.now(UTC).date() + timedelta(days=given.days)
        key, line = new_key(given.name, scopes=given.scope, roles=given.role, expires=expires)
    except (ValueError, OverflowError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write("The key, which is shown only now; clients send it as X-API-Key:\n")
    sys.stdout.write(f"{key}\n")
    sys.stderr.write("The line for the file that APP_AUTH_API_KEYS_FILE names:\n")
    sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
