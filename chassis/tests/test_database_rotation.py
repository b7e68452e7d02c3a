"""Credentials of a database that change while the service runs: no request fails, whichever comes first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chassis import App, ChassisSettings, Server, load_settings
from chassis.configuration import changed_files
from chassis.postgres import DatabaseSettings

from .support.database_kinds import Asyncpg, Kind, SqlAlchemy
from .support.postgres import PostgresServer
from .support.secret_volume import SecretVolume
from .support.service import Service, connect, observed

ROLE = "rotating"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'rotating'"
PROCESS = "SELECT pid FROM pg_stat_activity WHERE usename = 'rotating'"
FILE = "app_database_password"
REPLICA_FILE = "app_replica__database_password"


class Settings(ChassisSettings, DatabaseSettings):
    """The settings of a service with a database."""

    replica: DatabaseSettings | None = None


@pytest.fixture(params=[Asyncpg, SqlAlchemy])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param()
    return kind


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_files, "SETTLE_SECONDS", 0.0)


@pytest.fixture
async def role(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of a role whose password the server checks. It is `first`."""
    await postgres.run(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'first'")
    await postgres.run(f"GRANT ALL ON accounts TO {ROLE}")
    rules = postgres.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n" + before)
    await postgres.run("SELECT pg_reload_conf()")
    yield postgres.url.replace("postgres@", f"{ROLE}@")
    rules.write_text(before)
    await postgres.run("SELECT pg_reload_conf()")
    await postgres.run(f"DROP OWNED BY {ROLE}")
    await postgres.run(f"DROP ROLE {ROLE}")


class Rotation:
    """A service whose credentials are in a volume, and its responses."""

    def __init__(self, service: Service, volume: SecretVolume, postgres: PostgresServer) -> None:
        self.service = service
        self.volume = volume
        self._postgres = postgres

    async def write(self, **files: str) -> None:
        """Replace the files, and let the service read them."""
        self.volume.write(**files)
        await self.service.app.refresh_settings()

    async def responses(self, count: int) -> list[int]:
        """The statuses of so many requests at once, each of which needs a connection."""
        requests = [self.service.client.get("/balance", params={"seconds": 0.2}) for _ in range(count)]
        return [response.status_code for response in await asyncio.gather(*requests)]

    async def grow(self, count: int) -> set[int]:
        """Send so many requests at once, until the service has as many connections. Returns the statuses."""
        statuses: set[int] = set()
        async with asyncio.timeout(20.0):
            while await self.connections() < count:
                statuses |= set(await self.responses(count))
        return statuses

    async def connections(self) -> int:
        """The number of connections that the server has."""
        return int(await self._postgres.run(CONNECTIONS))


@asynccontextmanager
async def rotating(
    postgres: PostgresServer,
    kind: Kind,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    **files: str,
) -> AsyncIterator[Rotation]:
    volume = SecretVolume(tmp_path / "secrets", **files)
    given = {"APP_SECRETS_DIR": str(volume.directory), "APP_HOST": "127.0.0.1", "APP_PORT": "0"}
    for name, text in (given | {"APP_DRAIN_SECONDS": "0", "APP_DATABASE_POOL_MAX": "5"} | variables).items():
        monkeypatch.setenv(name, text)
    settings: Any = load_settings(Settings)
    with observed() as seen:
        app = App(settings, name="test-service", version="1.2.3", telemetry=seen.telemetry)
        app.add_routes(kind.route)
        kind.add(app, settings)
        async with Server(app) as server, connect(server.port) as client:
            yield Rotation(Service(app, server, client, seen), volume, postgres)


@pytest.mark.parametrize("is_in_url", [False, True])
async def test_password_changes_without_a_failed_request(
    is_in_url: bool, postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files(password: str) -> dict[str, str]:
        if is_in_url:
            return {"app_database_url": role.replace("@", f":{password}@")}
        return {"app_database_url": role, FILE: password}

    async with rotating(postgres, kind, tmp_path, monkeypatch, {}, **files("first")) as rotation:
        assert await rotation.responses(1) == [200]
        # The service knows the new password before the server does.
        await rotation.write(**files("second"))
        assert await rotation.grow(2) == {200}
        await postgres.run(f"ALTER ROLE {ROLE} PASSWORD 'second'")
        assert await rotation.grow(3) == {200}
        # Now the server knows it first. Its connections stay, and the next one needs the file.
        await postgres.run(f"ALTER ROLE {ROLE} PASSWORD 'third'")
        assert await rotation.responses(3) == [200] * 3
        await rotation.write(**files("third"))
        assert await rotation.grow(5) == {200}
        output = rotation.service.seen.output.decode()
    assert "second" not in output.replace('"seconds"', "")
    assert "third" not in output
    assert "database rejects the new password; connected with the last one" in output


async def test_present_connections_stay_with_another_password(
    postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"APP_DATABASE_URL": role}
    async with rotating(postgres, kind, tmp_path, monkeypatch, variables, **{FILE: "first"}) as rotation:
        await rotation.responses(1)
        before = await postgres.run(PROCESS)
        await postgres.run(f"ALTER ROLE {ROLE} PASSWORD 'second'")
        await rotation.write(**{FILE: "second"})
        await rotation.responses(1)
        assert await postgres.run(PROCESS) == before


async def test_connections_to_another_user_replace_the_present_ones(
    postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"app_database_url": role, FILE: "first"}
    async with rotating(postgres, kind, tmp_path, monkeypatch, {}, **files) as rotation:
        requests = asyncio.create_task(rotation.responses(2))
        async with asyncio.timeout(5.0):
            while await rotation.connections() < 2:
                await asyncio.sleep(0.01)
        await rotation.write(app_database_url=postgres.url, **{FILE: "any"})
        assert await requests == [200, 200]
        assert await rotation.responses(2) == [200, 200]
        assert await rotation.connections() == 0


async def test_wrong_url_is_one_error_and_the_last_one_stays(
    postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"app_database_url": role, FILE: "first"}
    async with rotating(postgres, kind, tmp_path, monkeypatch, {}, **files) as rotation:
        await rotation.write(app_database_url="mysql://hunter2@db", **{FILE: "first"})
        assert await rotation.responses(3) == [200] * 3
        (line,) = rotation.service.seen.events("setting not applied; its last value stays in use")
        assert line["reason"].startswith("APP_DATABASE_URL=[secret] in ")
        assert b"hunter2" not in rotation.service.seen.output


async def test_password_of_a_nested_database_changes(
    postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", postgres.url)
    monkeypatch.setenv("APP_REPLICA__DATABASE_URL", role)
    volume = SecretVolume(tmp_path / "secrets", **{REPLICA_FILE: "first"})
    monkeypatch.setenv("APP_SECRETS_DIR", str(volume.directory))
    settings = load_settings(Settings)
    assert settings.replica is not None
    with observed() as seen:
        app = App(settings, name="test-service", version="1.2.3", telemetry=seen.telemetry)
        database: Any = kind.add(app, settings.replica)
        await app.open()
        await postgres.run(f"ALTER ROLE {ROLE} PASSWORD 'second'")
        volume.write(**{REPLICA_FILE: "second"})
        await app.refresh_settings()
        async with kind.unit(database) as one, kind.unit(database) as two:
            assert [await kind.balance(unit) for unit in (one, two)] == [100, 100]
        await app.tasks.stop(1.0)
        await app.close()
        assert seen.events("settings changed")[0]["variables"] == ["APP_REPLICA__DATABASE_PASSWORD"]


async def test_service_that_starts_late_uses_the_present_password(
    postgres: PostgresServer, role: str, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = SecretVolume(tmp_path / "secrets", **{FILE: "first"})
    monkeypatch.setenv("APP_SECRETS_DIR", str(volume.directory))
    monkeypatch.setenv("APP_DATABASE_URL", role)
    settings: Any = load_settings(Settings)  # as the parent of worker processes has done
    await postgres.run(f"ALTER ROLE {ROLE} PASSWORD 'second'")
    volume.write(**{FILE: "second"})
    app = App(settings)
    database: Any = kind.add(app, settings)
    await app.open()
    async with kind.unit(database) as unit:
        assert await kind.balance(unit) == 100
    await app.tasks.stop(1.0)
    await app.close()
