"""Learning one of the plan's stages from labelled patches: the phase most trainers are made of."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from renalplan.files import Record
from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.augmentation import (
    Augmentation,
    AugmentationSettings,
    build_augmentation,
)
from renalplan.trainers.beside import previous_labels
from renalplan.trainers.losses import (
    DeepSupervision,
    LossSettings,
    TargetEncoder,
    build_loss,
    dice_counts,
)
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import BatchSource, PatchSource, Reader
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.task import TrainingTask

Schedule = Literal["poly", "time", "exponential", "constant"]
VALIDATION_SEED = 977  # held-out patches are the same in every epoch, so figures can be compared


class Recipe(Record):
    """How one stage is learnt from patches, supervised."""

    epochs: int = Field(default=1000, ge=1, description="rounds of training")
    iterations: int = Field(default=250, ge=1, description="training steps a round")
    validation_iterations: int = Field(
        default=50, ge=0, description="held-out batches looked at after each round"
    )
    batch_size: int | None = Field(
        default=None, ge=1, description="patches a step; the plan's if unset"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(
        default="sgd", description="sgd is nnU-Net's; adamw learns faster in short schedules"
    )
    learning_rate: float = Field(
        default=1e-2, gt=0, description="at the start; about 3e-3 suits adamw"
    )
    schedule: Schedule = Field(
        default="poly",
        description="learning rate: nnU-Net's polynomial decay, Keras' decay with time, exponential "
        "decay, or none",
    )
    time_decay: float = Field(
        default=1e-5, ge=0, description="schedule=time divides the rate by 1 + time_decay * step"
    )
    decay_rate: float = Field(
        default=0.9, gt=0, le=1, description="schedule=exponential multiplies by this every round"
    )
    momentum: float = Field(default=0.99, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=True, description="sgd looks ahead along its momentum")
    weight_decay: float = Field(default=3e-5, ge=0)
    foreground_share: float = Field(
        default=0.33, ge=0, le=1, description="share of patches that must hold foreground"
    )
    gradient_clip: float = Field(default=12.0, gt=0)
    loss: LossSettings = LossSettings()
    augmentation: AugmentationSettings = AugmentationSettings()


class SupervisedSettings(Recipe, TrainerSettings):
    """What a trainer of the plan's stages can be told: its recipe, and the last stage's patch."""

    patch_size: tuple[int, int, int] | None = Field(
        default=None,
        description="network input of the last stage along the plan's axes, e.g. 64,152,152; the "
        "plan's if unset",
    )

    @field_validator("patch_size", mode="before")
    @classmethod
    def _sizes_from_text(cls, value: Any) -> Any:
        """On the command line three sizes stand in one word."""
        if not isinstance(value, str):
            return value
        sizes = re.split(r"[,x]", value)
        if len(sizes) != 3 or not all(size.strip().isdecimal() for size in sizes):
            raise ValueError("a patch size is three whole numbers, e.g. 64,152,152")
        return [int(size) for size in sizes]

    @field_validator("patch_size")
    @classmethod
    def _sizes_are_positive(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("a patch has at least 1 voxel along every axis")
        return value


class SupervisedStage(TrainedNetwork):
    """Trains a network on a stage's patches with Dice + cross-entropy, SGD and polynomial decay.

    Attributes:
        stage: The plan's stage.
        settings: Hyperparameters.
        seed: Decides every draw.
    """

    divides = True

    def __init__(
        self, name: str, stage: StagePlan, network: NetworkSpec, settings: Recipe, seed: int
    ) -> None:
        super().__init__(name, network)
        self.stage = stage
        self.settings = settings
        self.seed = seed
        self.epochs = settings.epochs
        self.iterations = settings.iterations
        self.gradient_clip = settings.gradient_clip
        self.looks = settings.validation_iterations

    @property
    def batch_size(self) -> int:
        """See `TrainedNetwork`: the settings', or the plan's."""
        return self.settings.batch_size or self.stage.batch_size

    def prepare(self, task: TrainingTask) -> None:
        """See `TrainedNetwork.prepare`: the loss for this task's labels."""
        self.criterion: nn.Module = DeepSupervision(self.criterion_for(self.scheme(task)))

    def scheme(self, task: TrainingTask) -> LabelScheme:
        """What the batches' label values mean: by default the stage's labels."""
        return task.scheme_of(self.stage)

    def criterion_for(self, scheme: LabelScheme) -> nn.Module:
        """The loss of logits (B, heads, Z, Y, X) and labels (B, 1, Z, Y, X) at one resolution."""
        return build_loss(scheme, self.settings.loss, over_batch=self.stage.batch_dice)

    def training_batches(self, task: TrainingTask) -> BatchSource:
        """See `TrainedNetwork.training_batches`."""
        return self.patches(task, self.items(task))

    def patches(self, task: TrainingTask, items: tuple[ItemArrays, ...]) -> PatchSource:
        """Augmented patches of these items."""
        augmentation = self.augmentation(task, self.settings.augmentation)
        source = self.source(task, items, augmentation, self.seed)
        return replace(source, weights=self.weights(task))

    def plain_patches(self, task: TrainingTask, items: tuple[ItemArrays, ...]) -> PatchSource:
        """Patches of these items that are not augmented, to look at."""
        plain = self.augmentation(task, AugmentationSettings(enabled=False))
        return self.source(task, items, plain, VALIDATION_SEED)

    def augmentation(self, task: TrainingTask, settings: AugmentationSettings) -> Augmentation:
        """How patches are varied."""
        return build_augmentation(
            self.stage.patch_size,
            task.scheme,
            settings,
            left_right_axis=task.plan.left_right_axis,
            cascade=self.stage.previous_as_channels,
        )

    def source(
        self,
        task: TrainingTask,
        items: tuple[ItemArrays, ...],
        augmentation: Augmentation,
        seed: int,
    ) -> PatchSource:
        """Patches of these items."""
        return PatchSource(
            items=items,
            patch=self.stage.patch_size,
            margin=augmentation.margin,
            batch_size=self.batch_size,
            foreground_share=self.settings.foreground_share,
            transform=augmentation.transform,
            seed=seed,
            extra=previous_labels(task, self.stage),
        )

    def items(self, task: TrainingTask) -> tuple[ItemArrays, ...]:
        """What is learnt from: images and labels of the fold's training cases."""
        return task.training_items(self.stage)

    def weights(self, task: TrainingTask) -> Reader | None:
        """What each voxel weighs in the loss; None where the loss has no voxel weights."""
        return None

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """See `TrainedNetwork.loss`."""
        self.criterion.to(batch["image"].device)
        return self.criterion(network(batch["image"]), batch["labels"], *_weights(batch))

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """See `TrainedNetwork.optimizer`; what a network keeps frozen stays out of it."""
        parameters = [p for p in network.parameters() if p.requires_grad]
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        if self.settings.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        momentum = self.settings.momentum
        nesterov = self.settings.nesterov and momentum > 0
        return torch.optim.SGD(
            parameters, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay
        )

    def rate(self, step: int, steps: int) -> float:
        """See `TrainedNetwork.rate`."""
        if self.settings.schedule == "time":
            return 1 / (1 + self.settings.time_decay * step)
        if self.settings.schedule == "exponential":
            return float(self.settings.decay_rate ** (step / self.iterations))
        return 1.0 if self.settings.schedule == "constant" else super().rate(step, steps)

    def validate(
        self, network: nn.Module, task: TrainingTask, device: torch.device
    ) -> dict[str, float]:
        """Pseudo Dice: pooled over held-out patches, quick to have and no replacement for whole cases."""
        if not (self.settings.validation_iterations and task.judged_items(self.stage)):
            return {}
        scheme = self.scheme(task)
        source = self.held_out_batches(task)
        encoder = TargetEncoder(scheme).to(device)
        counts = torch.zeros((3, len(scheme.foreground)), dtype=torch.float64, device=device)
        for step in range(self.settings.validation_iterations):
            batch = {k: v.to(device) for k, v in source.batch(step).items()}
            counts += dice_counts(self.predict(network, batch), batch["labels"], encoder)
        true, false_positive, false_negative = counts.cpu()
        dice = 2 * true / (2 * true + false_positive + false_negative).clamp_min(1)
        return {f"dice_{name}": float(d) for name, d in zip(scheme.foreground, dice, strict=True)}

    def predict(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, heads, *patch) of a batch, for `validate`."""
        logits: Tensor = network(batch["image"])
        return logits

    def held_out_batches(self, task: TrainingTask) -> BatchSource:
        """Where `validate` takes its batches from: held-out cases, not augmented."""
        return self.plain_patches(task, task.judged_items(self.stage))


def _weights(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return (batch["weights"],) if "weights" in batch else ()
