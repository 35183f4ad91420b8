"""The page: one HTML file with everything in it, worst cases first.

Decides what a reader sees and in which order. Every name from a dataset or a file system is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

import pandas as pd

from renalplan.evaluation.aggregate import Summary
from renalplan.evaluation.columns import LESIONS, MISSING, SURFACE_DICE, has_lesions
from renalplan.evaluation.figures import colour_of
from renalplan.evaluation.page import NOTHING, document_pieces, named, notes, section, table
from renalplan.evaluation.pictures import Picture
from renalplan.evaluation.strip import strip_plot
from renalplan.evaluation.summary_tables import (
    cases_table,
    dice_table,
    distance_table,
    lesion_table,
    score_table,
    volume_table,
)

NAMES_SHOWN = 40  # of missing or extra cases; summary.json has all
CAPTION = (
    "Solid: reference. Dashed: prediction. The slices run through the largest structure; the "
    "patient's right is on the left of the picture. "
    "R right, L left, A front, P back, H head, F feet."
)
PLOT = (
    "A dot is a case, the line the median, the box the middle half, the whiskers all but outliers."
)
PLOTS = {  # column -> heading
    "dice": "Dice of every case",
    SURFACE_DICE: "Surface Dice of every case",
    "hd95_mm": "Hausdorff 95 % of every case, in mm",
}


def summary_page(
    rows: pd.DataFrame,
    summary: Summary,
    pictures: list[Picture],
    title: str = "Segmentation against reference",
    more: tuple[str, ...] = (),
) -> Iterator[str]:
    """Build the page, piece by piece: hundreds of pictures make a large one.

    Args:
        rows: One row for each case and structure, columns `columns.COLUMNS`.
        summary: The numbers over all cases.
        pictures: The cases that are shown, worst first; may be empty.
        title: Heading of the page.
        more: Further parts, HTML, after the tables of structures.

    Yields:
        Pieces that together are a complete HTML document.
    """
    yield from document_pieces(title, _parts(rows, summary, pictures, more))


def _parts(
    rows: pd.DataFrame, summary: Summary, pictures: list[Picture], more: tuple[str, ...]
) -> Iterator[str]:
    colours = colour_of(tuple(summary.structures))
    yield f'<p class="soft">{_opening(summary)}</p>'
    yield from _warnings(summary)
    yield from section("Structures", dice_table(summary, colours))
    yield from section("Other scores, mean ± sd", score_table(summary, colours))
    yield from section("Distances in mm, mean ± sd", distance_table(summary, colours))
    yield from section("Volumes in ml", volume_table(summary, colours))
    if lesions := lesion_table(summary, colours):
        yield from section("Lesions of all cases", lesions)
    yield from more
    for column, heading in PLOTS.items():
        plot = f'{strip_plot(rows, colours, column)}<p class="soft">{PLOT}</p>'
        yield from section(heading, plot)
    if pictures:
        order = "worst first" if len(pictures) == summary.cases else "the worst, a median, the best"
        yield f'<h2>Cases, {order}</h2><p class="soft">{CAPTION}</p>'
        yield from (_case_card(picture, rows, colours) for picture in pictures)
    yield from section("All cases", cases_table(rows, colours))
    yield notes("How the numbers are made", summary.conventions)


def _opening(summary: Summary) -> str:
    cases = "1 case" if summary.cases == 1 else f"{summary.cases} cases"
    text = f"{cases}, mean Dice {summary.means['dice']:.3f}"
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


def _case_card(picture: Picture, rows: pd.DataFrame, colours: dict[str, str]) -> str:
    own = rows[rows["case"] == picture.case]
    name = escape(picture.case)
    if picture.image is None:
        image = f'<p class="soft">No picture: {escape(picture.problem)}</p>'
    else:
        data = base64.b64encode(picture.image).decode("ascii")
        image = (
            f'<img src="data:image/jpeg;base64,{data}" '
            f'alt="Axial, coronal and sagittal slice of {name} with contours">'
        )
    counted = any(has_lesions(name) for name in colours)
    heads = ("Structure", "Dice", "Surface Dice", "Hausdorff 95 %", "Reference", "Prediction")
    lesions = ("Lesions found, missed, false",) if counted else ()
    cells = [_case_cells(row, colours, counted) for row in own.to_dict("records")]
    return (
        f'<div class="card"><figure><figcaption class="head"><h3>{name}</h3>'
        f"<b>Mean Dice {own['dice'].mean():.3f}</b></figcaption>{image}</figure>"
        f"{table((*heads, *lesions, 'Note'), cells)}</div>"
    )


def _case_cells(row: dict, colours: dict[str, str], counted: bool) -> list[str]:
    structure = row["structure"]
    lesions = [f"{row[name]:.0f}" for name in LESIONS] if has_lesions(structure) else [NOTHING]
    return [
        named(structure, colours[structure]),
        f"{row['dice']:.3f}",
        f"{row[SURFACE_DICE]:.3f}",
        f"{row['hd95_mm']:.1f} mm",
        f"{row['reference_ml']:.1f} ml",
        NOTHING if row["note"] == MISSING else f"{row['predicted_ml']:.1f} ml",
        *([", ".join(lesions)] if counted else []),
        escape(row["note"]),
    ]
