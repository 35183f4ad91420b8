"""Weighted cross-entropies against plain NumPy, voxel by voxel as the formulas read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from renalplan.labels import LabelScheme
from renalplan.trainers.losses import (
    CrossEntropy,
    DeepSupervision,
    LossSettings,
    OnLabels,
    SizeConstrainedCrossEntropy,
    VoxelWeightedCrossEntropy,
    build_loss,
)
from renalplan.trainers.losses.sizes import CERTAIN, UNCERTAIN

SPACE = (2, 3, 2)
SCHEME = LabelScheme(names=("background", "tumor"), values=((0,), (1,)))


def draw(channels: int, kind: str, exclusive: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, target (one-hot or regions), mask, weights 0 to 4."""
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 2, (2, channels, *SPACE))
    if kind == "extreme":
        logits = np.where(logits > 0, 60.0, -60.0)
    if exclusive and channels > 1:
        index = rng.integers(0, channels, (2, *SPACE))
        if kind == "no tumor":
            index[:] = 0
        target = np.moveaxis(np.eye(channels)[index], -1, 1)
    else:
        target = (rng.random((2, channels, *SPACE)) < (0 if kind == "no tumor" else 0.4)).astype(
            float
        )
    mask = (rng.random((2, 1, *SPACE)) < 0.7).astype(float)
    weights = rng.integers(0, 5, (2, 1, *SPACE)).astype(float)
    if kind == "beyond the image":
        weights[:] = 0
    return tuple(torch.from_numpy(a) for a in (logits, target, mask, weights))  # type: ignore[return-value]


def by_numpy(
    logits: NDArray, target: NDArray, mask: NDArray | None, weights: NDArray | None,
    foreground: float, background: float, largest: float, softmax: bool,
) -> float:  # fmt: skip
    """-1/M sum_m v_m sum_c w_c y_mc log p_mc; M voxels that count."""
    total, count = 0.0, 0
    channels = logits.shape[1]
    softmax = softmax and channels > 1
    for b, z, y, x in np.ndindex(2, *SPACE):
        if mask is not None and not mask[b, 0, z, y, x]:
            continue
        v = 1.0 if weights is None else float(weights[b, 0, z, y, x]) / largest
        if v == 0:
            continue
        values = [float(n) for n in logits[b, :, z, y, x]]
        highest = max(values)
        log_sum = highest + math.log(sum(math.exp(n - highest) for n in values))
        count += 1 if softmax else channels
        for c, n in enumerate(values):
            yes = float(target[b, c, z, y, x])
            if softmax:
                total -= v * (background if c == 0 else foreground) * yes * (n - log_sum)
            else:
                log_p = -(max(-n, 0) + math.log1p(math.exp(-abs(n))))
                log_not = -(max(n, 0) + math.log1p(math.exp(-abs(n))))
                total -= v * (foreground * yes * log_p + background * (1 - yes) * log_not)
    return total / max(count, 1)


FORMS = {"one channel": (1, True), "two": (2, True), "four": (4, True), "regions": (3, False)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["random", "extreme", "no tumor", "beyond the image"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_it_is_the_paper_s_sum(form: str, kind: str, weighted: bool, masked: bool) -> None:
    channels, exclusive = FORMS[form]
    logits, target, mask, weights = draw(channels, kind, exclusive)
    loss = VoxelWeightedCrossEntropy(foreground=1.3, background=0.2, largest=4, exclusive=exclusive)
    given = (mask if masked else None, weights if weighted else None)
    found = loss(logits, target, *given)
    arrays = [None if a is None else a.numpy() for a in (logits, target, *given)]
    assert float(found) == pytest.approx(
        by_numpy(*arrays, 1.3, 0.2, 4.0 if weighted else 1.0, exclusive), abs=1e-9
    )


@pytest.mark.parametrize("form", FORMS)
def test_its_gradient_is_right(form: str) -> None:
    channels, exclusive = FORMS[form]
    logits, target, mask, weights = draw(channels, "random", exclusive)
    loss = VoxelWeightedCrossEntropy(exclusive=exclusive)
    logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask, weights), (logits,))


def test_equal_weights_give_the_plain_cross_entropy() -> None:
    logits, target, mask, weights = draw(4, "random")
    even = VoxelWeightedCrossEntropy(foreground=1, background=1)
    assert even(logits, target, mask) == pytest.approx(CrossEntropy()(logits, target, mask))
    threes = torch.full_like(weights, 3)
    assert even(logits, target, mask, threes) == pytest.approx(3 * even(logits, target, mask))


def test_half_precision_is_computed_in_single() -> None:
    logits, target, mask, weights = draw(2, "random")
    found = VoxelWeightedCrossEntropy()(logits.half(), target.half(), mask, weights.half())
    assert found.dtype == torch.float32


@pytest.mark.parametrize("given", [{"foreground": -1}, {"background": -0.1}, {"largest": 0}])
def test_impossible_weights_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must not be below 0"):
        VoxelWeightedCrossEntropy(**given)  # type: ignore[arg-type]


def test_voxel_weights_that_do_not_fit_are_refused() -> None:
    logits, target, _, weights = draw(2, "random")
    with pytest.raises(ValueError, match="must have the shape"):
        VoxelWeightedCrossEntropy()(logits, target, None, weights[:1])
    with pytest.raises(ValueError, match="must not be below 0"):
        VoxelWeightedCrossEntropy()(logits, target, None, -weights)


def test_its_name_weighs_the_background() -> None:
    logits, target, _, _ = draw(2, "random")
    labels = target[:, 1:].to(torch.int16)
    for weight in (0.2, 0.7):
        named = build_loss(SCHEME, LossSettings(name="wce", background_weight=weight))
        wanted = VoxelWeightedCrossEntropy(background=weight)(logits, target)
        assert float(named(logits, labels)) == pytest.approx(float(wanted))


def test_deep_supervision_takes_weights_by_nearest_voxel() -> None:
    rng = np.random.default_rng(2)
    labels = torch.from_numpy(rng.integers(0, 2, (1, 1, 4, 4, 4))).to(torch.int16)
    weights = torch.from_numpy(rng.integers(1, 5, (1, 1, 4, 4, 4))).float()
    outputs = [torch.from_numpy(rng.normal(0, 1, (1, 2, n, n, n))) for n in (4, 2, 1)]
    loss = OnLabels(VoxelWeightedCrossEntropy(), SCHEME)
    # nearest-exact takes voxel 1 and 3 of 4
    parts = [
        loss(outputs[0], labels, weights),
        loss(outputs[1], labels[..., 1::2, 1::2, 1::2], weights[..., 1::2, 1::2, 1::2]),
    ]
    found = DeepSupervision(loss)(outputs, labels, weights)
    assert float(found) == pytest.approx(float(parts[0] * 2 / 3 + parts[1] / 3))


def by_hand_size(
    logits: NDArray, tumor: NDArray, voxel_map: NDArray, low: float, high: float, penalty: float
) -> float:
    entropy, certain, penalties = 0.0, 0, []
    for b in range(2):
        size = wanted = voxels = 0.0
        for place in np.ndindex(*SPACE):
            what = voxel_map[(b, 0, *place)]
            if what == 0:
                continue
            voxels += 1
            p = 1 / (1 + math.exp(float(logits[(b, 0, *place)] - logits[(b, 1, *place)])))
            size += p
            wanted += tumor[(b, *place)]
            if what == CERTAIN:
                certain += 1
                entropy -= math.log(p if tumor[(b, *place)] else 1 - p)
        off = max(low * wanted - size, 0) + max(size - high * wanted, 0)
        penalties.append(off**2 / max(voxels, 1))
    return entropy / max(certain, 1) + penalty * sum(penalties) / 2


@pytest.mark.parametrize("bounds", [(0.9, 1.1), (0.0, 0.1), (5.0, 6.0), (0.0, 100.0)])
def test_sizes_outside_their_bounds_cost(bounds: tuple[float, float]) -> None:
    logits, target, _, _ = draw(2, "random")
    rng = np.random.default_rng(5)
    voxel_map = torch.from_numpy(rng.choice([0, CERTAIN, UNCERTAIN], (2, 1, *SPACE)))
    loss = SizeConstrainedCrossEntropy(*bounds, penalty=0.5)
    wanted = by_hand_size(logits.numpy(), target[:, 1].numpy(), voxel_map.numpy(), *bounds, 0.5)
    assert float(loss(logits, target, None, voxel_map)) == pytest.approx(wanted)
    logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, None, voxel_map), (logits,))


def test_a_single_voxel_is_not_divided_away() -> None:
    logits, target, _, _ = draw(2, "random")
    voxel_map = torch.zeros(2, 1, *SPACE)
    voxel_map[0, 0, 0, 0, 0] = CERTAIN
    voxel_map[1, 0, 1, 1, 1] = UNCERTAIN
    loss = SizeConstrainedCrossEntropy(5.0, 6.0, penalty=0.5)
    wanted = by_hand_size(logits.numpy(), target[:, 1].numpy(), voxel_map.numpy(), 5.0, 6.0, 0.5)
    assert float(loss(logits, target, None, voxel_map)) == pytest.approx(wanted)


def test_the_paper_s_weights_and_bounds_hold_unless_told_otherwise() -> None:
    logits, target, _, _ = draw(2, "random")
    voxel_map = torch.full((2, 1, *SPACE), CERTAIN)
    sizes = [SizeConstrainedCrossEntropy(), SizeConstrainedCrossEntropy(0.9, 1.1, 0.01)]
    # far too much foreground: a larger upper bound or penalty would show
    one, other = (loss(logits + torch.tensor([0, 9.0])[:, None, None, None], target, None, voxel_map)
                  for loss in sizes)  # fmt: skip
    assert one == other
    weighted = VoxelWeightedCrossEntropy(foreground=1, background=0.2, largest=1)
    assert VoxelWeightedCrossEntropy()(logits, target) == weighted(logits, target)


def test_weights_of_nothing_are_allowed() -> None:
    logits, target, _, _ = draw(2, "random")
    voxel_map = torch.full((2, 1, *SPACE), CERTAIN)
    free = SizeConstrainedCrossEntropy(5.0, 6.0, penalty=0)(logits, target, None, voxel_map)
    assert free == pytest.approx(CrossEntropy()(logits, target))
    nothing = VoxelWeightedCrossEntropy(foreground=0, background=0)
    assert float(nothing(logits, target)) == 0


def test_uncertain_voxels_have_a_size_and_no_class() -> None:
    """All uncertain, size within its bounds: nothing is wrong."""
    logits, target, _, _ = draw(2, "random")
    voxel_map = torch.full((2, 1, *SPACE), UNCERTAIN)
    assert float(SizeConstrainedCrossEntropy(0, 100)(logits, target, None, voxel_map)) == 0


def test_impossible_bounds_and_several_structures_are_refused() -> None:
    for given in ((1.1, 0.9), (-1, 1), (0.9, 1.1, -1)):
        with pytest.raises(ValueError, match="size bounds need"):
            SizeConstrainedCrossEntropy(*given)
    logits, target, _, weights = draw(4, "random")
    with pytest.raises(ValueError, match="one structure"):
        SizeConstrainedCrossEntropy()(logits, target, None, weights)
