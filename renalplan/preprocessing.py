"""A scan (or a box of it) -> the arrays a stage's network sees. Training and prediction share it."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import (
    Box,
    Shape,
    Spacing,
    box_shape,
    box_slices,
    mask_box,
    resampled_shape,
    whole_box,
)
from renalplan.normalisation import Rescaling, normalise
from renalplan.plan import Plan, StagePlan
from renalplan.resampling import resample_image, resample_labels

AIR_HU = -500  # between air and lung on one side, fat and the table on the other


def body_levels(image: NDArray) -> tuple[Any, ...]:
    """What is above is body, one value (of the image's type) a channel of (channel, z, y, x).

    An image that holds air (values down to -900 HU) has body where it is denser than -500 HU; any
    other image where it differs from its smallest value.
    """
    lowest = [channel.min() for channel in image]
    return tuple(low.dtype.type(AIR_HU) if low <= -900 else low for low in lowest)


def body_box(image: NDArray) -> Box:
    """The box of an image (channel, z, y, x) that is not air or padding.

    See `body_levels`. An image of one value stays whole.
    """
    box: Box | None = None
    for channel, level in zip(image, body_levels(image), strict=True):
        inside = mask_box(channel > level)
        if inside is None:
            continue
        box = inside if box is None else _union(box, inside)
    return box or whole_box(image.shape)


def body_finder(image: NDArray, box: Box, shape: Shape, plan: Plan) -> Callable[[Box], bool]:
    """Tells whether there is any body in a part of a box that has been prepared for a network.

    Args:
        image: (channel, z, y, x) canonical.
        box: What was cut out of it.
        shape: Of the prepared box, along the plan's axes.
        plan: Names the axes.

    Returns:
        Box of the prepared array -> whether the image is body anywhere there, or next to it. Where
        nothing at all is body, as in `body_box`, everything is.
    """
    levels = body_levels(image)
    if not any(bool((c[box_slices(box)] > v).any()) for c, v in zip(image, levels, strict=True)):
        return lambda part: True
    own = [b - a for a, b in box]

    def has_body(part: Box) -> bool:
        where: list[slice] = [slice(None)] * 3
        for (first, stop), size, axis in zip(part, shape, plan.order, strict=True):
            scale = own[axis] / size
            begin = max(0, floor(first * scale) - 1)
            end = min(own[axis], ceil(stop * scale) + 1)
            where[axis] = slice(box[axis][0] + begin, box[axis][0] + end)
        return any(
            bool((channel[tuple(where)] > level).any())
            for channel, level in zip(image, levels, strict=True)
        )

    return has_body


def _union(first: Box, second: Box) -> Box:
    return tuple(  # type: ignore[return-value]
        (min(a0, b0), max(a1, b1)) for (a0, a1), (b0, b1) in zip(first, second, strict=True)
    )


def stage_spacing(plan: Plan, stage: StagePlan, spacing: Spacing) -> Spacing:
    """The stage's spacing along the plan's axes; where it keeps the scan's own, the scan's."""
    own = tuple(spacing[a] for a in plan.order)
    return tuple(  # type: ignore[return-value]
        mine if wanted is None else wanted for wanted, mine in zip(stage.spacing, own, strict=True)
    )


def stage_shape(plan: Plan, stage: StagePlan, shape: Shape, spacing: Spacing) -> Shape:
    """Voxels along the plan's axes that a canonical (z, y, x) array has at the stage's spacing."""
    own_spacing: Spacing = tuple(spacing[a] for a in plan.order)  # type: ignore[assignment]
    own_shape = tuple(shape[a] for a in plan.order)
    return resampled_shape(own_shape, own_spacing, stage_spacing(plan, stage, spacing))


def prepare_image(
    image: NDArray,
    box: Box,
    spacing: Spacing,
    plan: Plan,
    stage: StagePlan,
    rules: tuple[Rescaling, ...],
) -> NDArray[np.float32]:
    """Crop, normalise, bring into plan order, resample.

    Args:
        image: (channel, z, y, x) canonical.
        box: What to cut out.
        spacing: mm along (z, y, x).
        plan: Names the axes.
        stage: Names the spacing.
        rules: From `normalisation.rescalings` on the whole image.

    Returns:
        (channel, *stage shape) float32 along the plan's axes.
    """
    shape = stage_shape(plan, stage, box_shape(box), spacing)
    own_spacing: Spacing = tuple(spacing[a] for a in plan.order)  # type: ignore[assignment]
    # not held here: resampling lets go of it as soon as it can
    return resample_image(
        plan.to_plan(normalise(image[(..., *box_slices(box))], rules)), shape, own_spacing
    )


def prepare_labels(
    labels: NDArray, box: Box, spacing: Spacing, plan: Plan, stage: StagePlan
) -> NDArray:
    """Crop, bring into plan order, resample a canonical (z, y, x) label map."""
    cropped = labels[box_slices(box)]
    shape = stage_shape(plan, stage, cropped.shape, spacing)
    return resample_labels(np.ascontiguousarray(plan.to_plan(cropped)), shape)
