"""The requests of gunicorn's own tests, valid and invalid ones, parsed by our server."""

from peer_suites import PEERS, check, deviations_of, run_suite, source_of


def test_requests_of_gunicorn_are_read_as_it_reads_them() -> None:
    not_run, listed = deviations_of("gunicorn")
    tests = str(PEERS / "gunicorn_requests.py")
    failures = run_suite(source_of("gunicorn"), tests, "--rootdir=.", "-c=pyproject.toml", not_run=not_run)
    check(failures, listed)
