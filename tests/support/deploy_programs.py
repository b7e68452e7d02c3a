"""Programs named kubectl, kind and docker that record their arguments, for tests without a cluster or an engine.

Their output is that of the real programs: kubectl 1.32, and docker 28 with the image store of containerd.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from bakery import clean_environment, run
from manifests import DIGEST, Manifest
from running import needs

# Renders and converts for real. Anything else is recorded: the arguments and the standard input. A program of the shell
# and of Python at the same time, because Python starts slowly, even without its site packages, and is called often.
# kubectl takes half of the CPU time if it collects no garbage.
KUBECTL = """#!/bin/sh
''':'
case " $* " in *" kustomize "*|*" label --local "*) GOGC=off GOMAXPROCS=1 exec "{kubectl}" "$@";; esac
exec "{python}" -IS "$0" "$@"
'''
import json, os, sys
arguments = sys.argv[1:]
bare = [one for one in arguments if not one.startswith(("--context=", "--namespace="))]
if bare[:2] == ["config", "current-context"]:
    if "{context}":
        sys.exit(print("{context}"))
    sys.exit("error: current-context is not set")
if bare[0] == "api-resources":
    sys.exit(print(open("{log}.resources").read(), end=""))
if "--all-namespaces" in bare:  # what was applied
    import subprocess
    command = ["{kubectl}", "label", "--local", "--filename={log}.applied", "--output=json", "none-"]
    rest, items = subprocess.run(command, capture_output=True, text=True).stdout.lstrip(), []
    while rest:
        one, end = json.JSONDecoder().raw_decode(rest)
        items, rest = [*items, one], rest[end:].lstrip()
    sys.exit(print(json.dumps(dict(items=[one for one in items if one["kind"] == "Deployment"]))))
if bare[:2] == ["get", "jobs.batch"]:  # the Job that was applied has ended
    jobs = json.load(open("{log}.applied"))["items"]
    ended = "Failed" if os.path.exists("{log}.unmigrated") else "Complete"
    for one in jobs:
        one["status"] = dict(conditions=[dict(type=ended, status="True")])
    sys.exit(print(json.dumps(dict(items=jobs))))
if bare[0] == "get" and "--output=json" in bare:
    kinds = bare[1].split(",")
    found = []
    for one in json.load(open("{log}.objects")) if os.path.exists("{log}.objects") else []:
        group = one["apiVersion"].rpartition("/")[0]
        kind = one["kind"].lower()
        plural = kind[:-1] + "ies" if kind.endswith("y") else kind + "es" if kind.endswith("s") else kind + "s"
        if ".".join(filter(None, [plural, group])) in kinds:
            found.append(one)
    print(json.dumps(dict(apiVersion="v1", kind="List", items=found)))
    if "{forbidden}" in kinds:
        sys.exit("Error from server (Forbidden): {forbidden} is forbidden")
    sys.exit(0)
if "port-forward" in arguments:
    print("Forwarding from 127.0.0.1:{port} -> 8000", "Forwarding from [::1]:1 -> 8000", sep="\\n")
    print("Forwarding from 127.0.0.1:{admin} -> 9000", flush=True)
    sys.stdin.read() if not sys.stdin.isatty() else None
with open("{log}", "a") as log:
    given = sys.stdin.read() if "--filename=-" in arguments else ""
    if "apply" in arguments:
        open("{log}.applied", "w").write(given)
    print(json.dumps([arguments, given]), file=log)
sys.exit(1 if "rollout" in arguments and os.path.exists("{log}.stuck") else 0)
"""
RESOURCES = """\
bindings                                       v1                             true    Binding
configmaps                 cm                  v1                             true    ConfigMap
persistentvolumeclaims     pvc                 v1                             true    PersistentVolumeClaim
secrets                                        v1                             true    Secret
serviceaccounts            sa                  v1                             true    ServiceAccount
services                   svc                 v1                             true    Service
deployments                deploy              apps/v1                        true    Deployment
replicasets                rs                  apps/v1                        true    ReplicaSet
jobs                                           batch/v1                       true    Job
cronjobs                   cj                  batch/v1                       true    CronJob
horizontalpodautoscalers   hpa                 autoscaling/v2                 true    HorizontalPodAutoscaler
ingresses                  ing                 networking.k8s.io/v1           true    Ingress
networkpolicies            netpol              networking.k8s.io/v1           true    NetworkPolicy
poddisruptionbudgets       pdb                 policy/v1                      true    PodDisruptionBudget
"""
KIND = """#!{python} -IS
import json, sys
if sys.argv[1:] == ["get", "clusters"]:
    sys.exit(print("other"))
with open("{log}", "a") as log:
    print(json.dumps([["kind", *sys.argv[1:]], ""]), file=log)
"""
# `push` prints the digest of the manifest that was pushed. That of the local image index is another.
DOCKER = """#!{python} -IS
import json, sys
if sys.argv[1:3] == ["image", "inspect"]:
    sys.exit(print("{digest}"))
if sys.argv[1:] == ["push", "--help"]:
    sys.exit(print("Usage:  docker push [OPTIONS] NAME[:TAG]"))
with open("{log}", "a") as log:
    print(json.dumps([["docker", *sys.argv[1:]], ""]), file=log)
if sys.argv[1] == "push":
    tag = sys.argv[-1].rpartition(":")[2]
    print("The push refers to repository [" + sys.argv[-1].rpartition(":")[0] + "]")
    print("4f4fb700ef54: Layer already exists")
    print(tag + ": digest: {digest} size: 855")
    print("\\ni Info → Not all multiplatform-content is present and only the available "
          "single-platform image was pushed")
    print("         sha256:" + "f" * 64 + " -> {digest}")
"""

PYTHON = Path(sys.executable).resolve()
Recorded = tuple[list[str], str]


def install(folder: Path, name: str, program: str, log: Path, ports: tuple[int, int], **values: object) -> None:
    """Write a program into a folder. `ports` are those of the service and of its admin port, for port-forward."""
    path = folder / name
    log.with_name(f"{log.name}.resources").write_text(RESOURCES)
    given = {"digest": DIGEST, "kubectl": shutil.which("kubectl"), "context": "somewhere", "forbidden": "none"}
    path.write_text(program.format(python=PYTHON, log=log, port=ports[0], admin=ports[1], **{**given, **values}))
    path.chmod(0o755)


def put_objects(log: Path, *objects: dict[str, Any]) -> None:
    """Put objects into the cluster."""
    log.with_name(f"{log.name}.objects").write_text(json.dumps(objects))


def recorded(log: Path) -> list[Recorded]:
    """The calls so far: arguments and standard input."""
    if not log.exists():
        return []
    return [(arguments, given) for arguments, given in map(json.loads, log.read_text().splitlines())]


class Developer:
    """A fresh service, and programs on PATH that record their arguments."""

    def __init__(self, project: Path, folder: Path) -> None:
        needs("kubectl")
        self.project = project
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.log = folder / "told"
        # And nothing else.
        (self.programs / "python3").symlink_to(PYTHON)
        for name in ("make", "uv", "git", "awk", "sed", "mkdir", "mv", "sh"):
            found = shutil.which(name, path=clean_environment(folder)["PATH"])
            assert found, name
            (self.programs / name).symlink_to(found)
        self.ports = (0, 0)

    def has(self, name: str, program: str, **values: object) -> None:
        """Put a program there."""
        install(self.programs, name, program, self.log, self.ports, **values)

    def make(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """The exit status of make, and its output."""
        done = run("make", "--no-print-directory", *arguments, cwd=self.project, PATH=str(self.programs), **variables)
        return done.returncode, done.stdout

    def overlay(self, *changes: tuple[str, str]) -> None:
        """Edit the overlay for production."""
        overlay = self.project / "deploy/overlays/production/kustomization.yaml"
        text = overlay.read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        overlay.write_text(text)

    def applied(self) -> list[Manifest]:
        """The documents of the last `kubectl apply`."""
        text = [given for arguments, given in self.told() if "apply" in arguments][-1]
        return list(yaml.safe_load_all(text))

    def told(self) -> list[Recorded]:
        """The recorded calls."""
        return recorded(self.log)
