"""Starlette's own tests of what it serves, with its test client replaced by one that speaks over TCP to a server."""

import pytest

from peer_suites import Failures, check, deviations_of, run_suite, source_of


def starlettes_tests(server: str, *tests: str, router: bool = False) -> Failures:
    """Run Starlette's tests against one of `peer_servers`."""
    not_run, _ = deviations_of("starlette")
    plugins = ["anyio.pytest_plugin", *(["peer_router"] if router else []), "peer_starlette"]
    return run_suite(source_of("starlette"), *tests, plugins=plugins, not_run=not_run, PEER_SERVER=server)


@pytest.fixture(scope="module")
def with_our_protocol() -> Failures:
    """Results of Starlette's tests with our protocol alone."""
    return starlettes_tests("protocol")


def test_starlettes_tests_pass_over_our_protocol(with_our_protocol: Failures) -> None:
    check(with_our_protocol, deviations_of("starlette")[1])


def test_starlettes_tests_pass_in_an_app() -> None:
    check(starlettes_tests("app"), deviations_of("starlette")[1] | deviations_of("starlette-app")[1])


def test_starlettes_routing_tests_pass_through_our_router() -> None:
    failures = starlettes_tests("protocol", "tests/test_routing.py", router=True)
    of_the_server = {test: why for test, why in deviations_of("starlette")[1].items() if "/test_routing.py" in test}
    check(failures, of_the_server | deviations_of("starlette-router")[1])


def test_uvicorn_passes_no_more_of_starlettes_tests(with_our_protocol: Failures) -> None:
    """Only the tests that one of both fails are run: ours passes all others."""
    tests = {test for test, why in with_our_protocol.items() if why} | deviations_of("starlette-uvicorn")[1].keys()
    of_uvicorn = starlettes_tests("uvicorn", *sorted(tests))
    assert of_uvicorn.keys() == tests
    ours, theirs = (sum(not failures[test] for test in tests) for failures in (with_our_protocol, of_uvicorn))
    only_theirs = [test for test in tests if with_our_protocol[test] and not of_uvicorn[test]]
    print(f"passed by one of both: {ours} by ours, {theirs} by uvicorn's, which alone passes {only_theirs}")
    assert ours >= theirs
