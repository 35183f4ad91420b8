"""lowres -> fullres: what the first network says about each case, for the second one to see.

nnU-Net predicts these with models that have seen other folds, so that the held-out cases of a fold
have influenced what its second stage learns from. Here every fold's first network predicts its own
training cases: nothing held out is ever learned from. Such labels are better than they will be on
new scans; the corruption in `augmentation` is what keeps the second network from trusting them.
"""

from __future__ import annotations

from renalplan.geometry import Shape
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.resampling import resample_labels
from renalplan.trainers.beside import previous_labels
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.task import TrainingTask


def predict_previous(task: TrainingTask, stage: StagePlan, network: NetworkSpec) -> None:
    """Predict every case of the fold with the previous stage's network and store the labels.

    Items that a killed run stored are kept.
    """
    previous = task.plan.stage(stage.previous or "")
    target = previous_labels(task, stage)
    assert target is not None, "the stage sees the one before"
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
            target.write(item, resample_labels(predict(source), shape))
