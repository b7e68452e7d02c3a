"""`PathTemplate`: the paths of an operation, such as `/products/{sku}`."""

import re
from urllib.parse import unquote

PARAMETER = re.compile(r"\{([^{}]+)\}")


class PathTemplate:
    """A path with parameters. A parameter is a segment or a part of one, as in `/reports/{name}.csv`."""

    def __init__(self, path: str) -> None:
        self.names: list[str] = PARAMETER.findall(path)
        self._segments = [segment_pattern(unquote(segment)) for segment in path.split("/")]

    def match(self, raw_path: str) -> dict[str, str] | None:
        """The values of the parameters in a path, decoded; None if it is another path."""
        given = raw_path.split("/")
        if len(given) != len(self._segments):
            return None
        values: list[str] = []
        for segment, encoded in zip(self._segments, given, strict=True):
            match = segment.fullmatch(unquote(encoded))  # decoded here, so that an encoded slash separates nothing
            if match is None:
                return None
            values += match.groups()
        return dict(zip(self.names, values, strict=True))


def segment_pattern(segment: str) -> re.Pattern[str]:
    """A segment, in which each parameter is a group."""
    literals = [re.escape(part) for part in PARAMETER.split(segment)[::2]]
    return re.compile("(.+)".join(literals), re.DOTALL)
