"""What trainers share that know tumors by their boxes alone: no network of theirs sees a label.

Phase `boxes` first; the plan's earlier stages learn the boxes' inscribed ellipsoids, each on its own
grid; how the last stage is learnt is the method's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from renalplan.errors import UsageError
from renalplan.labels import LabelScheme
from renalplan.model_folder import SegmenterSpec
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers import boxes
from renalplan.trainers.augmentation import AugmentationSettings
from renalplan.trainers.beside import ArraysBeside
from renalplan.trainers.losses import LossSettings
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.pseudo_masks import as_labels
from renalplan.trainers.relabelled import is_relabelled, relabel, relabelled
from renalplan.trainers.sampling import Reader
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import Recipe, Schedule, SupervisedSettings, SupervisedStage
from renalplan.trainers.task import TrainingTask

LARGEST = "renalplan.inference.segmenters.largest_component:LargestComponentSegmenter"


class BoxSettings(SupervisedSettings):
    """The paper's training [Yang2020, sections 4.3 and 4.4]; docs/methods says where it is silent."""

    epochs: int = Field(default=25, ge=1, description="rounds of training")
    batch_size: int | None = Field(
        default=6, ge=1, description="patches a step; the plan's if none"
    )
    optimizer: Literal["sgd", "adam", "adamw"] = Field(default="adam")
    learning_rate: float = Field(default=1e-3, gt=0, description="at the start")
    schedule: Schedule = Field(
        default="exponential", description="learning rate: decays exponentially, as in the paper"
    )
    weight_decay: float = Field(default=0.0, ge=0)
    foreground_share: float = Field(
        default=0.5, ge=0, le=1, description="share of patches that must hold foreground"
    )
    loss: LossSettings = LossSettings(name="wce")
    augmentation: AugmentationSettings = AugmentationSettings(
        rotation_probability=0.0, scaling_probability=0.0, intensity=False
    )
    box_margin: int | None = Field(
        default=None,
        ge=0,
        description="make boxes from the labels, so many voxels wider on every side (the paper's 0, "
        "5, 10); if unset, boxesTr.csv is taken, or labels with 0 if there is none",
    )
    largest_component: bool = Field(
        default=True,
        description="prediction keeps the largest piece only, as in the paper; false keeps all, for "
        "patients with several tumors",
    )
    earlier: Recipe = Recipe()


class WeakStage(SupervisedStage):
    """A supervised stage that learns labels which a phase made, and sees no others.

    Attributes:
        masks: The phase that made the labels.
        cases: Whose items it learns from; None are all training cases.
        loss_module: label scheme -> another loss than the settings', None is theirs.
        weights_suffix: Of the voxel weights that the same phase wrote; None if the loss has none.
    """

    divides = True

    def __init__(
        self,
        name: str,
        stage: StagePlan,
        network: NetworkSpec,
        settings: Recipe,
        seed: int,
        *,
        masks: str,
        cases: tuple[str, ...] | None = None,
        loss_module: Callable[[LabelScheme], nn.Module] | None = None,
        weights_suffix: str | None = None,
    ) -> None:
        super().__init__(name, stage, network, settings, seed)
        self.masks = masks
        self.cases = cases
        self.loss_module = loss_module
        self.weights_suffix = weights_suffix

    def criterion_for(self, scheme: LabelScheme) -> nn.Module:
        """See `SupervisedStage.criterion_for`."""
        return self.loss_module(scheme) if self.loss_module else super().criterion_for(scheme)

    def items(self, task: TrainingTask) -> tuple[ItemArrays, ...]:
        """See `SupervisedStage.items`."""
        folder = task.fold_folder / self.masks
        wanted = task.fold.train if self.cases is None else self.cases
        every = task.training_items(self.stage)
        return tuple(relabelled(item, folder) for item in every if item.case in wanted)

    def weights(self, task: TrainingTask) -> Reader | None:
        """See `SupervisedStage.weights`."""
        if self.weights_suffix is None:
            return None
        return ArraysBeside(task.fold_folder / self.masks, self.weights_suffix)


class BoxTrainer(StagedTrainer):
    """Tumors from boxes; a method says in `learn_last` how the last stage is learnt."""

    Settings: ClassVar[type[TrainerSettings]] = BoxSettings
    uses_boxes = True
    settings: BoxSettings

    @abstractmethod
    def learn_last(self, stage: StagePlan) -> list[Phase]:
        """The phases of the last stage; the one of its name leaves the network that predicts."""

    def check(self) -> None:
        """See `Trainer.check`.

        Raises:
            UsageError: more than one structure, regions or an ignore label; boxes that are missing.
        """
        super().check()
        name, scheme = type(self).__name__, self.task.scheme
        if len(scheme.foreground) != 1 or scheme.has_regions or scheme.ignore is not None:
            raise UsageError(
                f"{name} learns one structure from its boxes; dataset.json must have one label "
                f'besides background, such as {{"background": 0, "tumor": 1}}, and neither regions nor '
                f"an ignore label, but it has {', '.join(self.task.description.labels)}. Make a "
                "dataset of that label alone."
            )
        training = self.task.fold.train
        if self.settings.box_margin is not None:
            if boxed := [case for case in training if case in self.task.boxed]:
                raise UsageError(
                    f"--set box_margin makes boxes from labels, which {boxed[0]} and "
                    f"{len(boxed) - 1} others do not have; leave it out to take boxesTr.csv."
                )
        elif self.task.boxes and (
            missing := [case for case in training if not self.task.boxes.get(case)]
        ):
            raise UsageError(
                f"boxesTr.csv has no box of {', '.join(missing[:5])}; add them, or make boxes "
                "from the labels with --set box_margin=0."
            )

    def phases(self) -> list[Phase]:
        """See `Trainer.phases`."""
        return [self._find_boxes, *super().phases()]

    @cached_property
    def _find_boxes(self) -> ComputePhase:
        last, margin = self.stages[-1], self.settings.box_margin
        return ComputePhase(
            boxes.NAME, lambda task, folder: boxes.find_boxes(task, last, margin, folder)
        )

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        if self.is_last(stage):
            return self.learn_last(stage)
        name, network = f"{stage.name}_masks", self.network_of(stage)
        return [
            ComputePhase(name, lambda task, folder: write_ellipsoids(task, stage, folder)),
            WeakStage(stage.name, stage, network, self.settings.earlier, self.seed, masks=name),
        ]

    def segmenter(self) -> SegmenterSpec:
        """See `Trainer.segmenter`."""
        spec = super().segmenter()
        if not self.settings.largest_component:
            return spec
        return SegmenterSpec(factory=LARGEST, arguments=spec.arguments)


def write_ellipsoids(task: TrainingTask, stage: StagePlan, folder: Path) -> None:
    """The inscribed ellipsoids of the fold's boxes as labels of a stage's items."""
    found = boxes.read_boxes(task).boxes
    for item in task.training_items(stage):
        if not is_relabelled(item, folder):
            here = boxes.on_item(found[item.case], item, task.plan.order)
            mask = boxes.paint_ellipsoids(here, item.item.shape)
            relabel(item, folder, as_labels(mask, task.scheme), task.scheme)
