"""Small pieces of HTML. Everything that comes from a run is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any


def page(title: str, parts: Iterable[str], footer: str) -> str:
    """A whole document that needs nothing from outside."""
    style = files("robolearn.run").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main>\n<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def section(title: str, *content: str) -> str:
    """A titled section; nothing when there is no content."""
    body = "\n".join(part for part in content if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(text: str, style: str = "") -> str:
    """A paragraph."""
    return f'<p class="{style}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


@dataclass(frozen=True)
class Picture:
    """PNGs of one picture, for light and dark screens, wide and narrow ones."""

    light: bytes
    dark: bytes
    light_narrow: bytes
    dark_narrow: bytes


def figure(picture: Picture, *, alt: str, caption: str) -> str:
    """A picture that fits the screen it is looked at on."""
    dark, narrow = "(prefers-color-scheme: dark)", "(max-width: 34rem)"
    sources = (
        (f"{dark} and {narrow}", picture.dark_narrow),
        (dark, picture.dark),
        (narrow, picture.light_narrow),
    )
    return (
        "<figure><picture>"
        + "".join(f'<source media="{media}" srcset="{data_uri(data, "image/png")}">' for media, data in sources)
        + f'<img src="{data_uri(picture.light, "image/png")}" alt="{escape(alt)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def video(data: bytes, *, label: str, caption: str) -> str:
    """An MP4 inside the page."""
    return (
        f'<figure><video controls muted playsinline preload="metadata" aria-label="{escape(label)}" '
        f'src="{data_uri(data, "video/mp4")}"></video><figcaption>{escape(caption)}</figcaption></figure>'
    )


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def numbers(cells: Iterable[tuple[str, str, str]]) -> str:
    """The row of large numbers: label, value, what it is out of."""
    items = [
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}"
        + (f"<small>{escape(note)}</small>" if note else "")
        + "</dd></div>"
        for label, value, note in cells
    ]
    return f'<dl class="numbers">{"".join(items)}</dl>' if items else ""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    numeric: Sequence[int] = (),
    own: int | None = None,
    code: bool = False,
) -> str:
    """A table; the first cell of a row names it.

    Args:
        numeric: columns that are aligned right.
        own: index of the row to stress.
        code: set names and values in a fixed-width face.
    """
    if not rows:
        return ""
    kinds = ["num" if i in numeric else "code" if code else "" for i in range(len(head))]
    top = "".join(f'<th scope="col" class="{k}">{escape(str(h))}</th>' for h, k in zip(head, kinds, strict=True))
    lines = []
    for index, row in enumerate(rows):
        cells = [
            f'<th scope="row" class="{k}">{escape(str(c))}</th>' if i == 0 else f'<td class="{k}">{escape(str(c))}</td>'
            for i, (c, k) in enumerate(zip(row, kinds, strict=True))
        ]
        lines.append(f"<tr{' class=own' if index == own else ''}>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def bars(rows: Sequence[tuple[str, int]], unit: str) -> str:
    """Shares of a whole as a table with bars."""
    total = sum(count for _, count in rows)
    if not total:
        return ""
    lines = [
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{count:,}</td>'
        f'<td class="num">{100 * count / total:.1f} %</td>'
        f'<td class="bar" aria-hidden="true"><span style="width:{max(100 * count / total, 0.5):.1f}%"></span></td></tr>'
        for name, count in rows
    ]
    head = f'<td></td><th scope="col" class="num">{escape(unit)}</th><th scope="col" class="num">share</th><td></td>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, *content: str) -> str:
    """Something to unfold; nothing when it is empty."""
    body = "\n".join(part for part in content if part)
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def code(text: str) -> str:
    """Preformatted text."""
    return f"<pre>{escape(text)}</pre>" if text else ""


def link(address: str, text: str) -> str:
    """A link to a file beside the report."""
    return f'<p><a href="{escape(address)}">{escape(text)}</a></p>'
