from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.pieces import largest_piece, number_pieces


def every_other(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """As many pieces as an array can hold."""
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    return mask


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 1, 101), (1, 3, 3), (3, 3, 3), (1, 9, 9)]
)
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_an_array_full_of_single_voxels_is_no_problem(
    shape: tuple[int, ...], connectivity: int
) -> None:
    mask = every_other(shape)
    pieces = number_pieces(mask, connectivity)
    assert sorted(pieces[mask].tolist()) == list(range(1, mask.sum() + 1))
    assert not pieces[~mask].any()


def test_the_largest_of_pieces_in_a_line() -> None:
    line = np.array([[[1, 0, 1, 1, 0, 1, 0, 1]]], bool)
    assert np.flatnonzero(largest_piece(line)).tolist() == [2, 3]
    assert largest_piece(every_other((1, 1, 3))).sum() == 1
    assert not largest_piece(np.zeros((2, 2, 2), bool)).any()


@pytest.mark.parametrize(("connectivity", "order"), [(6, 1), (18, 2), (26, 3)])
def test_every_small_mask_has_the_pieces_that_scipy_finds(connectivity: int, order: int) -> None:
    structure = ndimage.generate_binary_structure(3, order)
    for bits in product((False, True), repeat=8):
        mask = np.array(bits).reshape(2, 2, 2)
        expected, count = ndimage.label(mask, structure)
        found = number_pieces(mask, connectivity)
        assert len({*zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)}) == len(
            np.unique(expected)
        )
        assert found.max() == count


def test_any_layout_in_memory_will_do() -> None:
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.2
    np.testing.assert_array_equal(
        number_pieces(mask.transpose(2, 0, 1)[::-1]) > 0, mask.transpose(2, 0, 1)[::-1]
    )
