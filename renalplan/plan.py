"""What the planner decided: plain data, readable and editable as JSON, with a reason for each value.

Nothing here computes; preprocessing, training and inference read it. Axes: a plan's spacings, shapes
and patch sizes are in the order `axes` names, which is (z, y, x) unless the data's coarse axis is
another one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from renalplan.errors import PlanError
from renalplan.files import Record, read_record, write_json

VERSION = 1  # raise when a field changes its meaning; older files then fail by name
Axis = Literal["z", "y", "x"]
Normalisation = Literal["ct", "window", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]


class Intensities(Record):
    """Foreground intensity statistics of one channel over the training cases (HU for CT)."""

    mean: float
    std: float
    minimum: float
    maximum: float
    median: float
    percentile_00_5: float
    percentile_99_5: float


class ChannelPlan(Record):
    """How one input channel is normalised.

    `ct` clips to the 0.5 and 99.5 percentile of the dataset's foreground and takes the z-score with
    the dataset's mean and standard deviation; `window` clips to `window` (low, high) in HU and
    scales it to 0..1; `zscore` uses each image's own.
    """

    name: str
    normalisation: Normalisation
    intensities: Intensities
    window: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _window_is_one(self) -> ChannelPlan:
        if (self.normalisation == "window") != (self.window is not None):
            raise ValueError(
                f"channel {self.name}: normalisation 'window' and a window go together"
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"channel {self.name}: the window {self.window} is empty")
        return self


class NetworkSpec(Record):
    """How to build a network without the trainer that made it: `module:Class` and JSON arguments."""

    factory: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Forecast(Record):
    """What the planner expects; measured values differ with hardware, so these are guides."""

    training_memory_gb: float
    parameters: int
    voxels_per_case: int
    windows_per_case: float
    store_mb_per_case: float


class StagePlan(Record):
    """One stage of the way from a scan to its segmentation.

    Attributes:
        name: Unique within the plan, e.g. `locate`, `fine`, `3d_fullres`.
        region: `volume` segments the whole scan; `kidney` the boxes around what the stage
            before found.
        previous: The stage that must run before this one, None for the first.
        previous_as_channels: Feed the stage before's label map as one-hot channels (cascade).
        target: `labels` learns the dataset's labels, `foreground` only structure against rest.
        spacing: mm along `Plan.axes`; None keeps each scan's own spacing along that axis.
        median_shape: The median training case at this spacing, voxels.
        patch_size: Network input, voxels. A first axis of 1 makes a 2-D network.
        batch_size: Patches a training step.
        margin_mm: How far region boxes reach beyond the structures found.
        minimum_component_ml: Smaller components do not open a region box.
        network: The network a U-Net trainer builds; other trainers may bring their own.
        batch_dice: Compute the Dice loss over the batch instead of each sample.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_]+$")
    region: Literal["volume", "kidney"] = "volume"
    previous: str | None = None
    previous_as_channels: bool = False
    target: Literal["labels", "foreground"] = "labels"
    spacing: tuple[float | None, float | None, float | None]
    median_shape: tuple[int, int, int]
    patch_size: tuple[int, int, int]
    batch_size: int = Field(ge=1)
    margin_mm: float = Field(default=20.0, ge=0)
    minimum_component_ml: float = Field(default=0.0, ge=0)
    network: NetworkSpec
    batch_dice: bool = False
    forecast: Forecast | None = None
    reasons: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _positive(self) -> StagePlan:
        if any(s is not None and s <= 0 for s in self.spacing):
            raise ValueError(f"spacing must be above 0 along every axis, it is {self.spacing}")
        if min(self.patch_size) < 1:
            raise ValueError(f"patch_size must be at least 1 voxel, it is {self.patch_size}")
        if self.region == "kidney" and self.previous is None:
            raise ValueError(
                f"stage {self.name} works on kidney regions and needs a previous stage"
            )
        return self

    @model_validator(mode="after")
    def _patch_fits_network(self) -> StagePlan:
        strides = self.network.arguments.get("strides")
        if not strides:
            return self
        if not _are_strides(strides):
            raise ValueError(
                f"stage {self.name}: strides must be lists of three whole numbers from 1"
            )
        divisors = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
        if any(n % d for n, d in zip(self.patch_size, divisors, strict=True)):
            nearest = tuple(
                max(d, (2 * n + d) // (2 * d) * d)
                for n, d in zip(self.patch_size, divisors, strict=True)
            )
            raise ValueError(
                f"stage {self.name}: patch_size {self.patch_size} does not fit the network, which "
                f"needs multiples of {tuple(divisors)}; the nearest is {nearest}"
            )
        return self


def _are_strides(values: Any) -> bool:
    """Whether a network's argument is a list of (z, y, x) strides."""
    return isinstance(values, list | tuple) and all(
        isinstance(stride, list | tuple)
        and len(stride) == 3
        and all(type(n) is int and n > 0 for n in stride)
        for stride in values
    )


class Plan(Record):
    """Everything that preprocessing, training and inference need to know about a dataset.

    Attributes:
        name: The plan's name; folders of stores and models carry it.
        axes: Which canonical axis each plan axis is; ("z", "y", "x") unless transposed.
        configurations: Name -> the stages that run one after the other, e.g.
            {"locate_fine": ["locate", "fine"]}.
        default_configuration: The one that is trained unless another is asked for.
        warnings: What the user should know before training, e.g. structures the spacing loses.
    """

    version: Literal[1] = 1
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_]+$")
    dataset: str
    planner: str
    axes: tuple[Axis, Axis, Axis] = ("z", "y", "x")
    channels: tuple[ChannelPlan, ...]
    stages: tuple[StagePlan, ...]
    configurations: dict[str, tuple[str, ...]]
    default_configuration: str
    warnings: tuple[str, ...] = ()
    reasons: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"two stages have the same name: {names}")
        if sorted(self.axes) != ["x", "y", "z"]:
            raise ValueError(f"axes must name z, y and x once each, they are {self.axes}")
        if self.default_configuration not in self.configurations:
            raise ValueError(
                f"default_configuration {self.default_configuration!r} is not one of "
                f"{list(self.configurations)}"
            )
        for configuration, stages in self.configurations.items():
            if not stages:
                raise ValueError(f"configuration {configuration} has no stages")
            seen: set[str] = set()
            for stage in stages:
                if stage not in names:
                    raise ValueError(f"configuration {configuration} names unknown stage {stage!r}")
                if (before := self.stage(stage).previous) is not None and before not in seen:
                    raise ValueError(f"configuration {configuration}: {stage} needs {before} first")
                seen.add(stage)
        return self

    def stage(self, name: str) -> StagePlan:
        """The stage of this name.

        Raises:
            PlanError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise PlanError(f"plan {self.name} has no stage {name!r}: {[s.name for s in self.stages]}.")

    def run(self, configuration: str | None = None) -> tuple[StagePlan, ...]:
        """The stages of a configuration (the default one if None), in order.

        Raises:
            PlanError: there is no configuration of this name.
        """
        name = configuration or self.default_configuration
        if name not in self.configurations:
            raise PlanError(
                f"plan {self.name} has no configuration {name!r}; it has "
                f"{', '.join(self.configurations)}."
            )
        return tuple(self.stage(stage) for stage in self.configurations[name])

    @property
    def order(self) -> tuple[int, int, int]:
        """Canonical axis (0 z, 1 y, 2 x) of each plan axis."""
        return tuple("zyx".index(axis) for axis in self.axes)  # type: ignore[return-value]

    @property
    def left_right_axis(self) -> int:
        """The plan axis that runs from right to left."""
        return self.axes.index("x")

    def to_plan(self, array: NDArray) -> NDArray:
        """Canonical (..., z, y, x) -> plan axis order; a view."""
        lead = array.ndim - 3
        return array.transpose(*range(lead), *(lead + a for a in self.order))

    def from_plan(self, array: NDArray) -> NDArray:
        """Plan axis order -> canonical (..., z, y, x); a view."""
        lead = array.ndim - 3
        return array.transpose(*range(lead), *(lead + int(a) for a in np.argsort(self.order)))

    def save(self, path: Path) -> None:
        """Write plan.json by rename."""
        write_json(path, self)

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read and check plan.json.

        Raises:
            PlanError: missing, not JSON, of another version, or inconsistent.
        """
        return read_record(path, cls, PlanError)
