"""Whether a newer version of another service's OpenAPI document breaks a service that relies on an older one.

python -m chassis.client.contract contracts/catalogue.json http://catalogue/openapi.json
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..testing.openapi_document import DocumentError, OpenApiDocument
from .operations import Change, UnknownOperationError, compare

Source = str | Path | Mapping[str, Any]
OK, BROKEN, UNREADABLE = 0, 1, 2


class ContractBrokenError(AssertionError):
    """The newest version of a document breaks its consumer. The text has one line for each breaking change."""


def check_contract(contract: Source, newest: Source, *, uses: Iterable[str] = ()) -> list[Change]:
    """For tests: raise `ContractBrokenError` if `newest` breaks a consumer of `contract`. Returns the warnings.

        def test_catalogue_keeps_its_contract() -> None:
            check_contract("contracts/catalogue.json", "../catalogue/openapi.json")

    Both are paths, URLs, or what was read from JSON. With `uses`, such as `["GET /products/{sku}"]` or
    `FakeService.operations`, other operations may change. Raises `DocumentError` for other documents.
    """
    old, new = OpenApiDocument.read(contract), OpenApiDocument.read(newest)
    changes = compare(old, new, uses)
    breaking = [str(change) for change in changes if change.breaking]
    if breaking:
        raise ContractBrokenError("\n".join([f"{new.name} breaks the consumers of {old.name}:", *breaking]))
    return changes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, 1 for breaking changes, or 2 for what cannot be compared."""
    options = parser().parse_args(arguments)
    contract = Path(options.contract)
    try:
        new = OpenApiDocument.read(options.newest)
        if options.update and not contract.exists():
            write(contract, new)
            return OK
        changes = compare(OpenApiDocument.read(contract), new, options.uses)
    except (DocumentError, UnknownOperationError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return UNREADABLE
    for change in sorted(changes, key=lambda change: not change.breaking):
        print(f"{'breaking' if change.breaking else 'warning'}: {change}")  # noqa: T201
    breaking = sum(change.breaking for change in changes)
    print(f"breaking changes: {breaking}, warnings: {len(changes) - breaking}")  # noqa: T201
    if options.update:
        write(contract, new)
        return OK
    return BROKEN if breaking else OK


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    command = argparse.ArgumentParser(
        prog="python -m chassis.client.contract",
        description="Names the changes of another service's OpenAPI document that break this service.",
    )
    command.add_argument("contract", help="the document that this service relies on: a JSON file")
    command.add_argument("newest", help="the newest version of it: a JSON file or a URL")
    command.add_argument(
        "--uses", action="append", default=[], metavar="OPERATION", help="compare only this, as 'GET /products/{sku}'"
    )
    command.add_argument("--update", action="store_true", help="accept the newest version: write it into the contract")
    return command


def write(contract: Path, document: OpenApiDocument) -> None:
    """Keep a document as the contract."""
    contract.parent.mkdir(parents=True, exist_ok=True)
    contract.write_text(json.dumps(document.source, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{contract} is {document.name} now")  # noqa: T201
