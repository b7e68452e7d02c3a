"""CPython's own tests of `http.server`, with its handlers in our server."""

import importlib.util
from pathlib import Path

from peer_suites import check, deviations_of, run_suite, unavailable

CLASSES = ("BaseHTTPServerTestCase", "RequestHandlerLoggingTestCase", "SimpleHTTPServerTestCase")


def test_handlers_of_http_server_pass_the_tests_of_cpython() -> None:
    found = importlib.util.find_spec("test.test_httpservers") if importlib.util.find_spec("test") else None
    if found is None or found.origin is None:
        unavailable("this Python comes without its tests (`libpython3-testsuite` of Debian)")
    not_run, listed = deviations_of("cpython")
    file = Path(found.origin)
    failures = run_suite(
        file.parent, *(f"{file.name}::{name}" for name in CLASSES), plugins=["peer_http_server"], not_run=not_run
    )
    check(failures, listed)
