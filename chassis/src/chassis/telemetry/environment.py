"""OpenTelemetry's environment variables, read as its specification says.

An empty value counts as not set. A value that cannot be used is ignored with a warning, and the default is used, so
that variables that many services share never prevent one of them from starting. Follows "Environment Variable
Specification" (Parsing empty value, Boolean, Numeric, Enum).
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import cast

__all__ = ["Environment", "extract", "get_global_textmap", "hidden", "inject"]

log: logging.Logger = logging.getLogger(__name__)

MAX_NUMBER = 2**31 - 1  # the range that the specification requires


class Environment:
    """The variables, and warnings about invalid values.

    Warnings are kept until `report`, because the variables are read before the logs are configured.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """`variables` are by default those of the process."""
        self._variables: Mapping[str, str] = os.environ if variables is None else variables
        self.warnings: list[str] = []

    def text(self, *names: str) -> str:
        """The value of the first of these variables that is set, without white space around it; else empty."""
        return next((value for name in names if (value := self._variables.get(name, "").strip())), "")

    def listed(self, name: str) -> list[str]:
        """The names in a comma-separated list: in lower case, in order, each once."""
        return list(dict.fromkeys(item for part in self.text(name).split(",") if (item := part.strip().lower())))

    def is_true(self, name: str) -> bool:
        """The value of a Boolean: only `true`, in any case, is true."""
        value = self.text(name)
        if value and value.lower() not in ("true", "false"):
            self.ignore(name, value, "allowed are true and false")
        return value.lower() == "true"

    def choice(self, names: tuple[str, ...], allowed: Mapping[str, object] | tuple[str, ...], default: str) -> str:
        """The value of an enum, in lower case: the first of these variables with an allowed one."""
        for name in names:
            value = self.text(name)
            if value.lower() in allowed:
                return value.lower()
            if value:
                self.ignore(name, value, f"allowed are {', '.join(allowed)}")
        return default

    def whole_number(self, *names: str, default: int, minimum: int = 0) -> int:
        """The number of the first of these variables with one from `minimum` to 2³¹ - 1."""
        for name in names:
            value = self.text(name)
            if re.fullmatch("[0-9]{1,10}", value) and minimum <= int(value) <= MAX_NUMBER:
                return int(value)
            if value:
                self.ignore(name, value, f"allowed are whole numbers from {minimum} to {MAX_NUMBER}")
        return default

    def plugin(self, group: str, name: str, *, variable: str, value: str) -> Callable[..., object] | None:
        """The object of an installed package that is called `name` in a group of entry points.

        Without one, the `value` of the variable that asks for it is ignored, and None is returned.
        """
        entry_point = next(iter(entry_points(group=group, name=name)), None)
        if entry_point is None:
            self.ignore(variable, value, f"no installed package has the entry point {name!r} of {group}")
            return None
        try:
            return cast("Callable[..., object]", entry_point.load())
        except Exception as error:  # noqa: BLE001 - another package's code; without it the service still starts
            self.ignore(variable, value, f"it cannot be imported: {error!r}")
            return None

    def ignore(self, name: str, value: str, reason: str) -> None:
        """Note that a value is ignored; `value` is shown, so it must not hold a secret."""
        self.warnings.append(f"{name}={value!r} is ignored: {reason}")

    def report(self) -> None:
        """Log the warnings, each once."""
        warnings, self.warnings = self.warnings, []
        for warning in dict.fromkeys(warnings):
            log.warning("%s", warning)


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Without these variables of the process inside of the block."""
    values = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(values)


# Both modules read these variables at their import, and raise for a value that they cannot use. `propagation`
# and `tracing` read them.
with hidden("OTEL_PROPAGATORS", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"):
    import opentelemetry.sdk.trace  # noqa: F401
    from opentelemetry.propagate import extract, get_global_textmap, inject
