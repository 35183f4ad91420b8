"""Decided values -> the plan's records, with a forecast and a reason for every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from renalplan.geometry import Shape
from renalplan.plan import Forecast, NetworkSpec, Plan, StagePlan
from renalplan.planners.channels import plan_channels
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.memory import GB, Architecture, parameters, training_bytes
from renalplan.planners.options import PlanOptions
from renalplan.planners.spacing import AXES, Order, mm
from renalplan.planners.topology import Topology

UNET = "renalplan.networks.unet:UNet"
WINDOW_STEP = 0.5  # sliding windows overlap by half a patch
STORED_IMAGE_BYTES, STORED_LABEL_BYTES = 2, 1  # float16 and uint8, before compression

# what holds wherever a stage does not say otherwise
USUAL = {
    "region": "the stage sees the whole scan.",
    "previous": "no stage has to run before.",
    "previous_as_channels": "the input is the image alone.",
    "target": "the stage learns the dataset's own labels.",
    "margin_mm": "a stage that sees the whole scan has no region boxes.",
    "minimum_component_ml": "a stage that sees the whole scan has no region boxes.",
    "batch_dice": "patches show nearly all structures, so Dice is taken of each sample.",
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """What was decided for one stage; axes in the plan's order.

    Attributes:
        spacing: mm; a first axis of None keeps the scans' own.
        shape: The median case or region at that spacing, voxels; may end in .5.
        per_case: Volumes of that shape a case has: 1, or the mean number of its regions.
    """

    spacing: tuple[float | None, float | None, float | None]
    shape: Sequence[float]
    topology: Topology
    network: Architecture
    batch_size: int
    per_case: float = 1.0


def make_stage(name: str, design: Design, reasons: dict[str, str], **fields: Any) -> StagePlan:
    """The stage's record; `reasons` go before the usual ones, `fields` are StagePlan's others."""
    reasons = dict(reasons)
    topology, network = design.topology.as_3d(), design.network
    shape = _whole(design.shape)
    forecast = _forecast(design, topology, shape)
    written = {
        "median_shape": f"median of the training cases at {mm(design.spacing)}.",
        "network": _network_reason(topology, network),
        "forecast": (
            "from the network's sizes: half-precision activations that the backward pass needs, "
            "weights, gradients and momentum; half-overlapping windows; float16 images and uint8 "
            "labels before compression. A CPU trains in full precision: about twice as much."
        ),
        "spacing": f"{mm(design.spacing)}.",
    }
    # what a planner says of its network's width follows what is said of its shape
    written["network"] = " ".join((written["network"], reasons.pop("network", ""))).strip()
    return StagePlan(
        name=name,
        spacing=design.spacing,
        median_shape=shape,
        patch_size=_whole(topology.patch),
        batch_size=design.batch_size,
        network=_network_spec(topology, network),
        forecast=forecast,
        reasons=USUAL | written | reasons,
        **({"margin_mm": 0.0} | fields),
    )


def assemble(
    fingerprint: Fingerprint,
    options: PlanOptions,
    *,
    order: Order,
    stages: Sequence[StagePlan],
    configurations: dict[str, tuple[str, ...]],
    default: str,
    reasons: dict[str, str],
    warnings: tuple[str, ...] = (),
) -> Plan:
    """The plan's record; channels are decided here because no planner does it differently.

    Raises:
        PlanError: a channel's name says nothing about its values.
    """
    channels, channel_reason = plan_channels(fingerprint, options.window)
    usual = {
        "name": "asked for." if options.name else "the planner's name.",
        "dataset": f"measured on its {len(fingerprint.cases)} training cases.",
        "planner": f"{options.planner!r} was asked for or is the default.",
        "channels": channel_reason,
        "stages": f"{len(stages)} stages: {', '.join(stage.name for stage in stages)}.",
    }
    return Plan(
        name=options.name or options.planner,
        dataset=fingerprint.dataset,
        planner=options.planner,
        axes=tuple(AXES[a] for a in order),  # type: ignore[arg-type]
        channels=channels,
        stages=tuple(stages),
        configurations=configurations,
        default_configuration=default,
        warnings=warnings,
        reasons=usual | reasons,
    )


def voxels_text(shape: Sequence[float]) -> str:
    """A shape as text, such as `96 x 160 x 160`."""
    return " x ".join(f"{n:g}" for n in shape)


def _whole(shape: Sequence[float]) -> Shape:
    z, y, x = (max(1, round(n)) for n in shape)
    return z, y, x


def _network_spec(topology: Topology, network: Architecture) -> NetworkSpec:
    arguments: dict[str, Any] = {
        "features": list(network.features(topology.stages)),
        "strides": [list(stride) for stride in topology.strides],
        "kernels": [list(kernel) for kernel in topology.kernels],
        "kind": network.kind,
        "convs_per_stage": network.convs_per_stage,
        "deep_supervision": True,
        "dims": 2 if topology.patch[0] == 1 else 3,
    }
    if (blocks := network.blocks(topology.stages)) is not None:
        arguments["blocks"] = list(blocks)
    return NetworkSpec(factory=UNET, arguments=arguments)


def _network_reason(topology: Topology, network: Architecture) -> str:
    features = network.features(topology.stages)
    return (
        f"{network.kind} U-Net of {topology.stages} stages, {features[0]} to {features[-1]} "
        f"channels: axes are halved while at least 8 voxels remain and while they are less than "
        f"2 times coarser than the finest; the divisor is {voxels_text(topology.divisor)}. "
        "in_channels and heads are not among the arguments: whoever builds the network adds them, "
        "since they follow from the dataset and the stage's target."
    )


def _forecast(design: Design, topology: Topology, shape: Shape) -> Forecast:
    network = design.network
    windows = prod(
        max(1, ceil((n - patch) / (WINDOW_STEP * patch)) + 1)
        for n, patch in zip(shape, topology.patch, strict=True)
    )
    voxels = design.per_case * prod(shape)
    bytes_per_voxel = STORED_IMAGE_BYTES * network.channels + STORED_LABEL_BYTES
    return Forecast(
        training_memory_gb=round(training_bytes(topology, network, design.batch_size) / GB, 3),
        parameters=parameters(topology, network),
        voxels_per_case=round(voxels),
        windows_per_case=round(design.per_case * windows, 2),
        store_mb_per_case=round(voxels * bytes_per_voxel / 1e6, 3),
    )
