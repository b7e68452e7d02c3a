"""The memory of a pod: what clients can make the example keep is far less than the limit."""

import re
from pathlib import Path

import yaml

from conftest import Start
from manifests import megabytes

# As large as it can be: four bytes for each character of the name, and every line that fits.
LARGEST = {"customer": "🦜" * 200, "lines": [{"sku": "coffee", "quantity": 1000}] * 20}


def test_full_store_of_the_largest_orders_leaves_most_of_the_memory(installed: Path, start: Start) -> None:
    manifest = yaml.safe_load((installed / "deploy/base/deployment.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    limit = megabytes(container["resources"]["limits"]["memory"])
    most = re.search(r"\| `APP_MAX_ORDERS` \| `(\d+)` \|", (installed / "docs/settings.md").read_text())
    assert most
    service = start(installed).ready()

    created = 0
    while (response := service.http.post("/orders", json=LARGEST)).status_code == 201:
        created += 1
    listed = service.http.get("/orders", params={"limit": 100})

    peak = peak_megabytes(service.process.pid)
    print(f"{created} orders, {peak:.0f} MB at most of {limit:.0f} MB")
    assert (response.status_code, created) == (507, int(most[1]))
    assert len(listed.json()) == 100
    assert peak < limit / 2


def peak_megabytes(pid: int) -> float:
    """The most memory that a process had, as the kernel tells."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6
