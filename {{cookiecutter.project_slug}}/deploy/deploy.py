"""Deploys the service to a cluster, deletes it, and tests it. `make` calls this script.

    python deploy/deploy.py deploy <service> <overlay> [<engine> <image> [<digest>]]
    python deploy/deploy.py undeploy <service> <overlay>
    python deploy/deploy.py kind <service> <engine> <image>
    python deploy/deploy.py smoke <address> <admin address>
    python deploy/deploy.py needs <program> ...

It changes no file of the working tree. The digest of the image is added by a temporary overlay. kubectl uses the
cluster of its current context, whose name is printed first.
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
from functools import cached_property
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

OVERLAYS = Path(__file__).parent / "overlays"
NO_DIGEST = "@sha256:" + "0" * 64  # a placeholder: the digest in a new overlay for production
ROLLOUT_SECONDS = 300
RESPONSE_SECONDS = 30
PORTS = (8000, 9000)
WHERE = {
    "kind": "see https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "kubectl": "see https://kubernetes.io/docs/tasks/tools/",
}


def fail(reason: str) -> NoReturn:
    """Exit with an error."""
    sys.exit(f"error: {reason}")


def needs(*programs: str) -> None:
    """Exit with an error if one of these programs is not installed."""
    for program in programs:
        if which(program) is None:
            fail(f"{Path(program).name} is not installed; {WHERE.get(program, 'install it first')}")


def output_of(*command: str | Path) -> str:
    """The output of a command; exits with an error if it fails."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail(f"{Path(command[0]).name} {command[1]} failed; see its message above")
    return done.stdout


def run(*command: str | Path, stdin: str | None = None) -> None:
    """Run a command and show its output; exits with an error if it fails."""
    if subprocess.run(command, check=False, input=stdin, text=True).returncode:
        fail(f"{Path(command[0]).name} {command[1]} failed; see its message above")


class Manifests:
    """The rendered manifests of an overlay, optionally with another image."""

    def __init__(self, overlay: str, change: dict[str, str] | None = None) -> None:
        if not (OVERLAYS / overlay / "kustomization.yaml").is_file():
            found = ", ".join(sorted(one.parent.name for one in OVERLAYS.glob("[a-z]*/kustomization.yaml")))
            fail(f"overlay {overlay!r} does not exist; set OVERLAY to one of: {found}")
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

    @cached_property
    def namespace(self) -> str:
        """The namespace of all objects; that of kubectl's context if the overlay names none."""
        if found := re.search(r"^  namespace: (\S+)$", self.text, re.MULTILINE):
            return found[1]
        context = output_of("kubectl", "config", "view", "--minify", "--output=jsonpath={..namespace}")
        return context.strip() or "default"

    @property
    def instance(self) -> str:
        """The value of the label that all objects of this overlay have, and no others."""
        return self._first(r"^    app.kubernetes.io/instance: (\S+)$")

    @property
    def kinds(self) -> list[str]:
        """The kinds of all objects."""
        return sorted(set(re.findall(r"^kind: (\w+)$", self.text, re.MULTILINE)))

    def _first(self, pattern: str) -> str:
        found = re.search(pattern, self.text, re.MULTILINE)
        if found is None:
            fail(f"overlay {self._overlay!r} has no line that matches {pattern!r}; compare it with overlays/dev")
        return found[1]


def inspected(engine: str, image: str) -> dict[str, Any]:
    """The details of an image, from the container engine."""
    done = subprocess.run([engine, "image", "inspect", image], check=False, capture_output=True, text=True)
    if done.returncode:
        fail(f"image {image} does not exist; build it first: make image")
    (found,) = json.loads(done.stdout)
    return dict(found)


def pushed_digest(engine: str, image: str) -> str:
    """The digest of the image in the registry."""
    needs(engine)
    name = re.split(r":(?!.*/)", image)[0]
    for digest in inspected(engine, image).get("RepoDigests") or []:
        if digest.startswith(f"{name}@"):
            return str(digest.partition("@")[2])
    fail(f"image {image} was not pushed yet; push it: {Path(engine).name} push {image}, or set DIGEST=sha256:…")


def apply(service: str, manifests: Manifests, *context: str) -> None:
    """Apply the manifests, and wait until the new pods are ready."""
    run("kubectl", *context, "apply", "--filename=-", stdin=manifests.text)
    kubectl = ["kubectl", *context, f"--namespace={manifests.namespace}"]
    rollout = [*kubectl, "rollout", "status", f"deployment/{service}", f"--timeout={ROLLOUT_SECONDS}s"]
    if subprocess.run(rollout, check=False).returncode:
        pods = f"--selector=app.kubernetes.io/instance={manifests.instance}"
        for look in (["get", "pods", "--output=wide"], ["describe", "pods"], ["logs", "--tail=50", "--prefix"]):
            subprocess.run([*kubectl, *look, pods], check=False)
        fail(f"the pods of {service} are not ready after {ROLLOUT_SECONDS} seconds; see their events and logs above")


def deploy(service: str, overlay: str, engine: str = "", image: str = "", digest: str = "") -> None:
    """Deploy an overlay; replaces a placeholder digest by the digest of `image`."""
    needs("kubectl")
    manifests = Manifests(overlay)
    if not digest and manifests.image.endswith(NO_DIGEST):
        digest = pushed_digest(engine, image)
    if digest:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            fail(f"DIGEST {digest!r} is invalid; it must be sha256: and 64 hexadecimal digits, such as: sha256:6b86…")
        manifests = manifests.with_image(digest=digest)
    context = output_of("kubectl", "config", "current-context").strip()
    print(f"Deploying {manifests.image} to namespace {manifests.namespace} of {context}", flush=True)
    apply(service, manifests)


def undeploy(service: str, overlay: str) -> None:
    """Delete all objects of an overlay but the namespace, which may contain objects of others."""
    needs("kubectl")
    manifests = Manifests(overlay)
    context = output_of("kubectl", "config", "current-context").strip()
    print(f"Deleting {service} from namespace {manifests.namespace} of {context}", flush=True)
    kinds = ",".join(kind.lower() for kind in manifests.kinds if kind != "Namespace")
    selector = f"--selector=app.kubernetes.io/instance={manifests.instance}"
    run("kubectl", f"--namespace={manifests.namespace}", "delete", kinds, selector)
    print(f"The namespace was kept. To delete it with everything in it: kubectl delete namespace {manifests.namespace}")


def kind(service: str, engine: str, image: str) -> None:
    """Deploy the overlay `dev` with a local image to a kind cluster, and test it."""
    needs(engine, "kind", "kubectl")
    if service not in output_of("kind", "get", "clusters").split():
        run("kind", "create", "cluster", f"--name={service}", "--wait=120s")
    # A tag with the ID of the image, so that only a changed image starts a rollout.
    tag = "dev-" + str(inspected(engine, image)["Id"]).removeprefix("sha256:")[:12]
    name = re.split(r":(?!.*/)", image)[0]
    run(engine, "tag", image, f"{name}:{tag}")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"  # kind loads archives of docker and podman
        run(engine, "save", f"--output={archive}", f"{name}:{tag}")
        run("kind", "load", "image-archive", archive, f"--name={service}")
    context = f"--context=kind-{service}"
    manifests = Manifests("dev").with_image(newName=name, newTag=tag)
    apply(service, manifests, context)
    with forwarded("kubectl", context, f"--namespace={manifests.namespace}", service) as (address, admin):
        smoke(address, admin)
    print("To reach it at http://127.0.0.1:8000:")
    print(f"kubectl {context} --namespace={manifests.namespace} port-forward service/{service} 8000:80")


@contextmanager
def forwarded(*kubectl_and_service: str) -> Iterator[tuple[str, str]]:
    """Local addresses that are forwarded to the two ports of a pod."""
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
                fail("kubectl port-forward failed; see its message above")
            yield found[PORTS[0]], found[PORTS[1]]
        finally:
            process.terminate()


def asked(address: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; waits until the address accepts connections."""
    until = time.monotonic() + RESPONSE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=RESPONSE_SECONDS) as response:  # noqa: S310 - always http
                headers = {name.lower(): value for name, value in response.headers.items()}
                return response.status, headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()
        except OSError as error:
            if time.monotonic() > until:
                fail(f"{address} did not respond within {RESPONSE_SECONDS} seconds: {error}; is the service running?")
            time.sleep(0.2)


def smoke(address: str, admin: str) -> None:
    """Test health, readiness, the OpenAPI document, one request and its metric."""

    def expect(what: str, *, holds: bool, said: object) -> None:
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
        if not holds:
            fail(f"expected: {what}; got: {said!r}; read the logs of the pod")

    for path in ("/healthz", "/readyz"):
        status, _, body = asked(admin + path)
        expect(f"{path} responds with 200", holds=status == 200, said=(status, body))
    status, _, body = asked(f"{admin}/info")
    expect("/info names the service", holds=status == 200 and b'"version"' in body, said=(status, body))
    status, _, body = asked(f"{address}/openapi.json")
    expect("/openapi.json responds with 200", holds=status == 200, said=(status, body))
    paths = [path for path, methods in json.loads(body)["paths"].items() if "get" in methods and "{" not in path]
    path = paths[0] if paths else "/openapi.json"
    status, headers, body = asked(address + path)
    expect(f"GET {path} responds without a server error", holds=status < 500, said=(status, body))
    expect("the response has a request ID", holds=bool(headers.get("x-request-id")), said=headers)
    _, _, metrics = asked(f"{admin}/metrics")
    series = rf'^http_server_request_duration_seconds_count{{.*http_route="{re.escape(path)}"'
    counted = re.search(series, metrics.decode(), re.MULTILINE)
    expect("/metrics counts the request", holds=counted is not None, said=f"no series for {path}")


if __name__ == "__main__":
    commands: list[Callable[..., None]] = [deploy, undeploy, kind, smoke, needs]
    named = {command.__name__: command for command in commands}
    if len(sys.argv) < 2 or sys.argv[1] not in named:
        sys.exit(__doc__)
    named[sys.argv[1]](*sys.argv[2:])
