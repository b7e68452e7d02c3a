"""A service follows its template: real repositories, cruft, and people's edits in between."""

import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bakery import NOTE, SOURCE, copy_folder, copy_repository, files_of, run
from repositories import IDENTITY, Repository

pytestmark = pytest.mark.long

CHASSIS = "chassis/src/chassis"
# The tools that the template brings, and packages that an owner adds.
TOOLS = ("httpx", "mypy", "pytest", "pytest-cov", "ruff", "watchfiles")
ADDED = ("annotated-types>=0.7", "python-dotenv>=1", "tomli-w>=1", "idna>=3", "packaging>=24", "pygments>=2")


class Template(Repository):
    """The template, which can move on."""

    def path(self, path: str) -> Path:
        if path.startswith("chassis/"):
            return self.folder / path
        package = path.replace("src/order_service", "src/{{cookiecutter.__package}}")
        return self.folder / "{{cookiecutter.project_slug}}" / package


class Service(Repository):
    """A service made from it."""

    def noted_commit(self) -> str:
        return str(json.loads(self.path(".cruft.json").read_text())["commit"])

    def answer(self, question: str) -> str:
        return str(json.loads(self.read(NOTE))["context"]["cookiecutter"][question])


def bake(template: Template, out: Path) -> Path:
    """A service that is rendered from the present template."""
    address = f"git+{template.folder.as_uri()}"
    made = run("cookiecutter", "--no-input", "-o", out, address, cwd=out.parent, HOME=str(out.parent))
    assert made.returncode == 0, made.stdout
    return out / "order-service"


def cruft(cwd: Path, *arguments: str | Path) -> tuple[int, str]:
    done = run("uv", "tool", "run", "--quiet", "cruft", *arguments, cwd=cwd)
    return done.returncode, done.stdout


def first_day(template: Template, folder: Path) -> Service:
    """A service as its owner commits it on the first day."""
    service = Service(bake(template, folder))
    service.init()
    service.commit("From the template")
    return service


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, Service]:
    """A template and a service for tests that change neither."""
    folder = tmp_path_factory.mktemp("of_all")
    template = Template(copy_repository(folder / "cookiecutter-chassis"))
    return template, first_day(template, folder / "services")


@pytest.fixture
def template(repository: Path) -> Template:
    return Template(repository)


@pytest.fixture
def service(of_all: tuple[Template, Service], template: Template, tmp_path: Path) -> Service:
    """A copy of that service which comes from `template`, for one test."""
    known, first = of_all
    service = Service(copy_folder(first.folder, tmp_path / "services/order-service"))
    service.write(NOTE, service.read(NOTE).replace(known.folder.as_uri(), template.folder.as_uri()))
    service.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    return service


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path."""
    return {path: (folder / path).read_bytes() for path in files_of(folder)}


def test_cruft_knows_the_service_from_its_first_day(of_all: tuple[Template, Service]) -> None:
    template, service = of_all
    note = json.loads(service.path(".cruft.json").read_text())

    assert note["template"] == template.folder.as_uri()
    assert note["commit"] == template.git("rev-parse", "HEAD")
    assert note["context"]["cookiecutter"]["project_slug"] == "order-service"
    assert str(service.folder) not in str(note)
    assert cruft(service.folder, "check")[0] == 0
    assert cruft(service.folder, "diff", "--exit-code") == (0, "")
    assert "up to date" in service.make("update")


def test_cruft_itself_writes_the_same_note(of_all: tuple[Template, Service], tmp_path: Path) -> None:
    template, service = of_all
    assert cruft(tmp_path, "create", template.folder.as_uri(), "--no-input", "--output-dir", tmp_path / "cruft")[0] == 0

    ours, theirs = (
        json.loads((one / ".cruft.json").read_text()) for one in (service.folder, tmp_path / "cruft/order-service")
    )
    assert (ours.pop("template"), theirs.pop("template")) == (template.folder.as_uri(), str(template.folder))
    ours_known, theirs_known = (note["context"].pop("cookiecutter") for note in (ours, theirs))
    assert ours == theirs
    assert ours_known.pop("_template")
    assert ours_known.items() <= theirs_known.items()
    # Other values in cruft's note are derived, and left out when it renders again.
    assert all(name.startswith("_") for name in theirs_known.keys() - ours_known.keys())
    assert contents(tmp_path / "cruft/order-service/chassis") == contents(service.folder / "chassis")


def test_update_brings_what_is_new_and_keeps_what_people_wrote(
    service: Service, template: Template, tmp_path: Path
) -> None:
    service.make("handler", "name=invoices")
    add_dependencies(service)
    service.add("src/order_service/settings.py", '    invoice_days: int = Field(30, description="Until one is due.")\n')
    service.edit("README.md", "\n## Run it\n", "\nCall Ada before you touch it.\n\n## Run it\n")
    service.make("settings")
    service.commit("Invoices")
    # Files that editors, systems and tests leave, and a note that nobody has committed.
    mine = [".idea/x.xml", ".vscode/settings.json", ".DS_Store", "docs/.DS_Store", ".coverage.host.1", "notes.txt"]
    for path in mine:
        service.write(path, "mine\n")
    written = {path: service.path(path).read_bytes() for path in service.git("ls-files", "src", "tests").splitlines()}

    template.edit(f"{CHASSIS}/problem.py", '"""\n\n', '"""\n\n# Better than ever.\n\n', first=True)
    template.path(f"{CHASSIS}/novelty.py").write_text('"""Something new."""\n')
    template.path("chassis/docs/streaming.md").rename(template.path("chassis/docs/streams.md"))
    template.add("README.md", "\n## What is new\n\nNovelty.\n")
    template.add("Makefile", "\n.PHONY: novelty\nnovelty: ## try what is new\n\t@echo new\n")
    for tool in TOOLS:
        template.edit("pyproject.toml", f'"{tool}>=', f'"{tool}>=0.0.1,>=')
    newest = template.commit("Novelty")
    (tmp_path / "temporary").mkdir()
    said = service.make("update", TMPDIR=str(tmp_path / "temporary"))

    assert "Updated " in said
    assert service.noted_commit() == newest
    core, newest_core = contents(service.path("chassis")), contents(template.path("chassis/"))
    assert core.keys() - {"SHA256SUMS"} == {path for path in newest_core if not path.startswith("tests/")}
    assert core | newest_core == newest_core | {"SHA256SUMS": core["SHA256SUMS"]}  # `make check` verifies the sums
    assert {"src/chassis/novelty.py", "docs/streams.md"} <= core.keys()
    assert {path: service.path(path).read_bytes() for path in written} == written
    for path, both in (
        ("README.md", ("## What is new", "Call Ada")),
        ("pyproject.toml", (*(f'"{tool}>=0.0.1,>=' for tool in TOOLS), *ADDED)),
    ):
        assert all(one in service.path(path).read_text() for one in both)
    assert [service.read(path) for path in mine] == ["mine\n"] * len(mine)
    assert list((tmp_path / "temporary").iterdir()) == []
    service.path("notes.txt").unlink()
    assert service.make("novelty") == "new\n"
    service.commit("Update")
    assert "warning" not in service.make("check")
    # The owner commits the lock file, which is new here.
    assert service.git("status", "--porcelain") in ("", "?? uv.lock")


def add_dependencies(service: Service) -> None:
    """Add packages before, between and after those of the template, without resolving them."""
    for options, packages in (((), ADDED[:3]), (("--dev",), ADDED[3:])):
        done = run("uv", "add", "--quiet", "--frozen", *options, *packages, cwd=service.folder)
        assert done.returncode == 0, done.stdout


def test_edited_core_is_named_merged_and_fails_the_checks(service: Service, template: Template) -> None:
    service.add(f"{CHASSIS}/problem.py", "\n# Ours.\n")
    service.commit("In the template's room")
    template.edit(f"{CHASSIS}/problem.py", '"""\n\n', '"""\n\n# Better than ever.\n\n', first=True)
    template.commit("Better problems")

    said = service.make("update")

    assert "warning: these changes may conflict" in said
    assert f"{CHASSIS}/problem.py: changed here" in said
    merged = service.path(f"{CHASSIS}/problem.py").read_text()
    assert "# Better than ever." in merged
    assert merged.endswith("\n# Ours.\n")
    service.commit("Merged")
    difference = "these files of chassis/ differ from the template: src/chassis/problem.py"
    verify = (sys.executable, "scripts/vendor.py", "verify")
    edited = run(*verify, cwd=service.folder)
    assert (edited.returncode, difference in edited.stdout) == (1, True)
    assert "scripts/vendor.py verify" in service.make("--dry-run", "check")
    service.make("chassis", f"FROM={template.folder.as_uri()}")
    assert "# Ours." not in service.path(f"{CHASSIS}/problem.py").read_text()
    assert run(*verify, cwd=service.folder).stdout == ""


def test_conflict_in_pyproject_is_listed(service: Service, template: Template) -> None:
    """cruft reads its settings in that file, and fails while there are conflict markers in it."""
    service.edit("pyproject.toml", "fail_under = 95", "fail_under = 90")
    service.commit("Less")
    template.edit("pyproject.toml", "fail_under = 95", "fail_under = 96")
    template.commit("More")

    for target in ("update", "check"):
        said = service.make(target, fails=True)
        assert "pyproject.toml: combine the lines between <<<<<<< (yours) and >>>>>>>" in said
        assert "Traceback" not in said
        assert "TOML parse error" not in said


def test_update_with_a_conflict_fails_until_it_is_resolved(service: Service, template: Template) -> None:
    service.edit("README.md", "\n## Run it\n", "\n## Start it\n")
    service.commit("Other words")
    template.edit("README.md", "\n## Run it\n", "\n## Run it on your machine\n")
    newest = template.commit("Other words, too")

    for _ in range(2):
        assert "README.md: combine the lines between <<<<<<< (yours) and >>>>>>>" in service.make("update", fails=True)
    service.git("add", "README.md")  # as it is, with its markers
    assert "README.md: combine the lines" in service.make("update", fails=True)
    assert "README.md: combine the lines" in service.make("check", fails=True)
    # So that `git commit` has it, as it has the files that git has merged.
    assert ".cruft.json" in service.git("diff", "--cached", "--name-only").splitlines()

    conflict = re.compile(r"<<<<<<< .*?\n(.*?)=======\n.*?>>>>>>> .*?\n", re.DOTALL)
    service.path("README.md").write_text(conflict.sub(r"\1", service.path("README.md").read_text()))
    service.commit("Ours")
    assert service.make("merged") == ""
    assert service.noted_commit() == newest


@dataclass(frozen=True)
class Small:
    """A template with few files and the script of a service, which is quick, and a service that is made from it."""

    template: Template
    service: Service

    def update(self, *arguments: str, fails: bool = False) -> str:
        command = ("uv", "run", "--quiet", "--no-project", "--with", "cruft>=2.16,<3", "scripts/update.py", "update")
        done = run(*command, *arguments, cwd=self.service.folder, **IDENTITY)
        assert bool(done.returncode) is fails, done.stdout
        return done.stdout


@pytest.fixture
def small(tmp_path: Path) -> Small:
    template, service = Template(tmp_path / "template"), Service(tmp_path / "service")
    answers = {"project_slug": "order-service", "ci": ["github", "gitlab"]}
    template.folder.mkdir()
    (template.folder / "cookiecutter.json").write_text(json.dumps(answers))
    for path in ("README.md", "Makefile", "settings.ini", "example/handlers.py"):
        template.write(path, "one\n\ntwo\n")
    shutil.copytree(SOURCE / "scripts", template.path("scripts"), ignore=shutil.ignore_patterns("__pycache__"))
    template.init()
    note = {"template": template.folder.as_uri(), "commit": template.commit("First"), "checkout": None}
    shutil.copytree(template.path("."), service.folder)
    service.write(NOTE, json.dumps({**note, "context": {"cookiecutter": {**answers, "ci": "github"}}}))
    service.init()
    service.commit("From the template")
    return Small(template, service)


def test_file_that_the_template_has_deleted_and_you_have_changed_is_listed(small: Small) -> None:
    """And git merges the other files as if there were no such file."""
    small.service.add("settings.ini", "ours\n")
    for place, text in ((small.service, "ours"), (small.template, "theirs")):
        place.edit("Makefile", "two", text)
    small.service.commit("Ours")
    small.service.write("mine", "")  # not for git
    small.template.path("settings.ini").unlink()
    small.template.write("new", "new\n")
    small.template.commit("Deleted")

    said = small.update(fails=True)

    assert said.splitlines() == [
        "error: the update has conflicts; resolve them, then run `make check` and `git commit`:",
        "  Makefile: combine the lines between <<<<<<< (yours) and >>>>>>>, then: git add",
        "  settings.ini: the template has deleted it, you have changed it; git rm it, or keep it",
    ]
    assert small.service.read("settings.ini").endswith("ours\n")
    assert small.service.git("diff", "HEAD", "--name-only").split() == [".cruft.json", "Makefile", "new"]


def test_conflicts_are_found_and_nothing_that_looks_like_one(tmp_path: Path) -> None:
    service = Repository(tmp_path)
    service.write(".gitignore", "/.venv/\n")
    service.write(
        "docs/git.md", "git writes this line:\n\n<<<<<<< HEAD\n\nand this one, below a title:\n\n>>>>>>> main\n"
    )
    service.write(".venv/lib/a.rej", "")
    service.init()
    service.commit("First")
    service.git("config", "core.excludesFile", service.path("ignored"))
    service.write("ignored", "*.rej\n")
    check = (sys.executable, SOURCE / "scripts/update.py", "check")
    done = run(*check, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")

    service.write("Größe.md", "<<<<<<< ours\r\na\r\n=======\r\nb\r\n>>>>>>> theirs\r\n")
    service.write("Makefile.rej", "")

    done = run(*check, cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "error: these conflicts of `make update` are unresolved:",
        "  Größe.md: combine the lines between <<<<<<< (yours) and >>>>>>>, then: git add",
        "  Makefile.rej: apply its changes by hand, then delete it",
    ]


@pytest.mark.parametrize(
    ("note", "error"),
    [
        ("{}", "has no `template`; delete the file and create it: uvx cruft link <template repository>"),
        (
            '{"template": "a", "commit": "1"}',
            "has no `context`; delete the file and create it: uvx cruft link <template repository>",
        ),
        ("[]", "is not a JSON object; restore an earlier version: git log -- .cruft.json"),
        ("{", "is not a JSON object; restore an earlier version: git log -- .cruft.json"),
    ],
)
def test_note_without_a_template_is_an_error_in_one_line(tmp_path: Path, note: str, error: str) -> None:
    service = Repository(tmp_path)
    service.write(NOTE, note)
    service.init()
    service.commit("First")

    done = run(sys.executable, SOURCE / "scripts/update.py", "update", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, f"error: .cruft.json {error}\n")


def test_file_that_both_have_created_is_listed(small: Small) -> None:
    for one, text in ((small.service, "ours\n"), (small.template, "theirs\n")):
        one.write("SECURITY.md", text)
        one.commit("Security")

    said = small.update(fails=True)

    assert "SECURITY.md" in said
    assert "ours\n" in small.service.read("SECURITY.md")


def test_new_files_are_shown_to_git_when_it_cannot_merge(small: Small) -> None:
    small.service.write("mine", "ours\n")  # not for git, so that it cannot merge the template's
    small.service.write("notes", "")
    for path in ("mine", "new"):
        small.template.write(path, "theirs\n")
    small.template.commit("New")

    said = small.update(fails=True)

    assert "mine: differs from the template" in said
    assert small.service.read("mine") == "ours\n"
    assert small.service.git("diff", "HEAD", "--name-only").split() == [".cruft.json", "new"]


def test_renamed_file_keeps_what_people_wrote_in_it_and_new_files_are_counted(small: Small) -> None:
    small.service.add("settings.ini", "ours\n")
    small.service.commit("Ours")
    small.template.path("settings.ini").rename(small.template.path("values.ini"))
    small.template.write("new", "new\n")
    small.template.commit("Renamed")

    assert "Updated 3 files" in small.update()
    assert not small.service.path("settings.ini").exists()
    assert small.service.read("values.ini").endswith("ours\n")
    small.service.commit("Update")
    assert "up to date" in small.update()


def test_deleted_example_stays_deleted(small: Small) -> None:
    small.service.git("rm", "-r", "--quiet", "example")
    small.service.commit("No example")
    small.template.add("example/handlers.py", "# Better than ever.\n")
    small.template.add("Makefile", "three\n")
    small.template.commit("Better example")

    small.update()

    assert not small.service.path("example").exists()
    assert small.service.read("Makefile").endswith("three\n")


def test_update_to_a_tag(small: Small) -> None:
    small.template.add("README.md", "One.\n")
    first = small.template.commit("One")
    small.template.git("tag", "v1")
    small.template.add("README.md", "Two.\n")
    small.template.commit("Two")

    small.update("v1")

    assert small.service.noted_commit() == first
    assert small.service.read("README.md").endswith("One.\n")


def test_update_needs_a_clean_tree_and_a_history(service: Service) -> None:
    service.add("README.md", "\nNot committed.\n")
    assert "commit or stash them first" in service.make("update", fails=True)

    shutil.rmtree(service.folder / ".git")
    assert "git init" in service.make("update", fails=True)
    service.init()  # as it is generated: a repository without a commit
    assert "git init" in service.make("update", fails=True)
    service.path(".cruft.json").unlink()
    assert ".cruft.json is missing" in service.make("update", fails=True)


REJECTED = r"error: (SET .*|the update failed: .*; check TO, SET, and the address .* in .cruft.json)"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["v9", ""], "Failed to check out the reference v9."),
        (["", "licence"], "SET has 'licence', which is no answer; write SET='<question>=<answer>'"),
        (["", "ci=jenkins"], "jenkins provided for choice variable ci, but the choices are ['github', 'gitlab']"),
    ],
)
def test_value_that_the_template_rejects_is_an_error_in_one_line(
    small: Small, arguments: list[str], reason: str
) -> None:
    (said,) = small.update(*arguments, fails=True).splitlines()

    assert re.fullmatch(REJECTED, said)
    assert reason in said
    assert small.service.git("status", "--porcelain") == ""


def test_value_that_a_hook_rejects_is_an_error_in_one_line(of_all: tuple[Template, Service]) -> None:
    _, service = of_all
    (said,) = [line for line in service.make("update", "SET=owner=a/b", fails=True).splitlines() if line[:5] != "make:"]

    assert re.fullmatch(REJECTED, said)
    assert "owner 'a/b' is not a GitHub name; use at most 39 letters, digits and hyphens" in said
    assert service.git("status", "--porcelain") == ""


def test_option_is_switched_on_later(service: Service) -> None:
    service.add("README.md", "\nOurs.\n")
    service.commit("A remark")

    said = service.make("update", 'SET=project_name=Ada\'s "Shop"; x license=MIT ci=gitlab colour=red')
    assert "Updated " in said
    assert "warning: the template does not ask colour; it asks: project_name, " in said

    assert "MIT License" in service.path("LICENSE").read_text()
    assert service.answer("project_name") == 'Ada\'s "Shop"; x'
    assert 'license = "MIT"' in service.path("pyproject.toml").read_text()
    assert service.path(".gitlab-ci.yml").exists()
    assert not service.path(".github").exists()
    assert service.path("README.md").read_text().endswith("\nOurs.\n")


def test_outdated_service_gets_a_warning_without_a_network(template: Template, tmp_path: Path) -> None:
    made = run("cookiecutter", "--no-input", template.folder, cwd=tmp_path)
    assert made.returncode == 0, made.stdout
    service = tmp_path / "order-service"
    tell = (sys.executable, service / "scripts/update.py", "tell")
    assert run(*tell, cwd=service).stdout == ""

    template.add("README.md", "\nMore.\n")
    template.commit("More")

    assert run(*tell, cwd=service).stdout == "warning: the template has 1 newer commits; merge them: make update\n"


def test_template_without_a_history_is_said(template: Template, tmp_path: Path) -> None:
    shutil.rmtree(template.folder / ".git")

    made = run("cookiecutter", "--no-input", template.folder, cwd=tmp_path)

    assert made.returncode == 0
    assert "`make update` will not work: the template is not a git repository" in made.stdout
    assert not (tmp_path / "order-service/.cruft.json").exists()
