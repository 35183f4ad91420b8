"""The memory that one region of a scan takes, from cutting it out to its labels."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch

from renalplan.geometry import Shape
from renalplan.inference.fields import SLAB_BYTES
from renalplan.inference.room import (
    FLOAT,
    HALF,
    SLAB_COPIES,
    Room,
    growth,
    preparing,
    sums,
)
from renalplan.inference.scratch import Scratch
from renalplan.inference.sliding_window import WindowPredictor, planes_at_a_time


def scratch_within(
    room: Room,
    predict: WindowPredictor,
    *,
    what: str,
    channels: int,
    box: Shape,
    shape: Shape,
    scan: Shape,
    stored: bool,
    folder: Path | None,
) -> Scratch:
    """Find out what a region takes, and what of it has to lie in files.

    The networks are run on one patch, so that what they take is measured and not guessed.

    Args:
        room: The memory there is.
        predict: The networks that will see the region.
        what: Names the region, for the log and the error.
        channels: Of the scan.
        box: Voxels of the region along the plan's axes.
        shape: Of the prepared region.
        scan: The scan's canonical shape; it is in memory already.
        stored: Whether all logits are kept.
        folder: Where files are made.

    Raises:
        PredictionError: it cannot be done in this room.
    """
    patch = torch.zeros(1, predict.channels, *predict.patch, device=predict.engines[0].device)
    predict.mean(patch)  # whatever stays in memory from now on
    network = growth(lambda: predict.mean(patch))
    image = FLOAT * predict.channels * prod(shape)
    padded = tuple(max(n, p) for n, p in zip(shape, predict.patch, strict=True))
    planes = FLOAT * predict.outputs * planes_at_a_time(predict.outputs, padded) * prod(padded[1:])
    plane = FLOAT * predict.heads * scan[1] * scan[2]
    slab = max(SLAB_BYTES, plane) * SLAB_COPIES
    labels = prod(scan)
    # planes as they are given away, clamped, and held as float16
    computing, deciding = image + planes + max(network, 2 * planes), labels + slab
    arrays = [sums(predict.outputs, predict.patch, shape)]
    if stored:  # one after the other
        arrays.append(HALF * predict.outputs * prod(shape))
        certain, later = computing, deciding
    else:
        certain, later = image + planes + labels + max(network, 2 * planes + slab), 0
    certain = max(preparing(box, shape, channels), certain)
    return Scratch(room.share(what, certain, arrays, later), folder)
