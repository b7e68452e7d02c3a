"""Updates the service from its template, and opens a pull or merge request with the result.

CI runs two commands once a week, in two jobs. `prepare` runs `make update` and `make check`, and writes a commit and a
report to a folder. It executes code of the update, so its job has no token that may write. `publish` executes nothing
of it. It pushes the commit to the branch `template-update`, and opens a request or updates the open one. If the update
has conflicts, `publish` opens or updates an issue that lists them. The service may be a folder of a repository: then
the names of branch, label and titles have this folder. For the tokens, see chassis/docs/updating.md.
"""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

NOTE = Path(".cruft.json")
BRANCH = "template-update"
TITLE = "Update from the template"
GUIDE = "chassis/docs/updating.md"
NEEDS_HELP = "The template update needs a person"
# The author of the commits. Commits of anybody else on the branch are kept.
NAME, EMAIL = "Template update", "template-update@users.noreply.invalid"
SHOWN_LINES = 60
MAX_BODY = 60_000  # characters that a text may have
MAX_LABEL = 50  # characters that a label may have on GitHub
# ssh://user@host:22/path or user@host:path. The user may be missing. C:/path is a folder of Windows.
BY_SSH = re.compile(
    r"(?:(?:git\+)?ssh://(?:[^/@]*@)?(?P<host>[^/:]+)(?::\d+)?"
    r"|(?:[^/:@]+@)?(?P<short_host>[^/:@]{2,}):(?!//))/*(?P<path>.+)"
)

Json = dict[str, Any]


class FailedError(Exception):
    """A command or a request to the API failed. The text is its own message."""


def fail(reason: str) -> NoReturn:
    """Exit with an error."""
    sys.exit(f"error: {reason}")


def git(*arguments: str, **variables: str) -> str:
    """The output of git; raises FailedError with its message."""
    environment = {**os.environ, **variables}
    done = subprocess.run(["git", *arguments], check=False, capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise FailedError(done.stderr.strip())
    return done.stdout.strip()


@cache
def folder_of_service() -> str:
    """The folder of the service in its repository; empty if it is the whole repository."""
    return git("rev-parse", "--show-prefix").strip("/")


def branch() -> str:
    """The branch of the update. Each service of a repository has its own."""
    return "-".join(filter(None, (BRANCH, re.sub(r"[^A-Za-z0-9_]+", "-", folder_of_service()))))


def label() -> str:
    """The label of the issue: the name of the branch, shortened at the front of the folder."""
    excess = max(0, len(branch()) - MAX_LABEL)
    return BRANCH + branch()[len(BRANCH) + excess :]


def titled(title: str) -> str:
    """The title of a request or an issue, with the folder of the service."""
    return f"{title} ({folder_of_service()})" if folder_of_service() else title


def make(target: str, **variables: str) -> tuple[bool, str]:
    """Whether a target of the Makefile succeeds, and its output. It gets the given variables, but no token."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_TOKEN")}
    done = subprocess.run(
        ["make", "--no-print-directory", target],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**environment, "NO_COLOR": "1", **variables},
    )
    print(done.stdout, flush=True)
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)
    return done.returncode == 0, "\n".join(line for line in said.splitlines() if not line.startswith("make: *** "))


def git_settings(settings: list[tuple[str, str]]) -> dict[str, str]:
    """The environment variables that give git these settings. Command lines are visible to other processes."""
    variables = {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_TERMINAL_PROMPT": "0"}
    for number, (name, value) in enumerate(settings):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


def credentials(address: str, token: str) -> tuple[str, str]:
    """The setting of git that sends a token to one repository, and to no other."""
    encoded = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return f"http.{address}.extraHeader", f"Authorization: Basic {encoded}"


def access_to(template: str) -> dict[str, str]:
    """Environment variables with which git can read the template in CI: by HTTPS, with a token if there is one."""
    settings = []
    if by_ssh := BY_SSH.fullmatch(template):
        host, path = by_ssh["host"] or by_ssh["short_host"], by_ssh["path"]
        settings.append((f"url.https://{host}/{path}.insteadOf", template))
        template = f"https://{host}/{path}"
    if template.startswith("http") and (token := os.environ.get("TEMPLATE_TOKEN")):
        settings.append(credentials(template, token))
    return git_settings(settings)


def upgrade_items(changelog: str) -> list[str]:
    """The paragraphs and list items below each heading "Upgrading"."""
    items: list[str] = []
    wanted = fenced = False
    begins = True
    for line in changelog.splitlines():
        if line.startswith("#") and not fenced:
            wanted, begins = line.strip("# ").lower() == "upgrading", True
            continue
        fence = line.lstrip().startswith("```")
        if wanted:
            bullet = re.match(r"(\d+\.|[-*]) +", line)
            if not fenced and (bullet or (begins and line[:1].strip() and not fence)):
                items.append(f"- {line[bullet.end() :]}" if bullet else line)
            elif items:
                items[-1] += f"\n{line}"
            begins = not line
        fenced ^= fence
    return [item.rstrip() for item in items]


def upgrade_notes(note: Json, old: str, access: dict[str, str]) -> list[str]:
    """The upgrade notes of the template's CHANGELOG.md that the commit `old` did not have yet."""
    path = "/".join(filter(None, (note.get("directory"), "CHANGELOG.md")))
    with TemporaryDirectory() as folder:
        try:
            git("clone", "--quiet", "--no-checkout", "--", str(note["template"]), folder, **access)
            new = git("-C", folder, "show", f"{note['commit']}:{path}")
        except FailedError:
            return ["The CHANGELOG.md of the template could not be read."]
        try:
            known = git("-C", folder, "show", f"{old}:{path}")
        except FailedError:
            known = ""
    return [item for item in upgrade_items(new) if item not in upgrade_items(known)]


def code_block(text: str) -> str:
    """Text as a block of Markdown that nothing in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"


def note_of_template() -> Json:
    """The content of .cruft.json; exits with an error if CI cannot reach the template."""
    create = "uvx cruft link <template repository>"
    try:
        note: Json = json.loads(NOTE.read_text(encoding="utf-8"))
        template, _ = str(note["template"]), str(note["commit"])
    except OSError:
        fail(f".cruft.json is missing; create it: {create}")
    except (ValueError, TypeError):
        fail(".cruft.json is not a JSON object; resolve its conflicts, or restore an earlier version")
    except KeyError as error:
        fail(f".cruft.json has no `{error.args[0]}`; delete the file and create it: {create}")
    if "://" not in template and not BY_SSH.fullmatch(template):
        fail(f".cruft.json has the template {template!r}, a folder; set it to the address of its repository")
    return note


def prepare(folder: Path) -> None:
    """Update and check the service. Writes report.json, and update.bundle with the commit, to the folder."""
    before = note_of_template()
    access = access_to(str(before["template"]))
    updated, said = make("update", **access)
    changed = git("status", "--porcelain", ".")
    if not updated and not changed:
        fail("make update failed; see its message above")
    folder.mkdir(parents=True, exist_ok=True)
    report: Json = {"outcome": "unchanged", "body": ""}
    files = [line for line in changed.splitlines() if not line.endswith(str(NOTE))]
    if files or not updated:
        old = str(before["commit"])
        try:
            after = note_of_template()
        except SystemExit:
            after = before  # .cruft.json itself has conflicts
        notes = upgrade_notes(after, old, access)
        upgrading = "\n".join(notes) or "The template's CHANGELOG.md has no new upgrade notes."
        commits = f"from {old[:12]} to {str(after['commit'])[:12]}"
        if updated:
            report = committed(folder, commits, upgrading)
        else:
            report = {"outcome": "conflicts", "body": conflicts(commits, upgrading, said)}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    print(report["body"] or "The service is up to date with its template; there is nothing to propose.")


def committed(folder: Path, commits: str, upgrading: str) -> Json:
    """Commit the update, bundle the commit, and check the service; returns the report."""
    # The date of the last commit, so that the same update of the same commit is the same commit again.
    date = git("log", "-1", "--format=%cI")
    who = {"NAME": NAME, "EMAIL": EMAIL, "DATE": date}
    author = {f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in who.items()}
    git("add", "--all", ".")
    git("commit", "--quiet", "--no-verify", "--message", f"{titled(TITLE)}\n\n{commits.capitalize()}.", **author)
    git("branch", "--force", branch())
    git("bundle", "create", "--quiet", str(folder / "update.bundle"), f"HEAD^..{branch()}")
    files = git("diff", "--name-only", "HEAD^").splitlines()
    passed, said = make("check")
    shown = code_block("\n".join(said.splitlines()[-SHOWN_LINES:]))
    checks = "`make check` passed." if passed else f"`make check` failed. The end of its output:\n\n{shown}"
    body = f"`make update` merged the template {commits}.\n\n## Upgrading\n\n{upgrading}\n\n## Checks\n\n{checks}\n"
    return {"outcome": "updated", "body": body, "files": files}


def conflicts(commits: str, upgrading: str, said: str) -> str:
    """The text of the issue."""
    place = f" in `{folder_of_service()}`" if folder_of_service() else ""
    return f"""`make update` {commits} of the template has conflicts. Resolve them on your machine:

1. `git switch --create {branch()}`
2. `make update`{place}, which lists these conflicts:

{code_block(said)}

3. Resolve each of them as listed. Then run `make check`, commit, and open a pull or merge request.

## Upgrading

{upgrading}
"""


@dataclass(frozen=True)
class Host:
    """The API of the repository, and what its paths and fields are called."""

    api: str
    token: str
    address: str  # Commits are pushed there.
    requests: str  # The path of pull or merge requests.
    requests_query: str  # Finds those of our branch, open or closed.
    issues_query: str  # Finds the open ones.
    new_request: Json
    text: str  # The field with the text of a request or an issue.
    number: str
    url: str
    update: str  # The HTTP method.
    close: Json
    unpushable: str = ""  # The start of paths that the token may not push.
    forbidden: str = ""  # The API says this if CI may not open requests here.
    remark: str = ""  # The last paragraph of requests.
    compare: str = ""  # The page where people open the request.

    def call(self, method: str, path: str, body: Json | None = None) -> Any:
        """The response of the API; raises FailedError with its message."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, headers, method=method)  # noqa: S310 - set by CI
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")
            raise FailedError(f"{method} {self.api}/{path} responded with {error.code}: {message}") from error
        except OSError as error:
            raise FailedError(f"{method} {self.api}/{path} failed: {error}") from error

    def all_requests(self) -> list[Json]:
        """The requests for our branch, open or closed."""
        return list(self.call("GET", f"{self.requests}?{self.requests_query}"))

    def open_issues(self) -> list[Json]:
        """The open issues with our label."""
        issues = self.call("GET", f"issues?labels={label()}&{self.issues_query}")
        return [issue for issue in issues if "pull_request" not in issue]  # some APIs list both

    def create(self, kind: str, new: Json) -> Any:
        """Create a request or an issue; returns its address."""
        return self.call("POST", kind, new)[self.url]

    def edit(self, kind: str, item: Json, changes: Json) -> None:
        """Change a request or an issue."""
        self.call(self.update, f"{kind}/{item[self.number]}", changes)


def push(host: Host, bundle: Path) -> str | None:
    """Push the commit of the bundle; returns it. Pushes nothing and returns None over commits of other people."""
    git("fetch", "--quiet", str(bundle), branch())
    commit = git("rev-parse", "FETCH_HEAD")
    access = git_settings([credentials(host.address, host.token)])
    there = git("ls-remote", "--heads", host.address, f"refs/heads/{branch()}", **access).partition("\t")[0]
    if there == commit:
        return commit
    if there:
        git("fetch", "--quiet", host.address, branch(), **access)
        if git("log", "-1", "--format=%ce", "FETCH_HEAD") != EMAIL:
            return None
    lease = f"--force-with-lease=refs/heads/{branch()}:{there}"
    git("push", "--quiet", lease, host.address, f"{commit}:refs/heads/{branch()}", **access)
    return commit


def report_issue(host: Host, title: str, body: str) -> None:
    """Open an issue, or update the one that is open."""
    if issues := host.open_issues():
        issue = issues[0]
        if (issue["title"], str(issue.get(host.text)).strip()) == (title, body.strip()):
            print(f"Nothing changed since the last run; the issue is still open: {issue[host.url]}")
            return
        host.edit("issues", issue, {"title": title, host.text: body})
        print(f"Updated the issue {issue[host.url]}")
    else:
        print(f"Opened the issue {host.create('issues', {'title': title, host.text: body, 'labels': [label()]})}")


def close_issues(host: Host) -> None:
    """Close our issue, because what it was about is done."""
    for issue in host.open_issues():
        host.edit("issues", issue, host.close)
        print(f"Closed the issue {issue[host.url]}")


def propose(host: Host, report: Json, bundle: Path) -> None:
    """Push the update, and open or update its request; opens an issue where the token may not do so."""
    refused = [path for path in report["files"] if host.unpushable and path.startswith(host.unpushable)]
    if refused:
        cause = f"The token of CI may not push changes of {', '.join(refused)}."
        step = f"Set TEMPLATE_UPDATE_TOKEN, see {GUIDE}, or run `make update` on your machine."
        report_issue(host, titled(NEEDS_HELP), f"{cause} {step}\n\n{report['body']}")
        return
    commit = push(host, bundle)
    if commit is None:
        print(f"The branch {branch()} has commits of other people and was not changed; merge or delete it first.")
        return
    body = "\n".join(filter(None, (report["body"], host.remark)))
    requests = host.all_requests()
    still_open = [request for request in requests if request["state"] in ("open", "opened")]
    if still_open:
        if str(still_open[0].get(host.text)).strip() == body.strip():
            print(f"Nothing changed since the last run; the request is still open: {still_open[0][host.url]}")
        else:
            host.edit(host.requests, still_open[0], {host.text: body})
            print(f"Updated {still_open[0][host.url]}")
    elif any(commit in (request.get("sha"), request.get("head", {}).get("sha")) for request in requests):
        print("Somebody closed the request for this update; the next change of the template opens another one.")
    else:
        try:
            print(f"Opened {host.create(host.requests, {**host.new_request, 'title': titled(TITLE), host.text: body})}")
        except FailedError as error:
            if not host.forbidden or host.forbidden not in str(error):
                raise
            cause = f"CI may not open requests in this repository. Allow it, see {GUIDE}, or open this one yourself:"
            report_issue(host, titled(NEEDS_HELP), f"{cause} {host.compare}\n\n{body}")
            return
    close_issues(host)


def publish(host: Host, folder: Path) -> None:
    """Propose the prepared update, or report its conflicts."""
    report: Json = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report["body"] = report["body"][:MAX_BODY]
    match report["outcome"]:
        case "updated":
            propose(host, report, folder / "update.bundle")
        case "conflicts":
            report_issue(host, titled("The template update has conflicts"), report["body"])
        case _:
            print("The service is up to date with its template; nothing was changed.")
            close_issues(host)


def main(host: Callable[[], Host], usage: str | None) -> None:
    """Run the command of the command line."""
    try:
        match sys.argv[1:]:
            case ["prepare", folder]:
                prepare(Path(folder))
            case ["publish", folder]:
                publish(host(), Path(folder))
            case _:
                sys.exit(f"error: expected one of these commands, got: {' '.join(sys.argv[1:])}\n{usage}")
    except FailedError as error:
        fail(f"{error}; check the rights of the token: see {GUIDE}")
