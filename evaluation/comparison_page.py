"""The page of a comparison: rankings, tests and box plots, in one HTML file."""

from __future__ import annotations

from html import escape

import pandas as pd

from renalplan.evaluation.columns import higher_is_better
from renalplan.evaluation.comparison_record import Comparison, PairedTest, Ranking
from renalplan.evaluation.figures import colour_of
from renalplan.evaluation.page import NOTHING, document, named, notes, section, table
from renalplan.evaluation.runs import Run, has_column
from renalplan.evaluation.strip import strip_plot

HEADS = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "precision": "Precision",
    "surface_dice": "Surface Dice",
    "cldice": "clDice",
    "hausdorff_mm": "Hausdorff, mm",
    "hd95_mm": "Hausdorff 95 %, mm",
    "average_hausdorff_mm": "Mean surface distance (Eq. 4), mm",
    "assd_mm": "Average symmetric surface distance, mm",
    "centerline_mm": "Centerline distance, mm",
}
EVERY = "all structures, mean"


def comparison_page(comparison: Comparison, runs: list[Run]) -> str:
    """Build the page.

    Args:
        comparison: The numbers.
        runs: The tables, for the plots.

    Returns:
        A complete HTML document.
    """
    colours = colour_of(tuple(comparison.runs))
    listed = [[named(n, colours[n]), escape(path)] for n, path in comparison.runs.items()]
    parts = [
        f'<p class="soft">{len(runs)} runs on {comparison.cases} cases, '
        f"{len(comparison.tests)} tests.</p>"
    ]
    if comparison.too_few:
        parts.append(f'<div class="card warn">{escape(comparison.too_few)}</div>')
    parts += section("Runs", table(("Run", "Table"), listed, names=2))
    for metric in comparison.metrics:
        rankings = [r for r in comparison.rankings if r.metric == metric]
        tests = [t for t in comparison.tests if t.metric == metric]
        best = "more is better" if higher_is_better(metric) else "less is better"
        parts += section(
            f"{HEADS[metric]}: {best}",
            _rankings(rankings, colours),
            _tests(tests, colours),
            *_plots(runs, metric, colours),
        )
    parts.append(notes("How the numbers are made", comparison.conventions))
    return document("Runs compared", parts)


def _rankings(rankings: list[Ranking], colours: dict[str, str]) -> str:
    rows = []
    for ranking in rankings:
        for name in sorted(ranking.ranks, key=lambda n: ranking.ranks[n]):
            low, high = ranking.ranks95[name]
            cells = [escape(ranking.structure or EVERY), named(name, colours[name])]
            cells += [f"{ranking.means[name]:.4f}", f"{ranking.ranks[name]:g}"]
            cells += [f"{low:g} to {high:g}", f"{100 * ranking.first[name]:.0f} %"]
            rows.append([*cells, f"{ranking.kendall_tau:.2f}"])
    head = ("Structure", "Run", "Mean", "Rank", "Rank, 95 %")
    return table((*head, "Best in", "Kendall's tau"), rows, names=2)


def _tests(tests: list[PairedTest], colours: dict[str, str]) -> str:
    rows = []
    for test in tests:
        runs = f"{named(test.first, colours[test.first])} &minus; {named(test.second, colours[test.second])}"
        low, high = test.ci95 if test.ci95 is not None else (test.mean, test.mean)
        cells = [escape(test.structure), runs, f"{test.mean:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        cells += [f"{test.larger} / {test.smaller}", f"{test.rank_biserial:+.2f}"]
        cells += [p_text(test.p), p_text(test.p_holm)]
        rows.append([*cells, NOTHING if test.better is None else escape(test.better)])
    head = ("Structure", "Runs", "Mean difference", "95 % interval", "Cases larger / smaller")
    return table((*head, "Effect", "p", "p (Holm)", "Better"), rows, names=2)


def _plots(runs: list[Run], metric: str, colours: dict[str, str]) -> list[str]:
    plots = []
    for structure in runs[0].structures:
        if has_column(structure, metric):
            parts = []
            for run in runs:
                rows = run.table.loc[run.table["structure"] == structure, ["case", metric]]
                parts.append(rows.assign(structure=run.name))
            plot = strip_plot(pd.concat(parts), colours, metric)
            plots.append(f"<h3>{escape(structure)}</h3>{plot}")
    return plots


def p_text(p: float) -> str:
    """A p value in three digits, or that it is smaller."""
    return f"{p:.3f}" if p >= 0.001 else "&lt; 0.001"
