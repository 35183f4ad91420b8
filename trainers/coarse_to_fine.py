"""The coarse-to-fine system: three 2-D networks for the kidneys, a 3-D and a 2-D one for tumors.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group: sections 1 (kidney) and 2 (tumor).
    [Ronneberger2015] U-Net, MICCAI: widths 64 to 1024.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from renalplan.errors import UsageError
from renalplan.geometry import Shape, Spacing
from renalplan.kidney_tumor import KidneyTumor, find_kidney_tumor
from renalplan.kidneys import THRESHOLD_ML
from renalplan.lesions import PADDING_MM
from renalplan.model_folder import SegmenterSpec
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers import anatomy
from renalplan.trainers.losses import LossSettings
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.supervised import Recipe
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import Trainer
from renalplan.trainers.window_stage import Learned, WindowStage
from renalplan.trainers.windows import (
    DenseSource,
    KidneySource,
    SagittalSource,
    SliceSource,
    TumorSliceSource,
    WindowSource,
)
from renalplan.windows import window_voxels

UNET = "renalplan.networks.unet:UNet"
FCN = "renalplan.networks.longskip:LongSkipFCN"
SEGMENTER = "renalplan.inference.segmenters.coarse_to_fine:CoarseToFineSegmenter"
SAME_SCALE = 2.0  # axes less than this factor apart are halved together, as in the planner


def _numbers(value: Any) -> Any:
    """On the command line several numbers stand in one word: 64,128 or 64x128."""
    return re.split(r"[,x]", value) if isinstance(value, str) else value


Widths = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
Lengths2 = Annotated[tuple[float, float], BeforeValidator(_numbers)]
Lengths3 = Annotated[tuple[float, float, float], BeforeValidator(_numbers)]


class _Widths(Recipe):
    """A recipe for a network whose widths can be set."""

    widths: Widths = Field(default=())

    @field_validator("widths")
    @classmethod
    def _two_or_more(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) < 2 or min(value) < 1:
            raise ValueError("widths are two whole numbers above 0 or more, e.g. 32,64,128")
        return value


class Tumor3dSettings(_Widths):
    """How the 3-D tumor network is learnt [C2F, section 2.1]; sizes are ours."""

    widths: Widths = Field(
        default=(32, 64, 128), description="of each resolution of the 3-D network, e.g. 16,32,64"
    )
    batch_size: int | None = Field(default=6, ge=1, description="patches a step")
    foreground_share: float = Field(
        default=2 / 3,
        ge=0,
        le=1,
        description="share of patches centred in kidney or tumor, half of it each",
    )
    loss: LossSettings = LossSettings(name="ce")
    patch_mm: Lengths3 = Field(
        default=(96.0, 75.0, 75.0), description="patch along z, y, x; 32 x 96 x 96 voxels"
    )

    @field_validator("patch_mm")
    @classmethod
    def _above_zero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return _positive(value)


class CoarseToFineSettings(_Widths, TrainerSettings):
    """The 2-D networks' recipe, all four alike, and the rules. Sizes in mm are the paper's in voxels."""

    widths: Widths = Field(
        default=(64, 128, 256, 512, 1024),
        description="of each resolution of the 2-D networks, e.g. 16,32,64,128",
    )
    batch_size: int | None = Field(default=16, ge=1, description="slices a step")
    foreground_share: float = Field(
        default=0.5, ge=0, le=1, description="share of slices that must hold what is learned"
    )
    loss: LossSettings = LossSettings(name="dice")
    coarse_pixels: int = Field(
        default=128, ge=16, description="edge that whole axial slices are shrunk to"
    )
    correction_mm: Lengths2 = Field(
        default=(192.0, 200.0), description="sagittal window along z, y; 64 x 256 voxels"
    )
    fine_mm: float = Field(
        default=125.0, gt=0, description="axial window around one kidney; 160 x 160 voxels"
    )
    jitter_mm: float = Field(
        default=5.0, ge=0, description="standard deviation of a training window's displacement"
    )
    correction: bool = Field(
        default=True, description="false goes on with what the coarse network says"
    )
    threshold_ml: float = Field(
        default=THRESHOLD_ML, ge=0, description="what is larger is a kidney; 10,000 voxels"
    )
    padding_mm: float = Field(
        default=PADDING_MM, ge=0, description="around the kidneys, where tumors are looked for"
    )
    kidney_label: str | None = Field(default=None, description="the kidney's name in dataset.json")
    tumor_label: str | None = Field(default=None, description="the tumor's, if not clear from it")
    tumor_3d: Tumor3dSettings = Tumor3dSettings()

    @field_validator("correction_mm")
    @classmethod
    def _above_zero(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return _positive(value)


class CoarseToFine(Trainer):
    """C finds the kidneys, A corrects, F segments each; the 3-D network and T find tumors."""

    Settings: ClassVar[type[TrainerSettings]] = CoarseToFineSettings
    settings: CoarseToFineSettings

    def check(self) -> None:
        """See `Trainer.check`.

        Raises:
            UsageError: the plan has not one grid of whole scans, the labels are not kidney and
                tumor, or a slice's size does not fit the widths.
        """
        plan, stages = self.task.plan, self.task.stages
        stage = stages[-1]
        whole = len(stages) == 1 and (stage.region, stage.target) == ("volume", "labels")
        if not (whole and plan.axes == ("z", "y", "x") and None not in stage.spacing):
            raise UsageError(
                "CoarseToFine needs one grid of whole scans, axial slices first; plan "
                f"{plan.name} runs {', '.join(s.name for s in stages)} along {' '.join(plan.axes)}. "
                "Plan with renalplan_plan_and_preprocess TASK --planner coarse_to_fine (the "
                "paper's), or with --cascade none."
            )
        _ = self.structures
        pixels, multiple = self.settings.coarse_pixels, self.multiple
        if pixels % multiple or pixels < 2 * multiple:
            raise UsageError(
                f"--set coarse_pixels={pixels}: {len(self.settings.widths)} widths need a multiple "
                f"of {multiple}, {2 * multiple} or more."
            )

    @property
    def grid(self) -> StagePlan:
        """The plan's only stage."""
        return self.task.stages[-1]

    @property
    def spacing(self) -> Spacing:
        """mm of the grid along (z, y, x)."""
        z, y, x = self.grid.spacing
        assert z is not None, "see check"
        assert y is not None, "see check"
        assert x is not None, "see check"
        return z, y, x

    @cached_property
    def structures(self) -> KidneyTumor:
        """Which labels are kidney and tumor."""
        asked = self.settings.kidney_label, self.settings.tumor_label
        return find_kidney_tumor(self.task.scheme, *asked)

    @property
    def multiple(self) -> int:
        """What the 2-D networks' windows must be a multiple of."""
        return int(2 ** (len(self.settings.widths) - 1))

    def phases(self) -> list[Phase]:
        """See `Trainer.phases`."""
        c2f, pixels = self.settings, self.settings.coarse_pixels
        kidney, tumor = self._learned("kidney"), self._learned("tumor")
        sagittal, axial = self.sagittal_window, self.axial_window
        found: list[Phase] = [
            ComputePhase(anatomy.NAME, self._measure),
            self._phase_2d("coarse", (1, pixels, pixels), kidney, SliceSource),
        ]
        if c2f.correction:
            found.append(self._phase_2d("correction", sagittal, kidney, SagittalSource))
        return [
            *found,
            self._phase_2d("fine", axial, kidney, KidneySource),
            WindowStage(
                "tumor_3d",
                self._window(self.patch_3d, c2f.tumor_3d),
                self._fcn(),
                c2f.tumor_3d,
                c2f.seed,
                kind=DenseSource,
                learned=tumor,
            ),
            self._phase_2d("tumor_2d", axial, tumor, TumorSliceSource),
        ]

    def segmenter(self) -> SegmenterSpec:
        """See `Trainer.segmenter`."""
        pixels = self.settings.coarse_pixels
        arguments = {
            "kidney": self.structures.kidney,
            "tumor": self.structures.tumor,
            "coarse_pixels": pixels,
            "sagittal_window": list(self.sagittal_window),
            "axial_window": list(self.axial_window),
            "patch_3d": list(self.patch_3d),
            "threshold_ml": self.settings.threshold_ml,
            "padding_mm": self.settings.padding_mm,
            "correction": self.settings.correction,
        }
        return SegmenterSpec(factory=SEGMENTER, arguments=arguments)

    @property
    def sagittal_window(self) -> Shape:
        """A's input along (x, z, y), voxels."""
        z, y = self.settings.correction_mm
        return 1, self._voxels(z, 0), self._voxels(y, 1)

    @property
    def axial_window(self) -> Shape:
        """F's and T's input along (z, y, x), voxels."""
        edge = self.settings.fine_mm
        return 1, self._voxels(edge, 1), self._voxels(edge, 2)

    @property
    def patch_3d(self) -> Shape:
        """The 3-D network's input along (z, y, x), voxels."""
        strides = halvings(self.spacing, len(self.settings.tumor_3d.widths) - 1)
        z, y, x = (
            window_voxels(mm, s, prod(stride[axis] for stride in strides))
            for axis, (mm, s) in enumerate(
                zip(self.settings.tumor_3d.patch_mm, self.spacing, strict=True)
            )
        )
        return z, y, x

    def _voxels(self, mm: float, axis: int) -> int:
        # an instance norm needs more than one value at the coarsest resolution
        return max(2 * self.multiple, window_voxels(mm, self.spacing[axis], self.multiple))

    def _learned(self, what: str) -> Learned:
        c2f = self.settings
        return Learned(
            what=what,
            structures=self.structures,
            spacing=self.spacing,
            jitter_mm=c2f.jitter_mm,
            threshold_ml=c2f.threshold_ml,
            padding_mm=c2f.padding_mm,
        )

    def _measure(self, task: TrainingTask, folder: Path) -> None:
        anatomy.write_anatomies(
            task.training_items(self.grid),
            self.structures,
            self.spacing,
            folder,
            threshold_ml=self.settings.threshold_ml,
            padding_mm=self.settings.padding_mm,
        )

    def _window(self, patch: Shape, recipe: Recipe) -> StagePlan:
        """The grid with a network's own window; Dice of slices is taken over the batch."""
        own = {"patch_size": patch, "batch_dice": True}
        if recipe.batch_size is not None:
            own["batch_size"] = recipe.batch_size
        return self.grid.model_copy(update=own)

    def _phase_2d(
        self, name: str, window: Shape, learned: Learned, kind: type[WindowSource]
    ) -> WindowStage:
        extra = 1 if kind.kidney_as_channel else 0
        widths = self.settings.widths
        flat = [[1, 2, 2]] * (len(widths) - 1)
        arguments = {
            "in_channels": len(self.task.plan.channels) + extra,
            "heads": 2,
            "features": list(widths),
            "strides": [[1, 1, 1], *flat],
            "kernels": [[1, 3, 3]] * len(widths),
            "deep_supervision": False,
            "dims": 2,
        }
        return WindowStage(
            name,
            self._window(window, self.settings),
            NetworkSpec(factory=UNET, arguments=arguments),
            self.settings,
            self.settings.seed,
            kind=kind,
            learned=learned,
        )

    def _fcn(self) -> NetworkSpec:
        widths = self.settings.tumor_3d.widths
        arguments = {
            "in_channels": len(self.task.plan.channels),
            "heads": 2,
            "features": list(widths),
            "strides": [list(stride) for stride in halvings(self.spacing, len(widths) - 1)],
        }
        return NetworkSpec(factory=FCN, arguments=arguments)


def halvings(spacing: Sequence[float], times: int) -> list[Shape]:
    """Strides that halve, so many times, the axes that are about as fine as the finest one."""
    now, found = list(spacing), []
    for _ in range(times):
        finest = min(now)
        z, y, x = (2 if mm < SAME_SCALE * finest else 1 for mm in now)
        found.append((z, y, x))
        now = [mm * stride for mm, stride in zip(now, (z, y, x), strict=True)]
    return found


def _positive(value: tuple[float, ...]) -> tuple[float, ...]:
    if min(value) <= 0:
        raise ValueError("lengths are above 0 mm")
    return value
