"""The page: one HTML file with everything in it, worst cases first.

Decides what a reader sees and in which order. No scripts, nothing is loaded from elsewhere, and
every name from a dataset or a file system is escaped.
"""

from __future__ import annotations

import base64
from html import escape

import pandas as pd

from renalplan.evaluation.aggregate import Spread, StructureSummary, Summary, by_case
from renalplan.evaluation.cases import CENTERLINE, MISSING
from renalplan.evaluation.figures import colour_of
from renalplan.evaluation.pictures import Picture
from renalplan.evaluation.strip import strip_plot

NOTHING = "&ndash;"  # in a table cell without a value
NAMES_SHOWN = 40  # of missing or extra cases; summary.json has all
DISTANCE_HEADS = {  # what the field calls the columns, the most telling one first
    "average_hausdorff_mm": "Mean surface distance (Eq. 4)",
    CENTERLINE: "Centerline distance",
    "hd95_mm": "Hausdorff 95 %",
    "hausdorff_mm": "Hausdorff",
}
CAPTION = (
    "Solid: reference. Dashed: prediction. The slices run through the largest structure; the "
    "patient's right is on the left of the picture. "
    "R right, L left, A front, P back, H head, F feet."
)
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
th:first-child, td:first-child, .left { text-align: left; white-space: normal;
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
.strip circle { stroke: var(--card); stroke-width: .8; }
ul { padding-left: 1.2rem; margin: .3rem 0; }
@media print { body { background: #ffffff; } main { max-width: none; padding: 0; } }
"""


def summary_page(
    table: pd.DataFrame,
    summary: Summary,
    pictures: list[Picture],
    title: str = "Segmentation against reference",
) -> str:
    """Build the page.

    Args:
        table: One row for each case and structure, columns `cases.COLUMNS`.
        summary: The numbers over all cases.
        pictures: The cases that are shown, worst first; may be empty.
        title: Heading of the page.

    Returns:
        A complete HTML document.
    """
    colours = colour_of(tuple(summary.structures))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_opening(summary)}</p>',
        *_warnings(summary),
        "<h2>Structures</h2>",
        f'<div class="card">{_structure_table(summary, colours)}</div>',
        "<h2>Distances in mm, mean ± sd</h2>",
        f'<div class="card">{_distance_table(summary, colours)}</div>',
        "<h2>Dice of every case</h2>",
        f'<div class="card">{strip_plot(table, colours)}'
        '<p class="soft">A dot is a case, the line the median, the box the middle half.</p></div>',
    ]
    if pictures:
        order = "worst first" if len(pictures) == summary.cases else "the worst, a median, the best"
        parts.append(f'<h2>Cases, {order}</h2><p class="soft">{CAPTION}</p>')
        parts += [_case_card(picture, table, colours) for picture in pictures]
    parts.append(f'<h2>All cases</h2><div class="card">{_all_cases(table, colours)}</div>')
    rules = "".join(f"<li>{escape(rule)}</li>" for rule in summary.conventions)
    parts.append(f'<h2>How the numbers are made</h2><ul class="soft">{rules}</ul>')
    parts.append(f'<p class="soft">{USE}</p>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _opening(summary: Summary) -> str:
    cases = "1 case" if summary.cases == 1 else f"{summary.cases} cases"
    mean = summary.means["dice"]
    text = f"{cases}, mean Dice {mean:.3f}"
    if len(summary.structures) > 1:
        text += f" over {len(summary.structures)} structures"
    source = f" Structures named by {escape(summary.structure_source)}."
    return f"{text}.{source if summary.structure_source else ''}"


def _warnings(summary: Summary) -> list[str]:
    found = []
    if summary.missing:
        found.append(("Without prediction, counted as 0", summary.missing))
    if summary.extra:
        found.append(("Predictions without reference, counted nowhere", summary.extra))
    return [
        f'<div class="card warn"><b>{text} ({len(names)}):</b> {_names(names)}</div>'
        for text, names in found
    ]


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return escape(", ".join(names[:NAMES_SHOWN])) + more


def _structure_table(summary: Summary, colours: dict[str, str]) -> str:
    head = (
        "Structure",
        "Cases",
        "Dice, mean ± sd",
        "Median",
        "Lowest",
        "Sensitivity",
        "Precision",
        "Volume error",
        "Worst case",
    )
    rows = [
        [f"{_dot(colours[name])}{escape(name)}", *_structure_cells(found)]
        for name, found in summary.structures.items()
    ]
    return _table(head, rows)


def _structure_cells(found: StructureSummary) -> list[str]:
    dice = found.scores["dice"]
    error = found.volume_error_ml
    return [
        str(found.n),
        _mean_sd(dice, 3),
        f"{dice.median:.3f}",
        f"{dice.min:.3f}",
        f"{found.scores['sensitivity'].mean:.3f}",
        f"{found.scores['precision'].mean:.3f}",
        NOTHING if error is None else f"{error:+.1f} ml",
        escape(found.worst_case),
    ]


def _distance_table(summary: Summary, colours: dict[str, str]) -> str:
    names = [name for name in DISTANCE_HEADS if name in summary.means]
    head = ("Structure", *(DISTANCE_HEADS[name] for name in names), "Largest Hausdorff")
    rows = [
        [
            f"{_dot(colours[structure])}{escape(structure)}",
            *(_mean_sd(found.scores[n], 2) if n in found.scores else NOTHING for n in names),
            f"{found.scores['hausdorff_mm'].max:.2f}",
        ]
        for structure, found in summary.structures.items()
    ]
    return _table(head, rows)


def _mean_sd(values: Spread, digits: int) -> str:
    sd = "" if values.sd is None else f" ± {values.sd:.{digits}f}"
    return f"{values.mean:.{digits}f}{sd}"


def _case_card(picture: Picture, table: pd.DataFrame, colours: dict[str, str]) -> str:
    rows = table[table["case"] == picture.case]
    name = escape(picture.case)
    if picture.png is None:
        image = f'<p class="soft">No picture: {escape(picture.problem)}</p>'
    else:
        data = base64.b64encode(picture.png).decode("ascii")
        image = (
            f'<img src="data:image/png;base64,{data}" '
            f'alt="Axial, coronal and sagittal slice of {name} with contours">'
        )
    cells = [
        [
            f"{_dot(colours[row['structure']])}{escape(row['structure'])}",
            f"{row['dice']:.3f}",
            f"{row['reference_ml']:.1f} ml",
            NOTHING if row["note"] == MISSING else f"{row['predicted_ml']:.1f} ml",
            escape(row["note"]),
        ]
        for row in rows.to_dict("records")
    ]
    scores = _table(("Structure", "Dice", "Reference", "Prediction", "Note"), cells)
    return (
        f'<div class="card"><figure><figcaption class="head"><h3>{name}</h3>'
        f"<b>Mean Dice {rows['dice'].mean():.3f}</b></figcaption>{image}</figure>{scores}</div>"
    )


def _all_cases(table: pd.DataFrame, colours: dict[str, str]) -> str:
    dice = {(r["case"], r["structure"]): r["dice"] for r in table.to_dict("records")}
    heads = [f"{_dot(colour)}{escape(name)}" for name, colour in colours.items()]
    rows = [
        [escape(str(case)), f"{mean:.3f}", *(f"{dice[case, name]:.3f}" for name in colours)]
        for case, mean in by_case(table).items()
    ]
    return _table(("Case", "Mean Dice", *heads), rows)


def _dot(colour: str) -> str:
    return f'<span class="dot" style="background:{escape(colour)}"></span>'


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table of cells that are already escaped."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"
