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

# Control characters, line and paragraph separators, halves of characters, and what turns the direction of
# the text around it: TOML and terminals don't take them, or show something else than what is there.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What the service and its tools import or are installed as: a package, a distribution or a command of
# this name would hide the other, or be hidden by it.
TAKEN = frozenset(
    "activate annotated-types anyio asgi-chassis ast-serialize attr attrs certifi charset-normalizer chassis click "
    "contexts coverage deactivate deploy dmypy dotenv google googleapis-common-protos h11 handler hatchling "
    "httpcore httptools httpx idna iniconfig jsonschema jsonschema-path jsonschema-specifications "
    "lazy-object-proxy librt multipart mypy mypy-extensions mypyc normalizer openapi-schema-validator "
    "openapi-spec-validator orjson packaging pathable pathspec pip pluggy prometheus-client protobuf py pydantic "
    "pydantic-core pydantic-settings pygmentize pygments pytest pytest-cov python python-dotenv python-multipart "
    "python3 pyyaml referencing requests rfc3339-validator rpds rpds-py ruff setuptools site six src starlette "
    "structlog stubgen stubtest test tests typing-extensions typing-inspection update urllib3 uv uvicorn uvloop "
    "vendor venv watchfiles websockets wheel yaml".split()
)
# Modules that another Python's standard library has than the one which runs this.
STANDARD = sys.stdlib_module_names | set("annotationlib asynchat asyncore cgi compression distutils imp pipes".split())
# Windows keeps these names for devices, in any folder.
DEVICES = re.compile("con|prn|aux|nul|(com|lpt)[0-9]")


def refusal(project_name: str, slug: str, description: str, owner: str, package: str) -> str | None:
    """Why these answers can't be used, or None."""
    for question, answer, most, example in (
        ("project_name", project_name, 80, "Order Service"),
        ("description", description, 200, "Takes orders over HTTP."),
    ):
        if not answer.strip():
            return f"{question} is empty; write a few words, such as: {example}"
        if len(answer) > most:
            return f"{question} has {len(answer)} characters and at most {most} fit; say it shorter, such as: {example}"
        if UNPRINTABLE.search(answer):
            return f"{question} has a line break or a character that can't be shown; write one line, such as: {example}"
    another = f"add a word, such as: {slug}-service"
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return f"project_slug {slug!r} is not lower case letters, digits and single hyphens, such as: order-service"
    if len(slug) > 40:
        return f"project_slug has {len(slug)} characters and Kubernetes leaves room for 40, such as: order-service"
    if package != slug.replace("-", "_"):
        return f"__package {package!r} is not a question; answer project_slug, such as: order-service"
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return f"project_slug {slug!r} is a word of the Python language; {another}"
    if package in STANDARD:
        return f"project_slug {slug!r} is a module of Python's standard library; {another}"
    if slug in TAKEN or slug.startswith("opentelemetry"):
        return f"project_slug {slug!r} is the name of a library or tool that the service uses; {another}"
    if DEVICES.fullmatch(slug):
        return f"project_slug {slug!r} is a device on Windows, where nobody could check it out; {another}"
    if not re.fullmatch("[A-Za-z0-9]([A-Za-z0-9-]{0,37}[A-Za-z0-9])?", owner):
        return f"owner {owner!r} is not a GitHub name (letters, digits and hyphens, at most 39), such as: acme"
    return None


if __name__ == "__main__":
    reason = refusal(*(json.loads(line) for line in ANSWERS.split("\n") if line))
    if reason is not None:
        sys.exit(f"error: {reason}")
