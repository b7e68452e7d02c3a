"""CI updates a service from its template: real repositories, cruft and git, and an API that keeps what it gets."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bakery import SOURCE, run
from forge import Forge, Json
from repositories import IDENTITY, Repository

# A template that has the scripts of a service, and checks that take no time.
FILES = {
    "cookiecutter.json": '{"project_slug": "order-service"}\n',
    "CHANGELOG.md": "# Changelog\n\n## 0.1.0\n\n### Upgrading\n\n1. An old note.\n\n### Added\n\n- Something.\n",
    "{{cookiecutter.project_slug}}/README.md": "One\n",
    "{{cookiecutter.project_slug}}/.gitignore": "/.cache/\n",
    "{{cookiecutter.project_slug}}/Makefile": """update:
\t@uv run --quiet --no-project --with 'cruft>=2.16,<3' scripts/update.py update
check:
\t@env | grep -c TOKEN; echo checking `cat README.md`; test ! -e broken
""",
}
WORKFLOW = ".github/workflows/checks.yml"
UPGRADED = (
    "# Changelog\n\n## 0.2.0\n\n### Upgrading\n\n1. Type `x`:\n\n   ```console\n   # x\n   ```\n2. An old note.\n"
)
BRANCH = "template-update"


class Template(Repository):
    """The template."""

    def path(self, path: str) -> Path:
        outside = path in ("cookiecutter.json", "CHANGELOG.md") or path.startswith("{{")
        return self.folder / path if outside else self.folder / "{{cookiecutter.project_slug}}" / path


@dataclass(frozen=True)
class Prepared:
    """A bare repository of a service, and what `prepare` wrote for each state of the template."""

    bare: Path
    unchanged: Path
    second: Path
    third: Path  # the checks fail, and a workflow changed
    conflicts: Path  # of the branch `ours`
    newest: str
    said: dict[str, str]


def prepare(bare: Path, folder: Path, branch: str = "trunk") -> str:
    """Run the first job in a clone with all commits, as the workflow does."""
    clone = Repository(folder.with_name(f"{folder.name}-clone"))
    run("git", "clone", "--quiet", "--branch", branch, bare, clone.folder, cwd=bare)
    command = ("python3", "scripts/propose_on_github.py", "prepare", folder)
    done = run(*command, cwd=clone.folder, TEMPLATE_TOKEN="read")  # noqa: S106 - no secret
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("propose")
    template, service = Template(folder / "template"), Repository(folder / "service")
    for path, text in FILES.items():
        template.write(path, text)
    shutil.copytree(SOURCE / "scripts", template.path("scripts"), ignore=shutil.ignore_patterns("__pycache__"))
    template.init()
    note = {
        "template": template.folder.as_uri(),
        "commit": template.commit("First"),
        "checkout": None,
        "directory": None,
    }
    shutil.copytree(template.path("."), service.folder)
    service.write(".cruft.json", json.dumps({**note, "context": {"cookiecutter": {"project_slug": "order-service"}}}))
    service.git("init", "--quiet", "--initial-branch", "trunk")
    service.commit("From the template")
    service.git("switch", "--quiet", "--create", "ours")
    service.write("README.md", "Ours\n")
    service.commit("Ours")
    bare = folder / "bare"
    service.git("clone", "--quiet", "--bare", service.folder, bare)

    said = {"unchanged": prepare(bare, folder / "unchanged")}
    template.write("README.md", "Two\n")
    template.write("CHANGELOG.md", UPGRADED)
    newest = template.commit("Second")
    said["second"] = prepare(bare, folder / "second")
    said["conflicts"] = prepare(bare, folder / "conflicts", "ours")
    template.write("README.md", "```` ends a block\n")
    template.write("broken", "")
    template.write(WORKFLOW, "name: checks\n")
    template.commit("Third")
    said["third"] = prepare(bare, folder / "third")
    places = {name: folder / name for name in said}
    return Prepared(bare=bare, newest=newest, said=said, **places)


@dataclass
class Hosted:
    """The service on a host that has its requests and issues."""

    bare: Repository
    forge: Forge
    host: str
    token: str = "own"  # noqa: S105 - no secret

    def branch(self) -> str:
        return self.bare.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}")

    def publish(self, proposal: Path, *, fails: bool = False) -> str:
        """Run the second job, in a clone with one commit."""
        clone = self.bare.folder.with_name("clone")
        shutil.rmtree(clone, ignore_errors=True)
        self.bare.git("clone", "--quiet", "--depth=1", "--branch=trunk", self.bare.folder.as_uri(), clone)
        command = ("python3", f"scripts/propose_on_{self.host}.py", "publish", proposal)
        done = run(*command, cwd=clone, **self.variables(), TEMPLATE_UPDATE_TOKEN=self.token)
        assert bool(done.returncode) is fails, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def variables(self) -> dict[str, str]:
        server = self.bare.folder.parents[1].as_uri()
        if self.host == "github":
            return {
                "GITHUB_REPOSITORY": "acme/order-service",
                "GITHUB_REF_NAME": "trunk",
                "GITHUB_SERVER_URL": server,
                "GITHUB_API_URL": self.forge.address,
                "GITHUB_TOKEN": "workflow",
            }
        return {
            "CI_PROJECT_ID": "7",
            "CI_COMMIT_BRANCH": "trunk",
            "CI_PROJECT_URL": f"{server}/acme/order-service",
            "CI_API_V4_URL": self.forge.address,
            "CI_JOB_TOKEN": "job",
        }


@pytest.fixture(params=["github"])
def hosted(prepared: Prepared, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hosted]:
    name = "order-service" if request.param == "github" else "order-service.git"
    bare = Repository(tmp_path / "acme" / name)
    shutil.copytree(prepared.bare, bare.folder)
    with Forge() as forge:
        yield Hosted(bare, forge, request.param)


both = pytest.mark.parametrize("hosted", ["github", "gitlab"], indirect=True)


def text_of(item: Json) -> str:
    """The text of a request or an issue, which has another name on each host."""
    return str(item.get("body") or item["description"])


@both
def test_update_becomes_a_request_with_the_notes_and_the_result_of_the_checks(
    hosted: Hosted, prepared: Prepared
) -> None:
    said = hosted.publish(prepared.second)

    (request,) = hosted.forge.requests
    assert f"Opened {hosted.forge.address}/requests/1" in said
    assert request["title"] == "Update from the template"
    assert request.get("target_branch", request.get("base")) == "trunk"
    assert request["source"] == BRANCH
    assert f"to {prepared.newest[:12]}." in text_of(request)
    assert "## Upgrading\n\n- Type `x`:\n\n   ```console\n   # x\n   ```\n\n## Checks" in text_of(request)
    assert "old note" not in text_of(request)
    assert "`make check` passed." in text_of(request)
    assert hosted.forge.issues == []
    assert hosted.forge.tokens == {"Bearer own"}
    assert hosted.bare.git("show", f"{BRANCH}:README.md") == "Two"
    assert hosted.bare.git("rev-parse", f"{BRANCH}^") == hosted.bare.git("rev-parse", "trunk")


@both
def test_nothing_is_proposed_when_nothing_changed(hosted: Hosted, prepared: Prepared) -> None:
    assert "up to date with its template; nothing was changed" in hosted.publish(prepared.unchanged)
    assert (hosted.forge.calls, hosted.branch()) == ([], "")

    hosted.publish(prepared.second)
    before, calls = hosted.branch(), [*hosted.forge.calls]

    assert "Nothing changed since the last run; the request is still open" in hosted.publish(prepared.second)
    assert (hosted.branch(), hosted.forge.calls) == (before, calls)


@both
def test_newer_update_changes_the_branch_and_its_request(hosted: Hosted, prepared: Prepared) -> None:
    hosted.publish(prepared.second)

    assert f"Updated {hosted.forge.address}/requests/1" in hosted.publish(prepared.third)
    assert len(hosted.forge.requests) == 1
    assert hosted.bare.git("show", f"{BRANCH}:README.md") == "```` ends a block"
    assert hosted.bare.git("rev-list", "--count", f"trunk..{BRANCH}") == "1"


def test_failed_checks_are_shown_and_code_of_the_update_sees_no_token(hosted: Hosted, prepared: Prepared) -> None:
    hosted.publish(prepared.third)

    text = text_of(hosted.forge.requests[0])
    assert "`make check` failed. The end of its output:" in text
    assert "`````text\n0\nchecking ```` ends a block\n`````" in text


@both
def test_conflicts_become_an_issue_that_is_closed_after_they_are_resolved(hosted: Hosted, prepared: Prepared) -> None:
    said = [hosted.publish(prepared.conflicts), hosted.publish(prepared.conflicts)]

    (issue,) = hosted.forge.issues
    assert issue["title"] == "The template update has conflicts"
    assert issue["labels"] == [BRANCH]
    assert "README.md: combine the lines between <<<<<<< (yours) and >>>>>>>" in text_of(issue)
    assert "- Type `x`:" in text_of(issue)
    assert "make: ***" not in text_of(issue)
    assert "Opened the issue" in said[0]
    assert "Nothing changed since the last run; the issue is still open" in said[1]
    assert (hosted.forge.requests, hosted.branch()) == ([], "")

    assert "Closed the issue" in hosted.publish(prepared.unchanged)
    assert issue["state"] == "closed"


def in_monorepo(hosted: Hosted, name: str) -> None:
    """Run both jobs in the folder of a service, as its workflows do."""
    clone = Repository(hosted.bare.folder.with_name(f"clone of {name}"))
    hosted.bare.git("clone", "--quiet", hosted.bare.folder, clone.folder)
    proposal = clone.folder.with_name(f"proposal of {name}")
    for job in ("prepare", "publish"):
        script = SOURCE / f"scripts/propose_on_{hosted.host}.py"
        variables = {**hosted.variables(), "TEMPLATE_UPDATE_TOKEN": hosted.token}
        done = run("python3", script, job, proposal, cwd=clone.path(f"services/{name}"), **variables)
        assert done.returncode == 0, done.stdout


@both
def test_services_of_one_repository_have_branches_requests_and_issues_of_their_own(
    hosted: Hosted, tmp_path: Path
) -> None:
    long = "reads-and-writes-the-orders-of-all-shops"
    monorepo = Repository(tmp_path / "monorepo")
    updates = {
        "alpha": "echo two >README.md",
        "beta": "echo two >README.md",
        f"{long}-a": "echo x >README.md; false",
        f"{long}-b": "echo x >README.md; false",
        "current": "true",
    }
    for name, command in updates.items():
        monorepo.write(f"services/{name}/README.md", "one\n")
        monorepo.write(f"services/{name}/.cruft.json", json.dumps({"template": "file:///nowhere", "commit": "1" * 40}))
        monorepo.write(f"services/{name}/Makefile", f"update:\n\t@{command}\ncheck:\n")
    monorepo.git("init", "--quiet", "--initial-branch", "trunk")
    monorepo.commit("Services")
    shutil.rmtree(hosted.bare.folder)
    monorepo.git("clone", "--quiet", "--bare", monorepo.folder, hosted.bare.folder)

    for name in updates:
        in_monorepo(hosted, name)

    for name in ("alpha", "beta"):
        changed = hosted.bare.git("diff", "--name-only", "trunk", f"template-update-services-{name}")
        assert changed == f"services/{name}/README.md"
    assert [request["title"] for request in hosted.forge.requests] == [
        "Update from the template (services/alpha)",
        "Update from the template (services/beta)",
    ]
    assert [issue["title"] for issue in hosted.forge.issues] == [
        f"The template update has conflicts (services/{long}-a)",
        f"The template update has conflicts (services/{long}-b)",
    ]
    # The service that is up to date has closed no issue of the others.
    assert {issue["state"] for issue in hosted.forge.issues} <= {"open", "opened"}
    assert all(len(issue["labels"][0]) == 50 for issue in hosted.forge.issues)


def test_commits_of_people_on_the_branch_are_kept(hosted: Hosted, prepared: Prepared, tmp_path: Path) -> None:
    hosted.publish(prepared.second)
    person = Repository(tmp_path / "person")
    hosted.bare.git("clone", "--quiet", "--branch", BRANCH, hosted.bare.folder, person.folder)
    person.write("fix", "")
    mine = person.commit("A fix")
    person.git("push", "--quiet", "origin", BRANCH)

    assert "has commits of other people and was not changed" in hosted.publish(prepared.third)
    assert hosted.branch() == mine


def test_request_that_somebody_closed_is_not_opened_again(hosted: Hosted, prepared: Prepared) -> None:
    hosted.publish(prepared.second)
    hosted.forge.requests[0] |= {"state": "closed", "head": {"sha": hosted.branch()}}

    assert "Somebody closed the request for this update" in hosted.publish(prepared.second)
    assert len(hosted.forge.requests) == 1

    hosted.publish(prepared.third)
    assert len(hosted.forge.requests) == 2


def test_token_of_the_workflow_pushes_no_workflows_and_an_issue_says_so(hosted: Hosted, prepared: Prepared) -> None:
    hosted.token = ""

    hosted.publish(prepared.third)

    (issue,) = hosted.forge.issues
    assert issue["title"] == "The template update needs a person"
    assert issue["body"].startswith(f"The token of CI may not push changes of {WORKFLOW}. Set TEMPLATE_UPDATE_TOKEN")
    assert (hosted.forge.requests, hosted.branch()) == ([], "")
    assert hosted.forge.tokens == {"Bearer workflow"}

    hosted.token = "own"  # noqa: S105 - no secret
    hosted.publish(prepared.third)
    assert issue["state"] == "closed"
    assert len(hosted.forge.requests) == 1


def test_repository_that_allows_no_requests_of_workflows_gets_an_issue(hosted: Hosted, prepared: Prepared) -> None:
    hosted.token = ""
    hosted.forge.refuses_requests = True

    hosted.publish(prepared.second)

    assert f"/compare/trunk...{BRANCH}?expand=1" in hosted.forge.issues[0]["body"]
    assert hosted.branch()

    hosted.forge.refuses_requests = False
    hosted.publish(prepared.second)
    assert "Close and\nreopen it to start them" in hosted.forge.requests[0]["body"]
    assert hosted.forge.issues[0]["state"] == "closed"


def test_wrong_token_is_said_in_one_line(hosted: Hosted, prepared: Prepared) -> None:
    hosted.forge.refuses_tokens = True
    said = hosted.publish(prepared.second, fails=True)
    assert re.fullmatch(r"error: GET .* responded with 401: .*; check the rights of the token: see .*\n", said)

    hosted.host, hosted.token = "gitlab", ""
    said = hosted.publish(prepared.second, fails=True)
    assert said == "error: TEMPLATE_UPDATE_TOKEN is not set; add a project access token: see chassis/docs/updating.md\n"


@pytest.mark.parametrize("template", ["/home/ada/template", "../template", "C:/Users/ada@acme/template"])
def test_template_in_a_folder_of_one_machine_is_said_in_one_line(tmp_path: Path, template: str) -> None:
    (tmp_path / ".cruft.json").write_text(json.dumps({"template": template, "commit": "1"}))

    said = run("python3", SOURCE / "scripts/propose_on_github.py", "prepare", "proposal", cwd=tmp_path)

    assert said.returncode == 1
    assert said.stdout == (
        f"error: .cruft.json has the template {template!r}, a folder; set it to the address of its repository\n"
    )


@pytest.mark.parametrize(
    ("note", "error"),
    [
        ("{}", "has no `template`; delete the file and create it: uvx cruft link <template repository>"),
        ('{"template": "git@a.example:b"}', "has no `commit`; delete the file and create it: uvx cruft link <template"),
        ("<<<<<<< ours", "is not a JSON object; resolve its conflicts, or restore an earlier version"),
    ],
)
def test_note_without_a_template_is_said_in_one_line(tmp_path: Path, note: str, error: str) -> None:
    (tmp_path / ".cruft.json").write_text(note)

    said = run("python3", SOURCE / "scripts/propose_on_github.py", "prepare", "proposal", cwd=tmp_path)

    assert said.returncode == 1
    assert said.stdout.startswith(f"error: .cruft.json {error}")
    assert said.stdout.count("\n") == 1


def test_update_that_lists_conflicts_without_changed_files_becomes_an_issue(tmp_path: Path) -> None:
    """As when a hunk is lost: `make update` then lists a file that differs from the template."""
    service = Repository(tmp_path)
    note = {"template": "file:///nowhere", "commit": "1" * 40}
    service.write(".cruft.json", json.dumps(note))
    service.write("Makefile", "update:\n\t@echo >>.cruft.json; echo 'error: README.md: differs'; false\n")
    service.init()
    service.commit("First")

    said = run("python3", SOURCE / "scripts/propose_on_github.py", "prepare", tmp_path / "proposal", cwd=tmp_path)

    assert said.returncode == 0, said.stdout
    report = json.loads((tmp_path / "proposal/report.json").read_text())
    assert report["outcome"] == "conflicts"
    assert "error: README.md: differs" in report["body"]
    assert "The CHANGELOG.md of the template could not be read." in report["body"]


def test_same_update_of_the_same_commit_is_the_same_commit_again(tmp_path: Path) -> None:
    """So a run can tell that nothing changed since the last one. The date of the commit is that of its parent."""
    service = Repository(tmp_path / "service")
    service.write(".cruft.json", json.dumps({"template": "file:///nowhere", "commit": "1" * 40}))
    service.write("Makefile", "update check:\n\t@echo two >README.md\n")
    service.init()
    service.commit("First")
    run(
        "git",
        "commit",
        "-q",
        "--amend",
        "-m",
        "Old",
        cwd=service.folder,
        **IDENTITY,
        GIT_COMMITTER_DATE="2020-01-01T00:00:00Z",
    )

    script = SOURCE / "scripts/propose_on_github.py"
    said = run("python3", script, "prepare", tmp_path / "proposal", cwd=service.folder)

    assert said.returncode == 0, said.stdout
    assert service.git("log", "--format=%as %cs", BRANCH, "-1") == "2020-01-01 2020-01-01"


def test_update_that_fails_makes_no_proposal(tmp_path: Path) -> None:
    service = Repository(tmp_path)
    service.write(".cruft.json", json.dumps({"template": "file:///nowhere", "commit": "1" * 40}))
    service.write("Makefile", "update:\n\t@echo 'error: cruft update failed'; false\n")
    service.init()
    service.commit("First")

    said = run("python3", SOURCE / "scripts/propose_on_github.py", "prepare", tmp_path / "proposal", cwd=tmp_path)

    assert said.returncode == 1
    assert said.stdout.endswith("error: make update failed; see its message above\n")
    assert not (tmp_path / "proposal").exists()


def test_tokens_are_sent_to_their_repository_alone(tmp_path: Path) -> None:
    program = """
import json, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from propose import access_to
for template in sys.argv[2:]:
    environment = {**os.environ, **access_to(template)}
    for address in ("https://example.com/acme/template", "https://example.com/acme/template2", "https://example.com/"):
        got = subprocess.run(["git", "config", "--get-urlmatch", "http.extraheader", address], env=environment,
                             capture_output=True, text=True)
        print(address, got.stdout.strip())
    print(subprocess.run(["git", "ls-remote", "--get-url", template], env=environment, capture_output=True,
                         text=True).stdout.strip())
"""
    templates = [
        "https://example.com/acme/template",
        "git@example.com:acme/template",
        "example.com:acme/template",
        "org-123@example.com:/acme/template",
        "ssh://git@example.com:22/acme/template",
        "ssh://deploy@example.com/acme/template",
        "ssh://example.com/acme/template",
        "git+ssh://git@example.com/acme/template",
    ]
    done = run("python3", "-c", program, SOURCE / "scripts", *templates, cwd=tmp_path, TEMPLATE_TOKEN="read")  # noqa: S106
    said = done.stdout.splitlines()

    header = "Authorization: Basic eC1hY2Nlc3MtdG9rZW46cmVhZA=="
    address = "https://example.com/acme/template"
    assert said == [f"{address} {header}", f"{address}2 ", "https://example.com/ ", address] * len(templates)
