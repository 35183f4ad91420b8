"""The command that measures a dataset, plans and preprocesses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from renalplan.cli.common import add_dask, add_task, add_workers, command, make_parser
from renalplan.plan_files import plan_names
from renalplan.workspace import Workspace

if TYPE_CHECKING:
    from renalplan.plan import StagePlan
    from renalplan.planning import Planned


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _forecast(stage: StagePlan) -> str:
    if stage.forecast is None:
        return ""
    return f", about {stage.forecast.training_memory_gb:.1f} GB of GPU memory in tensors"


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
    add_dask(parser, "measure and preprocess")
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
        dask=given.dask,
        replan=given.replan,
        remember=stated.keys() <= {"planner", "name"},
    )
    _print_plan(planned)
    return 0


def _print_plan(planned: Planned) -> None:
    plan = planned.plan
    edited = " (edited by hand, honoured)" if planned.edited else ""
    print(f"plan {plan.name}{edited}: {planned.folder / 'plan.json'}")
    if planned.kept:
        kept = ", ".join(f"{name} {_shown(value)}" for name, value in planned.kept.items())
        print(f"  planned as last time: {kept} (give options to plan otherwise)")
    if planned.replaced:
        print(f"  this replaces the plan that stood there: {planned.replaced}")
    for stage in plan.run():
        forecast = _forecast(stage)
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
    print(
        f"{state}. Next: renalplan_train {plan.dataset} 0 {trainer}{choice} "
        "(renalplan_train --help names the other trainers)"
    )
