"""The template's address in .cruft.json: one that all machines can use, without passwords and tokens."""

import json
import sys
from pathlib import Path

import pytest

from bakery import NOTE, SOURCE, copy_folder, own_config, run
from repositories import IDENTITY, Repository

PASSWORD = "hunter2"  # noqa: S105 - of nobody


@pytest.fixture
def template(small_template: Path, tmp_path: Path) -> Repository:
    return Repository(copy_folder(small_template, tmp_path / "cookiecutter-chassis"))


def generate(template: str | Path, out: Path, **variables: str) -> str:
    command = ("cookiecutter", "--no-input", "--config-file", own_config(out), "-o", out, template)
    made = run(*command, cwd=out.parent, **variables)
    assert made.returncode == 0, made.stdout
    return made.stdout


def noted(out: Path) -> str:
    text = (out / "order-service" / NOTE).read_text()
    note = json.loads(text)
    assert note["context"]["cookiecutter"]["_template"] == note["template"]
    assert PASSWORD not in text
    return str(note["template"])


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("https://ada:hunter2@git.acme.example/chassis.git", "https://git.acme.example/chassis.git"),
        ("https://hunter2@github.com/acme/chassis", "https://github.com/acme/chassis"),
        ("https://hunter2:x-oauth-basic@github.com/acme/chassis", "https://github.com/acme/chassis"),
        ("https://ada:hunter2@x@git.acme.example:8443/chassis", "https://git.acme.example:8443/chassis"),
        ("https://git.acme.example/chassis.git?private_token=hunter2", "https://git.acme.example/chassis.git"),
        ("ssh://git:hunter2@git.acme.example:22/chassis", "ssh://git@git.acme.example:22/chassis"),
        ("ssh://git@git.acme.example/chassis", "ssh://git@git.acme.example/chassis"),
        ("git+ssh://git@git.acme.example/chassis", "git+ssh://git@git.acme.example/chassis"),
        ("git@github.com:acme/chassis.git", "git@github.com:acme/chassis.git"),
        ("https://github.com/acme/chassis", "https://github.com/acme/chassis"),
        ("file:///srv/git/chassis", "file:///srv/git/chassis"),
        ("/srv/git/chassis", "/srv/git/chassis"),
        # Abbreviations of git's configuration, with and without a token. Nobody else has the abbreviation.
        ("acme:chassis", "https://git.acme.example/chassis"),
    ],
)
def test_address_of_a_clone_has_no_credentials(tmp_path: Path, written: str, address: str) -> None:
    clone = Repository(tmp_path)
    clone.init()
    clone.git("config", "remote.origin.url", written)
    # As people give git a token for all repositories.
    clone.git("config", "url.https://ada:hunter2@.insteadOf", "https://")
    clone.git("config", "url.https://ada:hunter2@git.acme.example/.insteadOf", "acme:")

    said = run(sys.executable, SOURCE / "scripts/update.py", "address", clone.folder, cwd=tmp_path)

    assert (said.returncode, said.stdout) == (0, f"{address}\n")


def test_token_of_a_cloned_template_is_not_noted(template: Repository, tmp_path: Path) -> None:
    address = "https://git.acme.example/chassis.git"
    settings = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{template.folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address.replace("git.acme", f"ada:{PASSWORD}@git.acme"),
    }

    generate(f"git+{settings['GIT_CONFIG_VALUE_0']}", tmp_path / "out", **settings)

    assert noted(tmp_path / "out") == address


@pytest.mark.parametrize(
    ("remote", "pushed", "is_noted"),
    [
        ("https://ada:hunter2@git.acme.example/chassis", True, True),
        ("https://ada:hunter2@git.acme.example/chassis", False, False),
        ("/srv/git/chassis", True, False),
        ("file:///srv/git/chassis", True, False),
        ("../empty", True, False),
    ],
)
def test_remote_of_a_clone_on_this_machine_is_noted_if_it_has_the_commit(
    template: Repository, tmp_path: Path, remote: str, pushed: bool, is_noted: bool
) -> None:
    (tmp_path / "empty").mkdir()
    Repository(tmp_path / "empty").init()
    template.git("remote", "add", "origin", remote)
    template.git("update-ref", "refs/remotes/origin/main", "HEAD")
    if not pushed:
        template.git("commit", "--quiet", "--allow-empty", "--message", "Not pushed")

    generate(template.folder, tmp_path / "out")

    assert noted(tmp_path / "out") == (remote.replace("ada:hunter2@", "") if is_noted else str(template.folder))


def test_url_is_noted_for_the_clone_of_a_clone(template: Repository, tmp_path: Path) -> None:
    template.git("remote", "add", "origin", "git@github.com:acme/chassis.git")
    template.git("update-ref", "refs/remotes/origin/main", "HEAD")

    generate(f"git+{template.folder.as_uri()}", tmp_path / "out")

    assert noted(tmp_path / "out") == "git@github.com:acme/chassis.git"


def test_copy_of_the_template_inside_of_another_repository_is_not_that_repository(
    template: Repository, tmp_path: Path
) -> None:
    other = Repository(tmp_path / "other")
    template.path(".git").rename(tmp_path / "elsewhere")
    other.folder.mkdir()
    other.init()
    template.folder.rename(other.path("copy"))
    other.git("commit", "--quiet", "--allow-empty", "--message", "Other")

    said = generate(other.path("copy"), tmp_path / "out")

    assert "warning: `make update` will not work: the template is not a git repository; link it: uvx cruft link" in said
    assert not (tmp_path / "out/order-service" / NOTE).exists()


def test_template_of_another_user_is_named_with_the_command_that_trusts_it(
    template: Repository, tmp_path: Path
) -> None:
    said = generate(template.folder, tmp_path / "out", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")

    trust = f"git config --global --add safe.directory '{template.folder}'"
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert warning == (
        "warning: `make update` will not work: the template's folder belongs to another user; "
        f"trust it: {trust}; then link it: uvx cruft link <template repository>"
    )


def test_checks_reject_a_note_with_a_token_and_name_each_place(tmp_path: Path) -> None:
    """cruft itself writes the address as it was typed, in two places. People may write one into a description."""
    address = f"https://oauth2:{PASSWORD}@git.acme.example/chassis"
    answers = {"_template": address, "description": f"Clone {address} to read it?", "registry": "ghcr.io/acme"}
    note = {"template": "git@git.acme.example:chassis", "commit": "1", "context": {"cookiecutter": answers}}
    (tmp_path / NOTE).write_text(json.dumps(note))

    said = run(sys.executable, SOURCE / "scripts/update.py", "check", cwd=tmp_path, **IDENTITY)

    assert said.returncode == 1
    assert said.stdout == (
        "error: .cruft.json has a password or token; revoke it, and write instead: "
        "context.cookiecutter._template: https://git.acme.example/chassis, "
        "context.cookiecutter.description: Clone https://git.acme.example/chassis to read it?\n"
    )


def test_checks_accept_addresses_without_a_token(tmp_path: Path) -> None:
    answers = {"_template": "ssh://git@git.acme.example/chassis", "description": "See https://acme.example/?q=a@b"}
    note = {"template": "https://git.acme.example/chassis", "skip": ["chassis"], "context": {"cookiecutter": answers}}
    (tmp_path / NOTE).write_text(json.dumps(note))

    said = run(sys.executable, SOURCE / "scripts/update.py", "check", cwd=tmp_path, **IDENTITY)

    assert (said.returncode, said.stdout) == (0, "")
