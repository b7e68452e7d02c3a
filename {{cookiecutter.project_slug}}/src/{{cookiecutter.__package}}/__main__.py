"""Runs the service: `python -m {{ cookiecutter.__package }}`."""

from chassis import run


def main() -> None:
    """Serve until a signal stops the process."""
    run("{{ cookiecutter.__package }}.app:create_app")


if __name__ == "__main__":
    main()
