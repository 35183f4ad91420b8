"""The command that averages saved probabilities."""

from __future__ import annotations

import sys
from pathlib import Path

from renalplan.cli.common import add_postprocessing, command, make_parser


@command
def ensemble(arguments: list[str] | None = None) -> int:
    """Average saved probabilities."""
    parser = make_parser(
        "ensemble",
        "Average what renalplan_predict --save_probabilities wrote for the same scans, and decide the "
        "labels. A few slices are in memory at a time. Running it again continues.",
        "renalplan_ensemble by_unet by_densebiasnet -o segmentations",
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="of saved probabilities"
    )
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder for segmentations")
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="how much each folder counts, in their order (default: all alike)",
    )
    add_postprocessing(parser)
    parser.add_argument("--overwrite", action="store_true", help="average again what is there")
    given = parser.parse_args(arguments)

    from renalplan.inference.ensembling import ensemble_folders
    from renalplan.inference.probabilities import saved_cases
    from renalplan.progress import counter

    with counter(len(saved_cases(given.folders[0])), "ensemble") as advance:
        report = ensemble_folders(
            given.folders,
            given.out,
            weights=given.weights,
            postprocessing=given.postprocessing,
            overwrite=given.overwrite,
            on_case=lambda *_: advance(),
        )
    kept = f", {len(report.kept)} were there already" if report.kept else ""
    print(f"{len(report.done)} cases averaged{kept}: {given.out}")
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0
