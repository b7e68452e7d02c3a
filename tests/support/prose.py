"""Checks of plain English: the length of sentences, and words that readers do not search for.

It reads the text of Markdown, and the docstrings and comments of Python.

    python tests/support/prose.py FILE...
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

MOST_WORDS = 30
# A period that ends no sentence.
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|etc|no|approx)\.$", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=\S)")
WORD = re.compile(r"[A-Za-z0-9_`<>/'\u2019.-]*[A-Za-z0-9_`][A-Za-z0-9_`<>/'\u2019.-]*")

# Each pattern, and the term to write instead. Code is not looked at, so `HEAD` in backticks is fine.
WORDS = {
    r"turn(?:s|ed|ing)? away": "reject; under overload: shed",
    r"refus(?:e|es|ed|ing|al)\b": "reject",
    r"remember(?:s|ed|ing)?\b": "cache",
    r"\b(?:is|are|was|were|be|been) told\b": "write who informs whom",
    r"\btold\b": "say, show, name",
    r"\bat (?:your|the|a) desk\b|\bfor the desk\b|\bdesks?\b": "local, on your machine",
    r"\bstands? in for\b": "replace",
    r"\btakes? over\b": "become, continue",
    r"\bit wants\b": "it needs, it requires",
    r"\brooms?\b": "slot, capacity",
    r"\blet go\b": "close, disconnect",
    r"\bhear(?:s)? of\b": "receive",
    r"\bnobody looks\b|\blooked into\b|\blooks at it\b": "inspect",
    r"\bgrown apart\b": "incompatible",
    r"\bpatience\b": "timeout",
    r"\bgets? on\b": "make progress",
    r"\bcome(?:s)? to an end\b|\borderly end\b": "end; graceful shutdown",
    r"\bof (?:its|their) own accord\b": "by itself",
    r"\bsays? so\b": "name it",
    r"\bthe like\b": "and similar; or list them",
    r"\bwhatever becomes of\b": "always",
    r"\bnot named\b|\bis no HTTP\b": "malformed",
}
# In the code, a head is the request line or status line and the header section.
OF_DOCUMENTS = {r"(?-i:\bhead\b)": "headers, header section"}
# "The answer" of a server is a response. Those to the template's questions are answers.
ANSWER = re.compile(r"\banswer(?:s|ed|ing)?\b", re.IGNORECASE)
QUESTION = re.compile(r"question|cookiecutter|template|option|SET=|\.cruft|prompt", re.IGNORECASE)
CLAUSE_AS_SUBJECT = re.compile(r"^(?:What|Who|Whoever|Whatever)\b[^?]*$")


@dataclass(frozen=True)
class Finding:
    """A sentence to write again, and the reason."""

    line: int
    reason: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.line}: {self.reason}: {self.sentence}"


def findings(markdown: str) -> list[Finding]:
    """Everything to write again in a document, with the line in which its paragraph begins."""
    return [
        Finding(line, reason, sentence)
        for line, text in paragraphs(markdown)
        for sentence in sentences(text)
        for reason in reasons(sentence, WORDS | OF_DOCUMENTS)
    ]


def paragraphs(markdown: str) -> Iterator[tuple[int, str]]:
    """The text of each paragraph, heading, item and cell, with its line. Code spans keep their backticks."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    line = 1
    for token in tokens:
        if token.map is not None:
            line = token.map[0] + 1
        if token.type == "inline":
            yield line, plain(token.children or [])


@cache
def findings_of_python(source: str) -> list[Finding]:
    """The same for the docstrings and comments of a module. Services have many of the same modules."""
    return [
        Finding(line, reason, sentence)
        for line, text in sorted([*docstrings(source), *comments(source)])
        for sentence in sentences(re.sub(r"``?([^`]*)``?", r"``", text))
        for reason in reasons(sentence)
    ]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """The paragraphs of a module's docstrings, with the line in which each docstring begins."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            line = node.body[0].lineno if node.body else 1
            for paragraph in re.split(r"\n(?:\s*\n|\s*(?=[-*] ))", ast.get_docstring(node) or ""):
                yield line, " ".join(paragraph.split())


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The comments of a module; comments on consecutive lines are one."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#! ")
        if re.match(r"noqa|type:|pyright:|fmt:|pragma", text):
            continue
        if line != last + 1 and block:
            yield first, " ".join(block)
            block = []
        first = first if block else line
        last = line
        block.append(text)
    if block:
        yield first, " ".join(block)


def plain(tokens: list[Token]) -> str:
    """Text without markup; a code span is one word."""
    parts = []
    for token in tokens:
        if token.type == "text":
            parts.append(token.content)
        elif token.type == "code_inline":
            parts.append(f"`{token.content.replace(' ', '_').rstrip('.')}`")
        elif token.type in {"softbreak", "hardbreak"}:
            parts.append(" ")
        elif token.type == "image":
            parts.append("")
    return "".join(parts)


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph. A colon ends none, and neither does a semicolon."""
    found: list[str] = []
    for part in SENTENCE_END.split(text):
        if found and ABBREVIATION.search(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return [sentence.strip() for sentence in found if sentence.strip()]


def reasons(sentence: str, words_to_replace: dict[str, str] = WORDS) -> Iterator[str]:
    """Why a sentence should be written again."""
    words = len(WORD.findall(sentence))
    if words > MOST_WORDS:
        yield f"{words} words, write two sentences"
    prose = re.sub(r"`[^`]*`", "``", sentence)
    if CLAUSE_AS_SUBJECT.match(prose) and not prose.endswith("?") and len(prose.split()) > 4:
        yield "begin with a noun"
    for pattern, instead in words_to_replace.items():
        if found := re.search(pattern, prose, re.IGNORECASE):
            yield f"{found[0]!r} is not the standard term ({instead})"
    if (found := ANSWER.search(prose)) and not QUESTION.search(sentence):
        yield f"{found[0]!r} is not the standard term (response, respond)"


def main(paths: list[str]) -> int:
    """Print the findings of each file; returns 1 if there is one."""
    count = 0
    for path in paths:
        text = Path(path).read_text(encoding="utf-8")
        for finding in findings_of_python(text) if path.endswith(".py") else findings(text):
            print(f"{path}:{finding}")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
