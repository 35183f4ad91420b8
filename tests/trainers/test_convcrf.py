"""The ConvCRF against a dense reference that writes out every pair, on volumes of a few voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from renalplan.trainers.convcrf import ConvCRF3d

SHAPE = (4, 5, 3)
SPACING = (3.0, 0.7, 1.3)
DEFAULT = {
    "appearance_mm": 8.0, "intensity": 0.05, "smoothness_mm": 2.0, "appearance_weight": 10.0,
    "smoothness_weight": 3.0, "reach": 5, "window": 7, "message_weight": 0.2, "iterations": 5,
}  # fmt: skip


def dense(
    probabilities: NDArray, image: NDArray, spacing: tuple[float, ...], **given: float
) -> NDArray:
    """Mean field with the N x N matrices of both kernels; (K, z, y, x) and (C, z, y, x)."""
    c = DEFAULT | given
    places = np.argwhere(np.ones(image.shape[1:]))
    n = len(places)
    colours = image.reshape(len(image), n).T
    matrix = np.zeros((n, n))
    kernels = [np.zeros((n, n)), np.zeros((n, n))]
    for i in range(n):
        for j in range(n):
            step = places[i] - places[j]
            if i == j or abs(step).sum() > c["reach"] or abs(step).max() > c["window"] // 2:
                continue
            mm = ((step * spacing) ** 2).sum()
            colour = ((colours[i] - colours[j]) ** 2).sum()
            kernels[0][i, j] = np.exp(
                -mm / (2 * c["appearance_mm"] ** 2) - colour / (2 * c["intensity"] ** 2)
            )
            kernels[1][i, j] = np.exp(-mm / (2 * c["smoothness_mm"] ** 2))
    for weight, g in zip((c["appearance_weight"], c["smoothness_weight"]), kernels, strict=True):
        sums = g.sum(1)
        for i in range(n):
            for j in range(n):
                if g[i, j]:
                    matrix[i, j] += weight * g[i, j] / np.sqrt(sums[i] * sums[j])
    unary = np.log(probabilities.reshape(len(probabilities), n))
    q = np.exp(unary)
    q /= q.sum(0)
    for _ in range(int(c["iterations"])):
        # Potts: a label is charged for what its neighbours think of the others
        charge = (q.sum(0, keepdims=True) - q) @ matrix.T
        energy = -(1 - c["message_weight"]) * unary + c["message_weight"] * charge
        q = np.exp(-(energy - energy.min(0)))
        q /= q.sum(0)
    return q.reshape(probabilities.shape)


def draw(classes: int, channels: int, shape: tuple[int, ...] = SHAPE) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(7)
    probabilities = rng.dirichlet(np.ones(classes), shape)
    return np.moveaxis(probabilities, -1, 0), rng.random((channels, *shape)) * 0.3


def run(
    probabilities: NDArray, image: NDArray, spacing: tuple = SPACING, **given: float
) -> NDArray:
    crf = ConvCRF3d(**{**DEFAULT, **given})  # type: ignore[arg-type]
    p, i = (torch.from_numpy(a)[None] for a in (probabilities, image))
    result = crf(p, i, spacing)
    assert result.shape == p.shape
    assert result.dtype == torch.float32
    return result[0].numpy()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"reach": 2},
        {"window": 3},
        {"window": 1},
        {"message_weight": 1.0, "iterations": 1},
        {"message_weight": 0.0},
        {"iterations": 0},
        {"smoothness_weight": 0.0},
        {"appearance_weight": 0.0, "smoothness_mm": 0.5},
        {"intensity": 1000.0},
    ],
    ids=str,
)
def test_it_is_the_dense_mean_field(classes: int, channels: int, given: dict[str, float]) -> None:
    probabilities, image = draw(classes, channels)
    wanted = dense(probabilities, image, SPACING, **given)
    found = run(probabilities, image, **given)
    assert np.allclose(found, wanted, atol=2e-5)
    unchanged = given.get("message_weight") == 0.0 or given.get("iterations") == 0
    assert (np.abs(found - probabilities).max() < 1e-4) == unchanged


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 1), (2, 2, 2), (9, 1, 2)])
def test_volumes_smaller_than_the_window(shape: tuple[int, ...]) -> None:
    probabilities, image = draw(2, 1, shape)
    wanted = dense(probabilities, image, SPACING)
    assert np.allclose(run(probabilities, image), wanted, atol=2e-5)


def test_samples_of_a_batch_do_not_mix() -> None:
    (p, i), (q, j) = draw(2, 1), (draw(2, 1)[0][:, ::-1].copy(), draw(2, 1)[1][:, ::-1].copy())
    both = ConvCRF3d()(
        torch.from_numpy(np.stack([p, q])), torch.from_numpy(np.stack([i, j])), SPACING
    )
    defaults = {name: getattr(ConvCRF3d(), name) for name in DEFAULT}
    assert np.allclose(both[0].numpy(), run(p, i, **defaults), atol=1e-6)
    assert np.allclose(both[1].numpy(), run(q, j, **defaults), atol=1e-6)


def test_certain_probabilities_stay_finite() -> None:
    p = np.zeros((2, *SHAPE))
    p[1] = 1
    found = run(p, draw(2, 1)[1])
    assert np.isfinite(found).all()
    assert (found[1] > 0.99).all()


def test_blur_sends_messages_on_averaged_voxels() -> None:
    """Even sizes: means of 2 x 2 x 2 voxels, messages of the coarse grid, trilinear on the way back."""
    shape = (4, 6, 4)
    probabilities, image = draw(2, 1, shape)
    one = {"iterations": 1, "message_weight": 0.5}

    def coarse(a: NDArray) -> NDArray:
        k, z, y, x = a.shape
        return a.reshape(k, z // 2, 2, y // 2, 2, x // 2, 2).mean((2, 4, 6))

    def finer(a: NDArray, axis: int) -> NDArray:
        n = a.shape[axis]
        place = np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1)
        low = np.minimum(place.astype(int), max(n - 2, 0))
        share = (place - low).reshape([-1 if d == axis else 1 for d in range(4)])
        high = np.minimum(low + 1, n - 1)
        return np.take(a, low, axis) * (1 - share) + np.take(a, high, axis) * share

    small, guide = coarse(probabilities), coarse(image)
    # the message of one coarse iteration, taken back out of its softmax with message_weight 1
    doubled = tuple(2 * s for s in SPACING)
    message = np.log(dense(small, guide, doubled, iterations=1, message_weight=1.0))
    for axis in (1, 2, 3):
        message = finer(message, axis)
    energy = 0.5 * np.log(probabilities) + 0.5 * message
    wanted = np.exp(energy) / np.exp(energy).sum(0)
    assert np.allclose(run(probabilities, image, blur=2, **one), wanted, atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 5, 4), (5, 7, 3)])
def test_blur_of_odd_sizes_keeps_the_grid(shape: tuple[int, ...]) -> None:
    probabilities, image = draw(2, 1, shape)
    found = run(probabilities, image, blur=2)
    assert found.shape == probabilities.shape
    assert np.allclose(found.sum(0), 1, atol=1e-5)


def test_a_mask_follows_the_edge_of_what_it_lies_in() -> None:
    image = np.zeros((12, 12, 12))
    image[3:9, 3:9, 3:9] = 0.5
    rough = np.full(image.shape, 0.3)
    rough[4:9, 3:8, 3:9] = 0.7  # off by a voxel on two sides
    found = run(np.stack([1 - rough, rough]), image[None], (1.0, 1.0, 1.0), message_weight=0.5)
    assert np.array_equal(found[1] > 0.5, image > 0)


@pytest.mark.parametrize(
    "given",
    [
        {"window": 4}, {"window": 0}, {"intensity": 0.0}, {"appearance_mm": -1.0}, {"reach": -1},
        {"blur": 0}, {"message_weight": 1.5}, {"iterations": -1},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConvCRF3d(**given)  # type: ignore[arg-type]


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        ConvCRF3d()(torch.ones(1, 2, 4, 4, 4), torch.ones(1, 1, 4, 4, 5))
    with pytest.raises(ValueError, match="channels, Z, Y, X"):
        ConvCRF3d()(torch.ones(2, 4, 4, 4), torch.ones(1, 4, 4, 4))
