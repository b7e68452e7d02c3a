"""The security model in the documentation names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "security-model.md"


def test_each_threat_names_a_test_that_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| threat |")]
    named = [re.fullmatch(r"\| .+ \| .+ \| `(test_\w+)` \|", row) for row in rows]
    sources = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("test_auth*.py"))
    assert [row for row, name in zip(rows, named, strict=True) if name is None] == []
    assert [name[1] for name in named if name and f"def {name[1]}(" not in sources] == []
    assert len(rows) > 50
