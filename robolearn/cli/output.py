"""What verbs print: one JSON document, or tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from robolearn.core.jsonable import jsonable


def print_json(value: Any) -> None:
    """One JSON document on stdout; numbers that JSON lacks become null."""
    print(json.dumps(jsonable(value), indent=1, ensure_ascii=False))


def columns(rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), indent: str = "") -> str:
    """Plain text columns, two spaces apart; the last one is not padded."""
    lines = [list(head), *map(list, rows)] if head else list(map(list, rows))
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(max(map(len, lines), default=0))]
    return "\n".join(
        indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        for line in lines
    )
