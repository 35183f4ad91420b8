"""Stage 1 of group training: a box becomes a mask.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020:
    section 3.A, Eq. 9 and 10.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import ceil, log
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from renalplan.errors import TrainingError
from renalplan.files import Record, read_record, write_json
from renalplan.geometry import Box, Spacing, box_shape, box_slices, grow_box
from renalplan.inference.options import choose_device
from renalplan.labels import LabelScheme
from renalplan.normalisation import hounsfield_rescaling
from renalplan.plan import ChannelPlan, StagePlan
from renalplan.trainers.boxes import inscribed_ellipsoid, on_item, radius, read_boxes
from renalplan.trainers.convcrf import ConvCRF3d
from renalplan.trainers.relabelled import is_relabelled, relabel
from renalplan.trainers.task import TrainingTask

NAME = "pseudo_masks"
REPORTS = "reports"
WINDOW_HU = (-200.0, 500.0)  # [Yang2020, Eq. 9]
OUTSIDE = 0.01  # probability of tumor beyond the box, before any message
LEAST_SHARE, MOST_SHARE = 0.2, 0.95  # of the box: a mask beyond these says nothing about its tumor
AROUND = 0.25  # of the box's longest edge: how far beyond it the image is looked at
LEAST_AROUND = 3  # voxels
CORE = 0.6  # of the ellipsoid's radius: what is most likely tumor
MOST_RATIO = 3.0  # log of; a single voxel's intensity must not decide
MIXTURE_SAMPLES = 5000
ROUNDS = 3  # of fitting mixtures and labelling, for `gmm`

Masks = Literal["convcrf", "gmm", "ellipsoid", "box"]
logger = logging.getLogger(__name__)


class CrfSettings(Record):
    """The ConvCRF; see `ConvCRF3d`. Its intensities are HU scaled from -200..500 to 0..1."""

    appearance_mm: float = Field(default=4.0, gt=0, description="reach of the appearance kernel")
    intensity: float = Field(
        default=0.03, gt=0, description="its width in intensities; 0.05 of -200..500 HU are 35 HU"
    )
    smoothness_mm: float = Field(default=2.0, gt=0, description="reach of the smoothness kernel")
    appearance_weight: float = Field(default=10.0, ge=0)
    smoothness_weight: float = Field(default=3.0, ge=0)
    reach: int = Field(default=5, ge=1, description="largest Manhattan distance, voxels")
    message_weight: float = Field(
        default=0.5, ge=0, le=1, description="of the neighbours' messages against the unary term"
    )
    iterations: int = Field(default=5, ge=0, description="of the mean field")
    blur: int = Field(default=1, ge=1, description="messages on so many times coarser voxels")

    def build(self) -> ConvCRF3d:
        """The CRF."""
        return ConvCRF3d(**self.model_dump())


class PseudoMaskSettings(Record):
    """How a box becomes a mask."""

    method: Masks = Field(
        default="convcrf",
        description="convcrf as in the paper; gmm alternates Gaussian mixtures and the ConvCRF as GrabCut "
        "does; ellipsoid and box take these shapes as they are",
    )
    intensity_term: float = Field(
        default=0.25,
        ge=0,
        description="weight in the unary term of how much more likely a voxel's intensity is in the box's "
        "core than around the box; 0 leaves the box's shape alone",
    )


class BoxMask(Record):
    """What became of one box: the share its mask keeps, and whether that was refused."""

    share: float
    fell_back: bool


class ItemMasks(Record):
    """reports/<item>.json: its boxes' masks."""

    boxes: tuple[BoxMask, ...]


def make_pseudo_masks(
    task: TrainingTask,
    stage: StagePlan,
    settings: PseudoMaskSettings,
    crf: CrfSettings,
    folder: Path,
) -> None:
    """Write the pseudo masks of the fold's training items; items of a killed run are kept.

    Args:
        task: Its fold must have boxes.
        stage: The stage whose items these are.
        settings: How.
        crf: The ConvCRF.
        folder: Of the phase.
    """
    found = read_boxes(task).boxes
    device = choose_device(task.hardware.device)
    report: dict[str, tuple[BoxMask, ...]] = {}
    for item in task.training_items(stage):
        path = folder / REPORTS / f"{item.item.name}.json"
        if is_relabelled(item, folder):
            report[item.item.name] = read_record(path, ItemMasks, TrainingError).boxes
            continue
        boxes = on_item(found[item.case], item, task.plan.order)
        image = unit_intensities(item.whole_image(), task.plan.channels)
        spacing = task.spacing_of(stage, item)
        mask = np.zeros(item.item.shape, bool)
        results = []
        for box in boxes:
            part, result = mask_of_box(image, box, boxes, spacing, settings, crf, device)
            mask[box_slices(box)] |= part
            results.append(result)
        report[item.item.name] = tuple(results)
        write_json(path, ItemMasks(boxes=tuple(results)))
        relabel(item, folder, as_labels(mask, task.scheme), task.scheme)
    _tell(report)


def _tell(report: dict[str, tuple[BoxMask, ...]]) -> None:
    """Say which boxes fell back."""
    every = [box for boxes in report.values() for box in boxes]
    refused = [name for name, boxes in report.items() if any(box.fell_back for box in boxes)]
    if refused:
        logger.warning(
            "pseudo masks: %d of %d boxes kept less than %.0f %% or more than %.0f %% and take their "
            "inscribed ellipsoid instead (%s)",
            sum(box.fell_back for box in every), len(every), 100 * LEAST_SHARE, 100 * MOST_SHARE,
            ", ".join(refused[:5]) + (" …" if len(refused) > 5 else ""),
        )  # fmt: skip


def mask_of_box(
    image: NDArray[np.float32],
    box: Box,
    others: Sequence[Box],
    spacing: Spacing,
    settings: PseudoMaskSettings,
    crf: CrfSettings,
    device: torch.device,
) -> tuple[NDArray[np.bool_], BoxMask]:
    """The mask of one tumor from its box.

    Args:
        image: (channel, z, y, x) in 0..1.
        box: In its voxels.
        others: All boxes of the image; what lies in them is no background to learn intensities of.
        spacing: mm.
        settings: How.
        crf: The ConvCRF.
        device: Where it runs.

    Returns:
        bool of the box's shape, the inscribed ellipsoid where the method's own keeps too little or
        too much; and what became of it.
    """
    ellipsoid = inscribed_ellipsoid(box, box)
    if settings.method in ("ellipsoid", "box"):
        mask = ellipsoid if settings.method == "ellipsoid" else np.ones_like(ellipsoid)
        return mask, BoxMask(share=float(mask.mean()), fell_back=False)
    margin = max(LEAST_AROUND, ceil(AROUND * max(box_shape(box))))
    around = grow_box(box, (margin,) * 3, image.shape[1:])
    part = image[(..., *box_slices(around))]
    place = box_slices(_within(box, around))
    free = np.ones(part.shape[1:], bool)
    for other in others:
        free[box_slices(_within(other, around))] = False
    shape = radius(box, around)
    odds = np.full(shape.shape, log(OUTSIDE / (1 - OUTSIDE)), np.float32)
    prior = _log_odds(0.5 * np.exp(-(shape[place] ** 4)) + 0.3)
    inside = np.zeros_like(free)
    inside[place] = True
    core, mask = inside & (shape <= CORE), np.zeros_like(free)
    for number in range(ROUNDS if settings.method == "gmm" else 1):
        likely = core if number == 0 else mask
        background = free if number == 0 else ~mask & (free | inside)
        ratio = intensity_ratio(part, likely, background)
        odds[place] = prior + settings.intensity_term * ratio[place]
        probability = (1 / (1 + np.exp(-odds))).astype(np.float32)
        mask = refine(probability, part, spacing, crf, device) & inside
        share = float(mask[place].mean())
        if not LEAST_SHARE <= share <= MOST_SHARE:
            return ellipsoid, BoxMask(share=share, fell_back=True)
    return mask[place], BoxMask(share=share, fell_back=False)


def intensity_ratio(
    image: NDArray[np.float32], likely: NDArray[np.bool_], background: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """log p(I | tumor) - log p(I | background), from a Gaussian and a mixture of two, cut to +-3.

    The surroundings of a tumor are kidney on one side and fat on the other; 0 everywhere where one of
    the two samples is too small to say anything.

    Args:
        image: (channel, z, y, x).
        likely: (z, y, x), sample of the tumor.
        background: (z, y, x), sample of the rest.
    """
    from sklearn.mixture import GaussianMixture  # a second to import, and only needed here

    values = image.reshape(len(image), -1).T.astype(np.float64)
    scores = []
    for mask, components in ((likely, 1), (background, 2)):
        sample = values[mask.ravel()]
        if len(sample) < 10 * components:
            return np.zeros(image.shape[1:], np.float32)
        if len(sample) > MIXTURE_SAMPLES:
            rows = np.random.default_rng(0).choice(len(sample), MIXTURE_SAMPLES, replace=False)
            sample = sample[rows]
        # reg_covar: 0.01 of 0..1 are 7 HU, less than any scan's noise
        mixture = GaussianMixture(components, random_state=0, reg_covar=1e-4).fit(sample)
        scores.append(mixture.score_samples(values))
    ratio = np.clip(scores[0] - scores[1], -MOST_RATIO, MOST_RATIO)
    return ratio.reshape(image.shape[1:]).astype(np.float32)


def refine(
    probability: NDArray[np.float32],
    image: NDArray[np.float32],
    spacing: Spacing,
    crf: CrfSettings,
    device: torch.device,
) -> NDArray[np.bool_]:
    """Where the ConvCRF finds tumor more likely than not.

    Args:
        probability: (z, y, x) of tumor, the unary term.
        image: (channel, z, y, x) in 0..1.
        spacing: mm.
        crf: The ConvCRF.
        device: Where it runs.
    """
    two = torch.from_numpy(np.stack([1 - probability, probability]).astype(np.float32))
    guide = torch.from_numpy(np.ascontiguousarray(image, np.float32))
    result = crf.build()(two[None].to(device), guide[None].to(device), spacing)
    mask: NDArray[np.bool_] = (result[0, 1] > 0.5).cpu().numpy()
    return mask


def unit_intensities(image: NDArray, channels: tuple[ChannelPlan, ...]) -> NDArray[np.float32]:
    """Stored intensities -> 0..1 [Yang2020, Eq. 9 and 10], whatever the plan made of them.

    CT: HU from -200 to 500, as far as the plan has not clipped them. Other channels: from the 0.5 to
    the 99.5 percentile of this image.

    Args:
        image: (channel, z, y, x) of the store.
        channels: The plan's.
    """
    result = np.empty(image.shape, np.float32)
    for source, target, channel in zip(image, result, channels, strict=True):
        values = source.astype(np.float32)
        rule = hounsfield_rescaling(channel)
        if rule is None:
            low, high = (float(p) for p in np.percentile(values, (0.5, 99.5)))
        else:
            values = values * np.float32(rule.scale) + np.float32(rule.offset)
            low, high = WINDOW_HU
        target[:] = np.clip((values - low) / max(high - low, 1e-8), 0, 1)
    return result


def as_labels(mask: NDArray[np.bool_], scheme: LabelScheme) -> NDArray[np.uint8]:
    """A tumor mask in the dataset's one label."""
    ((value,),) = scheme.foreground.values()
    return (mask * value).astype(np.uint8)


def _within(box: Box, around: Box) -> Box:
    """A box in the voxels of another one, cut to it."""
    sides = [
        (min(max(a - first, 0), last - first), min(max(b - first, 0), last - first))
        for (a, b), (first, last) in zip(box, around, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def _log_odds(probability: NDArray) -> NDArray:
    return np.log(probability / (1 - probability))
