"""The command that compares runs on the same cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.cli.common import command, make_parser, require_folder

if TYPE_CHECKING:
    from renalplan.evaluation.comparison_record import Comparison


@command
def compare(arguments: list[str] | None = None) -> int:
    """Compare runs."""
    parser = make_parser(
        "compare",
        "Compare runs that scored the same cases: paired Wilcoxon tests with Holm's correction, effect "
        "sizes, and how firm their ranking is. Writes compare.json and compare.html.",
        "renalplan_compare results/Dataset101_Kidney/UNet results/Dataset101_Kidney/BiSCUNet -o compared",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders with per_case.csv (renalplan_evaluate) or crossval.csv (a model), or such files",
    )
    parser.add_argument(
        "-o", dest="out", type=Path, default=Path(), help="folder to write into (default: this one)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="COLUMN",
        help="columns of per_case.csv (default: dice surface_dice hd95_mm); p values are corrected for "
        "all of them",
    )
    given = parser.parse_args(arguments)

    from renalplan.evaluation.comparison import METRICS, compare_runs

    require_folder(given.out)
    found = compare_runs(given.runs, given.out, given.metrics or METRICS)
    _print(found.comparison)
    print(f"written: {', '.join(str(path) for path in found.files)}")
    return 0


def _print(comparison: Comparison) -> None:
    for ranking in comparison.rankings:
        names = sorted(ranking.ranks, key=lambda name: ranking.ranks[name])
        order = ", ".join(
            f"{name} {ranking.means[name]:.4f} (best in {100 * ranking.first[name]:.0f} %)"
            for name in names
        )
        print(f"{ranking.metric} of {ranking.structure or 'all structures'}: {order}")
    for test in comparison.tests:
        if test.better is not None:
            print(
                f"{test.metric} of {test.structure}: {test.better} is better, {test.first} - "
                f"{test.second} {test.mean:+.4f}, effect {test.rank_biserial:+.2f}, p {test.p_holm:.2g} "
                "(Holm)"
            )
    if comparison.too_few:
        print(comparison.too_few)
    elif not any(test.better for test in comparison.tests):
        print(f"none of the {len(comparison.tests)} differences is significant at 5 % (Holm)")
