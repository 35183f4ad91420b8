"""Deep priori anatomy, first half: a denoising autoencoder learns anatomy from images alone.

Sources:
    [He2020] Y. He et al., Dense biased networks with deep priori anatomy and hard region adaptation,
    Medical Image Analysis 63, 2020: section 2.1.2.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.files import Record
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.augmentation import AugmentationSettings, build_augmentation
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import ImageSource, unlabelled_regions

NAME = "autoencoder"


class AutoencoderSettings(Record):
    """How the autoencoder is trained; as the segmentation network where the paper says so."""

    epochs: int = Field(default=200, ge=1, description="rounds of training")
    iterations: int = Field(default=200, ge=1, description="training steps a round")
    batch_size: int = Field(default=1, ge=1, description="patches a step")
    learning_rate: float = Field(default=1e-4, gt=0, description="of Adam")
    time_decay: float = Field(
        default=1e-5, ge=0, description="the rate is divided by 1 + time_decay * step"
    )
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="share of input voxels that is blanked out"
    )


class DenoisingAutoencoder(TrainedNetwork):
    """Restores patches from patches with holes: mean squared error, no labels [He2020].

    The images are those of the fold's training cases and of the unlabelled ones.

    Attributes:
        stage: Whose patches.
    """

    divides = True

    def __init__(
        self,
        stage: StagePlan,
        network: NetworkSpec,
        settings: AutoencoderSettings,
        augmentation: AugmentationSettings,
        seed: int,
    ) -> None:
        super().__init__(NAME, network)
        self.stage = stage
        self.settings = settings
        self.augmentation = augmentation
        self.seed = seed
        self.epochs = settings.epochs
        self.iterations = settings.iterations

    @property
    def batch_size(self) -> int:
        """See `TrainedNetwork`."""
        return self.settings.batch_size

    def training_batches(self, task: TrainingTask) -> BatchSource:
        """See `TrainedNetwork.training_batches`."""
        augmentation = build_augmentation(
            self.stage.patch_size,
            task.scheme,
            self.augmentation,
            left_right_axis=task.plan.left_right_axis,
        )
        return ImageSource(
            items=(*task.training_items(self.stage), *task.unlabelled_items(self.stage)),
            regions=unlabelled_regions(task, self.stage),
            patch=self.stage.patch_size,
            margin=augmentation.margin,
            batch_size=self.settings.batch_size,
            transform=augmentation.transform,
            seed=self.seed,
        )

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """Mean squared error between the restored and the clean image."""
        return F.mse_loss(network(batch["image"]).float(), batch["image"])

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam, betas 0.9 and 0.999."""
        return torch.optim.Adam(network.parameters(), lr=self.settings.learning_rate)

    def rate(self, step: int, steps: int) -> float:
        """Keras' decay with time."""
        return 1 / (1 + self.settings.time_decay * step)
