"""One network of the coarse-to-fine system: kidney or tumor against the rest, in windows."""

from __future__ import annotations

from dataclasses import dataclass

from renalplan.geometry import Spacing
from renalplan.kidney_tumor import KidneyTumor
from renalplan.labels import LabelScheme
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.anatomy import NAME, Anatomy, measure_item, read_anatomies
from renalplan.trainers.augmentation import (
    Augmentation,
    AugmentationSettings,
    build_augmentation,
)
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.supervised import Recipe, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.windows import IGNORED, WindowSource


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a network learns, and the rules its windows are cut by.

    Attributes:
        what: "kidney" (with its tumors) or "tumor".
        structures: Which labels they are.
        spacing: mm of the grid along (z, y, x).
        jitter_mm: Standard deviation of a window's displacement.
        threshold_ml: Volume that a kidney exceeds.
        padding_mm: How far around the kidneys tumors are looked for.
    """

    what: str
    structures: KidneyTumor
    spacing: Spacing
    jitter_mm: float
    threshold_ml: float
    padding_mm: float

    @property
    def values(self) -> tuple[int, ...]:
        """The label values it learns."""
        own = self.structures
        return own.tumor_values if self.what == "tumor" else own.values

    def measure(self, item: ItemArrays) -> Anatomy:
        """What an item's labels say."""
        return measure_item(
            item,
            self.structures,
            self.spacing,
            threshold_ml=self.threshold_ml,
            padding_mm=self.padding_mm,
        )


class WindowStage(SupervisedStage):
    """Learns two classes on the plan's grid, from windows of its own.

    Attributes:
        kind: Where the windows lie.
        learned: What is learned.
    """

    def __init__(
        self,
        name: str,
        stage: StagePlan,
        network: NetworkSpec,
        settings: Recipe,
        seed: int,
        *,
        kind: type[WindowSource],
        learned: Learned,
    ) -> None:
        super().__init__(name, stage, network, settings, seed)
        self.kind = kind
        self.learned = learned
        self._measured: dict[str, Anatomy] = {}

    def scheme(self, task: TrainingTask) -> LabelScheme:
        """See `SupervisedStage.scheme`."""
        return LabelScheme(
            names=("background", self.learned.what),
            values=((0,), (1,)),
            ignore=None if task.scheme.ignore is None else IGNORED,
        )

    def augmentation(self, task: TrainingTask, settings: AugmentationSettings) -> Augmentation:
        """See `SupervisedStage.augmentation`; a kidney mask is corrupted as a cascade's labels are."""
        return build_augmentation(
            self.stage.patch_size,
            self.scheme(task),
            settings,
            left_right_axis=self.kind.axes.index(task.plan.left_right_axis),
            cascade=self.kind.kidney_as_channel,
        )

    def source(
        self,
        task: TrainingTask,
        items: tuple[ItemArrays, ...],
        augmentation: Augmentation,
        seed: int,
    ) -> PatchSource:
        """See `SupervisedStage.source`."""
        learned, own = self.learned, self.learned.structures
        z, y, x = (learned.jitter_mm / mm for mm in learned.spacing)
        return (
            super()
            .source(task, items, augmentation, seed)
            .become(
                self.kind,
                anatomies=self._anatomies(task, items),
                target=learned.values,
                kidney=own.values,
                tumor=own.tumor_values,
                names=(own.kidney, own.tumor),
                ignore=task.scheme.ignore,
                jitter=(z, y, x),
            )
        )

    def _anatomies(self, task: TrainingTask, items: tuple[ItemArrays, ...]) -> dict[str, Anatomy]:
        """The training cases' are on file; held-out ones are measured when they are looked at."""
        known = read_anatomies(task.fold_folder / NAME)
        for item in items:
            name = item.item.name
            if name not in known and name not in self._measured:
                self._measured[name] = self.learned.measure(item)
        return known | self._measured
