from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.interpolation import (
    apply_along,
    band,
    cubic_matrix,
    linear_matrix,
    source_positions,
)
from renalplan.plane_resampling import TensorPlanes, resample_planes
from renalplan.resampling import resample_image, resample_labels

SHAPE = (12, 14, 16)
NEW_SHAPES = [(18, 21, 24), (24, 28, 32), (8, 9, 11), (6, 21, 16), (13, 14, 15)]


def smooth(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Blurred noise from about -1000 to 1000."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 1.5)
    return (noise / np.abs(noise).max() * 1000).astype(np.float32)


def balls(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Three balls that touch and overlap each other, the later label on top."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    labels = np.zeros(shape, np.uint8)
    for value, (centre, radius) in enumerate(
        [((12, 14, 12), 8), ((12, 14, 22), 6), ((7, 9, 16), 5)]
    ):
        inside = sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) <= radius**2
        labels[inside] = value + 1
    return labels


def zoom(array: NDArray, shape: tuple[int, ...], order: int, mode: str) -> NDArray:
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    found = ndimage.zoom(array.astype(float), factors, order=order, mode=mode, grid_mode=True)
    assert found.shape == shape
    return found


def test_outer_faces_of_both_grids_coincide() -> None:
    # 2 voxels over [0, 4) of 4: centres at 1 and 3 in mm, which are 0.5 and 2.5 as indices
    np.testing.assert_allclose(source_positions(4, 2), [0.5, 2.5])
    # 4 voxels over 2: centres at -0.25, 0.25, 0.75, 1.25; the outer two stay at the edge
    np.testing.assert_allclose(source_positions(2, 4), [0, 0.25, 0.75, 1])


@pytest.mark.parametrize("sizes", [(4, 2), (5, 9), (1, 3), (3, 1), (2, 7), (30, 17)])
def test_weights_sum_to_one(sizes: tuple[int, int]) -> None:
    for matrix in (linear_matrix(*sizes), cubic_matrix(*sizes)):
        assert matrix.shape == sizes[::-1]
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)


def test_a_ramp_is_reproduced_inside_and_held_beyond() -> None:
    ramp = np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(linear_matrix(6, 12) @ ramp, source_positions(6, 12), atol=1e-6)
    assert (linear_matrix(6, 12) @ ramp)[0] == 0
    np.testing.assert_allclose(linear_matrix(6, 3) @ ramp, [0.5, 2.5, 4.5], atol=1e-6)


@pytest.mark.parametrize("sizes", [(150, 171), (300, 90), (90, 300), (64, 64), (1, 5), (70, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_band_leaves_nothing_out_that_matters(sizes: tuple[int, int], axis: int) -> None:
    volume = smooth((3, 4, 5))[None].repeat(2, axis=0)
    shape = [2, 3, 4, 5]
    shape[1 + axis] = sizes[0]
    volume = np.resize(volume, shape).astype(np.float32)
    matrix = cubic_matrix(*sizes)
    found = apply_along(volume, band(matrix), axis)
    expected = np.moveaxis(
        np.tensordot(matrix.astype(float), volume.astype(float), (1, axis + 1)), 0, axis + 1
    )
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(volume).max())


def test_a_band_is_much_narrower_than_its_matrix() -> None:
    products = band(cubic_matrix(512, 400))
    assert [p.start for p in products[1:]] == [p.stop for p in products[:-1]]
    assert sum(p.weights.size for p in products) < 512 * 400 / 3


@pytest.mark.parametrize("shape", NEW_SHAPES)
def test_cubic_resampling_is_that_of_scipy_away_from_the_border(
    shape: tuple[int, int, int],
) -> None:
    image = smooth(SHAPE)
    found = resample_image(image[None], shape)[0]
    expected = zoom(image, shape, 3, "mirror").clip(image.min(), image.max())
    inside = (slice(2, -2),) * 3
    difference = np.abs(found[inside] - expected[inside]).max()
    assert difference <= 1e-4 * np.ptp(image)


def test_an_image_of_the_right_shape_is_not_touched() -> None:
    image = smooth(SHAPE)[None]
    np.testing.assert_array_equal(resample_image(image, SHAPE), image)


def test_a_constant_stays_constant() -> None:
    found = resample_image(np.full((2, *SHAPE), -1000, np.float32), (7, 20, 33))
    assert found.shape == (2, 7, 20, 33)
    np.testing.assert_allclose(found, -1000, rtol=1e-5)


def test_channels_do_not_mix() -> None:
    image = np.stack([smooth(SHAPE), np.zeros(SHAPE, np.float32)])
    found = resample_image(image, (8, 20, 16))
    np.testing.assert_allclose(found[:1], resample_image(image[:1], (8, 20, 16)), rtol=1e-5)
    assert (found[1] == 0).all()


@pytest.mark.parametrize("size", [4, 5, 9])
@pytest.mark.parametrize("new_size", [1, 3, 7, 20])
def test_cubic_weights_are_those_of_scipy_s_spline(size: int, new_size: int) -> None:
    positions = source_positions(size, new_size)
    expected = [
        ndimage.map_coordinates(sample, [positions], order=3, mode="mirror")
        for sample in np.eye(size)
    ]
    np.testing.assert_allclose(cubic_matrix(size, new_size), np.transpose(expected), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_voxels_are_joined_by_straight_lines(size: int) -> None:
    np.testing.assert_array_equal(cubic_matrix(size, 7), linear_matrix(size, 7))


@pytest.mark.parametrize("unit", [0.25, 1.0, 2.0])  # mm: their ratio alone decides
def test_an_axis_of_more_than_three_times_the_finest_is_interpolated_linearly(unit: float) -> None:
    def resampled(thick: float) -> NDArray:
        spacing = (thick * unit, unit, unit)
        return resample_image(image, (24, 4, 4), spacing=spacing)[0, :, 0, 0]

    image = np.zeros((1, 8, 4, 4), np.float32)
    image[0, 4:] = 1000  # a step between thick slices, where cubics ring
    straight = linear_matrix(8, 24) @ image[0, :, 0, 0]
    np.testing.assert_allclose(resampled(3.5), straight)
    assert np.abs(resampled(3.0) - straight).max() > 10


def test_cubics_do_not_leave_the_range_of_their_channel() -> None:
    image = np.zeros((2, 12, 4, 4), np.float32)
    image[0, 6:] = 1000
    image[1, 6:] = -5
    assert (cubic_matrix(12, 30) @ image[0, :, 0, 0]).max() > 1050, "they would"
    found = resample_image(image, (30, 5, 4))
    assert (found[0].min(), found[0].max()) == (0, 1000)
    assert (found[1].min(), found[1].max()) == (-5, 0)


def test_an_axis_of_one_voxel_is_repeated() -> None:
    image = smooth((1, 6, 6))[None]
    found = resample_image(image, (3, 6, 6))
    np.testing.assert_allclose(found, np.repeat(image, 3, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    "shape", [(36, 42, 48), (31, 28, 40), (16, 20, 24), (12, 14, 16), (24, 28, 32)]
)
def test_labels_equal_the_largest_of_linearly_resampled_masks(
    shape: tuple[int, int, int],
) -> None:
    labels = balls((24, 28, 32))
    masks = np.stack([zoom(labels == value, shape, 1, "nearest") for value in range(4)])
    expected = np.round(masks, 6).argmax(0)  # of equal weights the lower value
    found = resample_labels(labels, shape)
    assert found.dtype == np.uint8
    assert (found == expected).mean() >= 0.9995
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_a_label_keeps_its_volume() -> None:
    labels = balls((24, 28, 32))
    small = resample_labels(labels, (12, 14, 16))
    for value in (1, 2, 3):
        before, after = (labels == value).sum(), 8 * (small == value).sum()
        assert after == pytest.approx(before, rel=0.15)


def test_of_equal_weights_the_lower_value_wins() -> None:
    def halved(*values: int) -> list[int]:
        return (
            resample_labels(np.array(values, np.uint8).reshape(1, 1, -1), (1, 1, 2))
            .ravel()
            .tolist()
        )

    assert halved(1, 2, 3, 2) == [1, 2]
    assert halved(2, 1, 0, 3) == [1, 0]


def test_equal_weights_are_equal_however_they_were_rounded() -> None:
    # 2 and 3 both weigh 0.40625 here and 0.34375 there, as sums of products in another order
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 10)).astype(np.uint8)
    found = resample_labels(labels, (3, 16, 1))
    assert found[0, 5:7, 0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ([3, 3, 3, 1, 1, 2, 2, 0], 3),
        ([0, 0, 0, 1, 1, 2, 2, 3], 0),
        ([2, 2, 1, 1, 0, 3, 4, 5], 1),
    ],
)
def test_the_largest_weight_wins_without_a_majority(values: list[int], winner: int) -> None:
    labels = np.array(values, np.uint8).reshape(2, 2, 2)  # each has a weight of 1/8
    assert resample_labels(labels, (1, 1, 1)).item() == winner


def test_a_label_thinner_than_the_new_voxels_may_vanish_but_others_stay() -> None:
    labels = np.zeros((1, 1, 9), np.uint8)
    labels[..., 0], labels[..., 3:6] = 5, 2  # new centres at 1, 4 and 7
    np.testing.assert_array_equal(resample_labels(labels, (1, 1, 3)).ravel(), [0, 2, 0])


def test_labels_of_the_right_shape_are_not_touched() -> None:
    labels = balls((24, 28, 32))
    np.testing.assert_array_equal(resample_labels(labels, labels.shape), labels)
    wide = labels.astype(np.uint16) * 1000
    assert resample_labels(wide, (12, 14, 16)).dtype == np.uint16


@pytest.mark.parametrize("shape", [*NEW_SHAPES, SHAPE, (1, 5, 5)])
@pytest.mark.parametrize("slab", [1, 5])
def test_slabs_together_are_the_whole_volume(shape: tuple[int, int, int], slab: int) -> None:
    volume = torch.from_numpy(np.stack([smooth(SHAPE), smooth(SHAPE)[::-1].copy()]))
    whole = torch.nn.functional.interpolate(
        volume[None], size=shape, mode="trilinear", align_corners=False
    )[0]
    slabs = [
        resample_planes(TensorPlanes(volume), slice(start, min(start + slab, shape[0])), shape)
        for start in range(0, shape[0], slab)
    ]
    torch.testing.assert_close(torch.cat(slabs, 1), whole, rtol=0, atol=1e-3)


@dataclass(frozen=True)
class Asked(TensorPlanes):
    """Slices, and which of them somebody wanted."""

    wanted: set[int]

    def planes(self, first: int, stop: int) -> torch.Tensor:
        self.wanted.update(range(first, stop))
        return super().planes(first, stop)


def test_only_the_slices_on_both_sides_of_the_wanted_are_asked_for() -> None:
    volume = Asked(torch.zeros(1, 10, 4, 4), set())
    resample_planes(volume, slice(6, 8), (20, 8, 8))  # their centres lie at 2.75 and 3.25
    assert volume.wanted == {2, 3, 4}
