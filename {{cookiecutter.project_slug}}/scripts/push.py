"""Pushes the image to its registry, and notes the digest that the registry has for it.

    python scripts/push.py <engine> <image>:<version>

A deployment uses the digest that this script notes in `.cache/pushed`. The digest must be that of the registry.
Container engines also have a digest of the local image, which differs: the registry stores compressed layers.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

PUSHED = Path(".cache/pushed")
# The last line of docker, but for notes: `0.1.0: digest: sha256:… size: 1234`
DIGEST = re.compile(r"\bdigest: (sha256:[0-9a-f]{64})\b")


def push(engine: list[str], image: str) -> str:
    """Push the image; returns its digest in the registry."""
    name = Path(engine[0]).name
    offered = subprocess.run([*engine, "push", "--help"], check=False, capture_output=True, text=True)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        file.touch()
        # podman and buildah write the digest into a file. docker prints it.
        options = [f"--digestfile={file}"] if "--digestfile" in offered.stdout + offered.stderr else []
        found = ""
        with subprocess.Popen([*engine, "push", *options, image], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if match := DIGEST.search(line):
                    found = match[1]
        if process.returncode:
            sys.exit(f"error: {name} push failed; see its message above; is the image built (make image)?")
        found = file.read_text(encoding="utf-8").strip() or found
    if not found:
        sys.exit(f"error: {name} printed no digest; it pushed the image; read its digest there, and set DIGEST=…")
    return found


if __name__ == "__main__":
    engine, image = shlex.split(sys.argv[1]), sys.argv[2]
    if not engine or which(engine[0]) is None:
        sys.exit(f"error: {sys.argv[1]} is not installed; install docker or podman, or set ENGINE=<program>")
    digest = push(engine, image)
    PUSHED.parent.mkdir(exist_ok=True)
    with PUSHED.open("a", encoding="utf-8") as file:
        file.write(f"{image}@{digest}\n")
    print(f"{re.split(r':(?!.*/)', image)[0]}@{digest}")
