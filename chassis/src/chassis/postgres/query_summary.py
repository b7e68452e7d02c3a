"""The summary of a query that names it in metrics, spans and logs: its operations and tables, without any value."""

import re

from ..cache import BoundedCache

MAX_LENGTH = 255  # semantic conventions for databases, db.query.summary
MAX_READ = 10_000  # of a query, characters
NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|(\$\w*\$).*?\1", re.DOTALL)
TOKEN = re.compile(r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)(?:\s*\.\s*(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*))*|[(),;]')
OPERATIONS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"})
BEFORE_TABLE = frozenset({"FROM", "INTO", "JOIN", "USING", "TABLE"})
# UPDATE is no operation in FOR UPDATE, FOR NO KEY UPDATE, DO UPDATE and ON UPDATE, and neither in privileges.
NOT_BEFORE_OPERATION = frozenset({"FOR", "KEY", "DO", "ON", "GRANT", "REVOKE", "THEN"})
MODIFIERS = frozenset({"ONLY", "LATERAL", "IF", "NOT", "EXISTS"})


class QuerySummaries:
    """Summaries of queries, cached by their text."""

    def __init__(self) -> None:
        self._summaries: BoundedCache[str, str] = BoundedCache(max_entry_bytes=MAX_READ)

    def __call__(self, query: str) -> str:
        summary = self._summaries.get(query)
        if summary is None:
            summary = self._summaries.add(query, summary_of(query), size_bytes=len(query))
        return summary


def summary_of(query: str) -> str:
    """Such as `SELECT orders customers` (semantic conventions for databases, "Generating a summary of the query")."""
    parts: list[str] = []
    before = ""
    takes_table = False
    for index, token in enumerate(TOKEN.finditer(NOISE.sub(" ", query[:MAX_READ]))):
        text, upper = token[0], token[0].upper()
        if takes_table and upper in MODIFIERS:
            continue
        if takes_table and text not in "(),;" and upper not in OPERATIONS:
            parts.append(text)
            takes_table = False
        elif upper in OPERATIONS and before not in NOT_BEFORE_OPERATION:
            parts.append(upper)
            takes_table = upper == "UPDATE"
        else:
            if index == 0 and upper != "WITH":
                parts.append(upper)
            takes_table = upper in BEFORE_TABLE and before != "DISTINCT"
        before = upper
    summary = ""
    for part in parts:
        if len(summary) + len(part) + 1 > MAX_LENGTH:
            break
        summary = f"{summary} {part}" if summary else part
    return summary or "UNKNOWN"
