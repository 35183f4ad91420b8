"""Losses on hard regions against plain NumPy, voxel by voxel as the formulas read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from renalplan.trainers.losses import (
    CrossEntropy,
    HardRegionCrossEntropy,
    HardRegionDice,
    HardRegionMSE,
    soft_dice,
)

SPACE = (2, 2, 3)
KINDS = ["random", "extreme", "nothing but background", "class absent", "all ignored"]
FORMS = {"binary": (1, True), "two classes": (2, True), "classes": (4, True), "regions": (3, False)}
Average = Literal["all", "selected"]


def draw(form: str, kind: str, masked: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    channels, exclusive = FORMS[form]
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 2, (2, channels, *SPACE))
    if kind == "extreme":
        logits = np.where(logits > 0, 50.0, -50.0)
    if exclusive:
        target: NDArray = rng.integers(0, max(channels, 2), (2, 1, *SPACE))
    else:
        target = rng.integers(0, 2, logits.shape).astype(np.float32)
    if kind == "nothing but background":
        target = np.zeros_like(target)
    if kind == "class absent" and exclusive:
        target[target == max(channels, 2) - 1] = 0
    elif kind == "class absent":
        target[:, -1] = 0
    mask = (rng.random((2, 1, *SPACE)) > 0.3).astype(np.float32) if masked else None
    if kind == "all ignored":
        mask = np.zeros((2, 1, *SPACE), np.float32)
    known = None if mask is None else torch.from_numpy(mask)
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(target), known


def voxels(
    logits: Tensor, target: Tensor, mask: Tensor | None, form: str
) -> Iterator[tuple[tuple[int, ...], NDArray, NDArray, NDArray, NDArray]]:
    """(b, z, y, x), y, p, log p and log(1 - p) of each voxel that counts, in double precision."""
    channels, exclusive = FORMS[form]
    for b, z, y, x in np.ndindex(2, *SPACE):
        if mask is not None and not mask[b, 0, z, y, x]:
            continue
        a = logits[b, :, z, y, x].numpy().astype(np.float64)
        if exclusive and channels > 1:
            truth = np.eye(channels)[int(target[b, 0, z, y, x])]
            log_p = a - a.max() - math.log(sum(math.exp(v - a.max()) for v in a))
            p = np.exp(log_p)
            with np.errstate(divide="ignore"):
                yield (b, z, y, x), truth, p, log_p, np.log(1 - p)
        else:
            truth = target[b, :, z, y, x].numpy().astype(np.float64)
            log_p, log_q = -np.logaddexp(0, -a), -np.logaddexp(0, a)
            yield (b, z, y, x), truth, np.exp(log_p), log_p, log_q


def is_softmax(form: str) -> bool:
    return FORMS[form][1] and FORMS[form][0] > 1


def entropy_by_numpy(given: Any, form: str, threshold: float, average: str = "all") -> float:
    total, everything, selected = 0.0, 0, 0
    for _, y, p, log_p, log_q in voxels(*given, form):
        for c in range(len(y)):
            hard = threshold == 0 or abs(y[c] - p[c]) > threshold
            if is_softmax(form):
                if y[c] == 0:
                    continue  # y log p is 0
                loss = -log_p[c]
            else:
                loss = -log_p[c] if y[c] else -log_q[c]
            everything += 1
            if hard:
                total += loss
                selected += 1
    return total / max(everything if average == "all" else selected, 1)


def squares_by_numpy(given: Any, form: str, threshold: float, average: str = "all") -> float:
    total, everything, selected = 0.0, 0, 0
    for _, y, p, _, _ in voxels(*given, form):
        for c in range(len(y)):
            everything += 1
            if threshold == 0 or abs(y[c] - p[c]) > threshold:
                total += (y[c] - p[c]) ** 2
                selected += 1
    return total / max(everything if average == "all" else selected, 1)


def dice_by_numpy(given: Any, form: str, threshold: float, over_batch: bool) -> float:
    channels = FORMS[form][0]
    first = 1 if is_softmax(form) else 0
    both, sum_p, sum_y = (np.zeros((2, channels)) for _ in range(3))
    for (b, *_), y, p, _, _ in voxels(*given, form):
        for c in range(channels):
            if threshold == 0 or abs(y[c] - p[c]) > threshold:
                both[b, c] += p[c] * y[c]
                sum_p[b, c] += p[c]
                sum_y[b, c] += y[c]
    if over_batch:
        both, sum_p, sum_y = (v.sum(0, keepdims=True) for v in (both, sum_p, sum_y))
    dice = (2 * both + 1e-5) / (sum_p + sum_y + 1e-5)
    return float(1 - dice[:, first:].mean())


@pytest.mark.parametrize("masked", [False, True], ids=["all known", "masked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_cross_entropy_is_what_numpy_computes(form: str, kind: str, masked: bool) -> None:
    given = draw(form, kind, masked)
    loss = CrossEntropy(exclusive=FORMS[form][1])(*given)
    assert float(loss) == pytest.approx(entropy_by_numpy(given, form, 0), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("average", ["all", "selected"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("masked", [False, True], ids=["all known", "masked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_hard_losses_are_what_numpy_computes(
    form: str, kind: str, masked: bool, threshold: float, average: Average
) -> None:
    given, exclusive = draw(form, kind, masked), FORMS[form][1]
    entropy = HardRegionCrossEntropy(threshold, average=average, exclusive=exclusive)(*given)
    expected = entropy_by_numpy(given, form, threshold, average)
    assert float(entropy) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    squares = HardRegionMSE(threshold, average=average, exclusive=exclusive)(*given)
    expected = squares_by_numpy(given, form, threshold, average)
    assert float(squares) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    over_batch = average == "all"
    dice = HardRegionDice(threshold, exclusive=exclusive, over_batch=over_batch)(*given)
    expected = dice_by_numpy(given, form, threshold, over_batch)
    assert float(dice) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def every_loss(threshold: float, exclusive: bool) -> list[nn.Module]:
    return [
        CrossEntropy(exclusive=exclusive),
        HardRegionCrossEntropy(threshold, exclusive=exclusive),
        HardRegionCrossEntropy(threshold, average="selected", exclusive=exclusive),
        HardRegionDice(threshold, exclusive=exclusive),
        HardRegionDice(threshold, exclusive=exclusive, over_batch=True),
        HardRegionMSE(threshold, exclusive=exclusive),
        HardRegionMSE(threshold, average="selected", exclusive=exclusive),
    ]


@pytest.mark.parametrize("masked", [False, True], ids=["all known", "masked"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_values_with_the_choice_held_fixed(
    form: str, masked: bool
) -> None:
    logits, target, mask = draw(form, "random", masked)
    logits = logits.double().requires_grad_()
    p = logits.softmax(1) if is_softmax(form) else logits.sigmoid()
    for side in (0.3, 0.7):  # |y - p| is p or 1 - p: nothing changes sides within a step of 1e-6
        assert (p - side).abs().min() > 1e-4
    for loss in every_loss(0.3, FORMS[form][1]):
        assert torch.autograd.gradcheck(lambda x, f=loss: f(x, target, mask), (logits,))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_threshold_zero_takes_the_whole_image(form: str, kind: str) -> None:
    # in "extreme", p is exactly y in many voxels: these count too, which "selected" would show
    given, exclusive = draw(form, kind, masked=True), FORMS[form][1]
    plain = CrossEntropy(exclusive=exclusive)(*given)
    for average in ("all", "selected"):
        hard = HardRegionCrossEntropy(0, average=average, exclusive=exclusive)
        assert torch.equal(hard(*given), plain)


def test_threshold_zero_of_dice_is_one_minus_soft_dice() -> None:
    logits, target, mask = draw("regions", "random", masked=True)
    loss = HardRegionDice(0, exclusive=False)(logits, target, mask)
    assert float(loss) == pytest.approx(1 - float(soft_dice(logits.sigmoid(), target, mask)))


def test_a_voxel_exactly_the_threshold_off_is_easy() -> None:
    logits, target = torch.zeros(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1, dtype=torch.long)
    assert HardRegionCrossEntropy(0.5)(logits, target) == 0  # p is one half
    assert float(HardRegionCrossEntropy(0.49)(logits, target)) == pytest.approx(math.log(2))


def test_easy_voxels_shrink_the_mean_over_all_and_not_the_mean_over_selected() -> None:
    # true class: p = 1/2 in one voxel, almost 1 in three
    logits = torch.tensor([[0.0, 9, 9, 9], [0, -9, -9, -9]]).reshape(1, 2, 1, 1, 4)
    target = torch.zeros(1, 1, 1, 1, 4, dtype=torch.long)
    assert float(HardRegionCrossEntropy()(logits, target)) == pytest.approx(math.log(2) / 4)
    selected = HardRegionCrossEntropy(average="selected")
    assert float(selected(logits, target)) == pytest.approx(math.log(2))
    assert float(HardRegionMSE()(logits, target)) == pytest.approx(0.25 / 4)
    assert float(HardRegionMSE(average="selected")(logits, target)) == pytest.approx(0.25)


def test_a_false_positive_in_the_background_costs() -> None:
    logits = torch.tensor([-3.0, 3.0]).reshape(1, 2, 1, 1, 1)
    background = torch.zeros(1, 1, 1, 1, 1, dtype=torch.long)
    for loss in every_loss(0.1, exclusive=True):
        assert loss(logits, background) > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_where_nothing_is_hard_the_loss_is_that_of_perfect_and_teaches_nothing(form: str) -> None:
    logits, target, _ = draw(form, "random", masked=False)
    _, y, *_ = zip(*voxels(logits, target, None, form), strict=True)
    truth = np.stack(y, -1).reshape(FORMS[form][0], 2, *SPACE).swapaxes(0, 1)
    sure = torch.from_numpy(np.where(truth, 6.0, -6.0)).float().requires_grad_()
    for loss in every_loss(0.1, FORMS[form][1])[1:]:
        value = loss(sure, target)
        assert value.item() == pytest.approx(0, abs=1e-6)
        (gradient,) = torch.autograd.grad(value, sure)
        assert not gradient.any()


@pytest.mark.parametrize("form", FORMS)
def test_where_all_is_ignored_the_loss_is_zero_and_teaches_nothing(form: str) -> None:
    logits, target, mask = draw(form, "all ignored", masked=True)
    for loss in every_loss(0.1, FORMS[form][1]):
        value = loss(logits.requires_grad_(), target, mask)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == pytest.approx(0, abs=1e-6)
        assert not gradient.any()


@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_logits_have_finite_losses_and_gradients(form: str, size: float) -> None:
    logits, target, mask = draw(form, "extreme", masked=True)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        large = (logits.sign() * size).to(dtype).requires_grad_()
        for loss in every_loss(0.1, FORMS[form][1]):
            value = loss(large, target, mask)
            (gradient,) = torch.autograd.grad(value, large)
            assert value.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_voxel_still_teaches_where_its_probability_is_zero(form: str) -> None:
    logits, target, mask = draw(form, "extreme", masked=False)
    logits = (logits * 20).requires_grad_()  # p is exactly 0 or 1 in float32
    (gradient,) = torch.autograd.grad(
        HardRegionCrossEntropy(exclusive=FORMS[form][1])(logits, target, mask), logits
    )
    assert gradient.abs().max() > 0.3 / logits.numel()  # one wrong voxel, in a mean over all


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_computed_in_single(form: str, dtype: torch.dtype) -> None:
    logits, target, mask = draw(form, "random", masked=True)
    half = logits.to(dtype)
    for loss in every_loss(0.1, FORMS[form][1]):
        value = loss(half, target, mask)
        assert value.dtype == torch.float32
        assert torch.equal(value, loss(half.float(), target, mask))


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int64])
def test_indices_and_one_hot_targets_are_the_same(dtype: torch.dtype) -> None:
    logits, target, mask = draw("classes", "random", masked=True)
    one_hot = nn.functional.one_hot(target[:, 0], 4).movedim(-1, 1).float()
    for exclusive in (True, False):
        for loss in every_loss(0.1, exclusive):
            by_index = loss(logits, target.to(dtype), mask)
            assert torch.equal(by_index, loss(logits, one_hot, mask))


def test_a_single_channel_is_a_sigmoid_whatever_is_said() -> None:
    logits, target, mask = draw("binary", "random", masked=True)
    for one, other in zip(every_loss(0.1, True), every_loss(0.1, False), strict=True):
        assert torch.equal(one(logits, target, mask), other(logits, target.float(), mask))


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_where_nothing_is_known_does_not_matter(form: str) -> None:
    logits, target, mask = draw(form, "random", masked=True)
    assert mask is not None
    unknown = mask == 0
    strange = target.masked_fill(unknown, 77)  # no class at all
    other = torch.where(unknown, -logits - 3, logits)
    for loss in every_loss(0.1, FORMS[form][1]):
        expected = loss(logits, target, mask)
        assert torch.equal(loss(other, strange, unknown.logical_not()), expected)


GRID = (1, 1, 2, 2, 2)
LOGITS = torch.zeros(1, 3, 2, 2, 2)


@pytest.mark.parametrize(
    ("logits", "target", "mask", "message"),
    [
        (LOGITS, torch.zeros(GRID), None, "integer class indices"),
        (LOGITS, torch.zeros(1, 3, 2, 2, 2, dtype=torch.long), None, "integer class indices"),
        (LOGITS, torch.zeros(1, 1, 2, 2, 1, dtype=torch.long), None, "integer class indices"),
        (LOGITS, torch.zeros(2, 1, 2, 2, 2, dtype=torch.long), None, "integer class indices"),
        (LOGITS, torch.zeros(1, 3, 2, 2, 2, dtype=torch.bool), None, "integer class indices"),
        (LOGITS, torch.full(GRID, 3), None, "0 to 2"),
        (LOGITS, torch.full(GRID, -1), None, "0 to 2"),
        (LOGITS[:, :1], torch.full(GRID, 2), None, "0 to 1"),
        (LOGITS, torch.full((1, 3, 2, 2, 2), 0.5), None, "0 and 1"),
        (LOGITS, torch.full((1, 3, 2, 2, 2), math.nan), None, "0 and 1"),
        (LOGITS, torch.zeros(1, 3, 2, 2, 2), None, "exactly one"),
        (LOGITS, torch.ones(1, 3, 2, 2, 2), None, "exactly one"),
        (LOGITS, torch.zeros(GRID, dtype=torch.long), torch.ones(1, 3, 2, 2, 2), "mask"),
        (LOGITS[0], torch.zeros(GRID, dtype=torch.long), None, "logits"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    logits: Tensor, target: Tensor, mask: Tensor | None, message: str
) -> None:
    for loss in every_loss(0.1, exclusive=True):
        with pytest.raises(ValueError, match=message):
            loss(logits, target, mask)


@pytest.mark.parametrize("wrong", [3, -1, 0.5, math.nan])
def test_one_wrong_voxel_is_enough(wrong: float) -> None:
    target = torch.full(GRID, 2)
    if isinstance(wrong, float):
        target = torch.cat([target == n for n in range(3)], 1).float()
    target[0, 0, 1, 0, 1] = wrong
    for loss in every_loss(0.1, exclusive=True):
        with pytest.raises(ValueError, match="0 to 2" if isinstance(wrong, int) else "0 and 1"):
            loss(LOGITS, target)


def test_one_voxel_of_two_classes_is_enough() -> None:
    target = torch.cat([torch.ones(GRID), torch.zeros(1, 2, 2, 2, 2)], 1)
    target[0, 2, 0, 1, 1] = 1
    for loss in every_loss(0.1, exclusive=True):
        with pytest.raises(ValueError, match="exactly one"):
            loss(LOGITS, target)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize("kind", [HardRegionCrossEntropy, HardRegionDice, HardRegionMSE])
def test_thresholds_are_in_zero_to_one(kind: Any, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        kind(threshold)


@pytest.mark.parametrize("kind", [HardRegionCrossEntropy, HardRegionMSE])
def test_an_unknown_average_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="average"):
        kind(average="mean")
