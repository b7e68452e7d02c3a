"""Bearer tokens of an OpenID provider and API keys. An optional part, `[auth]`.

from chassis.auth import AuthSettings, Principal
"""

from importlib.util import find_spec

if find_spec("joserfc") is None:
    raise ImportError("chassis.auth needs joserfc, which is not installed; depend on asgi-chassis[auth]")

from .errors import InvalidTokenError, KeysUnavailableError
from .principal import Principal
from .settings import AuthSettings

__all__ = ["AuthSettings", "InvalidTokenError", "KeysUnavailableError", "Principal"]
