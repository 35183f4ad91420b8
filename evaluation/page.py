"""What the pages have in common: the frame, the colours, tables; everything in one file.

No scripts, nothing is loaded from elsewhere. Cells and parts are HTML already: whoever makes them
escapes the names of a dataset or a file system.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

NOTHING = "&ndash;"  # in a table cell without a value
USE = "For research. Not a medical device; not for decisions on a patient's treatment."

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f8; --card: #ffffff; --ink: #1f2529;
  --soft: #5c666d; --line: #e0e4e7; --accent: #2c6e8f; --warn: #fdf3e0; --warn-line: #d9952b; }
@media (prefers-color-scheme: dark) { :root { --ground: #16191c; --card: #1e2226; --ink: #e4e8eb;
  --soft: #9aa5ad; --line: #31373d; --accent: #7db8d6; --warn: #33291a; --warn-line: #b98233; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; font-weight: 600; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 2.4rem 0 .7rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.2rem; margin: 0 0 1rem; overflow-x: auto; break-inside: avoid; }
.warn { background: var(--warn); border-color: var(--warn-line); overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .42rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } tbody tr:last-child td { border-bottom: 0; }
th { white-space: normal; vertical-align: bottom; } .left { text-align: left; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 7em;
  overflow-wrap: anywhere; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
.head { display: flex; justify-content: space-between; gap: 1rem; margin-bottom: .6rem; }
.head b { color: var(--accent); font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0; } img { display: block; max-width: 100%; height: auto; border-radius: 6px;
  background: #14171a; margin: 0 auto .6rem; }
.strip { width: 100%; height: auto; } .strip text { fill: var(--soft); font-size: 13px; }
.strip .name { text-anchor: end; fill: var(--ink); } .strip .tick { text-anchor: middle; }
.strip .grid { stroke: var(--line); } .strip .median { stroke: var(--ink); stroke-width: 2; }
.strip .box { fill: var(--soft); fill-opacity: .16; stroke: var(--soft); stroke-opacity: .5; }
.strip .whisker { stroke: var(--soft); stroke-opacity: .7; }
.strip circle { stroke: var(--card); stroke-width: .8; }
ul { padding-left: 1.2rem; margin: .3rem 0; }
@media print { body { background: #ffffff; } main { max-width: none; padding: 0; } }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A complete HTML document: the title as its heading, the parts, what it is not for."""
    return "".join(document_pieces(title, parts))


def document_pieces(title: str, parts: Iterable[str]) -> Iterator[str]:
    """The same, part by part."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n"
    )
    for part in parts:
        yield f"{part}\n"
    yield f'<p class="soft">{USE}</p>\n</main>\n</body>\n</html>\n'


def section(heading: str, *cards: str) -> list[str]:
    """A heading and its cards."""
    return [f"<h2>{escape(heading)}</h2>", *(f'<div class="card">{card}</div>' for card in cards)]


def notes(heading: str, sentences: tuple[str, ...]) -> str:
    """A list of sentences in small print."""
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<h2>{escape(heading)}</h2><ul class="soft">{listed}</ul>'


def table(head: tuple[str, ...], rows: list[list[str]], names: int = 1) -> str:
    """A table; cells are escaped already. So many columns of names begin it, then numbers."""
    top = _cells("th", head, names)
    body = "\n".join(f"<tr>{_cells('td', row, names)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cells(tag: str, cells: Sequence[str], names: int) -> str:
    left = ' class="left"'
    return "".join(
        f"<{tag}{left if 0 < i < names else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)
    )


def dot(colour: str) -> str:
    """A dot in a structure's colour."""
    return f'<span class="dot" style="background:{escape(colour)}"></span>'


def named(name: str, colour: str) -> str:
    """A structure's dot and name."""
    return f"{dot(colour)}{escape(name)}"
