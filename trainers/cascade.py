"""lowres -> fullres: what the first network says about each case, for the second one to see.

nnU-Net predicts these with models that have seen other folds, so that the held-out cases of a fold
have influenced what its second stage learns from. Here every fold's first network predicts its own
training cases: nothing held out is ever learned from. Such labels are better than they will be on
new scans; the corruption in `augmentation` is what keeps the second network from trusting them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from numpy.typing import NDArray

from renalplan.geometry import Shape
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.resampling import resample_labels
from renalplan.store import ItemArrays, open_array, write_array
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.task import TrainingTask


@dataclass(frozen=True)
class PreviousLabels:
    """Reads patches of the stored previous labels; picklable for data workers.

    Attributes:
        fold_folder: The fold's folder.
        stage: The stage that reads them.
    """

    fold_folder: Path
    stage: str

    def __call__(self, item: ItemArrays, start: tuple[int, ...], size: tuple[int, ...]) -> NDArray:
        """(1, *size) label values, zero beyond the border."""
        box = [[int(a), int(a + n)] for a, n in zip(start, size, strict=True)]
        return crop_and_pad_nd(_opened(str(self.path(item))), box, 0)

    def path(self, item: ItemArrays) -> Path:
        """Where an item's previous labels are."""
        return self.fold_folder / f"before_{self.stage}" / f"{item.item.name}.b2nd"


@lru_cache(maxsize=256)
def _opened(path: str) -> Any:
    return open_array(Path(path))


def predict_previous(task: TrainingTask, stage: StagePlan, network: NetworkSpec) -> None:
    """Predict every case of the fold with the previous stage's network and store the labels.

    Items that a killed run stored are kept.
    """
    previous = task.plan.stage(stage.previous or "")
    target = PreviousLabels(task.fold_folder, stage.name)
    _opened.cache_clear()  # a restart in this process writes new files under the same names
    predict = ItemPredictor(task, previous, network)
    for case_items, wanted in zip(
        [task.training_items(previous), task.held_out_items(previous)],
        [task.training_items(stage), task.held_out_items(stage)],
        strict=True,
    ):
        for source, item in zip(case_items, wanted, strict=True):
            if target.path(item).is_file():
                continue
            shape: Shape = item.item.shape
            write_array(target.path(item), resample_labels(predict(source), shape)[None])
