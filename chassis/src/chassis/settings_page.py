"""The documents of a service's settings, grouped by topic: a page, and an example of a `.env` file.

python -m chassis.settings_page package.settings:Settings docs/settings.md README.md .env.example
"""

import re
import sys
from importlib import import_module
from pathlib import Path

from .configuration.schema import Schema, Setting
from .configuration.sources import DEFAULT_SECRETS_DIR
from .settings import ChassisSettings

TOPICS: dict[str, tuple[str, ...]] = {
    "Ports and addresses": (
        "host",
        "port",
        "admin_port",
        "admin_token",
        "unix_socket",
        "trusted_proxies",
        "development",
    ),
    "Worker processes": ("workers", "worker_max_memory_bytes", "worker_start_seconds"),
    "Logs and traces": ("log_level", "log_format", "log_redact", "log_buffer_bytes", "trace_admin", "commit"),
    "Limits of a request": (
        "max_body_bytes",
        "deadline_seconds",
        "max_target_bytes",
        "max_head_bytes",
        "head_seconds",
        "body_seconds",
        "min_bytes_per_second",
    ),
    "Overload": ("max_requests", "queue_seconds", "threads"),
    "Rate limits": ("rate_limit_requests", "rate_limit_seconds", "rate_limit_burst"),
    "Pages of other origins (CORS)": (
        "cors_origins",
        "cors_credentials",
        "cors_methods",
        "cors_headers",
        "cors_exposed_headers",
        "cors_max_age_seconds",
    ),
    "Connections": (
        "max_connections",
        "keep_alive_seconds",
        "max_connection_age_seconds",
        "max_requests_per_connection",
    ),
    "Readiness and graceful shutdown": ("readiness_cache_seconds", "drain_seconds", "shutdown_seconds"),
    "Fault injection": ("fault_injection", "fault_injection_namespace"),
}
"""The settings of the chassis by topic, the topics and settings that people change most first."""

PREFIXES = {"Authentication": "auth_", "Database": "database_", "Events": "nats_", "gRPC": "grpc_"}
"""The topics of optional parts, and the prefix of their settings."""

INTRODUCTION = f"""\
# Settings

`make settings` writes this page from the code. Do not edit it.

- **Set a value** as an environment variable, in `.env` in the working directory, or in a secret file. A secret file is
  named like its variable in lower case, such as `app_port`. `APP_SECRETS_DIR` names its directory, by default
  `{DEFAULT_SECRETS_DIR}`.
- **Priority:** the environment, then `.env`, then secret files, then the default. An empty value counts as not set.
- **Lists** are separated by commas, or are JSON.
- **Wrong values** stop the start with exit status 2. A line on standard error names the variable and what is allowed.
- **Live** settings apply without a restart when their secret file changes. All others need a restart. See
  [Change settings while the service runs](../chassis/docs/configuration.md#change-settings-while-the-service-runs).
"""
OWN = "This service"
ROW = re.compile(r"^\| `(?P<name>\w+)` \|.*$", re.MULTILINE)
ENV_EXAMPLE = ".env.example"
ENV_INTRODUCTION = """\
# Copy this file to .env, and remove the # before each setting that you change. A line without # is required.
# `make settings` writes this file from the code. Do not edit it, and write no secrets into it.
"""
HEADER = ("| variable | default | meaning |", "|---|---|---|")


def settings_page(settings: type[ChassisSettings]) -> str:
    """The page in Markdown: how to set values, your settings, and those of the chassis by topic."""
    rows = dict(Schema(settings).rows())
    sections = [INTRODUCTION]
    for topic, members in _by_topic(settings):
        sections.append("\n".join((f"## {topic}", "", *HEADER, *(rows[setting.path] for setting in members), "")))
    sections.append(OPENTELEMETRY)
    return "\n".join(sections)


OPENTELEMETRY = """\
## OpenTelemetry

The service reads OpenTelemetry's own variables. `OTEL_EXPORTER_OTLP_ENDPOINT` switches the export of traces on.
[Tracing](../chassis/docs/tracing.md#all-variables) lists all of them.
"""


def env_example(settings: type[ChassisSettings]) -> str:
    """The text of `.env.example`: a line for each setting with its default, commented out unless it is required."""
    blocks = [ENV_INTRODUCTION]
    for topic, members in _by_topic(settings):
        blocks.append(f"# --- {topic} ---\n")
        for setting in members:
            line = f"{setting.variables[0]}={_quoted(setting.default_text)}\n"
            meaning = f"# {setting.meaning}\n" if setting.meaning else ""
            blocks.append(meaning + (line if setting.is_required else f"#{line}"))
    return "\n".join(blocks)


def _by_topic(settings: type[ChassisSettings]) -> list[tuple[str, list[Setting]]]:
    """The settings of each topic that has any, those of the service first."""
    known = [setting for setting in Schema(settings).settings if not setting.has_members]
    chassis = {name for names in TOPICS.values() for name in names}
    others = tuple(dict.fromkeys(setting.path[0] for setting in known if setting.path[0] not in chassis))
    parts = {topic: tuple(name for name in others if name.startswith(prefix)) for topic, prefix in PREFIXES.items()}
    own = tuple(name for name in others if not any(name in names for names in parts.values()))
    topics = {OWN: own, **parts, **TOPICS}
    members = {
        topic: [setting for name in names for setting in known if setting.path[0] == name]
        for topic, names in topics.items()
    }
    return [(topic, found) for topic, found in members.items() if found]


def _quoted(text: str) -> str:
    """A value as `.env` files have it."""
    if re.fullmatch(r"[^\s'\"#\\$`]*", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def with_present_rows(document: str, settings: type[ChassisSettings]) -> str:
    """A document whose rows of settings have the defaults and meanings of the class; other rows stay."""
    rows = {row.split("`")[1]: row for _, row in Schema(settings).rows()}
    return ROW.sub(lambda match: rows.get(match["name"], match[0]), document)


def main(arguments: list[str]) -> None:
    """Write the page to the first file, `.env.example`, and the rows of other documents; exits on wrong arguments."""
    if len(arguments) < 2 or ":" not in arguments[0]:
        sys.exit(
            "error: expected arguments: python -m chassis.settings_page package.settings:Settings PAGE [DOCUMENT...]"
        )
    module, _, name = arguments[0].partition(":")
    try:
        settings = getattr(import_module(module), name)
    except SyntaxError as error:
        sys.exit(f"error: {error.filename}, line {error.lineno}: {error.msg}; correct it, then run: make settings")
    page, *documents = map(Path, arguments[1:])
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(settings_page(settings), encoding="utf-8", newline="\n")
    for path in documents:
        is_example = path.name == ENV_EXAMPLE
        text = env_example(settings) if is_example else with_present_rows(path.read_text(encoding="utf-8"), settings)
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
