"""The command that compares segmentations with references."""

from __future__ import annotations

import sys
from pathlib import Path

from renalplan.cli.common import add_dask, add_workers, command, make_parser, require_folder
from renalplan.errors import UsageError


@command
def evaluate(arguments: list[str] | None = None) -> int:
    """Compare segmentations with references."""
    parser = make_parser(
        "evaluate",
        "Compare a folder of segmentations with a folder of references, case by case.",
        "renalplan_evaluate segmentations Dataset101_Kidney/labelsTs",
    )
    parser.add_argument("predictions", type=Path, metavar="PRED")
    parser.add_argument("references", type=Path, metavar="GT")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="WORD",
        help="what is scored: a dataset.json or its folder (default: beside GT, or in the folder above, "
        "else all values), then NAME (of it), NAME=VALUES (your own, e.g. mass=2,3), kits (that "
        "challenge's classes); default: all structures",
    )
    parser.add_argument(
        "--tolerance",
        nargs="+",
        default=[],
        metavar="MM",
        help="of the surface Dice: MM for all, NAME=MM for one (default: 1; for kits the challenge's)",
    )
    parser.add_argument("--images", type=Path, help="scans, for the pictures")
    parser.add_argument(
        "--pictures",
        type=int,
        metavar="N",
        help="draw N cases only: the worst, a median and the best (default: every case)",
    )
    parser.add_argument("-o", dest="out", type=Path, help="folder for tables (default: PRED)")
    parser.add_argument(
        "--require",
        nargs="+",
        default=[],
        metavar="NAME=DICE",
        help="exit with status 1 if a structure's mean Dice is lower",
    )
    add_workers(parser, "processes (default: this one)")
    add_dask(parser, "score and draw")
    given = parser.parse_args(arguments)

    from renalplan.evaluation.evaluate import evaluate_folders
    from renalplan.evaluation.requirements import parse_requirements, shortfalls

    required = parse_requirements(given.require)
    if given.pictures is not None and given.pictures < 0:
        raise UsageError(f"--pictures {given.pictures}: give 0 (none) or more.")
    out = given.out or given.predictions
    require_folder(out)
    evaluation = evaluate_folders(
        given.predictions,
        given.references,
        None,
        out,
        given.images,
        workers=given.workers,
        dask=given.dask,
        pictures=given.pictures,
        labels=given.labels,
        tolerance=given.tolerance,
    )
    for name, structure in evaluation.summary.structures.items():
        dice, near = structure.scores["dice"], structure.scores["surface_dice"]
        hd95 = structure.scores["hd95_mm"].mean
        print(
            f"{name}: mean Dice {dice.mean:.4f}, median {dice.median:.4f}; surface Dice "
            f"{near.mean:.4f} at {structure.tolerance_mm:.4g} mm, HD95 {hd95:.2f} mm"
        )
    print(f"tables: {out / 'per_case.csv'}, {out / 'summary.json'}, {out / 'summary.html'}")
    missed = shortfalls(required, evaluation.summary)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0
