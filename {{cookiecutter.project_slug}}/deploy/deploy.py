"""Puts the service into a cluster, takes it out again, and looks whether it serves; `make` calls it.

    python deploy/deploy.py deploy <service> <overlay> [<engine> <image> [<digest>]]
    python deploy/deploy.py undeploy <service> <overlay>
    python deploy/deploy.py kind <service> <engine> <image>
    python deploy/deploy.py smoke <address> <admin address>
    python deploy/deploy.py needs <program> ...

Nothing in the working tree is changed: what an overlay doesn't say itself, such as the digest of the image that
was just pushed, is added by an overlay of its own for a moment. kubectl speaks with the cluster of its current
context, whose name is printed first.
"""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

OVERLAYS = Path(__file__).parent / "overlays"
NO_DIGEST = "@sha256:" + "0" * 64  # of no image: what a fresh overlay for production says
ROLLOUT_SECONDS = 300
ANSWER_SECONDS = 30
PORTS = (8000, 9000)
WHERE = {
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
}


def fail(reason: str) -> NoReturn:
    """End with one sentence."""
    sys.exit(f"error: {reason}")


def needs(*programs: str) -> None:
    """End if one of these isn't installed."""
    for program in programs:
        if which(program) is None:
            fail(f"{Path(program).name} is not installed" + (f"; see {WHERE[program]}" if program in WHERE else ""))


def output_of(*command: str | Path) -> str:
    """What a command prints; what it complains of is shown, and ends this as well."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail(f"{Path(command[0]).name} {command[1]} failed; what it says is above")
    return done.stdout


def run(*command: str | Path, stdin: str | None = None) -> None:
    """Run a command that speaks to whoever looks on."""
    if subprocess.run(command, check=False, input=stdin, text=True).returncode:
        fail(f"{Path(command[0]).name} {command[1]} failed; what it says is above")


class Manifests:
    """An overlay as it is sent to the API server, if need be with another image."""

    def __init__(self, overlay: str, change: dict[str, str] | None = None) -> None:
        if not (OVERLAYS / overlay / "kustomization.yaml").is_file():
            found = ", ".join(sorted(one.parent.name for one in OVERLAYS.glob("[a-z]*/kustomization.yaml")))
            fail(f"there is no overlay {overlay!r}; there are: {found}")
        self._overlay = overlay
        self.text = output_of("kubectl", "kustomize", OVERLAYS / overlay)
        if change:
            name = re.split(r"@|:(?!.*/)", self.image)[0]
            # A folder beside the overlays, because kustomize takes no absolute path. JSON is YAML.
            with TemporaryDirectory(prefix=".deploy-", dir=OVERLAYS) as folder:
                made = {"resources": [f"../{overlay}"], "images": [{"name": name, "newName": name, **change}]}
                (Path(folder) / "kustomization.yaml").write_text(json.dumps(made), encoding="utf-8")
                self.text = output_of("kubectl", "kustomize", folder)

    def with_image(self, **change: str) -> "Manifests":
        """The same with another `newName`, `newTag` or `digest`."""
        return Manifests(self._overlay, change)

    @property
    def image(self) -> str:
        """The image of the pods."""
        return self._first(r"^ +(?:- )?image: (\S+)$")

    @property
    def namespace(self) -> str:
        """Where everything goes."""
        return self._first(r"^  namespace: (\S+)$")

    @property
    def instance(self) -> str:
        """The label that everything in this overlay has, and nothing else."""
        return self._first(r"^    app.kubernetes.io/instance: (\S+)$")

    @property
    def kinds(self) -> list[str]:
        """What it is made of."""
        return sorted(set(re.findall(r"^kind: (\w+)$", self.text, re.MULTILINE)))

    def _first(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.MULTILINE)
        if found is None:
            fail(f"the overlay {self._overlay!r} has nothing like {pattern!r}")
        return found[1]


def inspected(engine: str, image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    done = subprocess.run([engine, "image", "inspect", image], check=False, capture_output=True, text=True)
    if done.returncode:
        fail(f"there is no image {image}; build it: make image")
    (found,) = json.loads(done.stdout)
    return dict(found)


def pushed_digest(engine: str, image: str) -> str:
    """The digest under which the registry has the image."""
    needs(engine)
    name = re.split(r":(?!.*/)", image)[0]
    for digest in inspected(engine, image).get("RepoDigests") or []:
        if digest.startswith(f"{name}@"):
            return str(digest.partition("@")[2])
    fail(f"{image} has no digest before a registry has it: {Path(engine).name} push {image}, or give DIGEST=sha256:…")


def apply(service: str, manifests: Manifests, *context: str) -> None:
    """Send it to the cluster, and wait until its pods are those that serve."""
    run("kubectl", *context, "apply", "--filename=-", stdin=manifests.text)
    kubectl = ["kubectl", *context, f"--namespace={manifests.namespace}"]
    rollout = [*kubectl, "rollout", "status", f"deployment/{service}", f"--timeout={ROLLOUT_SECONDS}s"]
    if subprocess.run(rollout, check=False).returncode:
        pods = f"--selector=app.kubernetes.io/instance={manifests.instance}"
        for look in (["get", "pods", "--output=wide"], ["describe", "pods"], ["logs", "--tail=50", "--prefix"]):
            subprocess.run([*kubectl, *look, pods], check=False)
        fail(f"the pods of {service} did not become ready within {ROLLOUT_SECONDS} seconds; see above")


def deploy(service: str, overlay: str, engine: str = "", image: str = "", digest: str = "") -> None:
    """Deploy an overlay; where it wants a digest and has none, that of `image`."""
    needs("kubectl")
    manifests = Manifests(overlay)
    if not digest and manifests.image.endswith(NO_DIGEST):
        digest = pushed_digest(engine, image)
    if digest:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            fail(f"{digest!r} is no digest; it is like sha256:6b86… with 64 digits")
        manifests = manifests.with_image(digest=digest)
    context = output_of("kubectl", "config", "current-context").strip()
    print(f"{context}: {manifests.image} to namespace {manifests.namespace}", flush=True)
    apply(service, manifests)


def undeploy(service: str, overlay: str) -> None:
    """Delete everything that `deploy` made but the namespace, in which others may have put something."""
    needs("kubectl")
    manifests = Manifests(overlay)
    context = output_of("kubectl", "config", "current-context").strip()
    print(f"{context}: {service} leaves namespace {manifests.namespace}", flush=True)
    kinds = ",".join(kind.lower() for kind in manifests.kinds if kind != "Namespace")
    selector = f"--selector=app.kubernetes.io/instance={manifests.instance}"
    run("kubectl", f"--namespace={manifests.namespace}", "delete", kinds, selector)
    print(f"What others put there stays. To delete it as well: kubectl delete namespace {manifests.namespace}")


def kind(service: str, engine: str, image: str) -> None:
    """Deploy the overlay `dev` with an image of this machine to a cluster in containers, and see that it serves."""
    needs(engine, "kind", "kubectl")
    if service not in output_of("kind", "get", "clusters").split():
        run("kind", "create", "cluster", f"--name={service}", "--wait=120s")
    # A tag that says which image it is: the same again is no rollout, another one is.
    tag = "dev-" + str(inspected(engine, image)["Id"]).removeprefix("sha256:")[:12]
    name = re.split(r":(?!.*/)", image)[0]
    run(engine, "tag", image, f"{name}:{tag}")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"  # what kind takes from every engine
        run(engine, "save", f"--output={archive}", f"{name}:{tag}")
        run("kind", "load", "image-archive", archive, f"--name={service}")
    context = f"--context=kind-{service}"
    manifests = Manifests("dev").with_image(newName=name, newTag=tag)
    apply(service, manifests, context)
    with forwarded("kubectl", context, f"--namespace={manifests.namespace}", service) as (address, admin):
        smoke(address, admin)
    print(f"kubectl {context} --namespace={manifests.namespace} port-forward service/{service} 8000:80")


@contextmanager
def forwarded(*kubectl_and_service: str) -> Iterator[tuple[str, str]]:
    """The addresses here of a pod's two ports."""
    *kubectl, service = kubectl_and_service
    command = [*kubectl, "port-forward", f"deployment/{service}", *(f":{port}" for port in PORTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found: dict[int, str] = {}
            for line in process.stdout or ():
                if ends := re.match(r"Forwarding from (127\.0\.0\.1:\d+) -> (\d+)", line):
                    found[int(ends[2])] = f"http://{ends[1]}"
                if len(found) == len(PORTS):
                    break
            else:
                fail("kubectl port-forward ended; what it says is above")
            yield found[PORTS[0]], found[PORTS[1]]
        finally:
            process.terminate()


def asked(address: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; a connection that isn't there yet is waited for."""
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - http, by who calls it
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()
        except OSError as error:
            if time.monotonic() > until:
                fail(f"{address} doesn't answer: {error}")
            time.sleep(0.2)


def smoke(address: str, admin: str) -> None:
    """See that it is ready, says what it offers, answers a request, and has counted it."""

    def expect(what: str, *, holds: bool, said: object) -> None:
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
        if not holds:
            fail(f"{what}: {said!r}")

    for path in ("/healthz", "/readyz"):
        status, _, body = asked(admin + path)
        expect(f"{path} answers 200", holds=status == 200, said=(status, body))
    status, _, body = asked(f"{admin}/info")
    expect("/info names the service", holds=status == 200 and b'"version"' in body, said=(status, body))
    status, _, body = asked(f"{address}/openapi.json")
    expect("/openapi.json answers 200", holds=status == 200, said=(status, body))
    paths = [path for path, methods in json.loads(body)["paths"].items() if "get" in methods and "{" not in path]
    path = paths[0] if paths else "/openapi.json"
    status, headers, body = asked(address + path)
    expect(f"GET {path} is no failure", holds=status < 500, said=(status, body))
    expect("its answer has an id", holds=bool(headers.get("x-request-id")), said=headers)
    _, _, metrics = asked(f"{admin}/metrics")
    series = rf'^http_server_request_duration_seconds_count{{.*http_route="{re.escape(path)}"'
    counted = re.search(series, metrics.decode(), re.MULTILINE)
    expect("/metrics has counted it", holds=counted is not None, said=f"no series for {path}")


if __name__ == "__main__":
    commands: list[Callable[..., None]] = [deploy, undeploy, kind, smoke, needs]
    named = {command.__name__: command for command in commands}
    if len(sys.argv) < 2 or sys.argv[1] not in named:
        sys.exit(__doc__)
    named[sys.argv[1]](*sys.argv[2:])
