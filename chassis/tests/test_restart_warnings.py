"""The warnings for settings that need a restart, in a service whose secret files change while it runs."""

from pathlib import Path

import pytest

from .support.process import run
from .support.secret_volume import SecretVolume

PROGRAM = "tests.support.restart_program"
START = {
    "app_auth_issuer": "https://issuer.example",
    "app_auth_audience": "orders",
    "app_database_url": "postgresql://orders@127.0.0.1:1/orders",
    "app_nats_url": "nats://127.0.0.1:1",
}
LIVE = {"app_log_level": "DEBUG", "app_prices__timeout_seconds": "4"}
CHANGED = {
    "app_admin_token": "a-token-of-the-operators",  # the first one
    "app_auth_audience": "orders,prices",
    "app_auth_jwks_url": "https://issuer.example/keys",
    "app_database_pool_max": "20",
    "app_database_pool_min": "2",
    "app_grpc_tls_certificate_file": "/tls/grpc.crt",
    "app_grpc_tls_key_file": "/tls/grpc.key",
    "app_nats_tls_ca_file": "/tls/ca.crt",
    "app_nats_url": "nats://other:4222",
    "app_prices__base_url": "https://prices.example",
    "app_prices__ca_file": "/tls/ca.crt",
    "app_rate_limit_requests": "5",  # the first one
    "app_shutdown_seconds": "21",
}
WARNING = "setting changed; restart the service to apply it"


@pytest.fixture
def volume(tmp_path: Path) -> SecretVolume:
    return SecretVolume(tmp_path / "secrets", **START)


async def test_each_setting_that_needs_a_restart_is_one_warning(volume: SecretVolume) -> None:
    async with run("-m", PROGRAM, APP_SECRETS_DIR=str(volume.directory)) as process:
        await process.line("ready")
        volume.write(**(START | CHANGED | LIVE))
        changed = await process.line("settings changed")
    warned = [line for line in process.lines if line["event"] == WARNING]
    assert sorted(line["variable"] for line in warned) == sorted(name.upper() for name in CHANGED)
    assert {line["level"] for line in warned} == {"warning"}
    assert sorted(changed["variables"]) == sorted(name.upper() for name in LIVE)
    assert not any(value in str(line) for value in CHANGED.values() for line in (*warned, changed) if len(value) > 4)
