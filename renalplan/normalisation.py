"""Intensities -> network units, by the plan's rule for each channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.plan import ChannelPlan


@dataclass(frozen=True)
class Rescaling:
    """`(clip(x, low, high) - offset) / scale`; low and high None mean no clipping."""

    low: float | None
    high: float | None
    offset: float
    scale: float


def rescalings(image: NDArray, channels: tuple[ChannelPlan, ...]) -> tuple[Rescaling, ...]:
    """What to do with each channel of an image (channel, z, y, x).

    Per-image rules measure the whole image here, so that a region cut out of it later is scaled as
    the whole is.
    """
    return tuple(_rescaling(image[i], channel) for i, channel in enumerate(channels))


def normalise(image: NDArray, rules: tuple[Rescaling, ...]) -> NDArray[np.float32]:
    """Apply one rule to each channel of (channel, z, y, x); returns a new float32 array."""
    result = np.empty(image.shape, np.float32)
    for channel, rule, target in zip(image, rules, result, strict=True):
        target[...] = channel
        if rule.low is not None or rule.high is not None:
            np.clip(target, rule.low, rule.high, out=target)
        target -= np.float32(rule.offset)
        target *= np.float32(1 / rule.scale)
    return result


def hounsfield(channel: NDArray[np.float32], plan: ChannelPlan) -> NDArray[np.float32]:
    """HU of a channel that `normalise` rescaled; what it clipped stays clipped.

    Raises:
        ValueError: a rule that each image sets for itself, or that knows nothing of HU.
    """
    rule = hounsfield_rescaling(plan)
    if rule is None:
        raise ValueError(f"{plan.name} is normalised by {plan.normalisation}, HU are not known")
    return channel * np.float32(rule.scale) + np.float32(rule.offset)


def hounsfield_rescaling(plan: ChannelPlan) -> Rescaling | None:
    """What every image of a CT channel is rescaled by; None for a channel that is not in HU.

    `x * scale + offset` gives HU back, clipped as they were.
    """
    if plan.window is not None:
        low, high = plan.window
        return Rescaling(low, high, low, high - low)
    if plan.normalisation == "ct":
        known = plan.intensities
        return Rescaling(
            known.percentile_00_5, known.percentile_99_5, known.mean, max(known.std, 1e-8)
        )
    return None


def _rescaling(channel: NDArray, plan: ChannelPlan) -> Rescaling:
    if (fixed := hounsfield_rescaling(plan)) is not None:
        return fixed
    if plan.normalisation == "none":
        return Rescaling(None, None, 0.0, 1.0)
    if plan.normalisation == "rgb_to_0_1":
        return Rescaling(None, None, 0.0, 255.0)
    if plan.normalisation == "rescale_to_0_1":
        low, high = float(channel.min()), float(channel.max())
        return Rescaling(None, None, low, max(high - low, 1e-8))
    mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
    return Rescaling(None, None, mean, max(std, 1e-8))
