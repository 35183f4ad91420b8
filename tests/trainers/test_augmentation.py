"""Mirroring knows left from right; patches come out in their size, flat and 2-D ones too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from renalplan.labels import LabelScheme
from renalplan.trainers.augmentation import Augmentation, AugmentationSettings, build_augmentation
from renalplan.trainers.corruption import PreviousAsChannels
from renalplan.trainers.transform import Mirror, swap_pairs

SIDES = LabelScheme(
    names=("background", "left", "right", "tumour"),
    values=((0,), (1,), (2,), (3,)),
    mirror_pairs=((1, 2),),
)
PLAIN = AugmentationSettings(enabled=False)


def _sample(patch: tuple[int, ...], margin: tuple[int, ...], channels: int = 1) -> dict[str, Any]:
    size = [p + 2 * m for p, m in zip(patch, margin, strict=True)]
    rng = np.random.default_rng(0)
    return {
        "image": torch.from_numpy(rng.normal(size=(1, *size)).astype(np.float32)),
        "labels": torch.from_numpy(rng.integers(0, 4, (channels, *size)).astype(np.int16)),
    }


def _build(patch: tuple[int, int, int], **values: Any) -> Augmentation:
    settings = AugmentationSettings(**values)
    return build_augmentation(patch, SIDES, settings, left_right_axis=2)


def _vary(augmentation: Augmentation, sample: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    transform = augmentation.transform
    drawn = transform.draw(np.random.default_rng(seed), sample["image"].shape[0])
    return transform(sample, drawn)


@pytest.mark.parametrize("left_right_axis", [0, 1, 2])
@pytest.mark.parametrize("axes", [[], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_sides_change_places_exactly_when_left_and_right_are_mirrored(
    axes: list[int], left_right_axis: int
) -> None:
    mirror = Mirror((0, 1, 2), left_right_axis, SIDES.mirror_pairs)
    sample = _sample((2, 3, 4), (0, 0, 0))
    image = mirror.values(sample["image"], tuple(axes))
    labels = mirror.labels(sample["labels"], tuple(axes))
    expected = sample["labels"].numpy()
    if left_right_axis in axes:
        expected = np.array([0, 2, 1, 3])[expected]
    flip = tuple(1 + axis for axis in axes)
    assert np.array_equal(labels, np.flip(expected, flip))
    assert np.array_equal(image, np.flip(sample["image"].numpy(), flip))


def test_each_axis_is_mirrored_about_half_the_time_and_others_never() -> None:
    mirror, generator = Mirror((1, 2), 2, ()), np.random.default_rng(0)
    drawn = [mirror.draw(generator) for _ in range(400)]
    for axis, (low, high) in {0: (0, 0), 1: (160, 240), 2: (160, 240)}.items():
        assert low <= sum(axis in axes for axes in drawn) <= high


def test_swapping_pairs_twice_changes_nothing_and_leaves_the_original_alone() -> None:
    labels = torch.tensor([0, 1, 2, 3, 1])
    swapped = swap_pairs(labels, ((1, 2),))
    assert swapped.tolist() == [0, 2, 1, 3, 2]
    assert labels.tolist() == [0, 1, 2, 3, 1]
    assert swap_pairs(swapped, ((1, 2),)).tolist() == labels.tolist()


@pytest.mark.parametrize(
    "patch", [(12, 14, 16), (4, 16, 16), (1, 24, 20), (8, 8, 8)], ids=["3-D", "flat", "2-D", "cube"]
)
def test_every_draw_has_the_size_of_the_patch_and_known_labels(patch: tuple[int, int, int]) -> None:
    augmentation = _build(patch, rotation_probability=1, scaling_probability=1)
    for number in range(6):
        result = _vary(augmentation, _sample(patch, augmentation.margin), number)
        assert result["image"].shape == (1, *patch)
        assert result["image"].dtype == torch.float32
        assert result["image"].isfinite().all()
        assert result["labels"].shape == (1, *patch)
        assert set(result["labels"].unique().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("patch", [(4, 16, 16), (1, 16, 16)])
def test_flat_patches_never_mix_their_slices(patch: tuple[int, int, int]) -> None:
    augmentation = _build(
        patch, rotation_probability=1, scaling_probability=1, intensity=False, mirror=False
    )
    assert augmentation.margin[0] == 0
    sample = _sample(patch, augmentation.margin)
    for z in range(patch[0]):
        sample["image"][0, z] = z + 1
    image = _vary(augmentation, sample, 3)["image"][0]
    for z in range(patch[0]):
        inside = image[z][image[z] > 0.99 * (z + 1)]  # zeros come in from beyond the border
        assert len(inside) > 0.5 * image[z].numel()
        assert image[z].max() <= z + 1 + 1e-3


def test_disabled_augmentation_changes_nothing_and_needs_no_margin() -> None:
    plain = build_augmentation((4, 5, 6), SIDES, PLAIN, left_right_axis=2)
    assert plain.margin == (0, 0, 0)
    sample = _sample((4, 5, 6), (0, 0, 0))
    result = _vary(plain, sample)
    assert torch.equal(result["image"], sample["image"])
    assert torch.equal(result["labels"], sample["labels"])


def test_mirroring_alone_is_a_mirror_image() -> None:
    augmentation = _build((4, 4, 4), rotation_probability=0, scaling_probability=0, intensity=False)
    sample = _sample((4, 4, 4), augmentation.margin)
    result = _vary(augmentation, sample, 1)
    assert augmentation.margin == (0, 0, 0)  # nothing turns or grows
    assert sorted(result["image"].flatten().tolist()) == sorted(sample["image"].flatten().tolist())
    assert any(
        torch.equal(result["image"], sample["image"].flip(axes))
        for axes in ([], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
    )


def test_the_previous_labels_become_one_channel_a_structure() -> None:
    sample = _sample((2, 3, 4), (0, 0, 0), channels=2)
    previous = sample["labels"][1].clone()
    target = sample["labels"][:1].clone()
    image, labels = PreviousAsChannels(SIDES, corrupt=False)(sample["image"], sample["labels"])
    assert image.shape == (4, 2, 3, 4)
    for channel, value in ((1, 1), (2, 2), (3, 3)):
        assert torch.equal(image[channel], (previous == value).float())
    assert torch.equal(labels, target)


def test_a_region_that_holds_two_labels_is_one_channel() -> None:
    regions = LabelScheme(names=("organ", "tumour"), values=((1, 2), (2,)), region_values=(1, 2))
    sample = _sample((2, 3, 4), (0, 0, 0), channels=2)
    previous = sample["labels"][1].clone()
    image, _ = PreviousAsChannels(regions, corrupt=False)(sample["image"], sample["labels"])
    assert torch.equal(image[1], torch.isin(previous, torch.tensor([1, 2])).float())
    assert torch.equal(image[2], (previous == 2).float())


@pytest.mark.parametrize("enabled", [False, True])
def test_a_cascade_sees_image_and_one_hot_channels(enabled: bool) -> None:
    augmentation = build_augmentation(
        (8, 8, 8), SIDES, AugmentationSettings(enabled=enabled), left_right_axis=2, cascade=True
    )
    for number in range(8):
        result = _vary(augmentation, _sample((8, 8, 8), augmentation.margin, channels=2), number)
        assert result["image"].shape == (4, 8, 8, 8)
        assert result["image"].dtype == torch.float32
        assert set(result["image"][1:].unique().tolist()) <= {0.0, 1.0}
        assert result["labels"].shape == (1, 8, 8, 8)


def test_the_cube_of_128_reads_as_far_as_nnunet_does() -> None:
    # 128 (cos 30 + sin 30) = 174.85, / 0.85 = 205.7: nnU-Net's initial patch is 205 voxels;
    # ours is 128 + 2 * 38 = 204, since both sides get the same whole number
    assert _build((128, 128, 128)).margin == (38, 38, 38)


def test_a_flat_patch_reads_further_within_its_slices_only() -> None:
    # at 90 degrees rows become columns: both need 96 / 0.85 = 112.9 voxels
    assert _build((16, 64, 96)).margin == (0, (112 - 64) // 2, (112 - 96) // 2)


def test_without_rotation_only_scaling_asks_for_a_margin() -> None:
    # 34 / 0.85 = 40
    assert _build((34, 34, 34), rotation_degrees=0).margin == (3, 3, 3)


@pytest.mark.parametrize("patch", [(6, 8, 8), (4, 16, 16), (1, 16, 16)], ids=["3-D", "flat", "2-D"])
def test_nothing_that_moves_voxels_means_no_margin(patch: tuple[int, int, int]) -> None:
    still = _build(
        patch, rotation_probability=0, scaling_probability=0, intensity=False, mirror=False
    )
    assert still.margin == (0, 0, 0)
    sample = _sample(patch, still.margin)
    result = _vary(still, sample)
    assert torch.equal(result["image"], sample["image"])
    assert torch.equal(result["labels"], sample["labels"])
    brighter = _build(patch, rotation_probability=0, scaling_probability=0)
    assert brighter.margin == (0, 0, 0)
    assert _vary(brighter, sample)["image"].shape == (1, *patch)


@pytest.mark.parametrize("moves", [{"rotation_probability": 0.1}, {"scaling_probability": 0.1}])
def test_anything_that_moves_voxels_sometimes_asks_for_a_margin(moves: dict[str, float]) -> None:
    values = {"rotation_probability": 0.0, "scaling_probability": 0.0, **moves}
    assert min(_build((34, 34, 34), **values).margin) >= 3


def test_ten_degrees_without_scaling_neither_grow_nor_shrink() -> None:
    """A ball about the centre is one voxel for voxel the same after any turn, but for its rim."""
    patch = (24, 24, 24)
    augmentation = _build(
        patch, rotation_probability=1, rotation_degrees=10, scaling_probability=0, intensity=False
    )
    size = [p + 2 * m for p, m in zip(patch, augmentation.margin, strict=True)]
    axes = [np.arange(n) - (n - 1) / 2 for n in size]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    ball = torch.from_numpy((z**2 + y**2 + x**2 <= 8**2).astype(np.float32))[None]
    bar = torch.from_numpy(((abs(z) <= 1.5) & (abs(y) <= 1.5)).astype(np.float32))[None]
    turned = []
    for number in range(8):
        found = _vary(augmentation, {"image": torch.cat([ball, bar])}, number)["image"]
        assert float(found[0].sum()) == pytest.approx(float(ball.sum()), rel=0.02)
        # at 10 degrees the bar's end, 11.5 voxels from the centre, moves by 2.0 about each axis
        end = found[1, :, :, 0]
        assert end.shape == (24, 24)
        if float(end.sum()):
            weights = end / end.sum()
            row = float((weights.sum(1) * torch.arange(24)).sum()) - 11.5
            turned.append(abs(row))
    assert max(turned) > 0.3
    assert max(turned) < 2.6


@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 16, 16), (1, 16, 16)], ids=["3-D", "flat", "2-D"])
def test_images_are_varied_without_labels_too(patch: tuple[int, int, int]) -> None:
    augmentation = _build(patch, rotation_probability=1, scaling_probability=1)
    sample = _sample(patch, augmentation.margin)
    for number in range(4):
        both = _vary(augmentation, sample, number)["image"]
        alone = _vary(augmentation, {"image": sample["image"]}, number)
        assert list(alone) == ["image"]
        assert torch.equal(alone["image"], both)


@pytest.mark.parametrize(
    ("patch", "degrees"),
    [((1, 64, 256), 15.0), ((1, 256, 64), 15.0), ((1, 160, 160), 180.0), ((1, 96, 64), 180.0)],
)
def test_a_long_2d_patch_is_turned_a_little_and_others_all_round(
    patch: tuple[int, int, int], degrees: float
) -> None:
    built = _build(patch, rotation_probability=1.0, scaling_probability=0.0)
    assert built.transform.turning is not None
    assert built.transform.turning.degrees == degrees
    # nnU-Net's initial patch: the rotated extent over 0.85
    angle = np.deg2rad(min(90.0, degrees))
    _, a, b = patch
    turned = max(a, a * np.cos(angle) + b * np.sin(angle))
    assert built.margin[1] == int((turned / 0.85 - a) // 2)
    assert built.margin[0] == 0


def test_a_long_2d_patch_never_turns_more_than_it_is_told() -> None:
    built = _build((1, 64, 256), rotation_probability=1.0, rotation_degrees=5.0)
    assert built.transform.turning is not None
    assert built.transform.turning.degrees == 5


def _weighted(patch: tuple[int, int, int], margin: tuple[int, int, int]) -> dict[str, Any]:
    """Weights that are 1 + labels, in blocks large enough to survive being turned."""
    size = [p + 2 * m for p, m in zip(patch, margin, strict=True)]
    blocks = np.random.default_rng(1).integers(0, 4, [-(-n // 4) for n in size])
    labels = blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: size[0], : size[1], : size[2]][None]
    return {
        "image": torch.from_numpy(labels.astype(np.float32)),
        "labels": torch.from_numpy(labels.astype(np.int16)),
        "weights": torch.from_numpy(1 + labels.astype(np.float32)),
    }


@pytest.mark.parametrize("patch", [(12, 16, 16), (4, 16, 16), (1, 16, 16)])
def test_weights_go_where_labels_go_and_stay_the_numbers_they_were(
    patch: tuple[int, int, int],
) -> None:
    plain = LabelScheme(names=("background", "tumour"), values=((0,), (1,)))
    settings = AugmentationSettings(rotation_probability=1.0, scaling_probability=1.0)
    augmentation = build_augmentation(patch, plain, settings, left_right_axis=2)
    for step in range(6):
        found = _vary(augmentation, _weighted(patch, augmentation.margin), step)
        weights, labels = found["weights"].numpy(), found["labels"].numpy()
        assert weights.shape == (1, *patch)
        assert set(np.unique(weights)) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        inside = weights > 0  # 0 only beyond what was read
        # labels are the largest interpolated one, weights the nearest: borders of blocks may differ
        assert (weights[inside] - 1 == labels[inside]).mean() > 0.85


def test_weights_beyond_what_was_read_are_zero() -> None:
    settings = AugmentationSettings(
        rotation_probability=0.0, scaling_probability=1.0, scaling_smallest=1.9, scaling_largest=2.0
    )
    ones = {name: torch.ones(1, 8, 8, 8) for name in ("image", "labels", "weights")}
    found = _vary(_build((8, 8, 8), **settings.model_dump()), ones)
    assert set(found["weights"].unique().tolist()) == {0.0, 1.0}


def test_weights_are_mirrored_and_no_label_pairs() -> None:
    weights = torch.arange(24.0).reshape(1, 2, 3, 4)
    found = Mirror.values(weights, (0, 2))
    assert np.array_equal(found, np.flip(weights.numpy(), (1, 3)))


def test_weights_are_as_they_were_without_augmentation() -> None:
    sample = _weighted((8, 8, 8), (0, 0, 0))
    augmentation = build_augmentation((8, 8, 8), SIDES, PLAIN, left_right_axis=2)
    before = sample["weights"].clone()
    assert torch.equal(_vary(augmentation, sample)["weights"], before)
