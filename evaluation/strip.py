"""Dice of every case as a strip plot with quartile boxes: inline SVG in the page's colours.

Drawn by hand rather than as a picture, so that it is sharp in print, follows light and dark, and
names a case when one points at its dot.
"""

from __future__ import annotations

from html import escape

import pandas as pd

WIDTH, ROW, TOP, BOTTOM, RIGHT = 720, 44, 6, 26, 16
LABEL_SHARE = 0.27  # of the width, for the structures' names
LONGEST_NAME = 26
TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
JITTER = (0, -6, 6, -3, 3, -9, 9)  # dots of successive cases, so that equal values lie side by side


def strip_plot(table: pd.DataFrame, colours: dict[str, str]) -> str:
    """Draw one row for each structure, in the order of `colours`.

    Args:
        table: One row for each case and structure, with columns case, structure and dice.
        colours: Structure -> colour of its dots.

    Returns:
        An `<svg>` element.
    """
    height = TOP + ROW * len(colours) + BOTTOM
    parts = [
        f'<svg class="strip" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Dice of every case, one row for each structure">'
    ]
    for tick in TICKS:
        x, low = _place(tick), height - BOTTOM
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{low}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 8}">{tick:.1f}</text>')
    for row, (name, colour) in enumerate(colours.items()):
        middle = TOP + ROW * row + ROW // 2
        parts += _structure(table[table["structure"] == name], name, colour, middle)
    return "\n".join([*parts, "</svg>"])


def _structure(rows: pd.DataFrame, name: str, colour: str, middle: int) -> list[str]:
    shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    parts = [
        f'<text class="name" x="{_place(0) - 14}" y="{middle + 4}">'
        f"{escape(shown)}<title>{escape(name)}</title></text>"
    ]
    low, median, high = (_place(float(rows["dice"].quantile(q))) for q in (0.25, 0.5, 0.75))
    if len(rows) > 2:  # quartiles of two cases say nothing
        parts.append(
            f'<rect class="box" x="{low}" y="{middle - 13}" width="{max(high - low, 1):.1f}" '
            'height="26" rx="3"/>'
        )
    ordered = rows.sort_values("dice", kind="stable")
    for number, (case, dice) in enumerate(zip(ordered["case"], ordered["dice"], strict=True)):
        parts.append(
            f'<circle cx="{_place(dice)}" cy="{middle + JITTER[number % len(JITTER)]}" r="3.6" '
            f'fill="{escape(colour)}"><title>{escape(case)}: {dice:.3f}</title></circle>'
        )
    parts.append(
        f'<line class="median" x1="{median}" x2="{median}" y1="{middle - 13}" y2="{middle + 13}"/>'
    )
    return parts


def _place(dice: float) -> float:
    """Dice -> horizontal position."""
    left = WIDTH * LABEL_SHARE
    return round(left + dice * (WIDTH - RIGHT - left), 1)
