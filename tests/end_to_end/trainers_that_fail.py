"""Trainers that go wrong in one of several processes, each in its own way."""

from __future__ import annotations

import os
import signal

from torch import Tensor, nn

from renalplan.errors import UsageError
from renalplan.plan import StagePlan
from renalplan.trainers import ranks
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import SupervisedStage


class OwnStage(SupervisedStage):
    """Its loss is nobody's whom we know."""

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        self.go_wrong(step)
        return super().loss(network, batch, step)

    def go_wrong(self, step: int) -> None:
        """What it does at a step, besides."""


class Dying(OwnStage):
    divides = True

    def go_wrong(self, step: int) -> None:
        if step == 1 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(OwnStage):
    divides = True

    def go_wrong(self, step: int) -> None:
        if step == 1 and ranks.rank() == 1:
            _ = 1 / 0


class OwnLoss(StagedTrainer):
    kind: type[OwnStage] = OwnStage

    def learn(self, stage: StagePlan) -> list[Phase]:
        network = self.network_of(stage)
        return [self.kind(stage.name, stage, network, self.settings, self.seed)]


class DiesOnTheSecond(OwnLoss):
    kind = Dying


class FailsOnTheSecond(OwnLoss):
    kind = Failing


class RefusesOnTheFirst(OwnLoss):
    kind = Dying

    def learn(self, stage: StagePlan) -> list[Phase]:
        return [ComputePhase("refuse", self._refuse), *super().learn(stage)]

    def _refuse(self, *_: object) -> None:
        raise UsageError("the first one's own sentence.")
