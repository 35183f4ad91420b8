"""Any size, patch, step, batch and mirroring: a network that says what it sees is given back."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from renalplan.geometry import Box
from renalplan.inference.engines.torch_engine import TorchEngine
from renalplan.inference.sliding_window import Mirroring, Skipping, WindowPredictor

sizes = st.tuples(*[st.integers(1, 12)] * 3)
patches = st.tuples(*[st.integers(1, 7)] * 3)
steps = st.floats(0.05, 1)
axes = st.sets(st.integers(0, 2)).map(lambda chosen: tuple(sorted(chosen)))


class Twice(nn.Module):
    """Two heads of one channel: what it sees, and the opposite."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], 1)


class Same(nn.Module):
    """Always the same, as a network whose weights are constants would say."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([3.5, -1.25]).reshape(1, 2, 1, 1, 1).expand(len(x), 2, *x.shape[2:])


def volume(size: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 10, (1, *size)).astype(np.float32))


@given(sizes, patches, steps, axes, st.integers(1, 3), st.integers(1, 5))
def test_what_every_window_says_is_what_the_volume_gets(
    size: tuple[int, int, int],
    patch: tuple[int, int, int],
    step: float,
    mirrored: tuple[int, ...],
    networks: int,
    batch: int,
) -> None:
    def predict(network: nn.Module, image: Tensor) -> Tensor:
        engines = [TorchEngine(network)] * networks
        mirroring = Mirroring(axes=mirrored)
        return WindowPredictor(
            engines, patch, 2, step=step, batch=batch, mirroring=mirroring, exclusive=True
        )(image)

    image = volume(size)
    found = predict(Twice(), image)
    assert found.shape == (3, *size)
    torch.testing.assert_close(found[:2], torch.cat([image, -image]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[2], torch.zeros(size), rtol=0, atol=1e-4)  # they agree
    constant = predict(Same(), image)
    expected = torch.tensor([3.5, -1.25])[:, None, None, None].expand(2, *size)
    torch.testing.assert_close(constant[:2], expected, rtol=1e-5, atol=1e-5)


@given(sizes, patches, steps, st.data())
def test_windows_left_out_have_the_stated_value_and_the_others_theirs(
    size: tuple[int, int, int], patch: tuple[int, int, int], step: float, data: st.DataObject
) -> None:
    image = volume(size)
    covered = torch.zeros(size, dtype=torch.bool)

    def wanted(part: Box) -> bool:
        assert all(0 <= a < b <= n for (a, b), n in zip(part, size, strict=True))
        keep = data.draw(st.booleans())
        if keep:
            covered[tuple(slice(*side) for side in part)] = True
        return keep

    skip = Skipping(wanted=wanted, outside=torch.tensor([7.0, -7.0]))
    predictor = WindowPredictor([TorchEngine(Twice())], patch, 2, step=step)
    told: list[tuple[int, int]] = []
    slices = predictor.planes(image, lambda done, total: told.append((done, total)), skip)
    found = torch.cat(list(slices), 1)
    expected = torch.cat([image, -image])
    expected[:, ~covered] = torch.tensor([[7.0], [-7.0]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert told[-1][0] == told[-1][1]
