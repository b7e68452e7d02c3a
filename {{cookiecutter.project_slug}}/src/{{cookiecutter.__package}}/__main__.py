"""Runs the service: `python -m {{ cookiecutter.__package }}`."""

from chassis import run


def main() -> None:
    """Run the service until a signal stops it."""
    run("{{ cookiecutter.__package }}.app:create_app")


if __name__ == "__main__":
    main()
