"""One number of every case as box plots with their dots: inline SVG in the page's colours.

Drawn by hand rather than as a picture, so that it is sharp in print, follows light and dark, and
names a case when one points at its dot.
"""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from renalplan.evaluation.columns import SCORES

WIDTH, ROW, TOP, BOTTOM, RIGHT = 720, 44, 6, 26, 16
LEFT = WIDTH * 0.27  # for the structures' names
LONGEST_NAME = 26
TICKS = 6
JITTER = (0, -6, 6, -3, 3, -9, 9)  # dots of successive cases, so that equal values lie side by side
WHISKER = 1.5  # box lengths; beyond is an outlier (Tukey)


def strip_plot(table: pd.DataFrame, colours: dict[str, str], column: str = "dice") -> str:
    """Draw one row for each structure, in the order of `colours`.

    Args:
        table: One row for each case and structure, with columns case, structure and `column`.
        colours: Structure -> colour of its dots.
        column: A score, drawn from 0 to 1, or a distance, drawn from 0 to the largest.

    Returns:
        An `<svg>` element.
    """
    ticks = _ticks(table[column].to_numpy(float), share=column in SCORES)
    top = float(ticks[-1])
    height = TOP + ROW * len(colours) + BOTTOM
    parts = [
        f'<svg class="strip" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(column)} of every case, one row for each structure">'
    ]
    for tick in ticks:
        x, low = _place(tick / top), height - BOTTOM
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{low}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 8}">{tick:.4g}</text>')
    for row, (name, colour) in enumerate(colours.items()):
        middle = TOP + ROW * row + ROW // 2
        own = table.loc[table["structure"] == name, ["case", column]]
        ordered = own.sort_values(column, kind="stable")
        parts += _name(name, middle)
        parts += _box(ordered[column].to_numpy(float), top, middle)
        for number, (case, value) in enumerate(ordered.itertuples(index=False)):
            y = middle + JITTER[number % len(JITTER)]
            parts.append(
                f'<circle cx="{_place(value / top)}" cy="{y}" r="3.6" '
                f'fill="{escape(colour)}"><title>{escape(case)}: {value:.3f}</title></circle>'
            )
        parts += _median(float(own[column].median()) / top, middle)
    return "\n".join([*parts, "</svg>"])


def _ticks(values: NDArray, *, share: bool) -> NDArray:
    if share:
        return np.linspace(0, 1, TICKS)
    return np.asarray(MaxNLocator(TICKS).tick_values(0, max(float(values.max()), 1e-3)))


def _name(name: str, middle: int) -> list[str]:
    shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return [
        f'<text class="name" x="{_place(0) - 14}" y="{middle + 4}">'
        f"{escape(shown)}<title>{escape(name)}</title></text>"
    ]


def _box(values: NDArray, top: float, middle: int) -> list[str]:
    """The middle half, and whiskers to the outermost values that are no outliers."""
    if len(values) < 3:  # quartiles of two cases say nothing
        return []
    low, high = np.percentile(values, (25, 75))
    reach = WHISKER * (high - low)
    ends = values[values >= low - reach].min(), values[values <= high + reach].max()
    left, right, first, last = (_place(float(v) / top) for v in (low, high, *ends))
    return [
        f'<line class="whisker" x1="{first}" x2="{left}" y1="{middle}" y2="{middle}"/>',
        f'<line class="whisker" x1="{right}" x2="{last}" y1="{middle}" y2="{middle}"/>',
        f'<rect class="box" x="{left}" y="{middle - 13}" width="{max(right - left, 1):.1f}" '
        'height="26" rx="3"/>',
    ]


def _median(share: float, middle: int) -> list[str]:
    x = _place(share)
    return [f'<line class="median" x1="{x}" x2="{x}" y1="{middle - 13}" y2="{middle + 13}"/>']


def _place(share: float) -> float:
    """Share of the axis -> horizontal position."""
    return round(LEFT + share * (WIDTH - RIGHT - LEFT), 1)
