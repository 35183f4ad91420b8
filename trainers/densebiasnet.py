"""DPA-DenseBiasNet: fine renal arteries from few labels, many scans and hard voxels.

Sources:
    [He2020] Y. He et al., Dense biased networks with deep priori anatomy and hard region adaptation:
    Semi-supervised learning for fine renal artery segmentation, Medical Image Analysis 63, 2020.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn

from renalplan.model_folder import WEIGHTS
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers import autoencoder
from renalplan.trainers.augmentation import AugmentationSettings
from renalplan.trainers.autoencoder import AutoencoderSettings, DenoisingAutoencoder
from renalplan.trainers.losses import LossSettings
from renalplan.trainers.phase import Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import (
    Recipe,
    Schedule,
    SupervisedSettings,
    SupervisedStage,
)
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import regions_phase

WIDTHS = (16, 32, 64, 128)  # of the autoencoder's four resolutions, the analysis path's own
log = logging.getLogger(__name__)


class DenseBiasNetSettings(SupervisedSettings):
    """The paper's training [He2020, section 3.2]; where it is silent, docs/methods says what we do."""

    epochs: int = Field(default=200, ge=1, description="rounds of training")
    iterations: int = Field(default=200, ge=1, description="training steps a round")
    batch_size: int | None = Field(default=1, ge=1, description="patches a step")
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adam")
    learning_rate: float = Field(default=1e-4, gt=0, description="at the start")
    schedule: Schedule = Field(
        default="time", description="learning rate: Keras' decay with time, as in the paper"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    foreground_share: float = Field(
        default=0.5, ge=0, le=1, description="share of patches that must hold foreground"
    )
    # Eq. 2 is a sum without a divisor; divided by all voxels, the gradient fades with the number of
    # hard ones faster than Adam's memory, and training stalls
    loss: LossSettings = LossSettings(name="hra_ce", threshold=0.1, average="selected")
    augmentation: AugmentationSettings = AugmentationSettings(
        rotation_probability=1.0, rotation_degrees=10.0, scaling_probability=0.0, intensity=False
    )
    bias_maps: int | str = Field(
        default=4,
        description="maps each layer hands on to all later ones: a number, or a share such as 0.1r",
    )
    priors: Literal["auto", "true", "false"] = Field(
        default="auto",
        description="deep priori anatomy: an autoencoder's features; auto if there is imagesUn",
    )
    checkpointing: bool = Field(
        default=False, description="compute activations twice instead of keeping them: less memory"
    )
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    earlier: Recipe = Recipe()

    @field_validator("bias_maps", mode="before")
    @classmethod
    def _number_from_text(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.strip().isdecimal() else value

    @field_validator("bias_maps")
    @classmethod
    def _count_or_share(cls, value: int | str) -> int | str:
        from renalplan.networks.densebiasnet import WIDTHS, bias_map_count

        bias_map_count(value, min(WIDTHS))  # raises ValueError
        return value


class SegmentationWithPriors(SupervisedStage):
    """A supervised stage whose network may start with the autoencoder's frozen encoder in it."""

    def prepare(self, task: TrainingTask) -> None:
        """See `SupervisedStage.prepare`."""
        super().prepare(task)
        self.encoder_weights = task.fold_folder / autoencoder.NAME / WEIGHTS

    def initialise(self, network: nn.Module) -> None:
        """See `TrainedNetwork.initialise`."""
        from safetensors.torch import load_file

        encoder = getattr(network, "prior_encoder", None)
        if encoder is None:
            return
        prefix = "encoder."
        weights = load_file(self.encoder_weights)
        encoder.load_state_dict(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )


class DenseBiasNet(StagedTrainer):
    """The plan's last stage by DenseBiasNet, earlier ones by the plan's own U-Net.

    With priors: (where the stage sees kidney regions, find those of unlabelled scans,) train the
    autoencoder, then the segmentation network with its frozen encoder.
    """

    Settings: ClassVar[type[TrainerSettings]] = DenseBiasNetSettings
    uses_unlabelled = True
    divisor = (8, 8, 8)
    settings: DenseBiasNetSettings

    @cached_property
    def with_priors(self) -> bool:
        """Whether the autoencoder phase runs."""
        if self.settings.priors == "auto":
            # not by fold: the networks of all folds must be alike
            return bool(self.task.unlabelled or self.task.withheld)
        return self.settings.priors == "true"

    def run(self) -> None:
        """See `Trainer.run`."""
        if self.settings.priors == "auto" and not self.with_priors:
            log.warning(
                "no unlabelled images (imagesUn): training without deep priori anatomy; "
                "--set priors=true learns it from the training images alone"
            )
        super().run()

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        if not self.is_last(stage):
            network = self.network_of(stage)
            return [SupervisedStage(stage.name, stage, network, self.settings.earlier, self.seed)]
        found: list[Phase] = self._prior_phases(stage) if self.with_priors else []
        network = self._network(stage)
        return [
            *found,
            SegmentationWithPriors(stage.name, stage, network, self.settings, self.seed),
        ]

    def _network(self, stage: StagePlan) -> NetworkSpec:
        plain = self.network_of(stage).arguments
        arguments: dict[str, Any] = {
            "in_channels": plain["in_channels"],
            "num_classes": plain["heads"],
            "bias_maps": self.settings.bias_maps,
            "checkpointing": self.settings.checkpointing,
        }
        if self.with_priors:
            arguments["priors"] = list(WIDTHS)
            arguments["prior_channels"] = len(self.task.plan.channels)
        factory = "renalplan.networks.densebiasnet:DenseBiasNet"
        return NetworkSpec(factory=factory, arguments=arguments)

    def _prior_phases(self, stage: StagePlan) -> list[Phase]:
        found: list[Phase] = []
        if stage.region == "kidney" and self.task.unlabelled:
            network = self.network_of(self.task.plan.stage(stage.previous or ""))
            found.append(regions_phase(stage, network))
        arguments = {
            "in_channels": len(self.task.plan.channels),
            "widths": list(WIDTHS),
            "dropout": self.settings.autoencoder.dropout,
        }
        found.append(
            DenoisingAutoencoder(
                stage,
                NetworkSpec(
                    factory="renalplan.networks.autoencoder:Autoencoder", arguments=arguments
                ),
                self.settings.autoencoder,
                self.settings.augmentation,
                self.seed,
            )
        )
        return found
