"""Mirroring knows left from right; patches come out in their size, flat and 2-D ones too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from renalplan.labels import LabelScheme
from renalplan.trainers.augmentation import (
    Augmentation,
    AugmentationSettings,
    MirrorWithPairs,
    PreviousAsChannels,
    build_augmentation,
    swap_pairs,
)
from renalplan.trainers.sampling import seeded

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
        "segmentation": torch.from_numpy(rng.integers(0, 4, (channels, *size)).astype(np.int16)),
    }


def _build(patch: tuple[int, int, int], **values: Any) -> Augmentation:
    settings = AugmentationSettings(**values)
    return build_augmentation(patch, SIDES, settings, left_right_axis=2)


@pytest.mark.parametrize("left_right_axis", [0, 1, 2])
@pytest.mark.parametrize("axes", [[], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_sides_change_places_exactly_when_left_and_right_are_mirrored(
    axes: list[int], left_right_axis: int
) -> None:
    mirror = MirrorWithPairs((0, 1, 2), left_right_axis, SIDES.mirror_pairs)
    sample = _sample((2, 3, 4), (0, 0, 0))
    image = mirror._apply_to_image(sample["image"], axes=axes)
    labels = mirror._apply_to_segmentation(sample["segmentation"], axes=axes)
    expected = sample["segmentation"].numpy()
    if left_right_axis in axes:
        expected = np.array([0, 2, 1, 3])[expected]
    flip = tuple(1 + axis for axis in axes)
    assert np.array_equal(labels, np.flip(expected, flip))
    assert np.array_equal(image, np.flip(sample["image"].numpy(), flip))


def test_each_axis_is_mirrored_about_half_the_time_and_others_never() -> None:
    mirror = MirrorWithPairs((1, 2), 2, ())
    with seeded(0):
        drawn = [mirror.get_parameters()["axes"] for _ in range(400)]
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
        with seeded(number):
            result = augmentation.transform(**_sample(patch, augmentation.margin))
        assert result["image"].shape == (1, *patch)
        assert result["image"].dtype == torch.float32
        assert result["image"].isfinite().all()
        assert result["segmentation"].shape == (1, *patch)
        assert set(result["segmentation"].unique().tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("patch", [(4, 16, 16), (1, 16, 16)])
def test_flat_patches_never_mix_their_slices(patch: tuple[int, int, int]) -> None:
    augmentation = _build(
        patch, rotation_probability=1, scaling_probability=1, intensity=False, mirror=False
    )
    assert augmentation.margin[0] == 0
    sample = _sample(patch, augmentation.margin)
    for z in range(patch[0]):
        sample["image"][0, z] = z + 1
    with seeded(3):
        image = augmentation.transform(**sample)["image"][0]
    for z in range(patch[0]):
        inside = image[z][image[z] > 0.99 * (z + 1)]  # zeros come in from beyond the border
        assert len(inside) > 0.5 * image[z].numel()
        assert image[z].max() <= z + 1 + 1e-3


def test_disabled_augmentation_changes_nothing_and_needs_no_margin() -> None:
    plain = build_augmentation((4, 5, 6), SIDES, PLAIN, left_right_axis=2)
    assert plain.margin == (0, 0, 0)
    sample = _sample((4, 5, 6), (0, 0, 0))
    result = plain.transform(**{k: v.clone() for k, v in sample.items()})
    assert torch.equal(result["image"], sample["image"])
    assert torch.equal(result["segmentation"], sample["segmentation"])


def test_mirroring_alone_is_a_mirror_image() -> None:
    augmentation = _build((4, 4, 4), rotation_probability=0, scaling_probability=0, intensity=False)
    sample = _sample((4, 4, 4), augmentation.margin)
    with seeded(1):
        result = augmentation.transform(**{k: v.clone() for k, v in sample.items()})
    assert augmentation.margin == (0, 0, 0)  # nothing turns or grows
    assert sorted(result["image"].flatten().tolist()) == sorted(sample["image"].flatten().tolist())
    assert any(
        torch.equal(result["image"], sample["image"].flip(axes))
        for axes in ([], [1], [2], [3], [1, 2], [1, 3], [2, 3], [1, 2, 3])
    )


def test_the_previous_labels_become_one_channel_a_structure() -> None:
    sample = _sample((2, 3, 4), (0, 0, 0), channels=2)
    previous = sample["segmentation"][1].clone()
    target = sample["segmentation"][:1].clone()
    result = PreviousAsChannels(SIDES).apply(sample)
    assert result["image"].shape == (4, 2, 3, 4)
    for channel, value in ((1, 1), (2, 2), (3, 3)):
        assert torch.equal(result["image"][channel], (previous == value).float())
    assert torch.equal(result["segmentation"], target)


def test_a_region_that_holds_two_labels_is_one_channel() -> None:
    regions = LabelScheme(names=("organ", "tumour"), values=((1, 2), (2,)), region_values=(1, 2))
    sample = _sample((2, 3, 4), (0, 0, 0), channels=2)
    previous = sample["segmentation"][1].clone()
    image = PreviousAsChannels(regions).apply(sample)["image"]
    assert torch.equal(image[1], torch.isin(previous, torch.tensor([1, 2])).float())
    assert torch.equal(image[2], (previous == 2).float())


@pytest.mark.parametrize("enabled", [False, True])
def test_a_cascade_sees_image_and_one_hot_channels(enabled: bool) -> None:
    augmentation = build_augmentation(
        (8, 8, 8), SIDES, AugmentationSettings(enabled=enabled), left_right_axis=2, cascade=True
    )
    for number in range(8):
        with seeded(number):
            result = augmentation.transform(**_sample((8, 8, 8), augmentation.margin, channels=2))
        assert result["image"].shape == (4, 8, 8, 8)
        assert result["image"].dtype == torch.float32
        assert set(result["image"][1:].unique().tolist()) <= {0.0, 1.0}
        assert result["segmentation"].shape == (1, 8, 8, 8)


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
    result = still.transform(**{k: v.clone() for k, v in sample.items()})
    assert torch.equal(result["image"], sample["image"])
    assert torch.equal(result["segmentation"], sample["segmentation"])
    brighter = _build(patch, rotation_probability=0, scaling_probability=0)
    assert brighter.margin == (0, 0, 0)
    with seeded(0):
        assert brighter.transform(**sample)["image"].shape == (1, *patch)


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
        with seeded(number):
            found = augmentation.transform(image=torch.cat([ball, bar]))["image"]
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
        with seeded(number):
            both = augmentation.transform(**{k: v.clone() for k, v in sample.items()})["image"]
        with seeded(number):
            alone = augmentation.transform(image=sample["image"].clone())
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
    spatial = next(t for t in built.transform.transforms if hasattr(t, "rotation"))
    assert spatial.rotation == pytest.approx((-np.deg2rad(degrees), np.deg2rad(degrees)))
    # nnU-Net's initial patch: the rotated extent over 0.85
    angle = np.deg2rad(min(90.0, degrees))
    _, a, b = patch
    turned = max(a, a * np.cos(angle) + b * np.sin(angle))
    assert built.margin[1] == int((turned / 0.85 - a) // 2)
    assert built.margin[0] == 0


def test_a_long_2d_patch_never_turns_more_than_it_is_told() -> None:
    built = _build((1, 64, 256), rotation_probability=1.0, rotation_degrees=5.0)
    spatial = next(t for t in built.transform.transforms if hasattr(t, "rotation"))
    assert spatial.rotation == pytest.approx((-np.deg2rad(5), np.deg2rad(5)))


def _weighted(patch: tuple[int, int, int], margin: tuple[int, int, int]) -> dict[str, Any]:
    """Weights that are 1 + labels, in blocks large enough to survive being turned."""
    size = [p + 2 * m for p, m in zip(patch, margin, strict=True)]
    blocks = np.random.default_rng(1).integers(0, 4, [-(-n // 4) for n in size])
    labels = blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: size[0], : size[1], : size[2]][None]
    return {
        "image": torch.from_numpy(labels.astype(np.float32)),
        "segmentation": torch.from_numpy(labels.astype(np.int16)),
        "regression_target": torch.from_numpy(1 + labels.astype(np.float32)),
    }


@pytest.mark.parametrize("patch", [(12, 16, 16), (4, 16, 16), (1, 16, 16)])
def test_weights_go_where_labels_go_and_stay_the_numbers_they_were(
    patch: tuple[int, int, int],
) -> None:
    plain = LabelScheme(names=("background", "tumour"), values=((0,), (1,)))
    settings = AugmentationSettings(rotation_probability=1.0, scaling_probability=1.0)
    augmentation = build_augmentation(patch, plain, settings, left_right_axis=2)
    for step in range(6):
        with seeded(step):
            found = augmentation.transform(**_weighted(patch, augmentation.margin))
        weights, labels = found["regression_target"].numpy(), found["segmentation"].numpy()
        assert weights.shape == (1, *patch)
        assert set(np.unique(weights)) <= {0.0, 1.0, 2.0, 3.0, 4.0}
        inside = weights > 0  # 0 only beyond what was read
        # labels are the largest interpolated one, weights the nearest: borders of blocks may differ
        assert (weights[inside] - 1 == labels[inside]).mean() > 0.85


def test_weights_beyond_what_was_read_are_zero() -> None:
    settings = AugmentationSettings(
        rotation_probability=0.0, scaling_probability=1.0, scaling_smallest=1.9, scaling_largest=2.0
    )
    transform = _build((8, 8, 8), **settings.model_dump()).transform
    ones = {name: torch.ones(1, 8, 8, 8) for name in ("image", "regression_target")}
    with seeded(0):
        found = transform(**ones, segmentation=torch.ones(1, 8, 8, 8, dtype=torch.int16))
    assert set(found["regression_target"].unique().tolist()) == {0.0, 1.0}


def test_weights_are_mirrored_and_no_label_pairs() -> None:
    mirror = MirrorWithPairs((0, 1, 2), 2, SIDES.mirror_pairs)
    weights = torch.arange(24.0).reshape(1, 2, 3, 4)
    found = mirror._apply_to_regr_target(weights, axes=[0, 2])
    assert np.array_equal(found, np.flip(weights.numpy(), (1, 3)))


def test_weights_are_as_they_were_without_augmentation() -> None:
    sample = _weighted((8, 8, 8), (0, 0, 0))
    augmentation = build_augmentation((8, 8, 8), SIDES, PLAIN, left_right_axis=2)
    before = sample["regression_target"].clone()
    assert torch.equal(augmentation.transform(**sample)["regression_target"], before)
