"""One Python: .python-version decides, and the image and CI follow."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_image_and_ci_have_the_python_of_the_checks() -> None:
    wanted = (ROOT / ".python-version").read_text().strip()
    files = [path for path in ROOT.iterdir() if path.name == "Dockerfile" or path.name.endswith("ci.yml")]
    found = {path.name: set(re.findall(r"\bpython:(\d+\.\d+)", path.read_text())) for path in files}

    assert {name: versions for name, versions in found.items() if versions - {wanted}} == {}
