"""SC-UNet: one network that learns labels and their edges side by side.

Sources:
    [BiSC] BiSC-UNet: kidney and renal tumor segmentation with a structural constraint 3D U-Net and a
    balanced cross-entropy: sections 2.1 (SC-UNet), 2.3 (loss), 3.2 (training).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.augmentation import AugmentationSettings
from renalplan.trainers.edges import EdgeSource, outlines
from renalplan.trainers.losses import LossSettings, build_loss
from renalplan.trainers.phase import Phase
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import (
    Recipe,
    Schedule,
    SupervisedSettings,
    SupervisedStage,
)
from renalplan.trainers.task import TrainingTask

EDGE_IGNORE = 2


class SCUNetSettings(SupervisedSettings):
    """The paper's training [BiSC, section 3.2]: 20 epochs, 4000 iterations in all, Adam 1e-4."""

    epochs: int = Field(default=20, ge=1, description="rounds of training")
    iterations: int = Field(default=200, ge=1, description="training steps a round")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adam")
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Schedule = Field(default="constant")
    weight_decay: float = Field(default=0.0, ge=0)
    loss: LossSettings = LossSettings(name="balanced_ce", threshold=0.1)
    augmentation: AugmentationSettings = AugmentationSettings(
        rotation_probability=0.0, scaling_probability=0.0, intensity=False
    )
    edges: Literal["erosion", "canny"] = Field(
        default="erosion",
        description="edge targets: the outermost voxels in 3-D, or Canny slice by slice as in the paper",
    )


class EarlierStageSettings(SCUNetSettings):
    """SC-UNet's settings and those of the plan's earlier stages."""

    earlier: Recipe = Recipe()


class SCUNetStage(SupervisedStage):
    """A stage learnt by SC-UNet: the loss of the labels plus, as important, that of every edge."""

    divides = True
    settings: SCUNetSettings

    def prepare(self, task: TrainingTask) -> None:
        """See `SupervisedStage.prepare`."""
        super().prepare(task)
        scheme = task.scheme_of(self.stage)
        self.ignore = scheme.ignore
        edge_scheme = LabelScheme(
            names=("background", "edge"),
            values=((0,), (1,)),
            ignore=None if scheme.ignore is None else EDGE_IGNORE,
        )
        self.edge_criterion = build_loss(edge_scheme, self.settings.loss)

    def training_batches(self, task: TrainingTask) -> BatchSource:
        """See `TrainedNetwork.training_batches`; batches hold the edges as well."""
        scheme = task.scheme_of(self.stage)
        return EdgeSource(
            source=self.patches(task, self.items(task)),
            outlines=outlines(scheme),
            spacing=task.stage_spacing(self.stage),
            method=self.settings.edges,
            slice_axis=task.plan.axes.index("z"),
            ignore=scheme.ignore,
        )

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Sum over the branches, each with equal weight [BiSC, section 2.1]."""
        labels = batch["labels"]
        self.criterion.to(labels.device)
        self.edge_criterion.to(labels.device)
        logits, *edges = network(batch["image"])
        total: Tensor = self.criterion(logits, labels)
        for number, edge in enumerate(edges):
            target = batch["edges"][:, number : number + 1].to(torch.int16)
            if self.ignore is not None:
                target = target.masked_fill(labels == self.ignore, EDGE_IGNORE)
            total = total + self.edge_criterion(edge, target)
        return total


class SCUNet(StagedTrainer):
    """The plan's last stage by SC-UNet, earlier ones by the plan's own U-Net."""

    Settings: ClassVar[type[TrainerSettings]] = EarlierStageSettings
    divisor = (8, 8, 8)

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        if self.is_last(stage):
            return [SCUNetStage(stage.name, stage, self.scunet_of(stage), self.settings, self.seed)]
        assert isinstance(self.settings, EarlierStageSettings)
        network = self.network_of(stage)
        return [SupervisedStage(stage.name, stage, network, self.settings.earlier, self.seed)]

    def scunet_of(self, stage: StagePlan) -> NetworkSpec:
        """SC-UNet with a stage's channels and labels."""
        plain = self.network_of(stage).arguments
        arguments: dict[str, Any] = {
            "in_channels": plain["in_channels"],
            "num_classes": plain["heads"],
            "edges": len(outlines(self.task.scheme_of(stage))),
        }
        return NetworkSpec(factory="renalplan.networks.scunet:SCUNet", arguments=arguments)
