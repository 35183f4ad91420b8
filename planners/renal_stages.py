"""The default planner's stages: `whole`, `locate` and `fine`, `lowres` and `fullres`.

Each function decides one stage's patch, batch and network within the memory target; which stages a
plan has is `renalplan.planners.renal`'s choice.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18. [Isensee2024] nnU-Net Revisited, MICCAI.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from renalplan.geometry import Spacing
from renalplan.plan import StagePlan
from renalplan.planners.cascade import (
    COARSER,
    COMPONENT_ML,
    COMPONENT_SHARE,
    MARGIN_MM,
    Regions,
    find_lowres,
)
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.memory import GB, Architecture, training_bytes
from renalplan.planners.options import PlanOptions
from renalplan.planners.patch import fit_patch, largest_batch, usable_gb
from renalplan.planners.spacing import Order, TargetSpacing, median_shape, mm
from renalplan.planners.stages import Design, make_stage, voxels_text
from renalplan.planners.topology import MIN_EDGE, Topology

REFERENCE_GB = 8.0  # nnU-Net's default card
RESIDUAL_GB = 16.0  # KiTS Dice 88.2 residual at 24 GB, 86.0 plain at 8 [Isensee2024]
MIN_BATCH = 2  # one sample a step is too noisy for SGD with momentum 0.99 [Isensee2021]
MAX_BATCH = {2: 32, 3: 8}  # beyond, steps get slower faster than gradients get steadier
COVERAGE = 0.25  # a batch holds at most this share of the dataset's voxels, so batches differ
MIN_PATCH = 4 * MIN_EDGE  # two poolings
LOCATE_MM = (4.0, 6.0)  # fine enough for an organ, coarse enough to see a scan at once
KIDNEY_MM = (110.0, 60.0, 50.0)  # a kidney along (z, y, x), roughly
REFERENCE_FEATURES = 32  # nnU-Net's width [Isensee2021]
WIDER_2D = 1.6  # a 2-D network may have 512 channels where a 3-D one has 320 [Isensee2021]


@dataclass(frozen=True, kw_only=True)
class RenalRun:
    """One run: what every stage draws on. Spacings and shapes are in the plan's axis order."""

    fingerprint: Fingerprint
    options: PlanOptions
    training_cases: int
    target: TargetSpacing
    order: Order

    @property
    def gpu_memory_gb(self) -> float:
        """The memory target."""
        return self.options.gpu_memory_gb or REFERENCE_GB

    @property
    def spacing(self) -> Spacing:
        """The target spacing in plan order."""
        return self.ordered(self.target.spacing)

    @property
    def shape(self) -> Spacing:
        """The median scan at the target spacing, voxels in plan order."""
        return self.ordered(median_shape(self.fingerprint, self.target.spacing).tolist())

    def ordered(self, values: Spacing) -> Spacing:
        """Canonical (z, y, x) -> plan order."""
        first, second, third = (values[a] for a in self.order)
        return first, second, third

    def network(self, *, small: bool = False, flat: bool = False, labels: int = 0) -> Architecture:
        """The width and kind; `small` for locating, `labels` channels from the stage before."""
        divisor = 2 if small else 1
        cap = self.options.max_features // divisor
        residual = self.gpu_memory_gb >= RESIDUAL_GB and not small
        return Architecture(
            kind="residual" if residual else "plain",
            base_features=max(1, self.options.base_features // divisor),
            max_features=round(cap * WIDER_2D) if flat else cap,
            channels=len(self.fingerprint.channel_names),
            label_channels=labels,
            heads=2 if small else self.fingerprint.heads,
        )

    def patch(
        self, spacing: tuple[float, ...], shape: tuple[float, ...], network: Architecture
    ) -> Topology:
        """The largest patch of which two fit the memory."""
        limit = usable_gb(self.gpu_memory_gb) * GB
        if shape[0] == 1:
            spacing, shape = spacing[1:], shape[1:]
        return fit_patch(
            spacing,
            shape,
            lambda t: training_bytes(t.as_3d(), network, MIN_BATCH) <= limit,
            minimum=MIN_PATCH,
        )

    def batch(self, topology: Topology, network: Architecture, voxels_per_case: float) -> int:
        """What memory holds once the patch is chosen, within the dataset's size."""
        voxels = voxels_per_case * self.training_cases
        cap = min(MAX_BATCH[len(topology.patch)], int(COVERAGE * voxels / topology.voxels))
        return max(MIN_BATCH, largest_batch(topology.as_3d(), network, self.gpu_memory_gb, cap))

    def reasons(self, topology: Topology, network: Architecture, what: str) -> dict[str, str]:
        """For patch and batch of a stage that sees `what`."""
        used = training_bytes(topology.as_3d(), network, MIN_BATCH) / GB
        card, usable = self.gpu_memory_gb, usable_gb(self.gpu_memory_gb)
        return {
            "patch_size": (
                f"the {what}, padded to the network's divisor, or as much of it as fits: "
                f"{MIN_BATCH} patches of {voxels_text(topology.patch)} voxels take {used:.3g} GB "
                f"of the {usable:.3g} GB usable at a target of {card:g} GB."
            ),
            "batch_size": (
                f"as many patches as fit {usable:.3g} GB, at most "
                f"{MAX_BATCH[len(topology.patch)]} and {100 * COVERAGE:g} % of the voxels of "
                f"{self.training_cases} training cases, and at least {MIN_BATCH}."
            ),
        }


def whole_design(run: RenalRun) -> Design:
    """One stage that sees the whole scan at the target spacing; 2-D for single slices."""
    flat = run.shape[0] == 1
    network = run.network(flat=flat)
    topology = run.patch(run.spacing, run.shape, network)
    first, second, third = run.spacing
    return Design(
        spacing=(None if flat else first, second, third),
        shape=run.shape,
        topology=topology,
        network=network,
        batch_size=run.batch(topology, network, prod(run.shape)),
    )


def whole_stage(run: RenalRun, design: Design) -> StagePlan:
    """The only stage of a plan without cascade."""
    reasons = run.reasons(design.topology, design.network, "median scan")
    flat = run.shape[0] == 1
    reasons["spacing"] = run.target.reason
    if flat:
        reasons["batch_dice"] = "a slice shows few structures, so Dice is taken over the batch."
    reasons["network"] = _width(run)
    return make_stage("whole", design, reasons, batch_dice=flat)


def locate_stage(run: RenalRun) -> StagePlan:
    """A small network that sees the whole scan at once, only to find kidneys."""
    network = run.network(small=True)
    edge, limit = LOCATE_MM
    while True:
        canonical: Spacing = tuple(max(edge, s) for s in run.target.spacing)  # type: ignore[assignment]
        shape = run.ordered(median_shape(run.fingerprint, canonical).tolist())
        spacing = run.ordered(canonical)
        topology = run.patch(spacing, shape, network)
        covers = all(p >= n for p, n in zip(topology.patch, shape, strict=True))
        if covers or edge >= limit:
            break
        edge = min(limit, edge * COARSER)
    design = Design(
        spacing=spacing, shape=shape, topology=topology, network=network, batch_size=MIN_BATCH
    )
    kidney = voxels_text(
        [round(length / s) for length, s in zip(KIDNEY_MM, canonical, strict=True)]
    )
    sees = "the whole median scan" if covers else "as much of the median scan as memory allows"
    reasons = run.reasons(topology, network, "median scan") | {
        "spacing": (
            f"between {LOCATE_MM[0]:g} and {LOCATE_MM[1]:g} mm, and no finer than the target: at "
            f"{mm(spacing)} a patch sees {sees}, and a kidney still spans about "
            f"{kidney} voxels (z, y, x)."
        ),
        "target": "only where kidneys are matters here, so all labels count as one.",
        "batch_size": "two whole scans a step; more would only slow a stage that is easy to train.",
        "network": f"half the width of the fine stage ({network.base_features} channels).",
    }
    return make_stage("locate", design, reasons, target="foreground")


def fine_stage(run: RenalRun, regions: Regions) -> StagePlan:
    """The target spacing within the regions, so the patch follows the kidney and not the body."""
    network = run.network()
    shape = run.ordered(regions.shape)
    topology = run.patch(run.spacing, shape, network)
    voxels = regions.per_case * prod(shape)
    design = Design(
        spacing=run.spacing,
        shape=shape,
        topology=topology,
        network=network,
        batch_size=run.batch(topology, network, voxels),
        per_case=regions.per_case,
    )
    low, high = COMPONENT_ML
    reasons = run.reasons(topology, network, "median kidney region") | {
        "spacing": run.target.reason,
        "region": (
            f"kidney regions take {100 * regions.share:.3g} % of the median scan, "
            f"{regions.per_case:.3g} a case."
        ),
        "previous": "locate finds the kidneys.",
        "previous_as_channels": "the regions say enough; the coarse mask would add nothing.",
        "median_shape": (
            f"median box of the training cases' labels at {mm(run.spacing)}, cut by the rule "
            "prediction uses."
        ),
        "margin_mm": (
            f"{MARGIN_MM:g} mm take in perirenal fat, hilum and a coarse mask's error, which is "
            "about one voxel of the locating stage."
        ),
        "minimum_component_ml": (
            f"{100 * COMPONENT_SHARE:g} % of the median largest piece of foreground, within "
            f"{low:g} to {high:g} ml: false specks open no region, small kidneys do."
        ),
        "batch_dice": "a region may hold no tumour, so Dice is taken over the batch.",
        "network": _width(run),
    }
    stage = make_stage(
        "fine",
        design,
        reasons,
        region="kidney",
        previous="locate",
        margin_mm=MARGIN_MM,
        minimum_component_ml=regions.minimum_component_ml,
        batch_dice=True,
    )
    return stage


def _width(run: RenalRun) -> str:
    """Why this width and kind."""
    width, card = run.options.base_features, run.gpu_memory_gb
    reason = f"{width} channels at full resolution are nnU-Net's."
    if width != REFERENCE_FEATURES:
        scale = width / REFERENCE_FEATURES
        reason = f"base_features {width} was asked for: {scale:.2g} times nnU-Net's width."
    if card >= RESIDUAL_GB:
        return f"{reason} From {RESIDUAL_GB:g} GB a residual encoder pays."
    return f"{reason} Below {RESIDUAL_GB:g} GB a plain encoder gives the larger patch."


def lowres_and_fullres(run: RenalRun, whole: Design) -> tuple[list[StagePlan] | None, str]:
    """nnU-Net's cascade; None and the reason if a coarser stage would not help."""
    network = run.network()
    found, reason = find_lowres(
        run.spacing, run.shape, whole.topology, lambda s, n: run.patch(s, n, network)
    )
    if found is None:
        return None, reason
    labels = run.fingerprint.heads - 1
    wider = run.network(labels=labels)
    full = run.patch(run.spacing, run.shape, wider)
    first, second, third = found.spacing
    low_design = Design(
        spacing=(first, second, third),
        shape=found.shape,
        topology=found.topology,
        network=network,
        batch_size=run.batch(found.topology, network, prod(found.shape)),
    )
    full_design = Design(
        spacing=whole.spacing,
        shape=run.shape,
        topology=full,
        network=wider,
        batch_size=run.batch(full, wider, prod(run.shape)),
    )
    low_reasons = run.reasons(found.topology, network, "median scan") | {
        "spacing": found.reason,
        "network": _width(run),
    }
    full_reasons = run.reasons(full, wider, "median scan") | {
        "spacing": run.target.reason,
        "previous": "lowres gives the context the patch cannot see.",
        "previous_as_channels": f"{labels} one-hot channels are added to the image's.",
        "batch_dice": "the patch sees a small part of the case, so Dice is over the batch.",
        "network": _width(run),
    }
    fullres = make_stage(
        "fullres",
        full_design,
        full_reasons,
        previous="lowres",
        previous_as_channels=True,
        batch_dice=True,
    )
    return [make_stage("lowres", low_design, low_reasons), fullres], reason
