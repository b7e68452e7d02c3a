"""Prepares a local kind cluster, and tests the service in it. `make kind` calls this script.

    python deploy/kind.py load <service> <engine> <image>
    python deploy/kind.py test <service> <tag>
    python deploy/kind.py smoke <address> <admin address>
    python deploy/kind.py needs <program> ...

`load` prints the tag that the image has in the cluster.
"""

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from shared import fail, needs, output_of

RESPONSE_SECONDS = 30
PORTS = (8000, 9000)
# Ignores http_proxy: the addresses are on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def load(service: str, engine: str, image: str) -> None:
    """Load a local image into the cluster, which is created if it does not exist; prints the tag in the cluster."""
    if service not in output_of("kind", "get", "clusters").split():
        output_of("kind", "create", "cluster", f"--name={service}", "--wait=120s")
    # A tag with the ID of the image, so that only a changed image starts a rollout.
    engine_command = shlex.split(engine)
    identity = output_of(*engine_command, "image", "inspect", "--format={{.Id}}", image).strip()
    name, _, version = image.rpartition(":")
    tag = f"{version}-{identity.removeprefix('sha256:')[:12]}"
    output_of(*engine_command, "tag", image, f"{name}:{tag}")
    with TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"  # kind loads archives of docker and podman
        output_of(*engine_command, "save", f"--output={archive}", f"{name}:{tag}")
        output_of("kind", "load", "image-archive", archive, f"--name={service}")
    print(tag)


def test(service: str, tag: str) -> None:
    """Forward the ports of a pod with this tag, test the service, and say how to reach it."""
    context = ("kubectl", f"--context=kind-{service}")
    found = output_of(*context, "get", "deployments.apps", "--all-namespaces", "--output=json")
    for one in json.loads(found)["items"]:
        if any(each["image"].endswith(f":{tag}") for each in one["spec"]["template"]["spec"]["containers"]):
            break
    else:
        fail(f"no Deployment in the cluster has the image {tag}; see the messages above")
    name, kubectl = one["metadata"]["name"], (*context, f"--namespace={one['metadata']['namespace']}")
    with forwarded(*kubectl, name) as (address, admin):
        smoke(address, admin)
    print("To reach it at http://127.0.0.1:8000:")
    print(f"{' '.join(kubectl)} port-forward service/{name} 8000:80")


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
            with OPENER.open(address, timeout=RESPONSE_SECONDS) as response:
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
    commands: list[Callable[..., None]] = [load, test, smoke, needs]
    named = {command.__name__: command for command in commands}
    if len(sys.argv) < 2 or sys.argv[1] not in named:
        sys.exit(__doc__)
    named[sys.argv[1]](*sys.argv[2:])
