"""The words of the command line: argparse, with errors of one line that name the next step."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ..configuration.schema import notation
from .arguments import Argument, Arguments
from .errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a `UsageError`."""

    def __init__(self, name: str, description: str, **options: Any) -> None:
        self.option_names: list[str] = []
        super().__init__(
            prog=f"{program()} {name}".rstrip(),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError`, instead of printing the usage."""
        raise UsageError(with_hint(message, f"for help: {self.prog} --help"))

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words behind the name of the command."""
        options, unknown = self.parse_known_args(words)
        for word in unknown:
            if word.startswith("-") and word.partition("=")[0] not in self.option_names:
                name = word.partition("=")[0]
                self.error(f"there is no option {name}{suggestion(name, self.option_names)}")
            self.error(f"there is no place for the argument {word!r}")
        return options

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument or an option, and note its name for suggestions."""
        self.option_names += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)


def program() -> str:
    """How this program was started: `python -m order_service`, or the name of its script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None:
        return os.path.basename(sys.argv[0])
    return f"python -m {spec.name.removesuffix('.__main__')}"


def with_hint(message: str, hint: str) -> str:
    """An error with its next step."""
    return f"{message} {hint[:1].upper()}{hint[1:]}" if message.endswith("?") else f"{message}; {hint}"


def suggestion(word: str, words: Iterable[str]) -> str:
    """The end of an error: the word that is closest to one that is not known."""
    close = get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


def parser_for(arguments: Arguments) -> Parser:
    """The parser of a command of the service."""
    parser = Parser(arguments.command.name, arguments.documentation)
    for argument in arguments.values:
        _add(parser, argument)
    return parser


def _add(parser: Parser, argument: Argument) -> None:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(argument)}
    if argument.is_flag:
        parser.add_argument(argument.spelling, dest=argument.name, action=argparse.BooleanOptionalAction, **options)
        return
    metavar = "{" + ",".join(argument.choices) + "}" if argument.choices else None
    if argument.is_option:
        options |= {"dest": argument.name, "required": argument.is_required, "metavar": metavar}
        if argument.is_list:
            options["action"] = "append"
        parser.add_argument(argument.spelling, **options)
        return
    if argument.is_list:
        options["nargs"] = "+"
    parser.add_argument(argument.name, metavar=metavar or argument.spelling, **options)


def _help(argument: Argument) -> str:
    """The description and the default. argparse would read a `%` as a placeholder."""
    parts = [argument.description] if argument.description else []
    if argument.is_list and argument.is_option:
        parts.append("May be repeated.")
    default = argument.default
    shown = "" if argument.is_required or argument.is_secret or default is None else notation(default)
    if shown:
        parts.append(f"Default: {shown}.")
    return " ".join(parts).replace("%", "%%")
