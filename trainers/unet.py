"""The default trainer: nnU-Net's recipe on the plan's stages.

Sources:
    [Isensee2021] F. Isensee et al., nnU-Net: a self-configuring method for deep learning-based
    biomedical image segmentation, Nature Methods 18, 203-211, 2021.
"""

from __future__ import annotations

from typing import ClassVar

from renalplan.plan import StagePlan
from renalplan.trainers.phase import Phase
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import SupervisedStage


class UNet(StagedTrainer):
    """One supervised phase a stage.

    Attributes:
        Stage: How a stage is trained; a variant with another loss names its own subclass here.
    """

    Stage: ClassVar[type[SupervisedStage]] = SupervisedStage

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        return [self.Stage(stage.name, stage, self.network_of(stage), self.settings, self.seed)]
