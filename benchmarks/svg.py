"""Drawing: SVG by hand, readable on light and dark pages, with nothing to install."""

from html import escape

STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#24292f}
.title{font-size:16px;font-weight:600}.small{font-size:11.5px;fill:#57606a}.strong{font-weight:600}
.page{fill:#ffffff;stroke:#d0d7de}.grid{stroke:#e4e8ec;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}
.whisker{stroke:#24292f;stroke-width:1.2;opacity:.65}
.yardstick{fill:#57606a;stroke:#57606a}.bare{fill:#9aa4af;stroke:#9aa4af}.part{fill:#e3b27c;stroke:#e3b27c}
.usual{fill:#c2601a;stroke:#c2601a}.ours{fill:#1663c7;stroke:#1663c7}
.bar{stroke:none}.curve{fill:none;stroke-width:2.2;stroke-linejoin:round}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.small{fill:#9da7b3}.page{fill:#0d1117;stroke:#30363d}.grid{stroke:#21262d}.axis{stroke:#6e7681}
.whisker{stroke:#e6edf3}
.yardstick{fill:#aab4bf;stroke:#aab4bf}.bare{fill:#6b7683;stroke:#6b7683}.part{fill:#a97b42;stroke:#a97b42}
.usual{fill:#f0883e;stroke:#f0883e}.ours{fill:#58a6ff;stroke:#58a6ff}
.bar{stroke:none}.curve{fill:none}
}
""".replace("\n", "")


class Drawing:
    """A page with a frame, a title and a line below it; coordinates in pixels from the upper left."""

    def __init__(self, width: int, height: int, title: str, below: str) -> None:
        self.width = width
        self.height = height
        self._title = title
        self._parts: list[str] = []
        self.text(20, 30, title, "title")
        self.text(20, 49, below, "small")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """`anchor` is start, middle or end."""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled rectangle."""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect {place} rx="2" class="{kind} bar"/>')

    def whisker(self, x1: float, x2: float, y: float) -> None:
        """From the least to the most, across a bar's end."""
        self.line(x1, y, x2, y, "whisker")
        for x in (x1, x2):
            self.line(x, y - 4, x, y + 4, "whisker")

    def curve(self, points: list[tuple[float, float]], kind: str) -> None:
        """Straight from point to point, each marked."""
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{joined}" class="{kind} curve"/>')
        self._parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" class="{kind}"/>' for x, y in points]

    def __str__(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-label="{escape(self._title)}">\n'
            f"<style>{STYLE}</style>\n"
            f'<rect x=".5" y=".5" width="{self.width - 1}" height="{self.height - 1}" rx="8" class="page"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )
