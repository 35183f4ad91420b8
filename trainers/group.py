"""Group training: a tumor network from bounding boxes, by networks that correct each other's masks.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020:
    section 3 (method), section 4.4 (training).
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from renalplan.errors import UsageError
from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import require_case
from renalplan.trainers import fusion, pseudo_masks
from renalplan.trainers.boxed import BoxSettings, BoxTrainer, WeakStage
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.fusion import FusionSettings, fuse, split_patients
from renalplan.trainers.losses import OnLabels, VoxelWeightedCrossEntropy
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.pseudo_masks import CrfSettings, PseudoMaskSettings, make_pseudo_masks
from renalplan.trainers.settings import TrainerSettings


class MaskedBoxSettings(BoxSettings):
    """Settings of methods that begin with pseudo masks."""

    pseudo: PseudoMaskSettings = PseudoMaskSettings()
    crf: CrfSettings = CrfSettings()


class GroupSettings(MaskedBoxSettings):
    """The paper's: three subsets, voxel-wise weights [Yang2020, section 4.4]."""

    k: int = Field(
        default=3, ge=0, le=254, description="disjoint subsets, a network each; 0 skips stage 2"
    )
    group_epochs: int | None = Field(
        default=None,
        ge=1,
        description="rounds of training of each of the k networks; epochs if unset",
    )
    weighting: Literal["voxels", "classes"] = Field(
        default="voxels",
        description="of the final network's loss: VWCE (Eq. 8), or WCE (Eq. 7) as the k networks",
    )
    scale_weights: bool = Field(
        default=False, description="divide voxel weights by k + 1, so that the largest is 1"
    )
    fusion: FusionSettings = FusionSettings()


class PseudoMasked(BoxTrainer):
    """A box trainer that begins with pseudo masks."""

    Settings: ClassVar[type[TrainerSettings]] = MaskedBoxSettings
    settings: MaskedBoxSettings

    def pseudo_masks(self, stage: StagePlan) -> Phase:
        """Stage 1 [Yang2020, section 3.A]."""
        settings, crf = self.settings.pseudo, self.settings.crf
        return ComputePhase(
            pseudo_masks.NAME,
            lambda task, folder: make_pseudo_masks(task, stage, settings, crf, folder),
        )


class GroupTraining(PseudoMasked):
    """Pseudo masks, k networks on disjoint subsets, fusion masks, the final network."""

    Settings: ClassVar[type[TrainerSettings]] = GroupSettings
    settings: GroupSettings

    def check(self) -> None:
        """See `Trainer.check`."""
        super().check()
        given = self.settings
        if given.k and given.weighting == "voxels" and given.loss.name != "wce":
            raise UsageError(
                "GroupTraining: voxel weights are for the weighted cross-entropy; with --set "
                f"loss.name={given.loss.name} add weighting=classes."
            )
        if len(self.task.fold.train) < given.k:
            raise UsageError(
                f"GroupTraining: {given.k} disjoint subsets need as many training cases, there are "
                f"{len(self.task.fold.train)}; --set k=0 trains without stage 2."
            )

    @cached_property
    def subsets(self) -> list[tuple[str, ...]]:
        """Training cases of each of the k networks [Yang2020, Algorithm 1].

        Raises:
            UsageError: fewer patients than subsets.
        """
        folder = self.task.stores / self.stages[-1].name
        patients = {case: require_case(folder, case).patient for case in self.task.fold.train}
        try:
            return split_patients(patients, self.settings.k, self.seed)
        except ValueError as problem:
            raise UsageError(
                f"GroupTraining: {problem}; --set k=0 trains without stage 2."
            ) from None

    def learn_last(self, stage: StagePlan) -> list[Phase]:
        """See `BoxTrainer.learn_last`: stages 1 to 3."""
        network = self.network_of(stage)
        final = self.settings
        if not final.k:
            masks = pseudo_masks.NAME
            last = WeakStage(stage.name, stage, network, final, self.seed, masks=masks)
            return [self.pseudo_masks(stage), last]
        by_voxel = final.weighting == "voxels"
        last = WeakStage(
            stage.name,
            stage,
            network,
            final,
            self.seed,
            masks=fusion.NAME,
            loss_module=self._weighted if by_voxel else None,
            weights_suffix=fusion.WEIGHTS_SUFFIX if by_voxel else None,
        )
        return [self.pseudo_masks(stage), *self._group(stage, network), last]

    def _group(self, stage: StagePlan, network: NetworkSpec) -> list[Phase]:
        """Stage 2 [Yang2020, section 3.B]."""
        epochs = self.settings.group_epochs or self.settings.epochs
        recipe = self.settings.model_copy(update={"epochs": epochs})
        found: list[Phase] = [
            WeakStage(
                f"group_{number}",
                stage,
                network,
                recipe,
                self.seed,
                masks=pseudo_masks.NAME,
                cases=cases,
            )
            for number, cases in enumerate(self.subsets, start=1)
        ]
        networks = {phase.name: network for phase in found}
        settings, crf = self.settings.fusion, self.settings.crf
        fused = ComputePhase(
            fusion.NAME,
            lambda task, folder: fuse(task, stage, networks, settings, crf, folder),
            lambda task: len(networks) * count_windows(stage, task.training_items(stage)),
        )
        return [*found, fused]

    def _weighted(self, scheme: LabelScheme) -> nn.Module:
        """Eq. 8."""
        loss = VoxelWeightedCrossEntropy(
            background=self.settings.loss.background_weight,
            largest=self.settings.k + 1 if self.settings.scale_weights else 1,
        )
        return OnLabels(loss, scheme)
