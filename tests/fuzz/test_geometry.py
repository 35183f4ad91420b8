"""Any grid a scanner or a resampling tool may write: turned into canonical axes and back, unchanged."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from renalplan.boxes import LabelBox, canonical_box, paint_boxes
from renalplan.geometry import (
    Box,
    Grid,
    Orientation,
    box_shape,
    box_slices,
    boxes_overlap,
    grow_box,
    laid_out,
    margin_voxels,
    mask_box,
    merge_overlapping,
    resampled_shape,
    whole_box,
)
from renalplan.images import read_volume, write_file_array, write_volume

sizes = st.tuples(*[st.integers(1, 7)] * 3)
spacings = st.tuples(*[st.floats(0.1, 10)] * 3)
origins = st.tuples(*[st.floats(-2000, 2000)] * 3)


@st.composite
def rotations(draw: st.DrawFn) -> NDArray:
    """Right angles: a turn about any axis, then perhaps axes that change places or run backwards."""
    turn = draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1))
    order = list(draw(st.permutations(range(3))))
    signs = draw(st.tuples(*[st.sampled_from((1.0, -1.0))] * 3))
    matrix = Rotation.from_quat(turn).as_matrix() if draw(st.booleans()) else np.eye(3)
    return matrix[:, order] * signs


@st.composite
def invertible(draw: st.DrawFn) -> NDArray:
    """Three directions of length one, of any angles as long as they span a volume."""
    values = draw(
        st.tuples(*[st.floats(-1, 1)] * 9).filter(
            lambda v: np.linalg.norm(np.reshape(v, (3, 3)), axis=0).min() > 0.1
        )
    )
    matrix = np.reshape(values, (3, 3))
    matrix = matrix / np.linalg.norm(matrix, axis=0)
    return matrix if abs(np.linalg.det(matrix)) > 0.01 else draw(rotations())


def grids(directions: st.SearchStrategy[NDArray]) -> st.SearchStrategy[Grid]:
    return st.builds(
        lambda size, spacing, origin, direction: Grid(
            size=size, spacing=spacing, origin=origin, direction=tuple(direction.ravel().tolist())
        ),
        sizes,
        spacings,
        origins,
        directions,
    )


boxes = st.tuples(
    *[st.tuples(st.integers(0, 12), st.integers(1, 5)).map(lambda side: (side[0], sum(side)))] * 3
)


def numbered(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Every voxel another value."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@given(grids(invertible()), st.integers(0, 2))
def test_canonical_and_back_is_the_array_itself(grid: Grid, channels: int) -> None:
    orientation = Orientation.of(grid)
    array = numbered((2,) * channels + grid.shape)
    turned = orientation.apply(array)
    assert turned.shape[channels:] == orientation.shape(grid)
    np.testing.assert_array_equal(orientation.undo(turned), array)
    np.testing.assert_array_equal(orientation.apply(orientation.undo(turned)), turned)


@given(grids(invertible()))
def test_a_canonical_grid_needs_no_turning(grid: Grid) -> None:
    orientation = Orientation.of(grid)
    # file array axes (k, j, i) are the columns (2, 1, 0) of the direction
    columns = np.reshape(grid.direction, (3, 3))[:, [2 - axis for axis in orientation.order]]
    columns = columns * np.where(orientation.flipped, -1, 1)
    direction = columns[:, ::-1]  # of the canonical array, for which (x, y, z) are i, j, k
    canonical = Grid(
        size=orientation.shape(grid)[::-1],
        spacing=orientation.spacing(grid)[::-1],
        origin=grid.origin,
        direction=tuple(direction.ravel().tolist()),
    )
    assert Orientation.of(canonical) == Orientation((0, 1, 2), (False, False, False))
    assert canonical.shape == orientation.shape(grid)
    # no other choice of axes lies nearer to head, back and left
    best = np.abs(np.diag(direction)).sum()
    for order in itertools.permutations(range(3)):
        assert np.abs(direction[range(3), order]).sum() <= best + 1e-12


def assert_same_voxels(folder: Path, ending: str, grid: Grid) -> None:
    first, second = folder / f"first{ending}", folder / f"second{ending}"
    array = numbered(grid.shape)
    write_file_array(first, array, grid)
    volume = read_volume(first)
    assert volume.grid.differences(grid) == []
    assert volume.spacing == volume.orientation.spacing(volume.grid)
    np.testing.assert_array_equal(volume.orientation.undo(volume.array[0]), array)
    write_volume(second, volume.array[0], volume.grid)
    again = read_volume(second)
    assert again.grid.differences(volume.grid, tolerance_mm=1e-5) == []
    np.testing.assert_array_equal(again.array, volume.array)


@given(grids(rotations()), st.sampled_from([".nii", ".nii.gz"]))
def test_a_nifti_file_keeps_its_grid_and_its_voxels(folder: Path, grid: Grid, ending: str) -> None:
    assert_same_voxels(folder, ending, grid)


@given(grids(invertible()), st.sampled_from([".mha", ".nrrd"]))
def test_other_formats_keep_axes_that_are_not_at_right_angles(
    folder: Path, grid: Grid, ending: str
) -> None:
    assert_same_voxels(folder, ending, grid)


@given(grids(invertible()), st.data())
def test_a_box_is_the_same_voxels_before_and_after_turning(grid: Grid, data: st.DataObject) -> None:
    sides = []
    for size in grid.shape:
        low = data.draw(st.integers(0, size - 1))
        sides.append((low, data.draw(st.integers(low + 1, size))))
    box: Box = tuple(sides)  # type: ignore[assignment]
    expected = np.zeros(grid.shape, np.uint8)
    expected[box_slices(box)] = 3
    orientation = Orientation.of(grid)
    painted = paint_boxes([LabelBox(label=3, box=box, line=1)], grid)
    np.testing.assert_array_equal(orientation.undo(painted), expected)
    assert mask_box(painted > 0) == canonical_box(box, grid)
    assert sorted(box_shape(canonical_box(box, grid))) == sorted(box_shape(box))


@given(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3), sizes)
def test_an_array_is_laid_out_as_its_view_is(
    order: list[int], flips: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    view = numbered(shape).transpose(order)[tuple(slice(None, None, f) for f in flips)]
    assert laid_out(view).flags.c_contiguous
    np.testing.assert_array_equal(laid_out(view), view)


@given(boxes, st.tuples(*[st.integers(0, 4)] * 3))
def test_a_mask_s_box_is_tight_and_grows_within_the_array(
    box: Box, margin: tuple[int, ...]
) -> None:
    shape = (14, 15, 17)
    mask = np.zeros(shape, bool)
    corners = [(box[axis][0], box[axis][1] - 1) for axis in range(3)]
    for low_or_high in (0, 1):
        mask[tuple(min(c[low_or_high], n - 1) for c, n in zip(corners, shape, strict=True))] = True
    inside = grow_box(box, (0, 0, 0), shape)
    if all(low < high for low, high in inside):
        assert mask_box(mask) == inside
    grown = grow_box(box, margin, shape)
    for (low, high), (a, b), m, n in zip(grown, box, margin, shape, strict=True):
        assert low == max(0, a - m)
        assert high == min(n, b + m)
    assert whole_box((5, *shape)) == grow_box(box, (99,) * 3, shape)


@given(st.lists(boxes, max_size=6), st.randoms())
def test_merged_boxes_share_no_voxel_and_hold_every_box(found: list[Box], random) -> None:  # type: ignore[no-untyped-def]
    merged = merge_overlapping(found)
    assert not any(boxes_overlap(a, b) for a, b in itertools.combinations(merged, 2))
    for box in found:
        holds = [
            all(a <= low and high <= b for (a, b), (low, high) in zip(m, box, strict=True))
            for m in merged
        ]
        assert sum(holds) == 1
    assert merge_overlapping(merged) == merged
    shuffled = list(found)
    random.shuffle(shuffled)
    assert merge_overlapping(shuffled) == merged


@given(st.tuples(*[st.integers(1, 600)] * 3), spacings, spacings)
def test_resampling_keeps_the_extent_to_half_a_voxel(
    shape: tuple[int, ...],
    spacing: tuple[float, float, float],
    target: tuple[float, float, float],
) -> None:
    made = resampled_shape(shape, spacing, target)
    for new, wanted, old, own in zip(made, target, shape, spacing, strict=True):
        assert new == 1 or abs(new * wanted - old * own) <= 0.5 * wanted * (1 + 1e-9)
    assert resampled_shape(shape, spacing, spacing) == shape


@given(st.just(0.0) | st.floats(0.001, 100), spacings)
def test_a_margin_covers_its_millimetres_and_no_voxel_more(
    margin: float, spacing: tuple[float, float, float]
) -> None:
    for voxels, own in zip(margin_voxels(margin, spacing), spacing, strict=True):
        assert margin <= voxels * own * (1 + 1e-12)
        assert (voxels - 1) * own < margin or voxels == 0
