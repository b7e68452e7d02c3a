"""Errors, programs and the digest of the pushed image, for the scripts of this folder."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import NoReturn

FOLDER = Path(__file__).parent
CACHE = FOLDER.parent / ".cache"
# Written by `make push`: lines such as ghcr.io/acme/order-service:0.1.0@sha256:…
PUSHED = CACHE / "pushed"
WHERE = {
    "helm": "see https://helm.sh/docs/intro/install/",
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


def current_cluster() -> str:
    """The cluster that kubectl and helm use; exits with an error if they know none."""
    done = subprocess.run(["kubectl", "config", "current-context"], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout.strip()
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        fail("kubectl has no current context; select a cluster: kubectl config use-context <name>")
    return "the cluster of this pod"


def without_tag(image: str) -> str:
    """The name of an image: registry.example.com:5000/order-service:1.2@sha256:… without tag and digest."""
    return re.split(r"@|:(?!.*/)", image)[0]


def check_name(image: str) -> None:
    """Exit with an error if IMAGE is empty, or more than a name."""
    if not image:
        fail("IMAGE is empty; set it to the name of the image, or remove it to use the name in the Makefile")
    if image != without_tag(image):
        fail(f"IMAGE {image!r} has a tag or a digest; set VERSION or DIGEST instead")


def check_digest(digest: str) -> None:
    """Exit with an error if DIGEST is not a digest."""
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        fail(f"DIGEST {digest!r} is invalid; it must be sha256: and 64 hexadecimal digits")


def pushed_digest(image: str) -> str:
    """The digest that `make push` got from the registry for this name and tag."""
    lines = PUSHED.read_text(encoding="utf-8").split() if PUSHED.is_file() else []
    digests = [line.rpartition("@")[2] for line in lines if line.rpartition("@")[0] == image]
    if not digests:
        name, _, version = image.rpartition(":")
        fail(
            f"{image} was not pushed from here; push it: make image push IMAGE={name} VERSION={version}, "
            "or set DIGEST=sha256:…"
        )
    return digests[-1]


def parsed(description: str | None, **places: str) -> argparse.Namespace:
    """The arguments of a script that deploys. `places` are its positional ones with their help, after the command."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("command", choices=["deploy", "diff", "undeploy"])
    for name, text in places.items():
        parser.add_argument(name, help=text)
    parser.add_argument("--context", help="context of kubectl (default: its current context)")
    parser.add_argument("--image", default="", help="name of the image, without tag")
    parser.add_argument("--version", default="", help="tag of the image")
    parser.add_argument("--digest", default="", help="digest of the image")
    parser.add_argument("--asked", default="", help="which of IMAGE and VERSION are not the default")
    parser.add_argument("--tag", default="", help="tag of an image that is already on the nodes")
    return parser.parse_args()
