"""`run("package.module:create_app")`: mistakes stop the start with a sentence."""

import gc
import signal
from collections.abc import Iterator

import pytest

from chassis import App, ChassisSettings, run


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    """Undo what `run` changes in a process."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    gc.enable()


def unannotated(settings):  # type: ignore[no-untyped-def]
    """Has no annotation from which the settings class could be read."""
    return App(settings)


def of_something_else(settings: int) -> App:
    """Has an annotation that is no settings class."""
    return App(ChassisSettings.from_values())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("order_service.app", 'pass the name of a function, such as "package.module:function"'),
        ("tests.test_run:", 'pass the name of a function, such as "package.module:function"'),
        ("tests.test_run:missing", "module 'tests.test_run' has no function 'missing'"),
        ("tests.test_run:unannotated", "annotate the first parameter with your settings class"),
        ("tests.test_run:of_something_else", "annotate the first parameter with your settings class"),
    ],
)
def test_mistake_in_the_reference_is_explained(reference: str, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        run(reference)


def test_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import chassis

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = chassis.Nothing  # type: ignore[attr-defined]
