"""Programs named kubectl, kind and docker that record their arguments, for tests without a cluster."""

import json
import shutil
import sys
from pathlib import Path

DIGEST = "sha256:" + "0123456789abcdef" * 4

# Renders for real. Anything else is recorded: the arguments and the standard input.
KUBECTL = """#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
if arguments[0] == "kustomize":
    sys.exit(subprocess.run(["{kubectl}", *arguments]).returncode)
if arguments[:2] == ["config", "current-context"]:
    sys.exit(print("somewhere"))
if arguments[:2] == ["config", "view"]:
    sys.exit(print("team-b", end=""))
if "port-forward" in arguments:
    print("Forwarding from 127.0.0.1:{port} -> 8000", "Forwarding from [::1]:1 -> 8000", sep="\\n")
    print("Forwarding from 127.0.0.1:{admin} -> 9000", flush=True)
    sys.stdin.read() if not sys.stdin.isatty() else None
with open("{log}", "a") as log:
    given = sys.stdin.read() if "--filename=-" in arguments else ""
    print(json.dumps([arguments, given]), file=log)
sys.exit(1 if "rollout" in arguments and os.path.exists("{log}.stuck") else 0)
"""
KIND = """#!{python}
import json, sys
if sys.argv[1:] == ["get", "clusters"]:
    sys.exit(print("other"))
with open("{log}", "a") as log:
    print(json.dumps([["kind", *sys.argv[1:]], ""]), file=log)
"""
DOCKER = """#!{python}
import json, sys
if sys.argv[1:3] == ["image", "inspect"]:
    sys.exit(print(json.dumps([{{"Id": "{digest}", "RepoDigests": {digests}}}])))
with open("{log}", "a") as log:
    print(json.dumps([["docker", *sys.argv[1:]], ""]), file=log)
"""

PYTHON = Path(sys.executable).resolve()
Recorded = tuple[list[str], str]


def install(folder: Path, name: str, program: str, log: Path, ports: tuple[int, int], **values: object) -> None:
    """Write a program into a folder. `ports` are those of the service and of its admin port, for port-forward."""
    path = folder / name
    values = {"digest": DIGEST, "digests": "[]", "kubectl": shutil.which("kubectl"), **values}
    path.write_text(program.format(python=PYTHON, log=log, port=ports[0], admin=ports[1], **values))
    path.chmod(0o755)


def recorded(log: Path) -> list[Recorded]:
    """The calls so far: arguments and standard input."""
    if not log.exists():
        return []
    return [(arguments, given) for arguments, given in map(json.loads, log.read_text().splitlines())]
