"""Finds secrets in text: header fields, query strings, `repr`s, JSON, and the messages of exceptions."""

import re
from collections.abc import Collection

REDACTED = "[redacted]"

# The values of these fields have spaces, commas and quotes in them, so the rest of the line is one.
LINE_KEYS = ("authorization", "cookie", "cookies")
# The two lines of a traceback that show code. It holds no values, and it helps to find the error.
SOURCE = re.compile(r'^[ |+]*File "[^"\n]+", line \d+.*\n.*', re.MULTILINE)
QUOTE = re.compile(r"""[bBrRuU]{0,2}(\\*)(["'])""")
NAMED_BRACKET = re.compile(r"<?[\w.]*(?=[\[{(])")
LINE_END = re.compile(r"\r|\n|\\r|\\n|$")
# A closing bracket or a comma belongs to the value unless it ends it, since a password may have one.
BARE = re.compile(
    r"""(?:(?:bearer|basic|digest|token|negotiate)[ ]+)?(?:(?![,;)\]}>]+(?:\s|$))[^\s&"'\\])*""", re.IGNORECASE
)
# The password of an address, such as that of a database: up to the last `@` before its path.
URL_PASSWORD = re.compile(r"""(://[^:/?#@\s"']*):[^/?#\s"']*@""")
CLOSING = {"(": ")", "[": "]", "{": "}"}


class SecretText:
    """Replaces values that follow one of `keys` in a text; `-`, `_`, `.` or nothing may be between a key's words.

    A value follows its key after `=`, `:` or `=>`, or after a comma where the key is quoted, as in a pair. It is a
    quoted text, a bracket with its content, the rest of the line (of authorization and cookies), or a word. Passwords
    of URLs are replaced too.
    """

    def __init__(self, keys: Collection[str]) -> None:
        # The longest first, since an alternation takes the first that matches.
        words = [r"[-_. ]?".join(map(re.escape, key.split("-"))) for key in sorted(keys, key=len, reverse=True)]
        names = "|".join(words)
        key = rf"""({names})(?:\\*["'])?(?:[ \t]*(?:=>|[=:])[ \t]*|(?<=["'])[ \t]*,[ \t]*)"""
        # An entry of pydantic's `ValidationError.errors()`.
        entry = rf"""["']loc["']: [\[(][^\])]*(?:{names})["'][^\])]*[\])].{{0,1000}}?["']input["']: """
        self._key = re.compile(rf"{key}|{entry}", re.IGNORECASE | re.DOTALL)
        # pydantic's error names the field in one line, and shows its value in the next.
        self._invalid = re.compile(
            rf"(?ims)^([^\n]*(?:{names})(?:\.\S*)?\n[^\n]*?\[type=[^\n]*?input_value=)(.*?)(, input_type=)"
        )

    def redact(self, text: str) -> str:
        """`text` without secrets."""
        if "@" in text:
            text = URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
        text = self._invalid.sub(rf"\1{REDACTED}\3", text)
        parts: list[str] = []
        done = 0
        while match := self._key.search(text, done):
            start = match.end()
            takes_line = (match[1] or "").lower().replace("_", "-").endswith(LINE_KEYS)
            end = value_end(text, start, takes_line=takes_line)
            parts += (text[done:start], REDACTED if end > start else "")
            done = end
        return "".join(parts) + text[done:] if parts else text

    def redact_traceback(self, text: str) -> str:
        """The same for a traceback, whose lines of source code stay as they are."""
        parts: list[str] = []
        done = 0
        for source in SOURCE.finditer(text):
            parts += (self.redact(text[done : source.start()]), source[0])
            done = source.end()
        return "".join(parts) + self.redact(text[done:])


def value_end(text: str, start: int, *, takes_line: bool) -> int:
    """Where the value that starts there ends; the end of the text, if it is cut off."""
    if quote := QUOTE.match(text, start):
        return _quote_end(text, quote)
    if bracket := NAMED_BRACKET.match(text, start):
        return _bracket_end(text, bracket.end())
    end = (LINE_END.search if takes_line else BARE.match)(text, start)
    return end.start() if end and takes_line else end.end() if end else start


def _quote_end(text: str, quote: re.Match[str]) -> int:
    escapes, mark = len(quote[1]), quote[2]
    end = quote.end()
    while (end := text.find(mark, end)) >= 0:
        before = end
        while before > quote.end() and text[before - 1] == "\\":
            before -= 1
        # In quotes that are escaped themselves, those inside have more escapes than the last one.
        count = end - before
        end += 1
        if count == escapes if escapes else count % 2 == 0:
            return end
    return len(text)


def _bracket_end(text: str, start: int) -> int:
    open_brackets: list[str] = []
    position = start
    while position < len(text):
        if quote := QUOTE.match(text, position):
            position = _quote_end(text, quote)
            continue
        character = text[position]
        position += 1
        if character in CLOSING:
            open_brackets.append(CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return position
    return len(text)
