"""nnU-Net's augmentation [Isensee2021] for a patch, with mirroring that knows left and right.

`variation` draws, `transform` does what was drawn with `spatial`, `intensity` and `corruption`; the
results are held against batchgeneratorsv2's in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from pydantic import Field

from renalplan.files import Record
from renalplan.geometry import Shape
from renalplan.labels import LabelScheme
from renalplan.trainers.corruption import PreviousAsChannels
from renalplan.trainers.transform import Mirror, PatchTransform, Turning

FLAT_PATCH = 3.0  # a patch this much thinner along its first axis is only rotated in plane
# nnU-Net's rule for 2-D patches this much longer than wide
LONG_PATCH, LONG_PATCH_DEGREES = 1.5, 15.0


class AugmentationSettings(Record):
    """How training patches are varied; probabilities and ranges are nnU-Net's."""

    enabled: bool = Field(default=True, description="false trains on plain crops")
    rotation_probability: float = Field(default=0.2, ge=0, le=1)
    rotation_degrees: float = Field(
        default=30.0,
        ge=0,
        description="largest angle about each axis; flat patches turn by 180, long 2-D ones by 15",
    )
    scaling_probability: float = Field(default=0.2, ge=0, le=1)
    scaling_smallest: float = Field(default=0.7, gt=0)
    scaling_largest: float = Field(default=1.4, gt=0)
    intensity: bool = Field(default=True, description="noise, blur, brightness, contrast, gamma")
    mirror: bool = Field(default=True, description="mirror along every axis at random")


@dataclass(frozen=True)
class Augmentation:
    """A transform and how much more than the patch it wants to see.

    Attributes:
        transform: Draws how to vary a sample, and does it.
        margin: Most voxels beyond the patch on each side.
    """

    transform: PatchTransform
    margin: Shape


def build_augmentation(
    patch: Shape,
    scheme: LabelScheme,
    settings: AugmentationSettings,
    *,
    left_right_axis: int,
    cascade: bool = False,
) -> Augmentation:
    """nnU-Net's training transform for this patch.

    Args:
        patch: Size along the plan's axes.
        scheme: Names left/right pairs, and a cascade's channels.
        settings: What to do.
        left_right_axis: Plan axis from right to left.
        cascade: The labels have a second channel, the previous stage's; it becomes image channels
            and is corrupted as nnU-Net does, so that its errors are not trusted.
    """
    previous = PreviousAsChannels(scheme, corrupt=settings.enabled) if cascade else None
    values = tuple(value for value in scheme.all_values if value)
    if not settings.enabled:
        return Augmentation(PatchTransform(patch, values, previous=previous), (0, 0, 0))
    flat = patch[0] == 1 or max(patch) / patch[0] > FLAT_PATCH
    axes = tuple(axis for axis in range(3) if patch[axis] > 1)
    turns = settings.rotation_probability > 0 or settings.scaling_probability > 0
    transform = PatchTransform(
        patch,
        values,
        turning=_turning(patch, settings, flat) if turns else None,
        intensity=settings.intensity,
        in_plane=flat,
        mirror=Mirror(axes, left_right_axis, scheme.mirror_pairs) if settings.mirror else None,
        previous=previous,
    )
    return Augmentation(transform, _margin(patch, settings, flat) if turns else (0, 0, 0))


def _turning(patch: Shape, settings: AugmentationSettings, flat: bool) -> Turning:
    return Turning(
        rotation=settings.rotation_probability,
        degrees=_degrees(patch, settings, flat),
        scaling=settings.scaling_probability,
        scales=(settings.scaling_smallest, settings.scaling_largest),
    )


def _degrees(patch: Shape, settings: AugmentationSettings, flat: bool) -> float:
    """Largest angle: in plane all round, but little for a 2-D patch that is long and narrow."""
    if patch[0] == 1 and max(patch[1:]) / min(patch[1:]) > LONG_PATCH:
        return min(settings.rotation_degrees, LONG_PATCH_DEGREES)
    return 180.0 if flat else settings.rotation_degrees


def _margin(patch: Shape, settings: AugmentationSettings, flat: bool) -> Shape:
    """What a rotated patch reaches beyond the plain one, nnU-Net's rule for its initial patch.

    The patch's diagonal turns about each axis by the largest angle (at most 90 degrees), the widest
    extent counts, divided by 0.85; beyond that the corners of rare draws are zero-padded.
    """
    angle = np.deg2rad(min(90.0, _degrees(patch, settings, flat)))
    extent = np.asarray(patch, float)
    planes = [(1, 2)] if flat else [(0, 1), (0, 2), (1, 2)]
    for (first, second), sign in product(planes, (1, -1)):
        a, b = patch[first], patch[second]
        turned_a = abs(a * np.cos(angle) - sign * b * np.sin(angle))
        turned_b = abs(sign * a * np.sin(angle) + b * np.cos(angle))
        extent[first] = max(extent[first], turned_a)
        extent[second] = max(extent[second], turned_b)
    widest = extent / 0.85
    if flat:
        widest[0] = patch[0]
    return tuple(int((w - p) // 2) for w, p in zip(widest, patch, strict=True))  # type: ignore[return-value]
