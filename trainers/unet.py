"""The default trainer: nnU-Net's recipe on the plan's stages.

Sources:
    [Isensee2021] F. Isensee et al., nnU-Net: a self-configuring method for deep learning-based
    biomedical image segmentation, Nature Methods 18, 203-211, 2021.
"""

from __future__ import annotations

from typing import ClassVar

from renalplan.plan import StagePlan
from renalplan.trainers.cascade import predict_previous
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.supervised import SupervisedSettings, SupervisedStage
from renalplan.trainers.trainer import Trainer


class UNet(Trainer):
    """One supervised phase a stage; before a cascade's second stage, the first one's predictions.

    Attributes:
        Stage: How a stage is trained; a variant with another loss names its own subclass here.
    """

    Settings: ClassVar[type[TrainerSettings]] = SupervisedSettings
    Stage: ClassVar[type[SupervisedStage]] = SupervisedStage
    settings: SupervisedSettings

    def phases(self) -> list[Phase]:
        """See `Trainer.phases`."""
        found: list[Phase] = []
        for stage in self.task.stages:
            if stage.previous_as_channels:
                found.append(self._predictions_for(stage))
            found.append(self.Stage(stage.name, stage, self.network_of(stage), self.settings))
        return found

    def _predictions_for(self, stage: StagePlan) -> ComputePhase:
        previous = self.task.plan.stage(stage.previous or "")
        network = self.network_of(previous)
        return ComputePhase(
            f"before_{stage.name}",
            lambda task, _: predict_previous(task, stage, previous.name, network),
        )
