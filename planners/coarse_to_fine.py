"""The coarse-to-fine system's grid: one stage of whole scans at 3 x 0.7816 x 0.7816 mm.

Its five networks cut their windows out of this grid; sizes in mm are settings of the trainer. The
stage's own patch and network are what a U-Net would have on it, so that the two can be compared.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group, section 1.3.
"""

from __future__ import annotations

from renalplan.errors import PlanError
from renalplan.kidneys import PAPER_SPACING
from renalplan.plan import Plan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.options import PlanOptions
from renalplan.planners.renal_stages import RenalRun, whole_design, whole_stage
from renalplan.planners.spacing import (
    TargetSpacing,
    mm,
    structure_warnings,
    target_spacing,
)
from renalplan.planners.stages import assemble

AXIAL = (0, 1, 2)  # the method is about axial slices, whichever way the scans were cut


def plan_coarse_to_fine(
    fingerprint: Fingerprint, options: PlanOptions, training_cases: int
) -> Plan:
    """One stage, `whole`.

    Args:
        training_cases: dataset.json's numTraining; caps the batch size.

    Raises:
        PlanError: a channel is unknown, nothing fits the memory, or a cascade was asked for.
    """
    if options.cascade not in ("auto", "none"):
        raise PlanError(
            f"--planner coarse_to_fine has one grid; --cascade {options.cascade} is not for it: the "
            "trainer CoarseToFine brings its own."
        )
    target = _target(fingerprint, options)
    run = RenalRun(
        fingerprint=fingerprint,
        options=options,
        training_cases=training_cases,
        target=target,
        order=AXIAL,
    )
    return assemble(
        fingerprint,
        options,
        order=AXIAL,
        stages=[whole_stage(run, whole_design(run))],
        configurations={"whole": ("whole",)},
        default="whole",
        reasons={
            "axes": "slices are axial, as the method's are.",
            "configurations": "one grid that all networks of the method look at.",
            "default_configuration": "the only one.",
        },
        warnings=structure_warnings(target.spacing, fingerprint),
    )


def _target(fingerprint: Fingerprint, options: PlanOptions) -> TargetSpacing:
    """The paper's spacing, but nowhere finer than the data: that would only interpolate."""
    own = target_spacing(fingerprint, options.spacing)
    if options.spacing is not None:
        return own
    z, y, x = (max(paper, data) for paper, data in zip(PAPER_SPACING, own.spacing, strict=True))
    return TargetSpacing(
        spacing=(z, y, x),
        reason=(f"the paper's {mm(PAPER_SPACING)}, but nowhere finer than the data: {own.reason}"),
    )
