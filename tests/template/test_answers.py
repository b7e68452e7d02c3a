"""Hostile values for the template's questions are rejected in one sentence, or rendered harmlessly."""

import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cookiecutter.exceptions import CookiecutterException
from markdown_it import MarkdownIt

from bakery import SOURCE, TEMPLATE, TOOLS, own_config, package_of, render_anew, run
from conftest import Bake

EMPTY = "is empty; enter 1 to "
UNSHOWN = "has line breaks or invisible characters; use one line, such as: "
SHAPE = "must be lower-case letters, digits and single hyphens, such as: order-service"
PYTHON_WORD = "is a Python keyword; choose another name, such as: "
STANDARD = "is a module of Python's standard library; choose another name, such as: "
TAKEN = "is the name of a library or tool that the service uses; choose another name, such as: "
DEVICE = "is a reserved device name on Windows; choose another name, such as: "
YAML = "is not a text in YAML; choose another name, such as: "
NAMESPACE = "is a namespace of Kubernetes or of a common installation; choose another name, such as: "
OWNER = "is not a GitHub name; use at most 39 letters, digits and hyphens, such as: acme"

REFUSED_SLUGS = {
    SHAPE: [
        "Order-Service",
        "7-orders",
        "order--service",
        "-orders",
        "orders-",
        "order_service",
        "order service",
        "órdenes",
        "orders\n",
        "or\\ders",
        "../orders",
        "..",
        "a/b",
        'a"b',
        'a"""b',
        'a"""\nimport os; os.system("touch canary")\nr"""',
        "a'''b",
        "$(touch canary)",
        "`touch canary`",
        "__import__('os').system('touch canary')",
    ],
    PYTHON_WORD: ["class", "async", "match", "lambda"],
    STANDARD: ["json", "asyncio", "string", "xml", "compression", "distutils"],
    TAKEN: [
        "chassis",
        "asgi-chassis",
        "starlette",
        "uvicorn",
        "prometheus-client",
        "opentelemetry",
        "opentelemetry-sdk",
        "tests",
        "python",
        "update",
    ],
    NAMESPACE: [
        "default",
        "kube-system",
        "kube-orders",
        "monitoring",
        "ingress-nginx",
        "openshift-orders",
        "kong",
        "longhorn-system",
    ],
    YAML: ["true", "no", "on", "null"],
    DEVICE: ["con", "nul", "prn", "aux", "com1", "lpt9"],
}
REFUSED = [
    *[("project_slug", slug, reason) for reason, slugs in REFUSED_SLUGS.items() for slug in slugs],
    ("project_slug", "a" * 41, "has 41 characters; enter at most 40, such as: order-service"),
    ("project_name", "   ", EMPTY),
    ("project_name", "a" * 81, "has 81 characters; enter at most 80, such as: Order Service"),
    ("project_name", "Order\nService", UNSHOWN),
    ("description", "", EMPTY),
    ("description", "a" * 201, "has 201 characters; enter at most 200, such as: "),
    ("description", 'Orders.\n"""\nimport os\n', UNSHOWN),
    ("description", "Orders.\r\nX-Header: 1", UNSHOWN),
    ("description", "Orders\x1b[31m in red", UNSHOWN),
    ("description", "Orders\u2028in two lines", UNSHOWN),
    ("description", "Orders\u202eredro", UNSHOWN),
    ("description", "half of an emoji: \ud83d", UNSHOWN),
    *[
        ("owner", owner, OWNER)
        for owner in ("", "a b", "-acme", "acme-", "a/b", "a" * 40, "acme\n", "$(id)", "@acme", 'a"""b', "ácme")
    ],
    *[
        ("registry", registry, "must be a host and a path in lower-case letters, without https:// and without the name")
        for registry in (
            "",
            "https://ghcr.io/acme",
            "ghcr.io/Acme",
            "ghcr.io/acme/",
            "ghcr.io/a b",
            "$(id)",
            "a:tag",
            "a@b",
            "acme",
            "a..b/x",
            "ghcr.io/acme/order-service",
        )
    ],
    ("__package", "json", "cannot be set; set project_slug instead, such as: order-service"),
    ("__package", "../../canary", "cannot be set; set project_slug instead, such as: order-service"),
]

HARMLESS = [
    "Says \"yes\" and 'no'.",
    '"""',
    "'''",
    "\\",
    'ends with a backslash and a quote \\"',
    "\\n \\t \\x41 \\u0041 \\N{BULLET}",
    "Ships 🚀 worldwide 👩‍👩‍👧",
    "خدمة الطلبات",
    "e\u0301 and \u0917\u094d\u0930",
    "$(touch canary) `touch canary` ${HOME} $HOME; touch canary # & | > canary",
    "__import__('os').system('touch canary')",
    "%(name)s %s {0} {name} }} %} #}",
    "# not a heading",
    "- not a list",
    "+ not a list",
    "1. not a list",
    "2) not a list",
    "> not a quote",
    "--- === ***",
    "``` not code",
    "~~~ not code",
    "    not code",
    "a | b |",
    "<script>alert(1)</script> <b>bold</b>",
    "<!-- not hidden",
    "[not a link](http://example.com) ![nor an image](x) [a]: b",
    "*not* _stressed_ ~~at~~ `all`",
    "&amp; &lt; &#35;",
    "yes",
    "key: value, [1, 2] {a: b}",
    "ends with hashes ##",
]


# The parts of the skeleton in which these tests look at values, and that are imported.
LOOKED_AT = ("README.md", "pyproject.toml", "Makefile", "scripts", "src")


@pytest.fixture
def bake(tmp_path: Path) -> Bake:
    """Renders where the tests look for what is left behind."""

    def render_here(**answers: str) -> Path:
        return render_anew(tmp_path / "baked", answers)

    return render_here


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template without the files at which these tests do not look, which take most of the time to render."""
    folder = tmp_path_factory.mktemp("small")
    for path in ("cookiecutter.json", "cookiecutter_2_2_or_newer.py", "chassis/pyproject.toml"):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(TEMPLATE / path, folder / path)
    shutil.copytree(TEMPLATE / "hooks", folder / "hooks")
    for name in LOOKED_AT:
        copy = folder / SOURCE.name / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(SOURCE / name, copy) if (SOURCE / name).is_dir() else shutil.copy(SOURCE / name, copy)
    return folder


@pytest.fixture
def bake_small(small: Path, tmp_path: Path) -> Bake:
    """Renders that template."""

    def render_here(**answers: str) -> Path:
        return render_anew(tmp_path / "baked", answers, small)

    return render_here


@pytest.mark.parametrize(("question", "answer", "reason"), REFUSED)
def test_value_is_rejected_in_one_sentence(
    bake: Bake, tmp_path: Path, capfd: pytest.CaptureFixture[str], question: str, answer: str, reason: str
) -> None:
    with pytest.raises(CookiecutterException):
        bake(**{question: answer})

    (refusal,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert refusal.startswith(f"error: {question} ")
    assert reason in refusal
    assert left_behind(tmp_path) == []


def test_value_is_rejected_without_a_traceback(tmp_path: Path) -> None:
    command = (TOOLS / "cookiecutter", "--config-file", own_config(tmp_path / "out"), "--no-input", TEMPLATE)
    made = run(*command, "project_slug=json", cwd=tmp_path)

    assert made.returncode == 1
    assert f"error: project_slug 'json' {STANDARD}json-service\n" in made.stdout
    assert "Traceback" not in made.stdout


def left_behind(folder: Path) -> list[Path]:
    """Files, and what was made outside; cookiecutter itself leaves an empty folder above `a/b`."""
    assert not list(Path.cwd().glob("canary*"))
    return [path for path in folder.rglob("*") if path.is_file() and ".cookiecutter" not in str(path)]


def test_python_that_is_not_offered_is_rejected(bake: Bake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2\.7 provided for choice variable python_version, but the choices are"):
        bake(python_version="2.7")

    assert left_behind(tmp_path) == []


def test_name_without_letters_falls_back_to_a_good_slug(bake: Bake) -> None:
    assert bake(project_name="🚀").name == "my-service"


def test_value_is_rendered_harmlessly(bake_small: Bake, python: Path) -> None:
    """All in one go, since each takes a process for the import."""
    for number, text in enumerate(HARMLESS):
        project = bake_small(project_slug=f"harmless-{number}", project_name=text, description=text)
        assert_shown(project, project_name=text, description=text)
    assert_imports(project, python=python)
    assert [*project.parent.rglob("canary*"), *Path.cwd().glob("canary*")] == []


@pytest.mark.parametrize("text", ["{{ 7*7 }}", "{% raw %}", "{{ cookiecutter.owner }}", "{# no #}", "{{ foo"])
def test_jinja_that_is_typed_stays_text(tmp_path: Path, small: Path, text: str) -> None:
    # Typed, because cookiecutter itself renders what is given on the command line.
    out = tmp_path / "out"
    made = subprocess.run(
        [TOOLS / "cookiecutter", "--config-file", own_config(out), "-o", out, small],
        input=f"Orders {text}\norders-here\n{text}\n" + "\n" * 12,
        capture_output=True,
        text=True,
        check=False,
    )

    assert made.returncode == 0, made.stdout + made.stderr
    assert_shown(out / "orders-here", project_name=f"Orders {text}", description=text)


SLUGS = ["a", "a" * 40, "order-service-2", "x9", "app", "handlers", "orders", "main"]


def test_slug_that_is_accepted_can_be_imported(bake_small: Bake, python: Path) -> None:
    """All in one process."""
    projects = [bake_small(project_slug=slug) for slug in SLUGS]

    for slug, project in zip(SLUGS, projects, strict=True):
        assert package_of(project) == slug.replace("-", "_")
        assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"] == slug
    assert_imports(*projects, python=python)


def test_everything_installed_beside_the_service_is_rejected_as_a_slug(python: Path) -> None:
    """Direct dependencies: what they bring with them may change any day."""
    script = (
        "import importlib.metadata as m, re\n"
        "required = [*m.requires('order-service'), *m.requires('asgi-chassis')]\n"
        "direct = {re.split('[^a-z0-9-]', one)[0] for one in required}\n"
        "print(*direct, *(module for module, owners in m.packages_distributions().items() if direct & {*owners}))"
    )
    listed = run(python, "-c", script, cwd=python.parent)
    assert listed.returncode == 0, listed.stdout
    names = {name.replace("_", "-") for name in listed.stdout.split() if not name.startswith("_")}
    assert {"starlette", "prometheus-client"} <= names
    assert {name for name in names if not is_refused(name)} == set()


def test_scripts_of_the_service_are_rejected_as_a_slug() -> None:
    # mypy would find two modules of one name.
    skeleton = TEMPLATE / "{{cookiecutter.project_slug}}"
    scripts = {path.stem for path in skeleton.rglob("*.py") if path.parent.name in ("deploy", "scripts")}
    assert scripts
    assert {name for name in scripts if not is_refused(name)} == set()


REFUSAL = runpy.run_path(str(TEMPLATE / "hooks/pre_gen_project.py"))["refusal"]


def is_refused(slug: str) -> bool:
    return REFUSAL("Name", slug, "Text.", "acme", "ghcr.io/acme", slug.replace("-", "_")) is not None


def assert_shown(project: Path, *, project_name: str, description: str) -> None:
    """The values are in TOML verbatim, and in the README as plain text."""
    document = tomllib.loads((project / "pyproject.toml").read_text())
    assert document["project"]["description"] == description
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse((project / "README.md").read_text())
    kinds = [token.type for token in tokens[:6]]
    assert kinds == ["heading_open", "inline", "heading_close", "paragraph_open", "inline", "paragraph_close"], tokens
    for inline, text in ((tokens[1], project_name), (tokens[4], description)):
        children = inline.children or []
        assert {child.type for child in children} <= {"text", "text_special"}, text
        assert "".join(child.content for child in children) == text.strip()


def assert_imports(*projects: Path, python: Path) -> None:
    names = ", ".join(f"{package_of(project)}.app" for project in projects)
    path = ":".join(str(project / "src") for project in projects)
    imported = run(python, "-c", f"import {names}", cwd=projects[0], PYTHONPATH=path)
    assert (imported.returncode, imported.stdout) == (0, "")


@pytest.mark.parametrize(
    ("settings", "owner"),
    [
        ([], "acme"),
        (["remote.origin.url=git@github.com:some-one/shop.git"], "some-one"),
        (["remote.origin.url=https://github.com/Some1/shop"], "Some1"),
        (["remote.origin.url=ssh://git@github.com/some/shop.git", "github.user=other"], "some"),
        (["remote.origin.url=https://notgithub.com/some/shop"], "acme"),
        (["remote.origin.url=/srv/github.com-mirror/shop"], "acme"),
        (["remote.origin.url=https://gitlab.com/some/shop", "github.user=other"], "other"),
        (["github.user=not a name"], "acme"),
    ],
)
def test_owner_is_who_git_says(tmp_path: Path, small: Path, settings: list[str], owner: str) -> None:
    assert run("git", "init", "--quiet", cwd=tmp_path).returncode == 0
    for setting in settings:
        run("git", "config", *setting.split("=", 1), cwd=tmp_path)

    made = run("cookiecutter", "--config-file", own_config(tmp_path / "out"), "--no-input", small, cwd=tmp_path)

    assert made.returncode == 0, made.stdout
    assert f"ghcr.io/{owner.lower()}/order-service" in (tmp_path / "order-service/Makefile").read_text()
