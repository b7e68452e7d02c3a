"""Certificates for TLS on this machine."""

import subprocess
from pathlib import Path


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for `name`, and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
    names = ["-addext", f"subjectAltName=DNS:{name}", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(["openssl", *words.split(), *names], check=True, capture_output=True)
    return paths
