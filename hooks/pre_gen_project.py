"""Refuses answers that would make a broken service, each with one sentence and a good example."""

import json
import keyword
import re
import sys

# Each answer is a line of JSON of its own inside a raw string, so that no quote or backslash in it can
# end the string: `tojson` writes quotation marks and line ends as escapes.
ANSWERS = r"""
{{ cookiecutter.project_name | tojson }}
{{ cookiecutter.project_slug | tojson }}
{{ cookiecutter.description | tojson }}
{{ cookiecutter.owner | tojson }}
{{ cookiecutter.__package | tojson }}
"""

# Names that the service imports; a package of this name would hide the library or be hidden by it.
LIBRARIES = frozenset(
    "anyio click dotenv google h11 httpcore httptools httpx idna opentelemetry orjson prometheus_client pydantic "
    "pydantic_core pydantic_settings requests starlette structlog typing_extensions uvicorn uvloop websockets "
    "mypy pytest ruff coverage hatchling watchfiles jsonschema tests test src site".split()
)


def refusal(project_name: str, slug: str, description: str, owner: str, package: str) -> "str | None":
    """Why these answers can't be used, or None."""
    for question, answer, most in (
        ("project_name", project_name, 80),
        ("description", description, 200),
    ):
        if not answer.strip():
            return f"{question} is empty; write a few words, such as: Order Service"
        if len(answer) > most:
            return f"{question} has {len(answer)} characters; at most {most} fit"
        if any(ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u2028\u2029" for character in answer):
            return f"{question} has a line break or another control character; write it on one line"
        if any(0xD800 <= ord(character) <= 0xDFFF for character in answer):
            return f"{question} has half of a character; write it as plain text"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return f"project_slug {slug!r} is not lower case letters, digits and single hyphens, such as: order-service"
    if len(slug) > 40:
        return f"project_slug has {len(slug)} characters; Kubernetes adds to the name, so at most 40 fit"
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return f"project_slug {slug!r} is a word of the Python language; add one, such as: {slug}-service"
    if package in sys.stdlib_module_names:
        return f"project_slug {slug!r} is a module of Python's standard library; add a word, such as: {slug}-service"
    if package in LIBRARIES:
        return f"project_slug {slug!r} is the name of a library that the service uses; add a word, such as: {slug}-service"
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,37}[A-Za-z0-9])?", owner):
        return f"owner {owner!r} is not a GitHub name (letters, digits and hyphens, at most 39), such as: acme"
    return None


if __name__ == "__main__":
    reason = refusal(*(json.loads(line) for line in ANSWERS.split("\n") if line))
    if reason is not None:
        sys.exit(f"error: {reason}")
