"""The default planner: nnU-Net's rules where they hold, and what kidneys and real memory ask for.

Where it departs from nnU-Net: memory is counted in bytes; scans stay axial unless an axis is really
coarser; thin structures refine the spacing; and where kidneys are a small share of the scan, a
small coarse network locates them and patches follow the kidney regions, not the body.
"""

from __future__ import annotations

from math import prod

from renalplan.errors import PlanError
from renalplan.plan import Plan, StagePlan
from renalplan.planners.cascade import Cascade, decide, measure_regions
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.options import PlanOptions
from renalplan.planners.renal_stages import (
    RenalRun,
    fine_stage,
    locate_stage,
    lowres_and_fullres,
    whole_design,
    whole_stage,
)
from renalplan.planners.spacing import (
    coarse_axis_first,
    refine_for_structures,
    structure_warnings,
    target_spacing,
)
from renalplan.planners.stages import assemble


def plan_renal(fingerprint: Fingerprint, options: PlanOptions, training_cases: int) -> Plan:
    """The default plan: `whole`, `lowres` and `fullres`, or `locate` and `fine`.

    Args:
        training_cases: dataset.json's numTraining; caps batch sizes.

    Raises:
        PlanError: a channel is unknown, nothing fits the memory, or the cascade asked for is not
            possible.
    """
    target = target_spacing(fingerprint, options.spacing)
    if options.spacing is None:
        target = refine_for_structures(target, fingerprint)
    order, order_reason = coarse_axis_first(target.spacing)
    run = RenalRun(
        fingerprint=fingerprint,
        options=options,
        training_cases=training_cases,
        target=target,
        order=order,
    )
    stages, reason = _stages(run)
    names = tuple(stage.name for stage in stages)
    configuration = "_".join(names)
    return assemble(
        fingerprint,
        options,
        order=order,
        stages=stages,
        configurations={configuration: names},
        default=configuration,
        reasons={
            "axes": order_reason,
            "configurations": reason,
            "default_configuration": "the only one: the planner decides on one way.",
        },
        warnings=structure_warnings(target.spacing, fingerprint),
    )


def _stages(run: RenalRun) -> tuple[list[StagePlan], str]:
    whole = whole_design(run)
    regions = measure_regions(run.fingerprint, run.target.spacing)
    patch = whole.topology.as_3d().patch
    seen = prod(min(1.0, p / n) for p, n in zip(patch, run.shape, strict=True))
    cascade: Cascade
    cascade, reason = decide(seen, regions.share)
    wanted = run.options.cascade
    if run.shape[0] == 1:
        cascade, reason = "none", "the median case has a single slice: one 2-D stage."
        if wanted in ("locate", "lowres"):
            raise PlanError(f"--cascade {wanted} is not possible: {reason}")
    elif wanted != "auto":
        own = "the same" if wanted == cascade else cascade
        reason = (
            f"--cascade {wanted} was asked for; the planner itself would choose {own}: {reason}"
        )
        cascade = wanted
    if cascade == "locate":
        return [locate_stage(run), fine_stage(run, regions)], reason
    if cascade == "lowres":
        stages, found = lowres_and_fullres(run, whole)
        if stages is not None:
            return stages, reason
        if wanted == "lowres":
            raise PlanError(f"--cascade lowres is not possible: {found}")
        reason = f"{reason} But {found}"
    return [whole_stage(run, whole)], reason
