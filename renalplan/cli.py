"""The commands: parse, call one function, print."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from renalplan.commands import add_task, add_workers, command, make_parser, require_folder
from renalplan.errors import UsageError
from renalplan.plan_files import plan_names
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.planning import Planned


@command
def check(arguments: list[str] | None = None) -> int:
    """List every problem of a dataset."""
    parser = make_parser(
        "check", "List every problem of a dataset, a line each.", "renalplan_check 101"
    )
    add_task(parser)
    add_workers(parser, "processes to read with (default: one a core; 0: this one)")
    given = parser.parse_args(arguments)

    from renalplan.dataset import UNLABELLED, Dataset
    from renalplan.integrity import check_dataset, list_cases
    from renalplan.planning import default_workers
    from renalplan.progress import counter

    dataset = Dataset.open(Workspace.find(given.workspace).dataset_folder(given.task))
    found = list_cases(dataset)[1]
    count = len(found)
    workers = default_workers(count) if given.workers is None else given.workers
    with counter(count, "check") as advance:
        problems = check_dataset(dataset, workers=workers, on_case=lambda _: advance())
    for line in problems:
        print(line)
    extra = sum(case.images[0].parent.name == UNLABELLED for case in found)
    more = f" ({extra} of them unlabelled)" if extra else ""
    print(f"{dataset.name}: {count} cases{more}, {len(problems)} problems.")
    return 2 if problems else 0


@command
def plan_and_preprocess(arguments: list[str] | None = None) -> int:
    """Plan and preprocess a dataset."""
    parser = make_parser(
        "plan_and_preprocess",
        "Measure a dataset, plan spacing, patch size and stages, and preprocess it. "
        "Running it again does only what is missing or out of date; without planning options (or with "
        "the planner's name alone) it plans as last time.",
        "renalplan_plan_and_preprocess 101 --gpu_memory 10",
    )
    add_task(parser)
    add_workers(parser, "processes (default: one a core; 0: this one)")
    parser.add_argument(
        "--planner",
        help="renal (default), nnunet, resenc_m, resenc_l, resenc_xl, bisc, coarse_to_fine",
    )
    parser.add_argument("--gpu_memory", type=float, metavar="GB", help="memory target of training")
    parser.add_argument(
        "--cascade",
        choices=("auto", "none", "locate", "lowres"),
        help="stages: decided from the data (default), one, kidney regions first, or low resolution first",
    )
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="target spacing in mm"
    )
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="scale CT from these HU to 0..1, e.g. -200 500 (default: by the foreground's statistics)",
    )
    parser.add_argument(
        "--base_features", type=int, help="channels of the first level (default 32)"
    )
    parser.add_argument("--plan_name", help="name of the plan (default: the planner's)")
    parser.add_argument(
        "--configuration", nargs="+", help="what to preprocess (default: the plan's)"
    )
    parser.add_argument("--replan", action="store_true", help="replace an existing (edited) plan")
    given = parser.parse_args(arguments)

    from renalplan.planners.options import PlanOptions
    from renalplan.planning import plan_and_preprocess as run

    wishes = {
        "planner": given.planner,
        "gpu_memory_gb": given.gpu_memory,
        "cascade": given.cascade,
        "spacing": tuple(given.spacing) if given.spacing else None,
        "window": tuple(given.window) if given.window else None,
        "base_features": given.base_features,
        "name": given.plan_name,
    }
    stated = {name: value for name, value in wishes.items() if value is not None}
    options = PlanOptions(**stated) if stated else None
    planned = run(
        given.task,
        options=options,
        configurations=given.configuration,
        workspace=Workspace.find(given.workspace),
        workers=given.workers,
        replan=given.replan,
        remember=stated.keys() <= {"planner", "name"},
    )
    _print_plan(planned)
    return 0


def _print_plan(planned: Planned) -> None:
    plan = planned.plan
    edited = " (edited by hand, honoured)" if planned.edited else ""
    print(f"plan {plan.name}{edited}: {planned.folder / 'plan.json'}")
    if planned.replaced:
        print(f"  this replaces the plan that stood there: {planned.replaced}")
    for stage in plan.run():
        forecast = f", about {stage.forecast.training_memory_gb:.1f} GB" if stage.forecast else ""
        spacing = " x ".join("own" if s is None else f"{s:.3g}" for s in stage.spacing)
        patch = " x ".join(str(n) for n in stage.patch_size)
        print(
            f"  {stage.name}: {stage.region}, spacing {spacing} mm ({', '.join(plan.axes)}), "
            f"patch {patch}, batch {stage.batch_size}{forecast}"
        )
    for warning in plan.warnings:
        print(f"  warning: {warning}")
    state = f"{planned.stored} cases preprocessed" if planned.stored else "everything is up to date"
    choice = f" --plan {plan.name}" if len(plan_names(planned.folder.parent)) > 1 else ""
    trainer = {"bisc": "BiSCUNet", "coarse_to_fine": "CoarseToFine"}.get(plan.planner, "UNet")
    trainer = "GroupTraining" if planned.boxed else trainer
    print(f"{state}. Next: renalplan_train {plan.dataset} 0 {trainer}{choice}")


@command
def train(arguments: list[str] | None = None) -> int:
    """Train a model."""
    parser = make_parser(
        "train",
        "Train one fold (0-4), all cases (all) or every fold in turn (cv), then validate on the "
        "held-out cases. Running it again continues.",
        "renalplan_train 101 0 UNet --set epochs=200",
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="dataset folder, name, or number")
    parser.add_argument("fold", metavar="FOLD", nargs="?", help="0-4, all, or cv")
    parser.add_argument(
        "trainer", metavar="TRAINER", nargs="?", default="UNet", help="default UNet"
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
    parser.add_argument("--plan", help="which plan, if there are several")
    parser.add_argument("--configuration", help="which of the plan's configurations")
    parser.add_argument("--name", help="name of the model folder (default: the trainer's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: fp32 on a CPU, half precision on a GPU",
    )
    parser.add_argument(
        "--restart", action="store_true", help="delete what this fold has, begin anew"
    )
    given = parser.parse_args(arguments)
    if given.help_trainer:
        return _show_settings(given.help_trainer)
    if given.task is None or given.fold is None:
        parser.error("TASK and FOLD are needed")

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
        workers=given.workers,
        workspace=Workspace.find(given.workspace),
        restart=given.restart,
    )
    for fold, dice in trained.folds.items():
        scores = ", ".join(f"{name} {value:.3f}" for name, value in dice.items())
        print(f"fold {fold}: {'mean Dice of held-out cases: ' + scores if scores else 'trained'}")
    print(f"model: {trained.model}")
    return 0


def _show_settings(trainer: str) -> int:
    from renalplan.trainers.registry import find_trainer
    from renalplan.trainers.settings import flat_settings

    kind = find_trainer(trainer)
    summary = (kind.__doc__ or "").strip().partition("\n")[0]
    print(f"{trainer}: {summary}" if summary else trainer)
    for name, (value, text) in flat_settings(kind.Settings()).items():
        print(f"  {name}={value}" + (f"  ({text})" if text else ""))
    return 0


@command
def predict(arguments: list[str] | None = None) -> int:
    """Segment scans."""
    parser = make_parser(
        "predict",
        "Segment every scan of a folder, averaging a model's folds. Outputs lie on exactly the "
        "scans' own grids. Running it again continues.",
        "renalplan_predict -i scans -o segmentations",
    )
    parser.add_argument(
        "-i", dest="images", type=Path, required=True, help="folder of scans, or one file"
    )
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder for segmentations")
    parser.add_argument("-m", dest="models", type=Path, nargs="+", help="model folders")
    parser.add_argument("-d", dest="task", help="dataset whose model to use")
    parser.add_argument("-tr", dest="trainers", nargs="+", help="its models by name")
    parser.add_argument(
        "-f", dest="folds", nargs="+", help="folds to average (default: all finished)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--step", type=float, default=0.5, help="window distance / patch size (default 0.5)"
    )
    parser.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="average over mirrored copies: a little better, eight times slower (default: no)",
    )
    parser.add_argument(
        "--save_probabilities", action="store_true", help="also write probabilities"
    )
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    parser.add_argument(
        "--plugin",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules a model may take code from",
    )
    given = parser.parse_args(arguments)

    from renalplan.imports import trust
    from renalplan.predicting import predict as run

    for module in given.plugin:
        trust(module)
    report = run(
        given.images,
        given.out,
        models=given.models,
        task=given.task,
        trainers=given.trainers,
        folds=given.folds,
        device=given.device,
        step=given.step,
        tta=given.tta,
        save_probabilities=given.save_probabilities,
        overwrite=given.overwrite,
        workspace=Workspace.find(given.workspace),
    )
    kept = f", {len(report.kept)} were there already" if report.kept else ""
    print(f"{len(report.done)} cases predicted{kept}: {given.out}")
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


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
    given = parser.parse_args(arguments)

    from renalplan.evaluation.evaluate import evaluate_folders
    from renalplan.evaluation.requirements import parse_requirements, shortfalls

    required = parse_requirements(given.require)

    out = given.out or given.predictions
    require_folder(out)
    evaluation = evaluate_folders(
        given.predictions, given.references, None, out, given.images, workers=given.workers or 0
    )
    for name, structure in evaluation.summary.structures.items():
        dice = structure.scores["dice"]
        print(f"{name}: mean Dice {dice.mean:.4f}, median {dice.median:.4f}")
    print(f"tables: {out / 'per_case.csv'}, {out / 'summary.json'}, {out / 'summary.html'}")
    missed = shortfalls(required, evaluation.summary)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


@command
def phantom(arguments: list[str] | None = None) -> int:
    """Make a synthetic dataset."""
    parser = make_parser(
        "phantom",
        "Make a dataset of synthetic renal CT with known ground truth.",
        "renalplan_phantom renalplan_workspace/raw/Dataset901_Phantom --cases 10 --test_cases 3",
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--test_cases", type=int, default=0)
    parser.add_argument("--unlabelled_cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--task", default="kidney_tumor", help="kidney_tumor, artery, compartments, boxes"
    )
    parser.add_argument("--size", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels")
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="mm")
    parser.add_argument(
        "--single_kidney_share",
        type=float,
        metavar="SHARE",
        help="of patients with one kidney, on average (default: 0.05)",
    )
    parser.add_argument("--from_masks", type=Path, help="dress these real kidney/tumor label maps")
    add_workers(parser, "processes (default: this one)")
    given = parser.parse_args(arguments)

    from renalplan.phantom import make_phantom_dataset
    from renalplan.progress import counter

    require_folder(given.out)
    if given.out.exists() and any(given.out.iterdir()):
        raise UsageError(f"{given.out} is not empty; choose a new folder.")
    total = given.cases + given.test_cases + given.unlabelled_cases
    with counter(total, "phantom") as advance:
        make_phantom_dataset(
            given.out,
            cases=given.cases,
            seed=given.seed,
            task=given.task,
            size=tuple(given.size) if given.size else None,
            spacing=tuple(given.spacing) if given.spacing else None,
            test_cases=given.test_cases,
            unlabelled_cases=given.unlabelled_cases,
            single_kidney_share=given.single_kidney_share,
            from_masks=given.from_masks,
            workers=given.workers or 0,
            progress=lambda _: advance(),
        )
    print(f"dataset: {given.out}")
    return 0
