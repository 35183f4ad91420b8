"""BiSC-UNet's phases and segmenter with thresholds in place of both networks."""

from __future__ import annotations

from oracle_trainer import Threshold

from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.biscunet import ERRORS_NAME, BiSCUNet
from renalplan.trainers.phase import ComputePhase, FixedNetwork, Phase
from renalplan.trainers.rois import measure_rough_errors

__all__ = ["OracleBiSCUNet", "Threshold"]  # only this module is trusted, so it names both

THRESHOLD_HU = 140.0


class OracleBiSCUNet(BiSCUNet):
    """What is brighter than 140 HU is kidney, roughly and finely."""

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        known = self.task.plan.channels[0].intensities
        level = (THRESHOLD_HU - known.mean) / known.std
        network = NetworkSpec(factory="oracle_biscunet:Threshold", arguments={"level": level})
        fixed = FixedNetwork(stage.name, network)
        if not self.is_last(stage):
            return [fixed]
        rough = self.task.plan.stage(stage.previous or "")
        errors = ComputePhase(
            ERRORS_NAME,
            lambda task, folder: measure_rough_errors(task, rough, stage, network, folder),
        )
        return [errors, fixed]
