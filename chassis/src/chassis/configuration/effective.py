"""The settings as they are in effect: the value of each, where it comes from, and no secrets."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote_plus

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from ..telemetry.query_redaction import SECRET_QUERY_KEYS
from ..telemetry.redaction import Redactor
from ..telemetry.secret_text import REDACTED
from .origins import Origins, origins_of
from .schema import Schema, Setting, notation

MASK = "[secret]"
DEFAULT, ENVIRONMENT, CODE = "default", "environment", "code"
# To the last `@`, because a password that is not encoded may contain one.
CREDENTIALS = re.compile(r"(?<=://)([^:/?#@\s]*):\S*(?=@)")
# Without a password, the name before the host of a web address is a token, such as of a repository or of Sentry.
WEB_TOKEN = re.compile(r"""\b(https?://)[^:/?#@\s"]+(?=@)""", re.IGNORECASE)
# The path and the query of a webhook are its secret, with Slack, Discord and Teams, and of a bot of Telegram.
WEB_PATH = re.compile(r"""\b(https?://[^/?#\s"',]+)[/?#][^\s"',]+""", re.IGNORECASE)
WEBHOOK = re.compile(r"hook|^https?://api\.telegram\.org/", re.IGNORECASE)
PARAMETER = re.compile(r"""(?<=[?&])([^=&#\s"',]+)=([^&#\s"',]+)""")
# Keys in connection strings, such as those of Azure, in addition to those that logs redact.
SECRET_KEYS = ("access-key", "account-key", "signing-key", "encryption-key", "shared-key", "license-key", "pwd")


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """A setting of a service that runs."""

    variable: str
    """The name of its environment variable, such as `APP_DATABASE__PORT`."""
    value: str
    """The value in the notation of a variable; empty if it is not set, and `[secret]` instead of a secret."""
    source: str
    """`default`, `environment`, the path of the `.env` or secret file, or `code` if code has set it."""
    default: str
    """The default in the notation of a variable; empty without one, and for a secret."""
    is_secret: bool
    is_live: bool
    """Whether a changed secret file applies without a restart."""
    description: str

    def document(self) -> dict[str, Any]:
        """The setting as JSON has it."""
        return asdict(self)


def effective_settings(settings: BaseSettings) -> list[EffectiveSetting]:
    """All settings of an object, nested ones included, in the order of their class.

    Secrets are masked: by their type (`SecretStr`), by their name, and by the keys of `APP_LOG_REDACT`. In all other
    values, passwords of URLs and values behind such keys are masked, and of webhooks all but the host.
    """
    redactor = Redactor((*SECRET_KEYS, *getattr(settings, "log_redact", ())))
    origins = origins_of(settings)
    by_variable: dict[str, EffectiveSetting] = {}
    for setting, owner, value in _values(settings, Schema(type(settings))):
        is_webhook = WEBHOOK.search(setting.attributes[-1]) is not None
        is_secret = setting.is_secret or (not isinstance(value, bool) and redactor.is_secret(setting.attributes[-1]))
        effective = EffectiveSetting(
            variable=setting.variables[0],
            value=_secret_text(value) if is_secret else _value_text(value, redactor, is_webhook=is_webhook),
            source=_source(setting, owner, value, origins),
            default="" if is_secret else _masked(setting.default_text, redactor, is_webhook=is_webhook),
            is_secret=is_secret,
            is_live=setting.is_live,
            description=setting.meaning,
        )
        by_variable.setdefault(effective.variable, effective)
    return list(by_variable.values())


def _values(settings: BaseSettings, schema: Schema) -> Iterator[tuple[Setting, BaseModel, object]]:
    """Each setting with the model that has it, and its value. Groups that are set have only their members."""
    for setting in schema.settings:
        owner: object = settings
        for name in setting.attributes[:-1]:
            owner = getattr(owner, name, None)
        name = setting.attributes[-1]
        # Without an owner, the group is not set. A union of models has the members of one.
        if not isinstance(owner, BaseModel) or name not in type(owner).model_fields:
            continue
        value = getattr(owner, name)
        if not (setting.has_members and isinstance(value, BaseModel)):
            yield setting, owner, value


def _source(setting: Setting, owner: BaseModel, value: object, origins: Origins) -> str:
    place = origins.get(setting.path)
    if place is not None:
        return place or ENVIRONMENT
    if setting.attributes[-1] not in owner.model_fields_set or value == setting.default:
        return DEFAULT
    # A member may be given in the JSON of a group around it.
    groups = (origins.get(setting.path[:depth]) for depth in range(len(setting.path) - 1, 0, -1))
    place = next((place for place in groups if place is not None), None)
    return CODE if place is None else place or ENVIRONMENT


def _secret_text(value: object) -> str:
    return MASK if value is not None and notation(value) else ""


def _value_text(value: object, redactor: Redactor, *, is_webhook: bool) -> str:
    if value is None:
        return ""
    plain = to_jsonable_python(value, fallback=str)
    items = plain if isinstance(plain, list) else [plain]
    if plain and any(isinstance(item, dict | list) for item in items):
        text = json.dumps(redactor.redact({"value": plain})["value"], ensure_ascii=False)
        return _masked_urls(text, is_webhook=is_webhook)
    values = value if isinstance(value, list | tuple | set | frozenset) else [value]
    return ",".join(_masked(notation(item), redactor, is_webhook=is_webhook) for item in values)


def _masked(text: str, redactor: Redactor, *, is_webhook: bool) -> str:
    return redactor.redact_text(_masked_urls(text, is_webhook=is_webhook)).replace(REDACTED, MASK)


def _masked_urls(text: str, *, is_webhook: bool) -> str:
    """A text without the passwords, tokens and signatures of the addresses in it.

    `is_webhook` says that its addresses are those of webhooks, even if these do not look so.
    """
    text = WEB_TOKEN.sub(rf"\1{MASK}", CREDENTIALS.sub(rf"\1:{MASK}", text)).replace(REDACTED, MASK)
    text = PARAMETER.sub(lambda match: f"{match[1]}={MASK}" if _is_secret_parameter(match[1]) else match[0], text)
    return WEB_PATH.sub(
        lambda match: f"{match[1]}/{MASK}" if is_webhook or WEBHOOK.search(match[0]) else match[0], text
    )


def _is_secret_parameter(key: str) -> bool:
    return unquote_plus(key).lower().replace("_", "-") in SECRET_QUERY_KEYS
