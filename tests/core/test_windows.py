"""Windows of fixed size: how large, where, and whole slices shrunk and restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from renalplan.kidneys import PAPER_SPACING
from renalplan.windows import (
    at_least,
    restore_slices,
    shrink_slices,
    window_box,
    window_start,
    window_voxels,
)


def test_the_papers_windows_in_mm_are_its_voxels_at_its_spacing() -> None:
    z, y, _ = PAPER_SPACING
    assert window_voxels(125.0, y, 16) == 160
    assert (window_voxels(192.0, z, 16), window_voxels(200.0, y, 16)) == (64, 256)
    assert (window_voxels(96.0, z, 2), window_voxels(75.0, y, 4)) == (32, 96)
    # the nearest multiple, whatever headers round to
    assert window_voxels(125.0, 0.78125, 16) == 160
    assert window_voxels(125.0, 2.5, 16) == 48
    assert window_voxels(1.0, 2.5, 16) == 16


@given(
    centre=st.floats(-20, 120), size=st.integers(1, 60), length=st.integers(1, 100)
)  # fmt: skip
def test_a_window_lies_inside_and_as_near_to_its_centre_as_it_can(
    centre: float, size: int, length: int
) -> None:
    start = window_start(centre, size, length)
    if size >= length:
        assert start <= 0
        assert start + size >= length
        assert abs((start + start + size) - length) <= 1  # the axis lies in its middle
        return
    assert 0 <= start <= length - size
    off = abs(start + (size - 1) / 2 - centre)
    best = min(abs(s + (size - 1) / 2 - centre) for s in range(length - size + 1))
    assert off <= best + 1e-6


def test_a_box_is_cut_to_the_array_where_that_is_smaller_than_the_window() -> None:
    assert window_box((5, 50, 99), (3, 20, 30), (10, 15, 100)) == ((4, 7), (0, 15), (70, 100))


def test_a_box_is_widened_to_a_window_but_never_narrowed() -> None:
    assert at_least(((4, 6), (0, 40), (8, 12)), (1, 16, 16), (10, 40, 40)) == (
        (4, 6), (0, 40), (2, 18),
    )  # fmt: skip
    # at the border it grows to the other side
    assert at_least(((0, 4), (0, 4), (0, 4)), (2, 8, 8), (9, 9, 9)) == ((0, 4), (0, 8), (0, 8))


def test_a_slice_is_padded_to_a_square_with_zeros_and_averaged() -> None:
    slices = torch.ones((2, 3, 8, 16))
    shrunk = shrink_slices(slices, 4)
    assert shrunk.shape == (2, 3, 4, 4)
    # 16 x 16 with the slice in rows 4 to 12: rows 1 and 2 of 4, and a share beyond (the filter)
    assert torch.allclose(shrunk[:, :, :, 0], shrunk[:, :, :, 3])
    assert (shrunk[:, :, 1:3] > 0.85).all()
    assert (shrunk[:, :, [0, 3]] < 0.15).all()
    assert shrunk.sum() * 16 == pytest.approx(float(slices.sum()), rel=0.03)


def test_shrinking_does_not_alias() -> None:
    stripes = torch.zeros((1, 1, 64, 64))
    stripes[..., ::2] = 1
    shrunk = shrink_slices(stripes, 16)
    assert shrunk.std() < 0.02
    assert shrunk.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (64, 64), (50, 33), (9, 9)])
def test_what_is_restored_lies_where_it_was(shape: tuple[int, int]) -> None:
    height, width = shape
    y, x = np.mgrid[:height, :width]
    blob = ((y - 0.4 * height) ** 2 + (x - 0.7 * width) ** 2) < (0.2 * min(shape)) ** 2
    mask = torch.from_numpy(blob[None, None].astype(np.float32))
    restored = restore_slices(shrink_slices(mask, 32), shape)
    assert restored.shape == (1, 1, height, width)
    found = (restored[0, 0] > 0.5).numpy()
    assert 2 * (found & blob).sum() / (found.sum() + blob.sum()) > 0.93
    for axis in range(2):
        assert np.argwhere(found)[:, axis].mean() == pytest.approx(
            np.argwhere(blob)[:, axis].mean(), abs=0.5
        )
