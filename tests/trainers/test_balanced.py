"""Balanced cross-entropy against plain NumPy, voxel by voxel as the formula reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from renalplan.trainers.losses import BalancedCrossEntropy, HardRegionCrossEntropy

SPACE = (2, 2, 3)
KINDS = ["random", "extreme", "nothing but background", "class absent", "all ignored"]
FORMS = {"binary": (1, True), "two classes": (2, True), "classes": (4, True), "regions": (3, False)}


def draw(form: str, kind: str, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, one-hot or region target, mask; classes of unequal size."""
    channels, exclusive = FORMS[form]
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (2, channels, *SPACE))
    if kind == "extreme":
        logits = np.where(logits > 0, 50.0, -50.0)
    chance = {1: [0.7, 0.3], 2: [0.7, 0.3], 4: [0.5, 0.2, 0.2, 0.1]}
    if exclusive:
        index = rng.choice(max(channels, 2), (2, *SPACE), p=chance[channels])
        if kind == "class absent":
            index[index == max(channels, 2) - 1] = 0
        target = np.moveaxis(np.eye(max(channels, 2))[index], -1, 1)[:, -channels:]
    else:
        target = (rng.random(logits.shape) < 0.3).astype(float)
        if kind == "class absent":
            target[:, -1] = 0
    if kind == "nothing but background":
        target[:] = 0
        if exclusive and channels > 1:
            target[:, 0] = 1
    mask = torch.from_numpy(rng.random((2, 1, *SPACE)) > 0.3).float() if masked else None
    if kind == "all ignored":
        mask = torch.zeros(2, 1, *SPACE)
    return torch.from_numpy(logits).float(), torch.from_numpy(target).float(), mask


def softplus(a: float) -> float:
    return max(a, 0) + math.log1p(math.exp(-abs(a)))


def by_numpy(
    logits: NDArray, target: NDArray, mask: NDArray | None, threshold: float, softmax: bool
) -> float:
    """-1/C' sum_c 1/|c| sum_n 1(|y - p| > T) y log p; sigmoids have two classes a channel."""
    sums: dict[tuple[int, bool], float] = {}
    sizes: dict[tuple[int, bool], int] = {}
    for b, z, y, x in np.ndindex(2, *SPACE):
        if mask is not None and not mask[b, 0, z, y, x]:
            continue
        values = [float(v) for v in logits[b, :, z, y, x]]
        for c, value in enumerate(values):
            truth = bool(target[b, c, z, y, x])
            if softmax:
                if not truth:
                    continue
                highest = max(values)
                log_p = value - highest - math.log(sum(math.exp(v - highest) for v in values))
            else:
                log_p = -softplus(-value) if truth else -softplus(value)  # log(1 - p) of background
            hard = threshold == 0 or 1 - math.exp(log_p) > threshold
            sums[c, truth] = sums.get((c, truth), 0) - (log_p if hard else 0)
            sizes[c, truth] = sizes.get((c, truth), 0) + 1
    return sum(sums[key] / sizes[key] for key in sizes) / max(len(sizes), 1)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("masked", [False, True], ids=["all known", "masked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_what_numpy_computes(form: str, kind: str, masked: bool, threshold: float) -> None:
    channels, exclusive = FORMS[form]
    logits, target, mask = draw(form, kind, masked)
    loss = BalancedCrossEntropy(threshold, exclusive=exclusive)(logits, target, mask)
    known = None if mask is None else mask.numpy()
    softmax = exclusive and channels > 1
    expected = by_numpy(logits.numpy(), target.numpy(), known, threshold, softmax)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["all known", "masked"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_that_of_the_formula_with_the_choice_held_fixed(
    form: str, masked: bool
) -> None:
    channels, exclusive = FORMS[form]
    softmax = exclusive and channels > 1
    logits, target, mask = draw(form, "random", masked)
    logits = logits.double().requires_grad_()
    p = logits.softmax(1) if softmax else logits.sigmoid()
    for side in (0.3, 0.7):  # |y - p| is p or 1 - p: nothing changes sides within a step
        assert (p - side).abs().min() > 1e-4
    loss = BalancedCrossEntropy(0.3, exclusive=exclusive)
    (gradient,) = torch.autograd.grad(loss(logits, target, mask), logits)
    plain, known = logits.detach().numpy(), None if mask is None else mask.numpy()
    step = 1e-5
    for place in np.ndindex(*plain.shape):
        up, down = plain.copy(), plain.copy()
        up[place] += step
        down[place] -= step
        high = by_numpy(up, target.numpy(), known, 0.3, softmax)
        low = by_numpy(down, target.numpy(), known, 0.3, softmax)
        assert float(gradient[place]) == pytest.approx((high - low) / (2 * step), abs=1e-7)


def two_classes(*probabilities: float) -> Tensor:
    """Logits (1, 2, 1, 1, n) from the probability of class 1."""
    q = torch.tensor(probabilities)
    return torch.stack([(1 - q).log(), q.log()])[None, :, None, None]


def test_a_class_counts_the_same_whatever_its_size() -> None:
    #            six voxels of background, one of them wrong; two of the structure, one wrong
    logits = two_classes(0.7, 0.01, 0.01, 0.01, 0.01, 0.01, 0.2, 0.99)
    target = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]).reshape(1, 1, 1, 1, 8)
    expected = -(math.log(0.3) / 6 + math.log(0.2) / 2) / 2
    assert float(BalancedCrossEntropy()(logits, target)) == pytest.approx(expected, rel=1e-5)
    # divided by the number of selected voxels, which is one in each class, it would be
    assert expected != pytest.approx(-(math.log(0.3) + math.log(0.2)) / 2, rel=0.1)


def test_sizes_are_those_of_the_whole_batch() -> None:
    logits = torch.cat([two_classes(0.5, 0.5), two_classes(0.3, 0.01)])
    target = torch.tensor([[1, 1], [1, 0]]).reshape(2, 1, 1, 1, 2)
    structure = -(2 * math.log(0.5) + math.log(0.3)) / 3
    assert float(BalancedCrossEntropy()(logits, target)) == pytest.approx(structure / 2, rel=1e-5)


def test_a_class_the_batch_lacks_is_left_out() -> None:
    logits = torch.randn(1, 3, 1, 2, 2)
    target = torch.tensor([0, 1, 0, 1]).reshape(1, 1, 1, 2, 2)
    log_p = logits.log_softmax(1)
    mean = [-(log_p[:, c][target[:, 0] == c]).mean() for c in (0, 1)]
    loss = BalancedCrossEntropy(0)(logits, target)
    assert float(loss) == pytest.approx(float(sum(mean)) / 2, rel=1e-5)


def test_classes_of_equal_size_weigh_as_in_the_hard_region_loss() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 1, 2, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    target = target.reshape(1, 1, 1, 2, 3)
    assert float(BalancedCrossEntropy(0.3)(logits, target)) == pytest.approx(
        float(HardRegionCrossEntropy(0.3)(logits, target)), rel=1e-5
    )


def test_a_voxel_exactly_the_threshold_off_is_easy() -> None:
    logits, target = torch.zeros(1, 2, 1, 1, 1), torch.ones(1, 1, 1, 1, 1, dtype=torch.long)
    assert BalancedCrossEntropy(0.5)(logits, target) == 0
    assert float(BalancedCrossEntropy(0.49)(logits, target)) == pytest.approx(math.log(2))


def test_a_region_is_foreground_and_background_alike() -> None:
    #                       foreground: 1 of 1 wrong; background: 1 of 3
    logits = torch.tensor([0.2, 0.6, 0.01, 0.01]).logit().reshape(1, 1, 1, 1, 4)
    target = torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 1, 1, 4)
    expected = -(math.log(0.2) + math.log(0.4) / 3) / 2
    loss = BalancedCrossEntropy(exclusive=False)
    assert float(loss(logits, target)) == pytest.approx(expected, rel=1e-5)
    assert loss(torch.full_like(logits, 9), target) > 1  # claiming everything is no way out


@pytest.mark.parametrize("form", FORMS)
def test_where_all_is_ignored_the_loss_is_zero_and_teaches_nothing(form: str) -> None:
    logits, target, mask = draw(form, "all ignored", masked=True)
    value = BalancedCrossEntropy(exclusive=FORMS[form][1])(logits.requires_grad_(), target, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert not gradient.any()  # NaN would be true


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_have_finite_losses_and_gradients(
    form: str, size: float, dtype: torch.dtype
) -> None:
    logits, target, mask = draw(form, "extreme", masked=True)
    large = (logits.sign() * size).to(dtype).requires_grad_()
    value = BalancedCrossEntropy(exclusive=FORMS[form][1])(large, target, mask)
    (gradient,) = torch.autograd.grad(value, large)
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.any()


def test_indices_and_one_hot_targets_are_the_same() -> None:
    logits, target, mask = draw("classes", "random", masked=True)
    index = target.argmax(1, keepdim=True).short()
    loss = BalancedCrossEntropy()
    assert torch.equal(loss(logits, target, mask), loss(logits, index, mask))
    several = nn.functional.one_hot(index[:, 0].long(), 4).movedim(-1, 1).double()
    assert torch.equal(loss(logits, several, mask), loss(logits, index, mask))


def test_what_stands_where_nothing_is_known_does_not_matter() -> None:
    logits, target, mask = draw("classes", "random", masked=True)
    assert mask is not None
    strange = target.argmax(1, keepdim=True).masked_fill(mask == 0, -1)
    other = torch.where(mask == 0, -logits, logits)
    loss = BalancedCrossEntropy()
    assert torch.equal(loss(other, strange, mask), loss(logits, target, mask))


def test_inputs_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(1, 3, 2, 2, 2)
    for target in (torch.zeros(1, 1, 2, 2, 2), torch.full((1, 1, 2, 2, 2), 3)):
        with pytest.raises(ValueError, match="class indices"):
            BalancedCrossEntropy()(logits, target)
    for threshold in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="threshold"):
            BalancedCrossEntropy(threshold)
