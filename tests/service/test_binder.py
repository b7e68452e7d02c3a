"""The binder of the rendered service, asked with signatures and inputs that hypothesis makes up."""

from pathlib import Path

from bakery import run


def test_any_signature_with_any_input_is_answered_or_refused(installed: Path) -> None:
    properties = Path(__file__).parent / "inside/binder_properties.py"
    options = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--confcutdir", str(properties.parent))

    done = run("uv", "run", "--quiet", "--with", "hypothesis", "pytest", *options, properties, cwd=installed)

    assert done.returncode == 0, done.stdout
