"""The planners `nnunet`, `resenc_m`, `resenc_l` and `resenc_xl`: the plans nnU-Net makes.

They choose the same spacing, axes, patches, batches, networks and configurations as nnU-Net v2, so
results can be compared and its users find what they know. Only an unknown channel name differs: it
is an error here.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18. [Isensee2024] nnU-Net Revisited, MICCAI (residual
        presets).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from renalplan.errors import PlanError
from renalplan.plan import Plan, StagePlan
from renalplan.planners.cascade import find_lowres
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.memory import Architecture, elements
from renalplan.planners.options import PlanOptions
from renalplan.planners.patch import fit_patch
from renalplan.planners.spacing import (
    AXES,
    Order,
    coarsest_first,
    median_shape,
    mm,
    structure_warnings,
    target_spacing,
)
from renalplan.planners.stages import Design, assemble, make_stage, voxels_text
from renalplan.planners.topology import Topology

REFERENCE_BATCH = {2: 12, 3: 2}  # the element budgets below belong to these batch sizes
MIN_BATCH = 2
WIDER_2D = 1.6  # a 2-D network may have 512 channels where a 3-D one has 320


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A planner's constants.

    Attributes:
        elements: Dimensions -> convolution outputs that fill the reference card.
        gpu_memory_gb: That card.
        coverage: A batch holds at most this share of the dataset's voxels.
    """

    kind: Literal["plain", "residual"]
    elements: dict[int, float]
    gpu_memory_gb: float
    coverage: float


PRESETS = {
    "nnunet": Preset(kind="plain", elements={3: 560e6, 2: 85e6}, gpu_memory_gb=8, coverage=0.05),
    "resenc_m": Preset(
        kind="residual", elements={3: 680e6, 2: 135e6}, gpu_memory_gb=8, coverage=1.0
    ),
    "resenc_l": Preset(
        kind="residual", elements={3: 2.1e9, 2: 380e6}, gpu_memory_gb=24, coverage=1.0
    ),
    "resenc_xl": Preset(
        kind="residual", elements={3: 3.6e9, 2: 560e6}, gpu_memory_gb=40, coverage=1.0
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Planner:
    """One run: the fingerprint in the plan's axis order, and the preset at its memory target."""

    fingerprint: Fingerprint
    options: PlanOptions
    preset: Preset
    training_cases: int
    order: Order
    spacing: tuple[float, ...]
    shape: tuple[float, ...]

    @property
    def gpu_memory_gb(self) -> float:
        return self.options.gpu_memory_gb or self.preset.gpu_memory_gb

    def network(self, dims: int, previous_labels: int = 0) -> Architecture:
        cap = self.options.max_features
        return Architecture(
            kind=self.preset.kind,
            base_features=self.options.base_features,
            max_features=cap if dims == 3 else round(cap * WIDER_2D),
            channels=len(self.fingerprint.channel_names),
            label_channels=previous_labels,
            heads=self.fingerprint.heads,
        )

    def budget(self, dims: int) -> float:
        """Elements the reference batch may cost."""
        return self.preset.elements[dims] * self.gpu_memory_gb / self.preset.gpu_memory_gb

    def patch(self, spacing: tuple[float, ...], shape: tuple[float, ...]) -> Topology:
        dims = len(spacing)
        network, budget = self.network(dims), self.budget(dims)
        # the plain preset's 2-D budget is for two samples, all others' for one reference batch
        scale = 2 / REFERENCE_BATCH[dims] if self.preset.kind == "plain" else 1
        return fit_patch(spacing, shape, lambda t: elements(t, network) * scale <= budget)

    def batch(self, topology: Topology, voxels_per_case: float) -> int:
        dims = len(topology.patch)
        cost = elements(topology, self.network(dims))
        fitting = round(self.budget(dims) / cost * REFERENCE_BATCH[dims])
        dataset = voxels_per_case * self.training_cases
        covering = round(dataset * self.preset.coverage / topology.voxels)
        return max(min(fitting, covering), MIN_BATCH)

    def reasons(self, topology: Topology) -> dict[str, str]:
        dims = len(topology.patch)
        return {
            "patch_size": (
                f"{voxels_text(topology.patch)} voxels cost "
                f"{elements(topology, self.network(dims)) / 1e6:.0f} M elements, within the "
                f"{self.options.planner} budget of {self.budget(dims) / 1e6:.0f} M at "
                f"{self.gpu_memory_gb:g} GB; larger ones were cut where the patch covers most of "
                "the median case."
            ),
            "batch_size": (
                f"what the budget holds, at most {100 * self.preset.coverage:g} % of the voxels of "
                f"{self.training_cases} training cases, and at least {MIN_BATCH}."
            ),
        }


def plan_nnunet(fingerprint: Fingerprint, options: PlanOptions, training_cases: int) -> Plan:
    """nnU-Net's plan: `2d`, `3d_fullres` and, where the patch sees little, the cascade.

    Args:
        training_cases: dataset.json's numTraining; caps batch sizes.

    Raises:
        PlanError: a channel is unknown, nothing fits the memory, or the cascade asked for is not
            one nnU-Net would make.
    """
    if options.cascade == "locate":
        raise PlanError(
            f"planner {options.planner} has no kidney regions; use --planner renal for "
            "--cascade locate."
        )
    # nnU-Net crops to what is not zero, which leaves the air around a CT in
    shapes = fingerprint.shapes_nonzero
    target = target_spacing(fingerprint, options.spacing, shapes)
    order = coarsest_first(target.spacing)
    shape = median_shape(fingerprint, target.spacing, shapes)
    run = _Planner(
        fingerprint=fingerprint,
        options=options,
        preset=PRESETS[options.planner],
        training_cases=training_cases,
        order=order,
        spacing=tuple(target.spacing[a] for a in order),
        shape=tuple(float(shape[a]) for a in order),
    )
    stages = [_plan_2d(run)]
    configurations: dict[str, tuple[str, ...]] = {"2d": ("2d",)}
    cascade_reason = "the median case has a single slice, so there is no 3-D configuration."
    if run.shape[0] > 1:
        volumes, cascade_reason = _plan_3d(run, target.reason)
        stages += volumes
        configurations["3d_fullres"] = ("3d_fullres",)
        if len(volumes) > 1:
            configurations["3d_lowres"] = ("3d_lowres",)
            configurations["3d_cascade_fullres"] = ("3d_lowres", "3d_cascade_fullres")
    default, default_reason = _default(options, configurations, cascade_reason)
    return assemble(
        fingerprint,
        options,
        order=order,
        stages=stages,
        configurations=configurations,
        default=default,
        reasons={
            "axes": (
                f"{AXES[order[0]]} has the largest target spacing ({mm(target.spacing)} along "
                "z, y, x), so it goes first."
            ),
            "configurations": cascade_reason,
            "default_configuration": default_reason,
        },
        warnings=structure_warnings(target.spacing, fingerprint),
    )


def _default(
    options: PlanOptions, configurations: dict[str, tuple[str, ...]], cascade_reason: str
) -> tuple[str, str]:
    if options.cascade == "lowres":
        if "3d_cascade_fullres" not in configurations:
            raise PlanError(f"--cascade lowres is not possible: {cascade_reason}")
        return "3d_cascade_fullres", "the cascade was asked for."
    if "3d_fullres" in configurations:
        return "3d_fullres", "nnU-Net's usual first choice."
    return "2d", "the only configuration for single slices."


def _plan_2d(run: _Planner) -> StagePlan:
    topology = run.patch(run.spacing[1:], run.shape[1:])
    design = Design(
        spacing=(None, run.spacing[1], run.spacing[2]),
        shape=run.shape,
        topology=topology,
        network=run.network(2),
        batch_size=run.batch(topology, prod(run.shape)),
    )
    reasons = run.reasons(topology) | {
        "spacing": "the target spacing within slices; slices stay where they are.",
        "batch_dice": "a slice shows few structures, so Dice is taken over the batch.",
        "median_shape": f"median of the training cases at {mm(run.spacing)}.",
    }
    return make_stage("2d", design, reasons, batch_dice=True)


def _plan_3d(run: _Planner, spacing_reason: str) -> tuple[list[StagePlan], str]:
    """`3d_fullres` and, if needed, the cascade's two stages; and why it is or is not needed."""
    full = _design(run, run.spacing, run.shape)
    found, reason = find_lowres(run.spacing, run.shape, full.topology, run.patch)
    if found is not None and run.options.cascade == "none":
        found, reason = None, "no cascade was asked for."
    reasons = run.reasons(full.topology) | {"spacing": spacing_reason}
    if found is None:
        return [make_stage("3d_fullres", full, reasons)], reason
    low = _design(run, found.spacing, found.shape, found.topology)
    low_reasons = run.reasons(low.topology) | {"spacing": found.reason}
    low_stage = make_stage("3d_lowres", low, low_reasons)
    reasons["batch_dice"] = "the patch sees a small part of the case, so Dice is over the batch."
    labels = run.fingerprint.heads - 1
    wider = Design(
        spacing=full.spacing,
        shape=full.shape,
        topology=full.topology,
        network=run.network(3, previous_labels=labels),
        batch_size=full.batch_size,
    )
    cascade_reasons = reasons | {
        "previous": "3d_lowres saw four times more of the case or more; its labels guide this one.",
        "previous_as_channels": f"{labels} one-hot channels are added to the image's.",
    }
    return [
        make_stage("3d_fullres", full, reasons, batch_dice=True),
        low_stage,
        make_stage(
            "3d_cascade_fullres",
            wider,
            cascade_reasons,
            previous="3d_lowres",
            previous_as_channels=True,
            batch_dice=True,
        ),
    ], reason


def _design(
    run: _Planner,
    spacing: tuple[float, ...],
    shape: tuple[float, ...],
    topology: Topology | None = None,
) -> Design:
    z, y, x = spacing
    topology = topology or run.patch(spacing, shape)
    return Design(
        spacing=(z, y, x),
        shape=shape,
        topology=topology,
        network=run.network(3),
        batch_size=run.batch(topology, prod(shape)),
    )
