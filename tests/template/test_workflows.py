"""Workflows of the template and of a service: valid, least privileged, pinned, and the same commands."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bakery import TEMPLATE, render, run
from conftest import Bake
from repositories import Repository

ZIZMOR = "zizmor>=1.16"
CHECKER = "check-jsonschema>=0.34"
SKELETON = "{{cookiecutter.project_slug}}"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
# Records its name and arguments. As docker, it prints the digest of a push.
RECORDER = f"""#!{sys.executable}
import os, sys
print(*[os.path.basename(sys.argv[0]), *sys.argv[1:]], file=open("{{log}}", "a"))
if sys.argv[1:2] == ["push"]:
    print("0.1.0: digest: {DIGEST} size: 1234")
if sys.argv[1:2] == ["login"]:
    print(sys.stdin.read(), file=open("{{log}}", "a"), end="")
"""


@pytest.fixture(params=["template", "service"])
def repository(request: pytest.FixtureRequest, bake: Bake) -> Path:
    return TEMPLATE if request.param == "template" else bake()


def test_workflows_are_valid(repository: Path) -> None:
    check = ("uv", "tool", "run", "--quiet", CHECKER, "--builtin-schema")
    workflows = sorted((repository / ".github/workflows").iterdir())

    checked = run(*check, "vendor.github-workflows", *workflows, cwd=repository)
    assert checked.returncode == 0, checked.stdout
    checked = run(*check, "vendor.dependabot", repository / ".github/dependabot.yml", cwd=repository)
    assert checked.returncode == 0, checked.stdout


def test_zizmor_has_nothing_to_say(repository: Path) -> None:
    command = ("uv", "tool", "run", "--quiet", ZIZMOR, "--offline", "--persona=pedantic", "--no-progress")
    checked = run(*command, ".github", cwd=repository)

    assert checked.returncode == 0, checked.stdout


def test_actions_are_pinned_by_commit_with_their_version_beside(repository: Path) -> None:
    text = "\n".join(one.read_text() for one in (repository / ".github/workflows").iterdir())
    used = re.findall(r"uses: (.*)", text)

    assert used
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", one)] == []


def test_nothing_is_granted_that_a_job_does_not_ask_for(repository: Path) -> None:
    for path in (repository / ".github/workflows").iterdir():
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {}, path.name
        assert workflow["concurrency"], path.name
        assert all("timeout-minutes" in job and job["permissions"] for job in workflow["jobs"].values()), path.name


def test_only_a_release_and_the_proposal_of_updates_may_write(bake: Bake) -> None:
    jobs = {(name, job): jobs[job] for name, jobs in jobs_of(bake()).items() for job in jobs}
    granted = {
        name: {what for what, level in job["permissions"].items() if level == "write"} for name, job in jobs.items()
    }

    assert {name: what for name, what in granted.items() if what} == {
        ("image", "release"): {"packages", "id-token", "attestations"},
        ("template", "propose"): {"contents", "pull-requests", "issues"},
    }
    # That job runs nothing that an update has changed: no make, no uv, only the script of the default branch.
    commands = [step["run"] for step in jobs["template", "propose"]["steps"] if "run" in step]
    assert commands == ['python3 scripts/propose_on_github.py publish "$RUNNER_TEMP/proposal"']


def jobs_of(project: Path) -> dict[str, dict[str, Any]]:
    """The jobs of each workflow."""
    workflows = (project / ".github/workflows").iterdir()
    return {path.stem: yaml.safe_load(path.read_text())["jobs"] for path in workflows}


def test_workflows_run_what_people_run(bake: Bake) -> None:
    project = bake()
    targets = set(re.findall(r"^([\w.-]+):", (project / "Makefile").read_text(), re.MULTILINE))
    targets |= set(re.findall(r"^([\w.-]+):", (project / "deploy/deploy.mk").read_text(), re.MULTILINE))
    called = {
        path.stem: set(re.findall(r"(?:run: |\$\(|^ +)make(?: --[\w-]+)* ([\w.-]+)", path.read_text(), re.MULTILINE))
        for path in (project / ".github/workflows").iterdir()
    }

    assert called == {
        "checks": {"check"},
        "image": {"contexts", "image-name", "releasable"},
        "kind": {"kind"},
        "template": set(),
    }
    assert set().union(*called.values()) <= targets


def holds(condition: str, **values: str) -> bool:
    """Whether an expression of GitHub holds, with values for its contexts."""
    names = {name.replace("__", "."): value for name, value in values.items()}
    python = re.sub(r"\b(github|vars)(\.\w+)+", lambda name: repr(names.get(name[0], "")), condition)
    python = python.replace("||", " or ").replace("&&", " and ")
    return bool(eval(python, {"format": lambda text, *given: text.format(*given)}))  # noqa: S307 - of our workflows


@pytest.mark.parametrize("branch", ["main", "master", "trunk"])
def test_pushes_run_for_the_default_branch_whatever_its_name(bake: Bake, branch: str) -> None:
    jobs = jobs_of(bake())
    ran = [jobs["checks"]["check"], jobs["image"]["build"], jobs["kind"]["deploy"]]
    default = {"github__event__repository__default_branch": branch, "github__event_name": "push"}

    assert all(holds(job["if"], **default, github__ref=f"refs/heads/{branch}") for job in ran)
    assert not any(holds(job["if"], **default, github__ref="refs/heads/other") for job in ran)
    assert not any(holds(job["if"], **default, github__ref=f"refs/tags/{branch}") for job in ran)
    assert all(holds(job["if"], **{**default, "github__event_name": "pull_request"}) for job in ran)


def test_no_workflow_names_a_branch(repository: Path) -> None:
    for path in (repository / ".github/workflows").iterdir():
        on = yaml.safe_load(path.read_text())[True]  # YAML 1.1 reads `on` as true
        assert ((on.get("push") or {}).get("branches") or ["**"]) == ["**"], path.name


def test_private_repositories_get_no_attestation_unless_they_ask(bake: Bake) -> None:
    steps = jobs_of(bake())["image"]["release"]["steps"]
    (condition,) = (step["if"] for step in steps if "attest" in step.get("uses", ""))
    cases = {
        (visibility, asked): holds(
            condition, github__event__repository__visibility=visibility, vars__ATTESTATIONS=asked
        )
        for visibility in ("public", "private", "internal")
        for asked in ("", "true", "false")
    }

    assert {case for case, attested in cases.items() if attested} == {
        ("public", ""),
        *((visibility, "true") for visibility in ("public", "private", "internal")),
    }


def test_nothing_that_can_fail_by_its_content_comes_after_the_push(bake: Bake) -> None:
    steps = jobs_of(bake())["image"]["release"]["steps"]
    (push,) = (number for number, step in enumerate(steps) if "push=true" in step.get("with", {}).get("outputs", ""))
    after = [step.get("uses", step.get("name")).partition("@")[0] for step in steps[push + 1 :]]

    assert "aquasecurity/trivy-action" in [step.get("uses", "").partition("@")[0] for step in steps[:push]]
    assert after == ["actions/attest-build-provenance", "Print the digest of the released image"]


def test_dependabot_moves_all_that_has_a_version(bake: Bake) -> None:
    for monitoring in ("included", "none"):
        project = bake(monitoring=monitoring, project_slug=f"with-{monitoring}")
        updates = yaml.safe_load((project / ".github/dependabot.yml").read_text())["updates"]
        folders = {update["package-ecosystem"]: update["directory"] for update in updates}

        compose = {"docker-compose": "/monitoring"} if monitoring == "included" else {}
        assert folders == {"uv": "/", "docker": "/", "github-actions": "/", **compose}
        assert all((project / folder.strip("/")).is_dir() for folder in folders.values())
    for deploy in ("kustomize", "helm"):
        project = bake(database="postgres", events="nats", deploy=deploy, project_slug=f"servers-{deploy}")
        updates = yaml.safe_load((project / ".github/dependabot.yml").read_text())["updates"]
        found = [one for update in updates for one in update.get("directories", [update.get("directory")])]
        assert all((project / one.strip("/")).is_dir() for one in found)
        # Each file that names an image is in one of them.
        wanted = {str(path.parent.relative_to(project)) for path in images_of(project)}
        assert wanted == {one.strip("/") or "." for one in found if one != "/.github"}
    for line in re.findall(
        "image: (.*)", (TEMPLATE / "{{cookiecutter.project_slug}}/monitoring/compose.yaml").read_text()
    ):
        assert line.startswith("${SERVICE_IMAGE") or re.fullmatch(r"[\w./-]+:v?[\d.]+", line)


def images_of(project: Path) -> list[Path]:
    """The files that name images of others."""
    files = [*project.glob("*.yaml"), *project.glob("monitoring/*.yaml"), *project.glob("deploy/**/*.yaml")]
    return [path for path in files if re.search(r"image: docker\.io/", path.read_text())]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_one_python_checks_and_runs_the_service(bake: Bake, version: str) -> None:
    project = bake(python_version=version, ci="gitlab")
    files = {name: (project / name).read_text() for name in (".python-version", "Dockerfile", ".gitlab-ci.yml")}
    wanted = files[".python-version"].strip()

    assert re.findall(r"\bpython:(\d+\.\d+)", files["Dockerfile"]) == [wanted]
    assert re.findall(r"\bpython:(\d+\.\d+)", files[".gitlab-ci.yml"]) == [wanted]
    assert "python-version" not in "".join(path.read_text() for path in (TEMPLATE / SKELETON).glob(".github/*/*"))


def test_tests_of_the_service_notice_another_python(bake: Bake, python: Path) -> None:
    project = bake(ci="gitlab")
    for name in ("Dockerfile", ".gitlab-ci.yml"):
        text = (project / name).read_text()
        (project / name).write_text(text.replace("python:3.13", "python:3.14"))

    tested = run(python, "-m", "pytest", "-q", "--no-cov", "tests/test_versions.py", cwd=project)

    assert tested.returncode == 1
    assert all(f"'{name}': {{'3.14'}}" in tested.stdout for name in ("Dockerfile", ".gitlab-ci.yml"))


@pytest.fixture(scope="module")
def release(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A service for GitLab and GitHub with its lock file, in a repository with a tag."""
    folder = tmp_path_factory.mktemp("release")
    service = Repository(render(folder, {"ci": "gitlab"}))
    shutil.copy(installed / "uv.lock", service.folder)
    service.init()
    service.commit("First")
    return service


def github_script(project: Path, tag: str, folder: Path) -> tuple[int, str, str]:
    """Run the step that checks the tag: its status, its output, and the values that it hands on."""
    skeleton = yaml.safe_load((TEMPLATE / SKELETON / ".github/workflows/image.yml").read_text())
    (script,) = (step["run"] for step in skeleton["jobs"]["release"]["steps"] if step.get("id") == "image")
    output = folder / "output"
    output.touch()
    done = run("bash", "-e", "-o", "pipefail", "-c", script, cwd=project, TAG=tag, GITHUB_OUTPUT=str(output))
    return done.returncode, done.stdout, output.read_text()


def test_release_reads_name_and_registry_and_rejects_another_tag(release: Repository, tmp_path: Path) -> None:
    status, said, output = github_script(release.folder, "v0.1.0", tmp_path)
    assert status == 0, said
    for line in ("name=registry.gitlab.com/acme/order-service", "registry=registry.gitlab.com", "version=0.1.0"):
        assert f"{line}\n" in output

    for tag in ("v0.2.0", "v0.1.0'; touch /tmp/broken; '"):
        status, said, _ = github_script(release.folder, tag, tmp_path)
        assert status != 0
        assert f"error: the tag is {tag}, but the version in pyproject.toml is 0.1.0; tag v0.1.0 instead" in said


def test_release_needs_a_committed_lock_file(release: Repository, tmp_path: Path) -> None:
    release.git("rm", "--cached", "--quiet", "uv.lock")
    status, said, _ = github_script(release.folder, "v0.1.0", tmp_path)
    release.git("add", "uv.lock")

    assert status != 0
    assert "error: uv.lock is not committed" in said


@pytest.mark.parametrize("deploy", ["kustomize", "helm", "none"])
def test_gitlab_pipeline_is_valid(bake: Bake, deploy: str) -> None:
    project = bake(ci="gitlab", deploy=deploy)
    check = ("uv", "tool", "run", "--quiet", CHECKER, "--builtin-schema", "vendor.gitlab-ci")

    checked = run(*check, "--data-transform", "gitlab-ci", ".gitlab-ci.yml", cwd=project)

    assert checked.returncode == 0, checked.stdout
    jobs = pipeline(project)
    assert set(jobs) == {"check", "build", "release", "update", "propose"} | ({"deploy"} if deploy != "none" else set())
    assert ("helm" in str(jobs.get("deploy"))) is (deploy == "helm")
    stages = yaml.safe_load((project / ".gitlab-ci.yml").read_text())["stages"]
    assert {job["stage"] for job in jobs.values()} == set(stages)
    for job in jobs.values():
        assert all(stages.index(jobs[needed]["stage"]) <= stages.index(job["stage"]) for needed in job.get("needs", []))


def pipeline(project: Path) -> dict[str, Any]:
    """The jobs of the pipeline, each with what it extends."""
    entries = yaml.safe_load((project / ".gitlab-ci.yml").read_text())
    jobs = {name: entry for name, entry in entries.items() if isinstance(entry, dict) and name != "workflow"}
    merged = {}
    for name, job in jobs.items():
        base = jobs.get(job.get("extends"), {})
        variables = {**base.get("variables", {}), **job.get("variables", {})}
        merged[name] = {**base, **job, "variables": variables}
    return {name: job for name, job in merged.items() if not name.startswith(".")}


def test_gitlab_pipelines_have_the_jobs_of_their_kind(release: Repository) -> None:
    kinds = {
        "merge request": {"CI_PIPELINE_SOURCE": "merge_request_event"},
        "tag": {"CI_PIPELINE_SOURCE": "push", "CI_COMMIT_TAG": "v0.1.0"},
        "schedule": {"CI_PIPELINE_SOURCE": "schedule"},
    }
    conditions: dict[str, Callable[[dict[str, str]], bool]] = {
        '$CI_PIPELINE_SOURCE != "schedule"': lambda kind: kind["CI_PIPELINE_SOURCE"] != "schedule",
        '$CI_PIPELINE_SOURCE == "schedule"': lambda kind: kind["CI_PIPELINE_SOURCE"] == "schedule",
        "$CI_COMMIT_TAG": lambda kind: "CI_COMMIT_TAG" in kind,
    }
    jobs = pipeline(release.folder)
    ran = {
        name: {job for job, entry in jobs.items() if any(conditions[rule["if"]](kind) for rule in entry["rules"])}
        for name, kind in kinds.items()
    }

    assert ran == {
        "merge request": {"check", "build"},
        "tag": {"check", "build", "release", "deploy"},
        "schedule": {"update", "propose"},
    }
    assert [rule.get("when") for rule in jobs["deploy"]["rules"]] == ["manual"]
    assert jobs["deploy"]["environment"] == {"name": "production"}


def gitlab_job(release: Repository, name: str, folder: Path, *programs: str, **variables: str) -> list[str]:
    """Run the script of a job as GitLab's runner does, with recording programs; returns what they recorded."""
    job, log = pipeline(release.folder)[name], folder / "log"
    for program in programs:
        path = folder / "programs" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(RECORDER.format(log=log))
        path.chmod(0o755)
    given = {**variables, **{key: re.sub(r"\$(\w+)", lambda found: variables[found[1]], str(value))
                             for key, value in job["variables"].items()}}  # fmt: skip
    given["UV_PYTHON"] = os.environ.get("UV_PYTHON", sys.executable)
    given["PATH"] = f"{folder / 'programs'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join([*job.get("before_script", []), *job["script"]])
    done = run("sh", "-e", "-c", script, cwd=release.folder, **given)
    assert done.returncode == 0, done.stdout
    return log.read_text().splitlines()


def test_gitlab_builds_and_scans_the_image(release: Repository, tmp_path: Path) -> None:
    name = "registry.gitlab.com/acme/order-service:checked"
    apk, build, scan = gitlab_job(release, "build", tmp_path, "apk", "docker")

    assert apk == "apk add --no-cache git make python3"
    assert build.startswith(f"docker build --tag {name} ")
    assert build.endswith(" --provenance=false .")
    assert re.fullmatch(rf"docker run --rm .*/trivy:[\d.]+@sha256:\w{{64}} image .* --exit-code 1 {name}", scan)


@pytest.mark.parametrize("registry", ["registry.gitlab.com", "elsewhere"])
def test_gitlab_releases_by_digest(release: Repository, tmp_path: Path, registry: str) -> None:
    own = {"CI_REGISTRY_USER": "gitlab-ci-token", "CI_REGISTRY_PASSWORD": "job"}
    other = {"REGISTRY_USERNAME": "robot", "REGISTRY_PASSWORD": "secret"}
    variables = {"CI_REGISTRY": registry, "CI_COMMIT_TAG": "v0.1.0", **own, **other}
    _, login, password, binfmt, build, _, push = gitlab_job(release, "release", tmp_path, "apk", "docker", **variables)

    user = ("gitlab-ci-token", "job") if registry == "registry.gitlab.com" else ("robot", "secret")
    assert (login, password) == (f"docker login --username {user[0]} --password-stdin registry.gitlab.com", user[1])
    assert re.fullmatch(r"docker run --rm --privileged .*/binfmt:\S+@sha256:\w{64} --install all", binfmt)
    assert "--platform=linux/amd64,linux/arm64" in build
    assert build.endswith(" --provenance=mode=max --sbom=true .")
    assert push == "docker push registry.gitlab.com/acme/order-service:0.1.0"
    report = pipeline(release.folder)["release"]["artifacts"]["reports"]["dotenv"]
    assert release.read(report) == f"RELEASE_VERSION=0.1.0\nRELEASE_DIGEST={DIGEST}\n"


def test_gitlab_deploys_what_was_released(release: Repository, tmp_path: Path) -> None:
    released = {"RELEASE_VERSION": "0.1.0", "RELEASE_DIGEST": DIGEST}
    ran = gitlab_job(release, "deploy", tmp_path, "apk", "kubectl", "make", KUBE_CONTEXT="acme/agents:prod", **released)

    assert ran[1:] == [
        "kubectl config use-context acme/agents:prod",
        f"make deploy OVERLAY=production VERSION=0.1.0 DIGEST={DIGEST}",
    ]


def test_update_has_the_whole_history_for_its_merge(bake: Bake) -> None:
    update, propose = jobs_of(bake())["template"].values()
    (checkout,) = (step for step in update["steps"] if "checkout" in step.get("uses", ""))

    assert checkout["with"]["fetch-depth"] == 0
    assert "secrets.TEMPLATE_UPDATE_TOKEN" not in str(update)
    assert propose["needs"] == "update"
    gitlab = pipeline(bake(ci="gitlab", project_slug="on-gitlab"))
    assert gitlab["update"]["variables"]["GIT_DEPTH"] == "0"
    assert gitlab["propose"]["environment"]["action"] == "access"  # variables can be limited to this environment
