"""Makes one phantom case from a seed and an index: draw, choose voxels, render."""

from __future__ import annotations

from renalplan.geometry import Shape, Spacing
from renalplan.phantom.anatomy import PHASE, SOLITARY_SHARE, draw_patient, generator
from renalplan.phantom.case import PhantomCase
from renalplan.phantom.render import render_patient
from renalplan.phantom.scanner import check_size, draw_sampling
from renalplan.phantom.tasks import draw_phases, get_task


def make_case(
    seed: int,
    index: int,
    *,
    task: str = "kidney_tumor",
    size: Shape | None = None,
    spacing: Spacing | None = None,
    phases: tuple[str, ...] | None = None,
    single_kidney_share: float = SOLITARY_SHARE,
) -> PhantomCase:
    """Make case `index` of a seed; the same arguments give the same arrays, bit by bit.

    Args:
        seed: Of the data set.
        index: Of the case, from 0.
        task: One of `TASKS`.
        size: (z, y, x) voxels; the field of view stays that of an abdomen. None: as scanners do.
        spacing: (z, y, x) mm. None: follows from the size, or drawn as scanners are set.
        phases: Contrast phases to image instead of the task's.
        single_kidney_share: Probability that the patient has one kidney.

    Raises:
        UsageError: there is no such task, or the size or spacing is impossible.
    """
    kind = get_task(task)
    check_size(size, spacing)
    patient = draw_patient(seed, index, tumors=kind.tumors, single_kidney_share=single_kidney_share)
    if phases is None:
        phases = draw_phases(kind, generator(seed, index, PHASE))
    return render_patient(
        patient,
        draw_sampling(seed, index, patient, size, spacing),
        phases=phases,
        task=task,
        seed=seed,
        index=index,
    )
