"""uvicorn's own tests of its protocols, with ours on real connections."""

import pytest

from peer_suites import check, deviations_of, run_suite, source_of


@pytest.mark.parametrize("subject", ["http", "websocket"])
def test_uvicorns_tests_pass_with_our_protocol(subject: str) -> None:
    not_run, listed = deviations_of(f"uvicorn-{subject}")
    failures = run_suite(
        source_of("uvicorn"),
        f"tests/protocols/test_{subject}.py",
        plugins=["anyio.pytest_plugin", "pytest_mock", "peer_uvicorn"],
        not_run=not_run,
    )
    check(failures, listed)
