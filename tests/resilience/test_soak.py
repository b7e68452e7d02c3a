"""Mixed load for a while, after which nothing is left over; `make soak` takes ten minutes."""

import json
from pathlib import Path

import pytest

from soak import soak

pytestmark = pytest.mark.long

SECONDS = 2
REQUESTS = 4000


def test_nothing_is_left_over(installed: Path) -> None:
    found = soak(installed, SECONDS, requests=REQUESTS)

    print(json.dumps(found))
    assert found["without_a_line"] == found["with_more_than_one"] == 0
    assert found["lines"] == found["counted"]
    before, after = found["before"], found["after"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert all(after[name] <= before[name] for name in before), (before, after)
    assert found["unexpected_events"] == {}
    assert found["exit_status"] == 0
    sizes = found["memory_mb"]
    assert isinstance(sizes, list)
    assert sizes[-1] - sizes[len(sizes) // 3] < 2  # MB, which is less than 1 KB for each request
