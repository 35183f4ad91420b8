"""A trainer that needs no training: what is brighter than a threshold is the structure.

With it, everything around the network (planning, geometry, windows, resampling, writing) can be held
against the truth.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from renalplan.plan import NetworkSpec
from renalplan.trainers.phase import FixedNetwork, Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.trainer import Trainer


class Threshold(nn.Module):
    """Two logits from the first channel: positive for the structure above the threshold."""

    level: Tensor

    def __init__(self, level: float) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(level))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, 2, Z, Y, X)."""
        above = image[:, :1] - self.level
        return torch.cat([-above, above], 1)


class OracleSettings(TrainerSettings):
    """`threshold_hu` None takes just above the foreground's 0.5 percentile."""

    threshold_hu: float | None = None


class Oracle(Trainer):
    """One fixed network a stage."""

    Settings: ClassVar[type[TrainerSettings]] = OracleSettings
    settings: OracleSettings

    def phases(self) -> list[Phase]:
        known = self.task.plan.channels[0].intensities
        hu = self.settings.threshold_hu
        hu = known.percentile_00_5 + 1e-2 if hu is None else hu
        level = (hu - known.mean) / known.std
        network = NetworkSpec(factory="oracle_trainer:Threshold", arguments={"level": level})
        return [FixedNetwork(stage.name, network) for stage in self.task.stages]
