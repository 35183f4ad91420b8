"""Group training's second stage: disjoint subsets, and what their networks make of all images together.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020:
    section 3.B, Algorithm 1, Eq. 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from renalplan.files import Record
from renalplan.geometry import Box, Shape, Spacing, box_slices, grow_box, whole_box
from renalplan.inference.options import choose_device
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers import pseudo_masks
from renalplan.trainers.beside import ArraysBeside
from renalplan.trainers.boxes import inside_boxes, on_item, read_boxes
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.pseudo_masks import CrfSettings, as_labels, refine, unit_intensities
from renalplan.trainers.relabelled import is_relabelled, relabel, relabelled
from renalplan.trainers.task import TrainingTask

NAME = "fusion"
WEIGHTS_SUFFIX = ".weights"
SEEN_AROUND = 8  # voxels of image around the boxes that the ConvCRF may look at


class FusionSettings(Record):
    """How predictions become one mask."""

    confidence: float = Field(
        default=0.8,
        gt=0.5,
        lt=1,
        description="the ConvCRF's probability of tumor within the union of masks, and of background beyond",
    )
    confine: bool = Field(
        default=True,
        description="what is predicted beyond every box does not count; false takes Eq. 4 and 5 by "
        "the letter",
    )


def split_patients(patients: dict[str, str], count: int, seed: int) -> list[tuple[str, ...]]:
    """Disjoint subsets of cases, as equal in patients as can be; a patient is in one of them.

    Args:
        patients: Case -> patient.
        count: K.
        seed: Of the draw.

    Raises:
        ValueError: fewer patients than subsets.
    """
    names = sorted(set(patients.values()))
    if len(names) < count:
        raise ValueError(f"{count} disjoint subsets need as many patients, there are {len(names)}")
    drawn = np.random.default_rng([seed, count]).permutation(len(names))
    places = {names[index]: place % count for place, index in enumerate(drawn)}
    return [
        tuple(case for case, patient in patients.items() if places[patient] == number)
        for number in range(count)
    ]


def weight_map(
    pseudo: NDArray[np.bool_], predictions: Sequence[NDArray[np.bool_]]
) -> NDArray[np.uint8]:
    """v = PM + P_1 + ... + P_K; where that is 0, K + 1 [Yang2020, Eq. 5].

    Args:
        pseudo: PM, (z, y, x).
        predictions: P_k, of the same shape.

    Returns:
        1 to K + 1: how many say tumor; background that all agree on weighs as much as tumor does.
    """
    votes = pseudo.astype(np.uint8)
    for prediction in predictions:
        votes += prediction
    votes[votes == 0] = len(predictions) + 1
    return votes


def fusion_mask(
    pseudo: NDArray[np.bool_],
    predictions: Sequence[NDArray[np.bool_]],
    image: NDArray[np.float32],
    spacing: Spacing,
    *,
    settings: FusionSettings,
    crf: CrfSettings,
    device: torch.device,
) -> NDArray[np.bool_]:
    """FM = ConvCRF(PM u P_1 u ... u P_K) [Yang2020, Eq. 4].

    Args:
        pseudo: PM, (z, y, x).
        predictions: P_k, of the same shape.
        image: (channel, z, y, x) in 0..1.
        spacing: mm.
        settings: The unary term of the union.
        crf: The ConvCRF.
        device: Where it runs.
    """
    union = np.logical_or.reduce([pseudo, *predictions])
    sure = np.float32(settings.confidence)
    return refine(np.where(union, sure, 1 - sure), image, spacing, crf, device)


def fuse(
    task: TrainingTask,
    stage: StagePlan,
    networks: dict[str, NetworkSpec],
    settings: FusionSettings,
    crf: CrfSettings,
    folder: Path,
) -> None:
    """Write fusion masks and weight maps of the fold's training items; a killed run's are kept.

    Args:
        task: Its fold must have pseudo masks and the networks.
        stage: Whose items and networks these are.
        networks: Phase -> network: the K of Algorithm 1, every one of which predicts every item.
        settings: How.
        crf: The ConvCRF.
        folder: Of the phase.
    """
    found = read_boxes(task).boxes
    weights, device = ArraysBeside(folder, WEIGHTS_SUFFIX), choose_device(task.hardware.device)
    predictors = [
        ItemPredictor(task, stage, network, phase=phase) for phase, network in networks.items()
    ]
    for item in task.training_items(stage):
        if is_relabelled(item, folder):
            continue
        shape = item.item.shape
        made = relabelled(item, task.fold_folder / pseudo_masks.NAME)
        pseudo = np.asarray(made.labels[0]) > 0
        predictions = [predict(item) > 0 for predict in predictors]
        inside, part = np.ones(shape, bool), box_slices(whole_box(shape))
        if settings.confine:  # beyond the boxes all is background for certain
            boxes = on_item(found[item.case], item, task.plan.order)
            inside, part = inside_boxes(boxes, shape), around_boxes(boxes, shape)
        predictions = [prediction & inside for prediction in predictions]
        votes = weight_map(pseudo, predictions)
        fused = np.zeros(shape, bool)
        fused[part] = fusion_mask(
            pseudo[part],
            [prediction[part] for prediction in predictions],
            unit_intensities(item.whole_image(), task.plan.channels)[(slice(None), *part)],
            task.spacing_of(stage, item),
            settings=settings,
            crf=crf,
            device=device,
        )
        weights.write(item, votes)
        relabel(item, folder, as_labels(fused & inside, task.scheme), task.scheme)


def around_boxes(boxes: Sequence[Box], shape: Shape) -> tuple[slice, slice, slice]:
    """What holds all boxes and a little of the image around; of an item without any, its first voxel."""
    if not boxes:
        return slice(0, 1), slice(0, 1), slice(0, 1)
    sides = [
        (min(box[axis][0] for box in boxes), max(box[axis][1] for box in boxes))
        for axis in range(3)
    ]
    return box_slices(grow_box((sides[0], sides[1], sides[2]), (SEEN_AROUND,) * 3, shape))
