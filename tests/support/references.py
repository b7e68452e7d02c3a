"""References of documents: links, anchors, make targets, paths, settings, metrics."""

import re
from collections.abc import Iterator, Set
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

TARGET = re.compile(r"(?:^|&& |; |\$ |=\S+ )make ([a-z][a-z-]*)", re.MULTILINE)
PATH = re.compile(
    r"(?:src|tests|chassis|deploy|monitoring|scripts|docs|hooks|benchmarks|\.github)/[\w./-]*\w/?"
    r"|[\w-]+\.(?:md|toml|json|mk|lock|yml)|Dockerfile|Makefile"
)
SETTING = re.compile(r"\bAPP_[A-Z][A-Z0-9_]*[A-Z0-9]\b(?!…)")
OTEL = re.compile(r"\bOTEL_[A-Z][A-Z0-9_]*[A-Z0-9]\b")
METRIC = re.compile(
    r"\w+_total|(?:http_(?:server|client)|event_loop|handler_threads|log_lines|spans|periodic_task|background_tasks)_\w+"
)
SUFFIX = re.compile(r"_(?:total|created|bucket|count|sum)$")


class Document:
    """A Markdown file, parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self._tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(self.text)

    def code(self) -> Iterator[str]:
        """The code spans and the code blocks."""
        for token in self._tokens:
            if token.type in {"fence", "code_block"}:
                yield token.content
            for child in token.children or []:
                if child.type == "code_inline":
                    yield child.content

    def spans(self) -> Iterator[str]:
        """The code spans alone."""
        for token in self._tokens:
            yield from (child.content for child in token.children or [] if child.type == "code_inline")

    def code_blocks(self) -> list[tuple[str, str]]:
        """The language and the content of each code block, in order."""
        return [(token.info.strip(), token.content) for token in self._tokens if token.type == "fence"]

    def blocks(self, language: str) -> list[str]:
        """The code blocks in a language."""
        return [token.content for token in self._tokens if token.type == "fence" and token.info.strip() == language]

    def anchors(self) -> set[str]:
        """The anchors that GitHub makes of the headings."""
        found: set[str] = set()
        for before, token in zip(self._tokens, self._tokens[1:], strict=False):
            if before.type == "heading_open":
                slug = anchor(token)
                number = 0
                while (name := f"{slug}-{number}" if number else slug) in found:
                    number += 1
                found.add(name)
        return found

    def links(self) -> Iterator[str]:
        """Where links and pictures lead."""
        for token in self._tokens:
            for child in token.children or []:
                target = child.attrGet("href") or child.attrGet("src")
                if isinstance(target, str):
                    yield unquote(target)

    def dead_links(self) -> list[str]:
        """Links to files and anchors that are not there. Addresses of other sites are not requested."""
        return [link for link in self.links() if not self._leads_somewhere(link)]

    def _leads_somewhere(self, link: str) -> bool:
        # The branch with the rendered example, by a path that GitHub resolves.
        if re.match(r"[a-z]+:", link) or link == "../../tree/example":
            return True
        file, _, fragment = link.partition("#")
        path = self.path.parent / file if file else self.path
        if not path.exists():
            return False
        return not fragment or path.suffix != ".md" or fragment in Document(path).anchors()

    def targets(self) -> set[str]:
        """The make targets that code names."""
        return {name for code in self.code() for name in TARGET.findall(code)}

    def paths(self) -> set[str]:
        """The paths that code spans name, without those that the document's own blocks of code create."""
        created = set(re.findall(r"^# (\S+\.py)$", "\n".join(self.blocks("python")), re.MULTILINE))
        created |= set(re.findall(r"Write `([^`]+)`", self.text))
        # A folder such as benchmarks/.work is made by a command.
        named = {span.rstrip("/") for span in self.spans() if PATH.fullmatch(span) and "/." not in span}
        return {path for path in named if not any(path.endswith(name) for name in created)}

    def settings(self) -> set[str]:
        """The settings that it names, without those that its own blocks of code define."""
        own = set(re.findall(r"^ +(\w+): ", "\n".join(self.blocks("python")), re.MULTILINE))
        prefixes = tuple(f"APP_{name.upper()}" for name in own)
        return {name for name in SETTING.findall(self.text) if not name.startswith(prefixes)}

    def otel_variables(self) -> set[str]:
        """The variables of OpenTelemetry that it names."""
        return set(OTEL.findall(self.text))

    def metrics(self) -> set[str]:
        """The metrics that code spans name, without those that its own blocks of code define."""
        python = "\n".join(self.blocks("python"))
        named = {found for span in self.spans() for found in METRIC.findall(span)}
        return {name for name in named if base_name(name) not in python}


def anchor(heading: Token) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = "".join(child.content for child in heading.children or [] if child.type in {"text", "code_inline"})
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def base_name(metric: str) -> str:
    """A metric's name without the suffix of its sample."""
    return SUFFIX.sub("", metric)


def unknown_metrics(document: Document, known: Set[str]) -> set[str]:
    """The metrics that a document names and that do not exist."""
    families = {base_name(name) for name in known}
    return {name for name in document.metrics() if base_name(name) not in families}


def targets_of(*makefiles: Path) -> set[str]:
    """The targets of makefiles."""
    text = "".join(path.read_text(encoding="utf-8") for path in makefiles if path.exists())
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))
