"""Windows cover every voxel, weights cancel, mirroring keeps sides."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from renalplan.inference.engines.torch_engine import TorchEngine
from renalplan.inference.placing import (
    gaussian_weights,
    mirror_subsets,
    window_rows,
    window_starts,
)
from renalplan.inference.sliding_window import Mirroring, WindowPredictor


class Identity(nn.Module):
    """Says its input, and remembers the window sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return x


sizes = st.tuples(*[st.integers(1, 14)] * 3)
patches = st.tuples(*[st.integers(1, 8)] * 3)


@settings(max_examples=60, deadline=None)
@given(sizes, patches, st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0]), st.integers(1, 3))
def test_a_network_that_says_its_input_is_given_back_its_input(
    size: tuple[int, int, int], patch: tuple[int, int, int], step: float, batch: int
) -> None:
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    result = WindowPredictor([TorchEngine(Identity())], patch, 2, step=step, batch=batch)(image)
    assert result.shape == image.shape
    assert torch.allclose(result, image, atol=1e-5)


@given(st.integers(1, 300), st.integers(1, 100), st.floats(0.05, 1))
def test_windows_cover_the_axis_at_most_a_step_apart(size: int, patch: int, step: float) -> None:
    if size < patch:
        with pytest.raises(ValueError, match="an axis of"):
            window_starts(size, patch, step)
        return
    starts = window_starts(size, patch, step)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < gap <= max(1, patch * step) + 1 for gap in gaps)  # rounding to voxels: + 1
    assert all(gap <= patch for gap in gaps)


@pytest.mark.parametrize("step", [0, -0.5, 1.5])
def test_a_step_that_leaves_gaps_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="a step of"):
        window_starts(10, 5, step)


def test_windows_of_a_2_d_network_are_single_slices() -> None:
    network = Identity()
    image = torch.rand(1, 3, 10, 9)
    result = WindowPredictor([TorchEngine(network)], (1, 8, 8), 1, step=0.5)(image)
    assert torch.allclose(result, image, atol=1e-6)
    assert set(network.seen) == {(1, 1, 1, 8, 8)}
    assert len(network.seen) == 3 * 2 * 2  # slices, two windows along 10 and along 9


def test_a_volume_smaller_than_the_patch_is_seen_once_with_zeros_around_it() -> None:
    seen = []

    class Keep(Identity):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return x

    image = torch.ones(1, 2, 3, 4)
    result = WindowPredictor([TorchEngine(Keep())], (4, 4, 4), 1)(image)
    assert torch.equal(result, image)
    (window,) = seen
    assert window.shape == (1, 1, 4, 4, 4)
    assert window.sum() == 24
    assert window[0, 0, 1:3, 0:3].sum() == 24  # centred: one plane of zeros before z, none before y


def test_progress_counts_every_window() -> None:
    calls: list[tuple[int, int]] = []
    predict = WindowPredictor([TorchEngine(Identity())], (4, 4, 4), 1, batch=3)
    predict(torch.zeros(1, 8, 4, 8), lambda done, total: calls.append((done, total)))
    assert calls == [(3, 9), (6, 9), (9, 9)]  # 3 x 1 x 3 windows
    assert [len(row) for _, row in window_rows((8, 4, 8), (4, 4, 4), 0.5)] == [3, 3, 3]


@pytest.mark.parametrize("patch", [(8, 8, 8), (1, 16, 12), (5, 7, 3)])
def test_gaussian_weights_are_positive_and_symmetric(patch: tuple[int, int, int]) -> None:
    weights = gaussian_weights(patch)
    assert weights.shape == patch
    assert weights.min() > 0
    for axis in range(3):
        assert torch.allclose(weights, weights.flip(axis))
    assert weights.argmax() == weights.flatten()[: weights.numel() // 2 + 1].argmax()


def test_mirror_subsets_begin_with_none_and_are_all_eight() -> None:
    subsets = mirror_subsets((0, 1, 2))
    assert subsets[0] == ()
    assert len(set(subsets)) == 8


class Smooth(nn.Module):
    """A convolution with a symmetric kernel commutes with mirroring."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        kernel = torch.tensor([1.0, 2.0, 1.0])
        weight = torch.einsum("a,b,c->abc", kernel, kernel, kernel)
        self.conv.weight.data = torch.stack([weight, -weight])[:, None]


def test_mirroring_an_equivariant_network_changes_nothing() -> None:
    network = Smooth().conv
    image = torch.rand(1, 11, 9, 10)
    plain = WindowPredictor([TorchEngine(network)], (8, 8, 8), 2)(image)
    mirrored = WindowPredictor(
        [TorchEngine(network)], (8, 8, 8), 2, mirroring=Mirroring(axes=(0, 1, 2))
    )(image)
    assert torch.allclose(plain, mirrored, atol=1e-3)


class Sides(nn.Module):
    """Three heads, background, left and right: the side is where the voxel lies along one axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2 + self.axis]
        shape = [1, 1, 1, 1, 1]
        shape[2 + self.axis] = size
        position = (
            (torch.arange(size) - (size - 1) / 2)
            .reshape(shape)
            .expand((*x.shape[:1], 1, *x.shape[2:]))
        )
        return torch.cat([torch.zeros_like(position), position, -position], 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_network_that_knows_sides_by_position_keeps_them_when_heads_are_swapped(
    axis: int,
) -> None:
    image = torch.zeros(1, 6, 6, 6)
    values = {"axes": (0, 1, 2), "left_right_axis": axis}
    plain = WindowPredictor([TorchEngine(Sides(axis))], (6, 6, 6), 3)(image)
    swapped = WindowPredictor(
        [TorchEngine(Sides(axis))], (6, 6, 6), 3, mirroring=Mirroring(swap=(0, 2, 1), **values)
    )(image)
    assert torch.allclose(swapped, plain)
    # without the swap both sides are averaged into nothing
    assert not WindowPredictor(
        [TorchEngine(Sides(axis))], (6, 6, 6), 3, mirroring=Mirroring(**values)
    )(image).any()
