"""What group training is compared with, on the same boxes: iterated denoising, and a bounded size.

Named by path, since they are for comparisons: `renalplan_train 101 0 renalplan.trainers.box_baselines:SDI`.

Sources:
    [Khoreva2017] A. Khoreva et al., Simple does it: weakly supervised instance and semantic
    segmentation, CVPR 2017.
    [Kervadec2019] H. Kervadec et al., Constrained-CNN losses for weakly supervised segmentation,
    Medical Image Analysis 54, 2019.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from renalplan.errors import UsageError
from renalplan.geometry import Box, box_slices
from renalplan.inference.options import choose_device
from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.beside import ArraysBeside
from renalplan.trainers.boxed import BoxSettings, BoxTrainer, WeakStage
from renalplan.trainers.boxes import inside_boxes, on_item, paint_ellipsoids, radius, read_boxes
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.fusion import FusionSettings, around_boxes, fusion_mask
from renalplan.trainers.group import MaskedBoxSettings, PseudoMasked
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.losses import LossSettings, OnLabels, SizeConstrainedCrossEntropy
from renalplan.trainers.losses.sizes import CERTAIN, UNCERTAIN
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.pseudo_masks import LEAST_SHARE, CrfSettings, as_labels, unit_intensities
from renalplan.trainers.pseudo_masks import NAME as PSEUDO_MASKS
from renalplan.trainers.relabelled import is_relabelled, relabel, relabelled
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.task import TrainingTask

SEEDS = "seeds"
CERTAINTY_SUFFIX = ".certainty"


class SDISettings(MaskedBoxSettings):
    """Settings of `SDI`."""

    rounds: int = Field(
        default=2,
        ge=1,
        description="networks before the last one, each learning the one before's masks",
    )
    round_epochs: int | None = Field(
        default=None, ge=1, description="rounds of training of each of them; epochs if unset"
    )
    fusion: FusionSettings = FusionSettings()


class SDI(PseudoMasked):
    """Train, predict the training images, denoise, train again [Khoreva2017]: one network a round.

    Denoising: nothing beyond the boxes; the ConvCRF; where that keeps less than a fifth of a box, the
    pseudo mask it began with. In 3-D; the original works slice by slice.
    """

    Settings: ClassVar[type[TrainerSettings]] = SDISettings
    settings: SDISettings

    def learn_last(self, stage: StagePlan) -> list[Phase]:
        """See `BoxTrainer.learn_last`."""
        network, found = self.network_of(stage), [self.pseudo_masks(stage)]
        epochs = self.settings.round_epochs or self.settings.epochs
        recipe = self.settings.model_copy(update={"epochs": epochs})
        masks = PSEUDO_MASKS
        for number in range(1, self.settings.rounds + 1):
            name = f"round_{number}"
            found.append(WeakStage(name, stage, network, recipe, self.seed, masks=masks))
            masks = f"masks_{number}"
            found.append(self._denoised(masks, name, stage, network))
        last = WeakStage(stage.name, stage, network, self.settings, self.seed, masks=masks)
        return [*found, last]

    def _denoised(self, name: str, by: str, stage: StagePlan, network: NetworkSpec) -> Phase:
        settings, crf = self.settings.fusion, self.settings.crf
        return ComputePhase(
            name,
            lambda task, folder: denoise(task, stage, by, network, settings, crf, folder),
            lambda task: count_windows(stage, task.training_items(stage)),
        )


def denoise(
    task: TrainingTask,
    stage: StagePlan,
    phase: str,
    network: NetworkSpec,
    settings: FusionSettings,
    crf: CrfSettings,
    folder: Path,
) -> None:
    """Write what a network says of the fold's training items, denoised; a killed run's are kept."""
    found = read_boxes(task).boxes
    predict = ItemPredictor(task, stage, network, phase=phase)
    for item in task.training_items(stage):
        if is_relabelled(item, folder):
            continue
        shape = item.item.shape
        boxes = on_item(found[item.case], item, task.plan.order)
        predicted = (predict(item) > 0) & inside_boxes(boxes, shape)
        where = around_boxes(boxes, shape)
        mask = np.zeros(shape, bool)
        mask[where] = fusion_mask(
            predicted[where],
            [],
            unit_intensities(item.whole_image(), task.plan.channels)[(slice(None), *where)],
            task.spacing_of(stage, item),
            settings=settings,
            crf=crf,
            device=choose_device(task.hardware.device),
        )
        first = relabelled(item, task.fold_folder / PSEUDO_MASKS)
        mask = restore_small(mask, np.asarray(first.labels[0]) > 0, boxes)
        relabel(item, folder, as_labels(mask, task.scheme), task.scheme)


def restore_small(
    mask: NDArray[np.bool_], first: NDArray[np.bool_], boxes: tuple[Box, ...]
) -> NDArray[np.bool_]:
    """A mask within boxes; where it keeps less than a fifth of a box, what it was at first."""
    result = np.zeros_like(mask)
    for box in boxes:
        part = box_slices(box)
        result[part] |= mask[part] if mask[part].mean() >= LEAST_SHARE else first[part]
    return result


class SizeSettings(BoxSettings):
    """Settings of `SizeConstrained`."""

    size_low: float = Field(
        default=0.9, ge=0, description="sizes below this times the inscribed ellipsoid's cost"
    )
    size_high: float = Field(default=1.1, ge=0, description="and sizes above this times it")
    size_penalty: float = Field(default=0.01, ge=0, description="what they cost: lambda")
    seed_radius: float = Field(
        default=0.5, gt=0, le=1, description="tumor for certain: the ellipsoid this much smaller"
    )


class SizeConstrained(BoxTrainer):
    """Cross-entropy on what is certain, and a bounded size [Kervadec2019], from boxes alone.

    Certain are the core of each box's inscribed ellipsoid and everything beyond the boxes; V is the
    ellipsoid's size. The paper's comparison took scribbles and V from the true masks.
    """

    Settings: ClassVar[type[TrainerSettings]] = SizeSettings
    settings: SizeSettings

    def check(self) -> None:
        """See `Trainer.check`."""
        super().check()
        if self.settings.loss != LossSettings(name="wce"):
            raise UsageError("SizeConstrained has a loss of its own; leave out --set loss.*.")
        if self.settings.size_low > self.settings.size_high:
            raise UsageError(
                f"--set size_low={self.settings.size_low} must not be above "
                f"size_high={self.settings.size_high}."
            )

    def learn_last(self, stage: StagePlan) -> list[Phase]:
        """See `BoxTrainer.learn_last`."""
        size = self.settings.seed_radius
        return [
            ComputePhase(SEEDS, lambda task, folder: write_seeds(task, stage, size, folder)),
            WeakStage(
                stage.name,
                stage,
                self.network_of(stage),
                self.settings,
                self.seed,
                masks=SEEDS,
                loss_module=self._loss,
                weights_suffix=CERTAINTY_SUFFIX,
            ),
        ]

    def _loss(self, scheme: LabelScheme) -> nn.Module:
        given = self.settings
        loss = SizeConstrainedCrossEntropy(given.size_low, given.size_high, given.size_penalty)
        return OnLabels(loss, scheme)


def write_seeds(task: TrainingTask, stage: StagePlan, seed_radius: float, folder: Path) -> None:
    """Inscribed ellipsoids as labels, and beside them where they are certain."""
    found = read_boxes(task).boxes
    certainty = ArraysBeside(folder, CERTAINTY_SUFFIX)
    for item in task.training_items(stage):
        if is_relabelled(item, folder):
            continue
        shape = item.item.shape
        boxes = on_item(found[item.case], item, task.plan.order)
        values = np.where(inside_boxes(boxes, shape), UNCERTAIN, CERTAIN).astype(np.uint8)
        for box in boxes:
            part = box_slices(box)
            values[part][radius(box, box) <= seed_radius] = CERTAIN
        certainty.write(item, values)
        relabel(item, folder, as_labels(paint_ellipsoids(boxes, shape), task.scheme), task.scheme)
