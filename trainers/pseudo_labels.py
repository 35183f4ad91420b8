"""Pseudo labels of unlabelled scans: a network's opinion, corrected by what two phases show.

Sources:
    [CPNet] Cycle Prototype Network, section 2.2.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, box_slices, whole_box
from renalplan.labels import LabelScheme
from renalplan.normalisation import hounsfield
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.bayes import (
    Compartments,
    correct_pseudo_labels,
    kidney_of,
    prior_classes,
)
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.relabelled import is_relabelled, relabel
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import unlabelled_regions

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PhasePrior:
    """Where the prior of the Bayes correction comes from.

    Attributes:
        arterial: Stored image channel with the CTA.
        excretory: Stored image channel with the CTU.
        classes: Channel numbers of cortex and medulla.
        omega: See `correct_pseudo_labels`.
    """

    arterial: int
    excretory: int
    classes: Compartments
    omega: float


def make_pseudo_labels(
    task: TrainingTask,
    stage: StagePlan,
    network: NetworkSpec,
    phase: str,
    prior: PhasePrior,
    folder: Path,
) -> None:
    """Label every unlabelled scan; scans that a killed run labelled are kept.

    Args:
        task: Its fold must have run `phase`.
        stage: Whose stored scans.
        network: What predicts.
        phase: Which phase left its weights.
        prior: What corrects it.
        folder: Where the labels go, see `relabel`.
    """
    predict = ItemPredictor(task, stage, network, phase=phase)
    regions = unlabelled_regions(task, stage)
    changed, inside = 0, 0
    for item in task.unlabelled_items(stage):
        if is_relabelled(item, folder):
            continue
        shape = item.item.shape
        labels = np.zeros(shape, np.int16)
        boxes = regions.get(item.item.name, ())
        for box in boxes or (whole_box(shape),):
            found, before = _label_box(task, stage, predict, prior, item, box)
            labels[box_slices(box)] = found
            changed += int((found != before).sum())
            inside += int(((found > 0) | (before > 0)).sum())
        relabel(item, folder, labels, task.scheme)
    if inside:
        log.info(
            "fold %s %s: contrast phases changed %.1f %% of the predicted kidneys' voxels",
            task.fold_name,
            folder.name,
            100 * changed / inside,
        )


def _label_box(
    task: TrainingTask,
    stage: StagePlan,
    predict: ItemPredictor,
    prior: PhasePrior,
    item: ItemArrays,
    box: Box,
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The labels of a part of a scan, and what the network alone would say."""
    start, size = tuple(a for a, _ in box), tuple(b - a for a, b in box)
    logits = predict.logits(item.image_patch(start, size))
    likelihood = logits.double().softmax(0).numpy()
    alone = likelihood.argmax(0)
    spacing = task.spacing_of(stage, item)
    arterial, excretory = _phases(task, item, start, size, prior)
    classes = prior.classes
    kidney = kidney_of(np.isin(alone, (classes.cortex, classes.medulla)), spacing)
    named = prior_classes(arterial, excretory, kidney, spacing, classes)
    posterior = correct_pseudo_labels(likelihood, named, prior.omega)
    return _values(posterior.argmax(0), task.scheme), _values(alone, task.scheme)


def _phases(
    task: TrainingTask,
    item: ItemArrays,
    start: tuple[int, ...],
    size: tuple[int, ...],
    prior: PhasePrior,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """CTA and CTU of a part of a scan in HU, whichever channels the network sees."""
    channels = task.stored_channels or task.plan.channels
    wanted = (prior.arterial, prior.excretory)
    first, second = item.with_channels(wanted).image_patch(start, size)
    return hounsfield(first, channels[wanted[0]]), hounsfield(second, channels[wanted[1]])


def _values(classes: NDArray[np.integer], scheme: LabelScheme) -> NDArray[np.int16]:
    """Class numbers -> label values."""
    table = np.array([values[0] for values in scheme.values], np.int16)
    found: NDArray[np.int16] = table[classes]
    return found
