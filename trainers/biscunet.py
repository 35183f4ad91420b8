"""BiSC-UNet: a rough SC-UNet finds the kidneys, a fine one segments each in its own region.

Sources:
    [BiSC] BiSC-UNet: sections 2.2 and 3.2.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from renalplan.errors import UsageError
from renalplan.model_folder import SegmenterSpec
from renalplan.networks.divisor import require_multiples
from renalplan.plan import StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.rois import RoiSource, jitter_mm, measure_rough_errors, read_kidneys
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.scunet import SCUNet, SCUNetSettings, SCUNetStage
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.task import TrainingTask

ERRORS_NAME = "rough_errors"


class BiSCUNetSettings(SCUNetSettings):
    """One recipe for both networks, as in the paper."""

    jitter: float = Field(
        default=1.0,
        ge=0,
        description="regions are displaced by the rough network's measured error times this",
    )


class FineStage(SCUNetStage):
    """SC-UNet on regions of interest, displaced as the rough network will misplace them."""

    settings: BiSCUNetSettings

    def patches(self, task: TrainingTask, items: tuple[ItemArrays, ...]) -> PatchSource:
        """See `SupervisedStage.patches`."""
        source = super().patches(task, items)
        rough = task.plan.stage(self.stage.previous or "")
        kidneys = read_kidneys(task.fold_folder / ERRORS_NAME)
        first = task.training_items(rough)[0]
        return source.become(
            RoiSource,
            kidneys=kidneys.boxes,
            spacing=task.stage_spacing(self.stage),
            slice_axis=task.plan.axes.index("z"),
            margin_mm=self.stage.margin_mm,
            jitter_mm=jitter_mm(kidneys, task.spacing_of(rough, first), self.settings.jitter),
        )


class BiSCUNet(SCUNet):
    """Two SC-UNets: the plan's locating stage and its stage in kidney regions."""

    Settings: ClassVar[type[TrainerSettings]] = BiSCUNetSettings
    settings: BiSCUNetSettings

    def check(self) -> None:
        """See `Trainer.check`."""
        stages = self.task.stages
        if len(stages) != 2 or stages[1].region != "kidney":
            raise UsageError(
                f"BiSCUNet needs a rough stage and one in kidney regions; plan {self.task.plan.name} "
                f"runs {', '.join(stage.name for stage in stages)}. Plan with "
                "renalplan_plan_and_preprocess TASK --planner bisc (the paper's geometry) or "
                "--cascade locate; or train SCUNet, which needs one stage."
            )
        super().check()
        rough = stages[0]
        try:
            require_multiples(rough.patch_size, self.divisor, f"the patch of stage {rough.name}")
        except ValueError as problem:
            raise UsageError(
                f"BiSCUNet: {problem}; change it in plan.json, or plan with --planner bisc."
            ) from None

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        network = self.scunet_of(stage)
        if not self.is_last(stage):
            return [SCUNetStage(stage.name, stage, network, self.settings, self.seed)]
        rough = self.task.plan.stage(stage.previous or "")
        rough_network = self.scunet_of(rough)
        return [
            ComputePhase(
                ERRORS_NAME,
                lambda task, folder: measure_rough_errors(
                    task, rough, stage, rough_network, folder
                ),
                lambda task: count_windows(rough, task.training_items(rough)),
            ),
            FineStage(stage.name, stage, network, self.settings, self.seed),
        ]

    def segmenter(self) -> SegmenterSpec:
        """See `Trainer.segmenter`."""
        return SegmenterSpec(
            factory="renalplan.inference.segmenters.kidney_rois:KidneyRoiSegmenter",
            arguments=super().segmenter().arguments,
        )
