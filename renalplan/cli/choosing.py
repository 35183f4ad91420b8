"""The command that chooses among trained models."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from renalplan.cli.common import (
    add_plugins,
    add_task,
    add_workers,
    command,
    make_parser,
    trust_plugins,
)
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.finding_best import Best


@command
def find_best(arguments: list[str] | None = None) -> int:
    """Choose among models."""
    parser = make_parser(
        "find_best",
        "Compare a dataset's models by mean Dice on the cases they held out, choose the best, try "
        "rules of postprocessing on its predictions and keep those that help. Writes "
        "postprocessing.json into the chosen model and best.json beside the models.",
        "renalplan_find_best 101 --pairs",
    )
    add_task(parser)
    parser.add_argument(
        "-tr", dest="trainers", nargs="+", help="models by name (default: all of the dataset)"
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="compare pairs of models too; predicts held-out cases again to save probabilities",
    )
    parser.add_argument(
        "--device", default="auto", help="for --pairs: auto, cpu, cuda, cuda:N, mps"
    )
    add_workers(parser, "processes that score (default: one a core; 0: this one)")
    add_plugins(parser)
    given = parser.parse_args(arguments)

    from renalplan.finding_best import find_best as run

    trust_plugins(given)
    found = run(
        given.task,
        trainers=given.trainers,
        pairs=given.pairs,
        device=given.device,
        workers=given.workers,
        workspace=Workspace.find(given.workspace),
    )
    for reason in found.best.left_out.values():
        print(f"left out: {reason}", file=sys.stderr)
    _print_table(found.best)
    print(f"written: {', '.join(str(path) for path in found.files)}")
    print(f"predict with:\n  {found.best.command}")
    return 0


def _print_table(best: Best) -> None:
    structures = list(best.dice)
    rows = [["held-out Dice", "mean", *structures]]
    for candidate in best.candidates:
        mark = " (best)" if candidate.models == best.chosen else ""
        name = " + ".join(candidate.models) + mark
        scores = [candidate.mean_dice, *(candidate.dice[s] for s in structures)]
        rows.append([name, *(f"{score:.4f}" for score in scores)])
    rows.append(["best, with rules", *(f"{v:.4f}" for v in (best.mean_dice, *best.dice.values()))])
    for rule in best.postprocessing.rules:
        values = ", ".join(
            f"{name} {value}" for name, value in rule.model_dump().items() if name != "rule"
        )
        rows.append([f"  {rule.rule}" + (f" ({values})" if values else "")])
    if not best.postprocessing.rules:
        rows.append([f"  none of the {len(best.tried)} rules that were tried helps"])
    full = [row for row in rows if len(row) > 1]
    widths = [max(len(row[column]) for row in full) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=False)]
        print("  ".join(cells).rstrip())
