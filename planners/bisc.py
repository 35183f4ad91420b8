"""BiSC-UNet's geometry: a rough stage of 128 x 128 voxels in plane, fixed-size kidney regions after it.

Sources:
    [BiSC] BiSC-UNet, section 3.2: in-plane 128 x 128 for the rough network, regions of 160 or 192
    voxels of 0.78 mm in plane and a multiple of 16 slices for the fine one, batches of 8.

The paper's scans were resampled to one spacing before; here that is the dataset's target spacing. Its
512 -> 128 voxels are a factor of 4 in plane, which is what is kept for scans of other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from renalplan.errors import PlanError
from renalplan.geometry import Shape, Spacing
from renalplan.plan import Plan, StagePlan
from renalplan.planners.cascade import measure_regions
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.memory import GB, Architecture, training_bytes
from renalplan.planners.options import PlanOptions
from renalplan.planners.patch import usable_gb
from renalplan.planners.spacing import (
    Order,
    coarse_axis_first,
    median_shape,
    mm,
    structure_warnings,
    target_spacing,
)
from renalplan.planners.stages import Design, assemble, make_stage, voxels_text
from renalplan.planners.topology import Topology, plan_topology
from renalplan.rois import IN_PLANE_MM, MULTIPLE, roi_shape

ROUGH_VOXELS, ROUGH_FACTOR = 128, 4.0  # in plane: at most so many, so much coarser [BiSC]
ROUGH_MM = 6.0  # coarser, a kidney would not be found any more
MAX_BATCH = 8  # [BiSC]
MIN_BATCH = 2
LEAST_IN_PLANE = 32  # voxels
REFERENCE_GB = 12.0  # the paper's card
# bytes a voxel of the patch at the peak of training SC-UNet with widths 16 to 128 in mixed precision,
# counted by `renalplan.networks.live_memory`: a group norm, and so half of what is kept, is float32
SCUNET_BYTES, EDGE_BYTES, HEAD_BYTES = 1145, 420, 2
# beyond a kidney's own box: half the widest region, less half a kidney, and its displacement
MARGIN_MM = 45.0


def scunet_bytes(voxels: int, heads: int, batch_size: int) -> int:
    """Peak bytes that training SC-UNet in mixed precision holds in tensors, its weights left out."""
    edges = max(1, heads - 1)
    return batch_size * voxels * (SCUNET_BYTES + EDGE_BYTES * edges + HEAD_BYTES * heads)


@dataclass(frozen=True, kw_only=True)
class BiscRun:
    """One run; spacings and shapes along canonical (z, y, x)."""

    fingerprint: Fingerprint
    options: PlanOptions
    order: Order

    @property
    def gpu_memory_gb(self) -> float:
        """The memory target."""
        return self.options.gpu_memory_gb or REFERENCE_GB

    @property
    def network(self) -> Architecture:
        """The U-Net that other trainers build on this plan."""
        return Architecture(
            kind="plain",
            base_features=self.options.base_features,
            max_features=self.options.max_features,
            channels=len(self.fingerprint.channel_names),
            heads=self.fingerprint.heads,
        )

    def ordered(self, values: tuple[float, ...]) -> tuple[float, float, float]:
        """Canonical (z, y, x) -> plan order."""
        first, second, third = (values[a] for a in self.order)
        return first, second, third

    def bytes(self, topology: Topology, batch_size: int) -> int:
        """What training needs, by SC-UNet or by the plan's U-Net: the larger of the two."""
        return max(
            scunet_bytes(topology.voxels, self.network.heads, batch_size),
            training_bytes(topology, self.network, batch_size),
        )

    def fits(self, topology: Topology, batch_size: int) -> bool:
        """Whether both networks can train such batches."""
        return self.bytes(topology, batch_size) <= usable_gb(self.gpu_memory_gb) * GB

    def stage(self, name: str, design: Design, reasons: dict[str, str], **fields: Any) -> StagePlan:
        """The stage's record, its forecast the larger of both networks'."""
        stage = make_stage(name, design, reasons, **fields)
        assert stage.forecast is not None
        memory = round(self.bytes(design.topology, design.batch_size) / GB, 3)
        forecast = stage.forecast.model_copy(update={"training_memory_gb": memory})
        return stage.model_copy(update={"forecast": forecast})

    def design(self, spacing: Spacing, shape: tuple[float, ...], patch: Shape) -> Design:
        """The patch wanted, or as much of it as memory holds two of: slices go first.

        Raises:
            PlanError: not even 16 slices of 32 x 32 voxels fit.
        """
        wanted = list(patch)
        while True:
            topology = plan_topology(self.ordered(spacing), self.ordered(tuple(wanted)))
            if self.fits(topology, MIN_BATCH):
                break
            axis = 0 if wanted[0] > MULTIPLE else max((1, 2), key=lambda a: wanted[a])
            if wanted[axis] <= (MULTIPLE if axis == 0 else LEAST_IN_PLANE):
                raise PlanError(
                    f"{MIN_BATCH} patches of {voxels_text(wanted)} voxels do not fit "
                    f"{self.gpu_memory_gb:g} GB; raise gpu_memory, lower base_features or give a "
                    "coarser spacing."
                )
            wanted[axis] -= MULTIPLE
        batch = next(b for b in range(MAX_BATCH, 0, -1) if self.fits(topology, b))
        return Design(
            spacing=self.ordered(spacing),
            shape=self.ordered(shape),
            topology=topology,
            network=self.network,
            batch_size=batch,
        )


def plan_bisc(fingerprint: Fingerprint, options: PlanOptions) -> Plan:
    """`rough` and `fine`, and `single`: the fine network on whole scans, for comparison.

    Raises:
        PlanError: a channel is unknown, or nothing fits the memory.
    """
    if options.cascade not in ("auto", "locate"):
        raise PlanError(
            f"--planner bisc always locates; --cascade {options.cascade} is not for it."
        )
    target = target_spacing(fingerprint, options.spacing)
    order, order_reason = coarse_axis_first(target.spacing)
    run = BiscRun(fingerprint=fingerprint, options=options, order=order)
    minimum_ml = measure_regions(fingerprint, target.spacing).minimum_component_ml
    region, per_case = _kidney_regions(fingerprint, target.spacing, minimum_ml)
    design = replace(run.design(target.spacing, region, region), per_case=per_case)
    stages = [
        _rough_stage(run, target.spacing),
        _fine_stage(run, design, target.reason, minimum_ml),
        _single_stage(run, design, target.spacing),
    ]
    return assemble(
        fingerprint,
        options,
        order=order,
        stages=stages,
        configurations={"rough_fine": ("rough", "fine"), "single": ("single",)},
        default="rough_fine",
        reasons={
            "axes": order_reason,
            "configurations": "BiSC-UNet's two networks, and one network without its cascade.",
            "default_configuration": "the paper's.",
        },
        warnings=structure_warnings(target.spacing, fingerprint),
    )


def _rough_stage(run: BiscRun, target: Spacing) -> StagePlan:
    fine_shape = median_shape(run.fingerprint, target)
    width_mm = max(fine_shape[1] * target[1], fine_shape[2] * target[2])

    def coarser(mm: float) -> float:
        return max(mm, min(ROUGH_FACTOR * mm, ROUGH_MM), width_mm / ROUGH_VOXELS)

    spacing: Spacing = (target[0], coarser(target[1]), coarser(target[2]))
    z, y, x = median_shape(run.fingerprint, spacing).tolist()
    patch = (_above(z), *(min(_above(n), ROUGH_VOXELS) for n in (y, x)))
    design = run.design(spacing, (z, y, x), patch)  # type: ignore[arg-type]
    reasons = {
        "spacing": (
            f"in plane {ROUGH_FACTOR:g} times coarser than the target ({mm(target)}), but at most "
            f"{ROUGH_MM:g} mm unless {ROUGH_VOXELS} voxels would not span the median body's "
            f"{width_mm:.0f} mm; the slices are kept."
        ),
        "patch_size": "the median body in plane, and as many slices as two patches leave room for.",
        "batch_size": f"as many as fit {run.gpu_memory_gb:g} GB, at most the paper's {MAX_BATCH}.",
    }
    return run.stage("rough", design, reasons)


def _fine_stage(run: BiscRun, design: Design, reason: str, minimum_ml: float) -> StagePlan:
    reasons = {
        "spacing": reason,
        "region": "the paper's: fixed-size regions around at most two kidneys.",
        "previous": "rough finds the kidneys.",
        "previous_as_channels": "the regions say enough, as in the paper.",
        "median_shape": "median region of interest of the training cases.",
        "patch_size": (
            f"the region in plane: {IN_PLANE_MM[0]:g} mm, 160 voxels of 0.78 mm, or "
            f"{IN_PLANE_MM[1]:g} mm if kidneys are wider; as many slices as two patches leave room "
            "for."
        ),
        "batch_size": f"as many as fit {run.gpu_memory_gb:g} GB, at most the paper's {MAX_BATCH}.",
        "margin_mm": (
            f"{MARGIN_MM:g} mm around a kidney are stored, so that displaced regions of interest "
            "stay within what is."
        ),
        "minimum_component_ml": "a twentieth of the typical largest piece, from 0.5 to 10 ml.",
    }
    return run.stage(
        "fine",
        design,
        reasons,
        region="kidney",
        previous="rough",
        margin_mm=MARGIN_MM,
        minimum_component_ml=minimum_ml,
    )


def _single_stage(run: BiscRun, fine: Design, target: Spacing) -> StagePlan:
    shape = run.ordered(tuple(median_shape(run.fingerprint, target).tolist()))
    design = replace(fine, shape=shape, per_case=1.0)
    reasons = {
        "patch_size": "that of the fine stage, so that they can be compared.",
        "batch_size": "that of the fine stage.",
    }
    return run.stage("single", design, reasons)


def _kidney_regions(
    fingerprint: Fingerprint, spacing: Spacing, minimum_ml: float
) -> tuple[Shape, float]:
    """Over the training cases' kidneys: the median region, (z, y, x) voxels, and how many a case."""
    shapes = []
    for case in fingerprint.cases:
        for piece in case.components[:2]:
            if piece.volume_ml < minimum_ml and piece is not case.components[0]:
                continue
            starts, stops = piece.box_mm[:3], piece.box_mm[3:]
            extent: Spacing = tuple(b - a for a, b in zip(starts, stops, strict=True))  # type: ignore[assignment]
            shapes.append(roi_shape(extent, spacing))
    z, y, x = np.median(shapes, axis=0).tolist()
    cases = sum(1 for case in fingerprint.cases if case.components)
    return (_above(z), _above(y), _above(x)), len(shapes) / cases


def _above(voxels: float) -> int:
    return ceil(voxels / MULTIPLE) * MULTIPLE
