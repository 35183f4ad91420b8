"""The command that compares segmentations with references."""

from __future__ import annotations

import sys
from pathlib import Path

from renalplan.cli.common import add_dask, add_workers, command, make_parser, require_folder


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
    parser.add_argument("--images", type=Path, help="scans, for the pictures")
    parser.add_argument("-o", dest="out", type=Path, help="folder for tables (default: PRED)")
    parser.add_argument(
        "--require",
        nargs="+",
        default=[],
        metavar="NAME=DICE",
        help="exit with status 1 if a structure's mean Dice is lower",
    )
    add_workers(parser, "processes (default: this one)")
    add_dask(parser, "score")
    given = parser.parse_args(arguments)

    from renalplan.evaluation.evaluate import evaluate_folders
    from renalplan.evaluation.requirements import parse_requirements, shortfalls

    required = parse_requirements(given.require)

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
    )
    for name, structure in evaluation.summary.structures.items():
        dice = structure.scores["dice"]
        print(f"{name}: mean Dice {dice.mean:.4f}, median {dice.median:.4f}")
    print(f"tables: {out / 'per_case.csv'}, {out / 'summary.json'}, {out / 'summary.html'}")
    missed = shortfalls(required, evaluation.summary)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0
