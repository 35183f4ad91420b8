"""The command that trains."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.cli.common import add_dask, add_workers, command, make_parser
from renalplan.errors import UsageError
from renalplan.imports import trainer_entry_points
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.training import Trained


@command
def train(arguments: list[str] | None = None) -> int:
    """Train a model."""
    began = _process_began() if arguments is None else time.monotonic()
    parser = make_parser(
        "train",
        "Train one fold (0-4), all cases (all) or every fold in turn (cv), then validate on the "
        "held-out cases. Running it again continues.",
        "renalplan_train 101 0 UNet --set epochs=200",
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="dataset folder, name, or number")
    parser.add_argument("fold", metavar="FOLD", nargs="?", help="0-4, all, or cv")
    parser.add_argument(
        "trainer",
        metavar="TRAINER",
        nargs="?",
        default="UNet",
        help=f"{', '.join(sorted(trainer_entry_points()))}, or your own module:Class (default: UNet)",
    )
    add_workers(parser, "processes that prepare batches (default: all cores but one; 0: this one)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters",
    )
    parser.add_argument(
        "--help-trainer", metavar="TRAINER", help="show a trainer's hyperparameters"
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="time for the whole command, validation included: 6h, 90m, 1h30m; a probe chooses workers "
        "and epochs (at most the settings'), and Ctrl-C, once, anneals, validates and finishes",
    )
    parser.add_argument("--plan", help="which plan, if there are several")
    parser.add_argument("--configuration", help="which of the plan's configurations")
    parser.add_argument("--name", help="name of the model folder (default: the trainer's)")
    _add_hardware(parser)
    add_dask(parser, "train, one fold each")
    parser.add_argument(
        "--restart", action="store_true", help="delete what this fold has, begin anew"
    )
    given = parser.parse_intermixed_args(arguments)  # TRAINER may come after options
    if given.help_trainer:
        return _show_settings(given.help_trainer)
    if stray := next((word for word in given.set if "=" not in word), None):
        raise UsageError(
            f"--set {stray}: needs the form name=value; TASK, FOLD and TRAINER stand before --set."
        )
    if given.task is None or given.fold is None:
        parser.error("TASK and FOLD are needed: renalplan_train 101 0")

    from renalplan.training import train as run

    trained = run(
        given.task,
        given.fold,
        given.trainer,
        settings=given.set,
        plan_name=given.plan,
        configuration=given.configuration,
        name=given.name,
        device=given.device,
        precision=given.precision,
        devices=given.devices,
        accumulate=given.accumulate,
        deterministic=given.deterministic,
        workers=given.workers,
        workspace=Workspace.find(given.workspace),
        restart=given.restart,
        dask=given.dask,
        budget=given.budget,
        since=began,
    )
    if trained.reported:
        _print_scores(trained)
    return 0 if trained.stopped is None else 128 + trained.stopped


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    """What to run on."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: fp32 on a CPU, half precision on a GPU",
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs (processes on a CPU) of this machine that share every batch (default: 1; under "
        "torchrun or SLURM leave it out)",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        metavar="N",
        help="work on a batch in N parts one after the other, with the same result in less memory "
        "(default: only when memory runs out)",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights twice, bit by bit, on a GPU too (slower there; a CPU's always are)",
    )


def _print_scores(trained: Trained) -> None:
    for fold, dice in trained.folds.items():
        scores = ", ".join(f"{name} {value:.3f}" for name, value in dice.items())
        print(f"fold {fold}: {'mean Dice of held-out cases: ' + scores if scores else 'trained'}")
    print(f"model: {trained.model}")


def _process_began() -> float:
    """When this process did, by `time.monotonic()`; now where the system does not say.

    On a busy machine the interpreter's start takes seconds that whoever gave a budget waits for too.
    """
    try:
        since_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        age = 0.0
    return time.monotonic() - max(0.0, age)


def _show_settings(trainer: str) -> int:
    from renalplan.trainers.registry import find_trainer
    from renalplan.trainers.settings import flat_settings

    kind = find_trainer(trainer)
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    print(f"{trainer}: {summary}" if summary else trainer)
    for name, (value, text) in flat_settings(kind.Settings()).items():
        print(f"  {name}={value}" + (f"  ({text})" if text else ""))
    return 0
