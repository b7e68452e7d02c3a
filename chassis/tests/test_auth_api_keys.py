"""API keys: their file, their comparison, and the command that makes them."""

import asyncio
import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog

from chassis.auth import api_keys
from chassis.auth.api_keys import ApiKeys, ApiKeysError, main, new_key

from .support.secret_volume import SecretVolume
from .support.service import until

HASH = sha256(b"billing.secret").hexdigest()


def write(path: Path, text: str) -> None:
    """Replace the file, as Kubernetes does."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "api-keys"
    write(path, "")
    return path


def test_new_key_is_accepted_with_its_scopes_and_roles(path: Path) -> None:
    key, line = new_key("billing", scopes=["orders:read", "orders:write"], roles=["clerk"])
    write(path, f"# machines\n\n{line}\n")
    principal = ApiKeys(path).principal_of(key)
    assert principal is not None
    assert (principal.subject, principal.issuer, principal.scheme) == ("billing", "api-keys", "api_key")
    assert principal.scopes == {"orders:read", "orders:write"}
    assert principal.roles == {"clerk"}
    assert principal.expires_at is None


def test_file_has_only_the_hash_of_256_random_bits() -> None:
    key, line = new_key("billing")
    secret = key.removeprefix("billing.")
    assert len(secret) == 43  # 256 bits in base64url
    assert secret not in line
    assert new_key("billing")[0] != key


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key.replace("billing", "other"),
        lambda key: key.partition(".")[2],
        lambda key: key + " ",
        lambda key: key.upper(),
        lambda _: "",
        lambda _: ".",
        lambda _: "billing",
        lambda _: "billing.",
        lambda _: "x" * 100_000,
        lambda _: "billing.\udcff\0é",
    ],
)
def test_other_key_is_unknown(path: Path, change: Any) -> None:
    key, line = new_key("billing")
    write(path, line)
    assert ApiKeys(path).principal_of(change(key)) is None


def test_each_comparison_takes_constant_time_also_for_unknown_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = new_key("billing")
    write(path, f"{line}\n{new_key('billing')[1]}")
    compared: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return first == second

    monkeypatch.setattr(api_keys, "compare_digest", compare)
    keys = ApiKeys(path)
    assert keys.principal_of(key) is not None
    assert len(compared) == 2  # both lines of the name, although the first one matches
    assert keys.principal_of("nobody.secret") is None
    assert len(compared) == 3


def test_key_expires(path: Path) -> None:
    write(path, f"billing sha256:{HASH} expires=2020-01-01\nother sha256:{HASH} expires=2999-12-31")
    assert ApiKeys(path).principal_of("billing.secret") is None
    write(path, f"billing sha256:{HASH} expires=2999-12-31")
    principal = ApiKeys(path).principal_of("billing.secret")
    assert principal is not None
    assert principal.expires_at == 32_503_593_600


async def test_file_is_read_again_when_it_changes(path: Path) -> None:
    first, second = new_key("billing"), new_key("billing")
    write(path, first[1])
    keys = ApiKeys(path)
    write(path, f"{first[1]}\n{second[1]}")
    await keys.refresh()
    assert keys.principal_of(first[0])
    assert keys.principal_of(second[0])
    write(path, second[1])
    await keys.refresh()
    assert keys.principal_of(first[0]) is None


async def test_file_is_read_in_a_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ApiKeys(path)
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)  # like a network file system that does not respond
    pipe.replace(path)
    first, line = new_key("billing")
    reading = asyncio.create_task(keys.refresh())
    await asyncio.sleep(0.01)
    assert keys.principal_of(first) is None  # the event loop is not blocked
    assert not reading.done()
    await asyncio.to_thread(path.write_text, line)
    await reading
    assert keys.principal_of(first)


async def test_open_resource_looks_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "POLL_SECONDS", 0.001)
    async with ApiKeys(path) as keys:
        key, line = new_key("billing")
        write(path, line)
        assert await until(lambda: keys.principal_of(key))


async def test_file_of_a_secret_of_kubernetes_is_read_again_when_it_is_swapped(tmp_path: Path) -> None:
    first, second = new_key("billing"), new_key("billing")
    volume = SecretVolume(tmp_path / "secrets", keys=first[1])
    keys = ApiKeys(volume.directory / "keys")
    volume.write(keys=second[1])
    await keys.refresh()
    assert keys.principal_of(first[0]) is None
    assert keys.principal_of(second[0])


async def test_file_that_has_not_changed_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, line = new_key("billing")
    write(path, line)
    keys = ApiKeys(path)
    monkeypatch.setattr(api_keys, "read_api_keys", lambda _: {})
    await keys.refresh()
    assert keys.principal_of(key)


@pytest.mark.parametrize("broken", ["billing", "billing sha256:00", None])
async def test_broken_new_file_is_one_error_and_changes_nothing(path: Path, broken: str | None) -> None:
    key, line = new_key("billing")
    write(path, line)
    keys = ApiKeys(path)
    write(path, broken) if broken is not None else await asyncio.to_thread(path.unlink)
    with structlog.testing.capture_logs() as lines:
        await keys.refresh()
        await keys.refresh()
    assert [(one["log_level"], one["event"]) for one in lines] == [
        ("error", "API keys not read; the last ones stay in use")
    ]
    assert str(path) in lines[0]["reason"]
    assert keys.principal_of(key)
    write(path, "")
    await keys.refresh()
    assert keys.principal_of(key) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("billing", "expected a name and sha256"),
        ("billing.secret", "expected a name and sha256"),
        (f"-billing sha256:{HASH}", "expected a name and sha256"),
        (f"billing {HASH}", "expected a name and sha256"),
        (f"billing sha256:{HASH.upper()}", "expected a name and sha256"),
        (f"billing sha256:{HASH} scope=a", "each of scopes=, roles= and expires= is allowed once"),
        (f"billing sha256:{HASH} scopes=a scopes=b", "each of scopes=, roles= and expires= is allowed once"),
        (f"billing sha256:{HASH} scopes=", "each of scopes=, roles= and expires= is allowed once"),
        (f'billing sha256:{HASH} scopes="a"', "words of visible ASCII characters"),
        (f"billing sha256:{HASH} expires=tomorrow", "expires= must be a day in UTC"),
    ],
)
def test_malformed_line_is_named_and_not_shown(path: Path, line: str, reason: str) -> None:
    write(path, f"# one\n{line}")
    with pytest.raises(ApiKeysError, match=re.escape(reason)) as caught:
        ApiKeys(path)
    assert f"line 2 of {path}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert HASH not in str(caught.value)


def test_missing_binary_or_huge_file_is_an_error(path: Path) -> None:
    with pytest.raises(ApiKeysError, match="cannot be read"):
        ApiKeys(path.with_name("missing"))
    path.write_bytes(b"\xff")
    with pytest.raises(ApiKeysError, match="cannot be read"):
        ApiKeys(path)
    path.write_bytes(b"#" * (api_keys.MAX_FILE_BYTES + 1))
    with pytest.raises(ApiKeysError, match="is longer than"):
        ApiKeys(path)


def test_command_prints_the_key_once_and_the_line(path: Path) -> None:
    command = [sys.executable, "-m", "chassis.auth.api_keys", "new", "billing", "--scope", "orders:read", "--days", "1"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={**os.environ})
    key, line = made.stdout.splitlines()
    write(path, line)
    principal = ApiKeys(path).principal_of(key)
    assert principal is not None
    assert principal.scopes == {"orders:read"}
    assert principal.expires_at is not None


@pytest.mark.parametrize("arguments", [["-x y"], ["a b"], ["a", "--scope", "a,b"], ["a", "--days", "99999999"]])
def test_command_rejects_what_the_file_could_not_hold(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(["new", *arguments])
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2
    assert capsys.readouterr().out == ""
