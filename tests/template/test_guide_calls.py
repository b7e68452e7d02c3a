"""The guide "Testing calls to other services" is followed to the letter, with the default service as the other one."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from bakery import render, run
from checks import check
from guides import follow
from running import running

PYTHON = Path(sys.executable)  # has jsonschema and the generator, which a service adds for this guide
PAGE = "testing-calls.md"
CONTRACT = "contracts/orders.json"
pytestmark = pytest.mark.long


def commands_of(guide: str) -> list[list[str]]:
    """The commands of the shell, without `uv run`."""
    text = "".join(re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("uv run ")]


def text_of(project: Path) -> str:
    """The guide."""
    return (project / "chassis/docs" / PAGE).read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the code of the guide, and with the document of another service."""
    folder = tmp_path_factory.mktemp("calls")
    project = render(folder, {})
    keep, generate = commands_of(text_of(project))
    with running(PYTHON, project, tmp_path_factory.mktemp("home")) as other:
        url = f"{other.ready().http.base_url.join('/openapi.json')}"
        command = [url if word.startswith("http://") else word for word in keep]
        done = run(PYTHON.with_name(command[0]), *command[1:], cwd=project)
        assert done.returncode == 0, done.stdout
    done = run(PYTHON.with_name(generate[0]), *generate[1:], cwd=project)
    assert done.returncode == 0, done.stdout
    (folder / "orders").mkdir()
    shutil.copy(project / CONTRACT, folder / "orders/openapi.json")
    follow(project, PAGE)
    return project


def test_code_and_tests_of_the_guide_pass(project: Path) -> None:
    run(PYTHON.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)  # the order of imports alone
    check(project, PYTHON)
    tests = ("bills", "bills_by_contract", "orders_contract", "orders_client")
    check(project, PYTHON, ("pytest", "-q", *(f"tests/test_{name}.py" for name in tests)))


def test_breaking_change_is_named_as_in_the_guide(project: Path) -> None:
    (shown,) = re.findall(r"```console\n\$ uv run (.*?)\n(.*?)```", text_of(project), re.DOTALL)
    document = json.loads((project / CONTRACT).read_text())
    order = document["components"]["schemas"]["Order"]
    del order["properties"]["total_cents"]
    order["required"].remove("total_cents")
    (project / "newest.json").write_text(json.dumps(document))

    command = ["newest.json" if word.startswith("http://") else word for word in shlex.split(shown[0])]
    done = run(PYTHON.with_name(command[0]), *command[1:], cwd=project)
    assert (done.returncode, done.stdout) == (1, shown[1])
