"""nnU-Net's augmentation [Isensee2021] by batchgeneratorsv2, with mirroring that knows left and right."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import (
    ApplyRandomBinaryOperatorTransform,
)
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn.functional import grid_sample

from renalplan.files import Record
from renalplan.geometry import Shape
from renalplan.labels import LabelScheme

FLAT_PATCH = 3.0  # a patch this much thinner along its first axis is only rotated in plane
# nnU-Net's rule for 2-D patches this much longer than wide
LONG_PATCH, LONG_PATCH_DEGREES = 1.5, 15.0


class AugmentationSettings(Record):
    """How training patches are varied; probabilities and ranges are nnU-Net's."""

    model_config = ConfigDict(allow_inf_nan=False)

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
        transform: One sample {image, segmentation} -> the same, cropped to the patch; voxel weights
            may come along as `regression_target`.
        margin: Voxels beyond the patch on each side.
    """

    transform: BasicTransform
    margin: Shape


class MirrorWithPairs(BasicTransform):
    """Mirrors along random axes; along right-left, paired labels change places.

    Attributes:
        axes: Spatial axes that may be mirrored.
        left_right_axis: The one that runs from right to left.
        pairs: Label values that change places with it.
    """

    def __init__(
        self, axes: tuple[int, ...], left_right_axis: int, pairs: tuple[tuple[int, int], ...]
    ) -> None:
        super().__init__()
        self.axes = axes
        self.left_right_axis = left_right_axis
        self.pairs = pairs

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw which axes to mirror."""
        return {"axes": [axis for axis in self.axes if np.random.random() < 0.5]}

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        return img.flip([1 + axis for axis in params["axes"]]) if params["axes"] else img

    def _apply_to_regr_target(self, regression_target: Tensor, **params: Any) -> Tensor:
        return self._apply_to_image(regression_target, **params)

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        result = self._apply_to_image(segmentation, **params)
        return swap_pairs(result, self.pairs) if self.left_right_axis in params["axes"] else result


def swap_pairs(labels: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Exchange the values of each pair in a label map."""
    result = labels.clone()
    for first, second in pairs:
        result[labels == first] = second
        result[labels == second] = first
    return result


class SpatialWithWeights(SpatialTransform):
    """Turns and scales weights with the rest, by nearest voxel: they stay the numbers they were."""

    def _apply_to_regr_target(self, regression_target: Tensor, **params: Any) -> Tensor:
        if params["grid"] is None:
            return super()._apply_to_image(regression_target, **params)  # cut out
        turned: Tensor = grid_sample(
            regression_target[None],
            params["grid"][None],
            mode="nearest",
            padding_mode="zeros",
            align_corners=self.align_corners,
        )[0]
        return turned


class PreviousAsChannels(BasicTransform):
    """Moves the second segmentation channel (a cascade's previous labels) into the image, one-hot."""

    def __init__(self, scheme: LabelScheme) -> None:
        super().__init__()
        self.structures = list(scheme.foreground.values())

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """See `BasicTransform.apply`."""
        previous = data_dict["segmentation"][1]
        channels = [torch.isin(previous, torch.tensor(values)) for values in self.structures]
        stacked = torch.stack(channels).to(data_dict["image"].dtype)
        data_dict["image"] = torch.cat([data_dict["image"], stacked])
        data_dict["segmentation"] = data_dict["segmentation"][:1]
        return data_dict


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
        cascade: The segmentation has a second channel, the previous stage's labels; it becomes
            image channels and is corrupted as nnU-Net does, so that its errors are not trusted.
    """
    tail: list[BasicTransform] = []
    if cascade:
        channels = list(range(-len(scheme.foreground), 0))
        tail.append(PreviousAsChannels(scheme))
        if settings.enabled:
            tail += _corruption(channels)
    if not settings.enabled:
        return Augmentation(ComposeTransforms(tail), (0, 0, 0))
    flat = patch[0] == 1 or max(patch) / patch[0] > FLAT_PATCH
    turns = settings.rotation_probability > 0 or settings.scaling_probability > 0
    spatial = [_spatial(patch, settings, flat)] if turns else []
    if patch[0] == 1:
        # blurring in 3-D cannot reflect along an axis of one voxel
        steps = _slicewise([*spatial, *(_intensity(False) if settings.intensity else [])])
    else:
        steps = _slicewise(spatial) if flat else spatial
        steps += _intensity(flat) if settings.intensity else []
    if settings.mirror:
        axes = tuple(axis for axis in range(3) if patch[axis] > 1)
        steps.append(MirrorWithPairs(axes, left_right_axis, scheme.mirror_pairs))
    margin: Shape = _margin(patch, settings, flat) if turns else (0, 0, 0)
    return Augmentation(ComposeTransforms([*steps, *tail]), margin)


def _slicewise(steps: list[BasicTransform]) -> list[BasicTransform]:
    """Do these in 2-D, all slices alike."""
    if not steps:
        return []
    return [Convert3DTo2DTransform(), *steps, Convert2DTo3DTransform()]


def _degrees(patch: Shape, settings: AugmentationSettings, flat: bool) -> float:
    """Largest angle: in plane all round, but little for a 2-D patch that is long and narrow."""
    if patch[0] == 1 and max(patch[1:]) / min(patch[1:]) > LONG_PATCH:
        return min(settings.rotation_degrees, LONG_PATCH_DEGREES)
    return 180.0 if flat else settings.rotation_degrees


def _spatial(patch: Shape, settings: AugmentationSettings, flat: bool) -> BasicTransform:
    angle = np.deg2rad(_degrees(patch, settings, flat))
    return SpatialWithWeights(
        patch[1:] if flat else patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=settings.rotation_probability,
        rotation=(-angle, angle),
        p_scaling=settings.scaling_probability,
        scaling=(settings.scaling_smallest, settings.scaling_largest),
        p_synchronize_scaling_across_axes=1,
    )


def _intensity(flat: bool) -> list[BasicTransform]:
    def sometimes(transform: BasicTransform, probability: float) -> RandomTransform:
        return RandomTransform(transform, apply_probability=probability)

    def gamma(inverted: int) -> GammaTransform:
        return GammaTransform(
            gamma=BGContrast((0.7, 1.5)),
            p_invert_image=inverted,
            synchronize_channels=False,
            p_per_channel=1,
            p_retain_stats=1,
        )

    # benchmark=True would choose the blur's algorithm by timing: not reproducible
    blur = GaussianBlurTransform(
        blur_sigma=(0.5, 1.0),
        synchronize_channels=False,
        synchronize_axes=False,
        p_per_channel=0.5,
        benchmark=False,
    )
    return [
        sometimes(
            GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True), 0.1
        ),
        sometimes(blur, 0.2),
        sometimes(MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), False, 1), 0.15),
        sometimes(ContrastTransform(BGContrast((0.75, 1.25)), True, False, 1), 0.15),
        sometimes(
            SimulateLowResolutionTransform(
                scale=(0.5, 1),
                synchronize_channels=False,
                synchronize_axes=True,
                ignore_axes=(0,) if flat else None,
                allowed_channels=None,
                p_per_channel=0.5,
            ),
            0.25,
        ),
        sometimes(gamma(1), 0.1),
        sometimes(gamma(0), 0.3),
    ]


def _corruption(channels: list[int]) -> list[BasicTransform]:
    return [
        RandomTransform(
            ApplyRandomBinaryOperatorTransform(
                channel_idx=channels, strel_size=(1, 8), p_per_label=0.5
            ),
            apply_probability=0.4,
        ),
        RandomTransform(
            RemoveRandomConnectedComponentFromOneHotEncodingTransform(
                channel_idx=channels,
                fill_with_other_class_p=0,
                dont_do_if_covers_more_than_x_percent=0.15,
                p_per_label=0.5,
            ),
            apply_probability=0.2,
        ),
    ]


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
