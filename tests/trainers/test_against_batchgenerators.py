"""Varied patches against batchgeneratorsv2's: equal for equal draws, alike in distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from torch import Tensor

from renalplan.labels import LabelScheme
from renalplan.trainers.augmentation import AugmentationSettings, build_augmentation
from renalplan.trainers.intensity import vary_intensities
from renalplan.trainers.randomness import seeded
from renalplan.trainers.spatial import CpuTurn, Turn, plane_matrix, turn_matrix
from renalplan.trainers.variation import Variation, draw_intensities

PATCH = (12, 14, 16)
SIZE = (24, 26, 28)
DRAWS = 250
# two samples of one distribution differ more than that once in a thousand comparisons
RARE = 1e-3
SCHEME = LabelScheme(names=("background", "a", "b"), values=((0,), (1,), (2,)))


def _image(size: tuple[int, ...] = SIZE, channels: int = 1) -> Tensor:
    """Smooth structures and some noise, as CT has them."""
    noise = np.random.default_rng(0).normal(size=(channels, *size))
    smooth = gaussian_filter(noise, (0, 2, 2, 2)) * 8 + 0.2 * noise
    return torch.from_numpy(smooth.astype(np.float32))


def _labels(size: tuple[int, ...] = SIZE) -> Tensor:
    noise = gaussian_filter(np.random.default_rng(1).normal(size=(2, *size)), (0, 2, 2, 2))
    labels = np.where(noise[0] > 0.03, 1, 0) + np.where(noise[1] > 0.06, 1, 0)
    return torch.from_numpy(labels.astype(np.int16))[None]


# --- one draw, both programs


def _theirs(patch: tuple[int, ...], angles: tuple[float, ...], scale: float) -> SpatialTransform:
    return SpatialTransform(
        patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=lambda image, dim: angles[dim],
        p_scaling=1,
        scaling=scale,
        p_synchronize_scaling_across_axes=1,
    )


@pytest.mark.parametrize("kind", [CpuTurn, Turn])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_a_turned_patch_is_the_same(kind: type[Turn], scale: float) -> None:
    angles = (0.3, -0.2, 0.5)
    expected = _theirs(PATCH, angles, scale)(image=_image(), segmentation=_labels())
    turn = kind(SIZE, turn_matrix(np.array(angles), scale), PATCH, torch.device("cpu"))
    (image,) = turn.linear(_image())
    assert (image - expected["image"][0]).abs().max() < 2e-3  # rows are exact to 1/500 voxel
    labels = turn.labels(_labels()[0], (1, 2))
    assert labels.dtype == torch.int16
    assert (labels == expected["segmentation"][0]).float().mean() > 0.999


@pytest.mark.parametrize("kind", [CpuTurn, Turn])
def test_a_patch_turned_in_plane_is_the_same_in_every_slice(kind: type[Turn]) -> None:
    size, patch = (3, 30, 34), (3, 14, 16)
    expected = _theirs(patch[1:], (0.0, 0.7), 1.2)(
        image=_image(size)[0], segmentation=_labels(size)[0]
    )
    turn = kind(size, plane_matrix(0.7, 1.2), patch, torch.device("cpu"))
    (image,) = turn.linear(_image(size))
    assert (image - expected["image"]).abs().max() < 2e-3
    labels = turn.labels(_labels(size)[0], (1, 2))
    assert (labels == expected["segmentation"]).float().mean() > 0.999


def _applied(transform: BasicTransform, image: Tensor, **drawn: Any) -> Tensor:
    return transform._apply_to_image(image.clone(), **drawn)


def _varied(image: Tensor, drawn: Variation, *, in_plane: bool = False) -> Tensor:
    result = image.clone()
    vary_intensities(result, drawn, in_plane=in_plane)
    return result


@pytest.mark.parametrize("sigmas", [(0.5, 0.7, 1.0), (1.0, 0.5, 0.9)])
def test_a_blurred_image_is_the_same(sigmas: tuple[float, float, float]) -> None:
    image = _image(channels=2)
    theirs = GaussianBlurTransform((0.5, 1.0), False, False, 1)
    expected = _applied(
        theirs, image, apply_to_channel=torch.tensor([False, True]), sigmas=[list(sigmas)]
    )
    assert torch.allclose(_varied(image, Variation(blur=(None, sigmas))), expected, atol=1e-5)


@pytest.mark.parametrize("in_plane", [False, True])
def test_an_image_of_lower_resolution_is_the_same(in_plane: bool) -> None:
    image = _image(channels=2)
    theirs = SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 1)
    scales = torch.tensor([[1.0 if in_plane else 0.63, 0.63, 0.63]])
    expected = _applied(theirs, image, apply_to_channel=[1], scales=scales)
    found = _varied(image, Variation(coarse=(1.0, 0.63)), in_plane=in_plane)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("inverted", [False, True])
def test_an_image_to_a_power_is_the_same(exponent: float, inverted: bool) -> None:
    theirs = GammaTransform(1.0, 0, False, 1, 1)
    expected = _applied(
        theirs,
        _image(),
        apply_to_channel=torch.tensor([0]),
        retain_stats=torch.tensor([True]),
        invert_image=torch.tensor([inverted]),
        gamma=torch.tensor([exponent]),
    )
    name = "inverted_gamma" if inverted else "gamma"
    found = _varied(_image(), Variation(**{name: (exponent,)}))
    assert torch.allclose(found, expected, atol=1e-4)


def test_contrast_and_brightness_are_the_same() -> None:
    theirs = ContrastTransform(1.0, True, False, 1)
    drawn: dict[str, Any] = {"apply_to_channel": torch.tensor([0])}
    expected = _applied(theirs, _image(), multipliers=torch.tensor([1.2]), **drawn)
    assert torch.allclose(_varied(_image(), Variation(contrast=(1.2,))), expected, atol=1e-5)
    assert torch.equal(_varied(_image(), Variation(brightness=(0.8,))), _image() * 0.8)


# --- many draws


def _figures(image: Tensor) -> list[float]:
    """What one image looks like: level, spread, ends, sharpness."""
    steps = (image[..., 1:] - image[..., :-1]).abs().mean()
    ends = torch.quantile(image, torch.tensor([0.02, 0.5, 0.98])).tolist()
    return [float(image.mean()), float(image.std()), *ends, float(steps)]


def _assert_alike(ours: list[list[float]], theirs: list[list[float]]) -> None:
    for number, pair in enumerate(
        zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
    ):
        if np.ptp(pair[0]) < 1e-4 and np.ptp(pair[1]) < 1e-4:  # gamma keeps mean and spread
            assert np.mean(pair[0]) == pytest.approx(np.mean(pair[1]), abs=1e-4)
            continue
        assert ks_2samp(*pair).pvalue > RARE, f"figure {number} of {_figures.__doc__}"


PARTS: dict[str, Callable[[], BasicTransform]] = {
    "noise": lambda: GaussianNoiseTransform((0, 0.1), 1, True),
    "blur": lambda: GaussianBlurTransform((0.5, 1.0), False, False, 0.5),
    "brightness": lambda: MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), False, 1),
    "contrast": lambda: ContrastTransform(BGContrast((0.75, 1.25)), True, False, 1),
    "coarse": lambda: SimulateLowResolutionTransform((0.5, 1), False, True, None, None, 0.5),
    "inverted_gamma": lambda: GammaTransform(BGContrast((0.7, 1.5)), 1, False, 1, 1),
    "gamma": lambda: GammaTransform(BGContrast((0.7, 1.5)), 0, False, 1, 1),
}
CHANCES = {
    "noise": 0.1,
    "blur": 0.2 * 0.5,  # that one channel is blurred
    "brightness": 0.15,
    "contrast": 0.15,
    "coarse": 0.25,
    "inverted_gamma": 0.1,
    "gamma": 0.3,
}


@pytest.mark.parametrize("part", PARTS)
def test_each_change_of_intensities_is_drawn_alike(part: str) -> None:
    image, generator = _image(PATCH), np.random.default_rng(2)
    plain = Variation()
    ours, drawn, tries = [], 0, 0
    while drawn < DRAWS:
        tries += 1
        found = draw_intensities(generator, 1)
        value = getattr(found, part)
        if not value:
            continue
        drawn += 1
        only = replace(plain, noise_seed=found.noise_seed, **{part: value})
        ours.append(_figures(_varied(image, only)))
    chance = CHANCES[part]
    assert drawn / tries == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / tries))
    theirs = []
    with seeded(3):
        transform = PARTS[part]()
        while len(theirs) < DRAWS:
            found_image = transform(image=image.clone())["image"]
            if part != "blur" or not torch.equal(found_image, image):  # one channel: half are sharp
                theirs.append(_figures(found_image))
    _assert_alike(ours, theirs)


def _nnunet() -> BasicTransform:
    """The training transforms of nnU-Net 2.8.1, without what concerns labels alone."""

    def sometimes(part: str, chance: float) -> BasicTransform:
        return RandomTransform(PARTS[part](), apply_probability=chance)

    spatial = SpatialTransform(
        PATCH,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=0.2,
        rotation=(-np.pi / 6, np.pi / 6),
        p_scaling=0.2,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
    )
    return ComposeTransforms(
        [
            spatial,
            *(sometimes(p, c) for p, c in {**CHANCES, "blur": 0.2}.items()),
            MirrorTransform((0, 1, 2)),
        ]
    )


def test_whole_patches_are_varied_alike() -> None:
    augmentation = build_augmentation(PATCH, SCHEME, AugmentationSettings(), left_right_axis=2)
    transform, margin = augmentation.transform, augmentation.margin
    size = tuple(p + 2 * m for p, m in zip(PATCH, margin, strict=True))
    image, labels = _image(size), _labels(size)

    def figures(image: Tensor, labels: Tensor) -> list[float]:
        corner = image[0, :4, :4, :4].mean()  # tells how often it is mirrored and turned
        shares = [float((labels == value).float().mean()) for value in (1, 2)]
        return [*_figures(image), float(corner), *shares]

    generator = np.random.default_rng(4)
    ours = []
    for _ in range(2 * DRAWS):
        drawn = transform.draw(generator, 1)
        reach = tuple(min(a, b) for a, b in zip(transform.reach(drawn), margin, strict=True))
        within = tuple(slice(m - r, n - m + r) for m, r, n in zip(margin, reach, size, strict=True))
        sample = {"image": image[:, *within], "labels": labels[:, *within]}
        found = transform(sample, drawn)
        ours.append(figures(found["image"], found["labels"]))
    theirs = []
    with seeded(5):
        reference = _nnunet()
        for _ in range(2 * DRAWS):
            found = reference(image=image.clone(), segmentation=labels.clone())
            theirs.append(figures(found["image"], found["segmentation"]))
    _assert_alike(ours, theirs)
