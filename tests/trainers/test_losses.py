"""Losses against plain NumPy, written as the formulas read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from renalplan.labels import LabelScheme
from renalplan.trainers import losses
from renalplan.trainers.losses import (
    BalancedCrossEntropy,
    CrossEntropy,
    DeepSupervision,
    Dice,
    DiceCrossEntropy,
    HardRegionCrossEntropy,
    HardRegionDice,
    HardRegionMSE,
    LossSettings,
    OnLabels,
    TargetEncoder,
    build_loss,
    build_voxel_loss,
    dice_counts,
    masked_mean,
    shrink,
    soft_dice,
)

SHAPE = (2, 1, 3, 4, 5)
CLASSES = LabelScheme(names=("background", "kidney", "tumour"), values=((0,), (1,), (2,)))
REGIONS = LabelScheme(names=("organ", "tumour"), values=((1, 2), (2,)), region_values=(1, 2))
SCHEMES = {
    "classes": CLASSES,
    "classes with ignore": LabelScheme(names=CLASSES.names, values=CLASSES.values, ignore=3),
    "regions": REGIONS,
    "regions with ignore": LabelScheme(
        names=REGIONS.names, values=REGIONS.values, region_values=(1, 2), ignore=3
    ),
}


def _dice(p: NDArray, g: NDArray, over_batch: bool, smooth: float = 1e-5) -> float:
    """(2 |PG| + s) / (|P| + |G| + s), mean over structures (and samples)."""
    found = []
    samples = [slice(None)] if over_batch else [slice(b, b + 1) for b in range(len(p))]
    for sample in samples:
        for k in range(p.shape[1]):
            a, b = p[sample, k], g[sample, k]
            found.append((2 * (a * b).sum() + smooth) / (a.sum() + b.sum() + smooth))
    return float(np.mean(found))


def _reference(logits: NDArray, labels: NDArray, scheme: LabelScheme, over_batch: bool) -> float:
    """Cross-entropy minus Dice, voxel by voxel, in double precision."""
    logits = logits.astype(np.float64)
    known = np.ones_like(labels, bool) if scheme.ignore is None else labels != scheme.ignore
    target = np.stack([np.isin(labels[:, 0], v) for v in scheme.values], 1) & known
    if scheme.has_regions:
        p = 1 / (1 + np.exp(-logits))
        # -log p = log(1 + exp(-l)), -log(1 - p) = log(1 + exp(l))
        entropy = np.where(target, np.logaddexp(0, -logits), np.logaddexp(0, logits)).mean(1)
    else:
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        p = np.exp(log_p)
        entropy = -(log_p * target).sum(1)
        p, target = p[:, 1:], target[:, 1:]
    mask = known[:, 0]
    mean = entropy[mask].mean() if mask.any() else 0.0
    return mean - _dice(p * known, target.astype(float), over_batch)


def _draw(scheme: LabelScheme, kind: str) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (SHAPE[0], scheme.heads, *SHAPE[2:])).astype(np.float32)
    labels = rng.integers(0, max(scheme.all_values) + 1, SHAPE)
    if kind == "extreme":
        logits = np.where(logits > 0, 50, -50).astype(np.float32)
    if kind == "empty structure":
        labels[labels == 2] = 0
    if kind == "nothing but background":
        labels[:] = 0
    if kind == "all ignored":
        labels[:] = scheme.ignore or 0
    return torch.from_numpy(logits), torch.from_numpy(labels.astype(np.int16))


@pytest.mark.parametrize("over_batch", [False, True], ids=["a sample", "over batch"])
@pytest.mark.parametrize(
    "kind", ["random", "extreme", "empty structure", "nothing but background", "all ignored"]
)
@pytest.mark.parametrize("name", SCHEMES)
def test_dice_cross_entropy_is_what_numpy_computes(name: str, kind: str, over_batch: bool) -> None:
    scheme = SCHEMES[name]
    logits, labels = _draw(scheme, kind)
    loss = DiceCrossEntropy(scheme, over_batch=over_batch)(logits, labels)
    expected = _reference(logits.numpy(), labels.numpy(), scheme, over_batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("over_batch", [False, True], ids=["a sample", "over batch"])
@pytest.mark.parametrize(
    "kind", ["random", "extreme", "empty structure", "nothing but background", "all ignored"]
)
@pytest.mark.parametrize("name", SCHEMES)
def test_the_dice_loss_is_one_minus_what_numpy_computes(
    name: str, kind: str, over_batch: bool
) -> None:
    scheme = SCHEMES[name]
    logits, labels = _draw(scheme, kind)
    loss = build_loss(scheme, LossSettings(name="dice"), over_batch=over_batch)(logits, labels)
    x, y = logits.numpy().astype(np.float64), labels.numpy()
    known = np.ones_like(y, bool) if scheme.ignore is None else y != scheme.ignore
    target = np.stack([np.isin(y[:, 0], v) for v in scheme.values], 1) & known
    if scheme.has_regions:
        p = 1 / (1 + np.exp(-x))
    else:
        p = np.exp(x - np.logaddexp.reduce(x, axis=1, keepdims=True))
        p, target = p[:, 1:], target[:, 1:]
    expected = 1 - _dice(p * known, target.astype(float), over_batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert 0 <= float(loss) <= 1


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_the_dice_loss_has_the_gradient_of_its_value(over_batch: bool, exclusive: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 2, (2, 1, 2, 3, 2))
    mask = (torch.rand(2, 1, 2, 3, 2) > 0.3).double()
    loss = Dice(exclusive=exclusive, over_batch=over_batch)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, mask), (logits,))


def test_over_the_batch_a_false_positive_in_an_empty_slice_is_taught() -> None:
    """Alone, a slice without the structure has a Dice that is flat: nothing is learned from it."""
    target = torch.zeros(2, 1, 1, 4, 4, dtype=torch.long)
    target[0, 0, 0, :2] = 1
    found = {}
    for over_batch in (False, True):
        logits = torch.zeros(2, 2, 1, 4, 4, requires_grad=True)
        Dice(over_batch=over_batch)(logits, target).backward()
        assert logits.grad is not None
        found[over_batch] = float(logits.grad[1].abs().max())
    assert found[False] < 1e-5
    assert found[True] > 1e-3


@pytest.mark.parametrize("name", ["classes with ignore", "regions with ignore"])
def test_a_patch_where_all_is_ignored_scores_minus_one_and_teaches_nothing(name: str) -> None:
    logits, labels = _draw(SCHEMES[name], "all ignored")
    logits.requires_grad_()
    loss = DiceCrossEntropy(SCHEMES[name])(logits, labels)
    loss.backward()
    assert loss.item() == pytest.approx(-1)  # no cross-entropy, and empty against empty is Dice 1
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", ["classes with ignore", "regions with ignore"])
def test_what_is_said_of_ignored_voxels_does_not_matter(name: str) -> None:
    scheme = SCHEMES[name]
    logits, labels = _draw(scheme, "random")
    other = torch.where(labels == scheme.ignore, -7.0, 0.0) + logits
    loss = DiceCrossEntropy(scheme)
    assert float(loss(logits, labels)) == pytest.approx(float(loss(other, labels)))


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_soft_dice_has_the_gradient_of_its_value(over_batch: bool, masked: bool) -> None:
    torch.manual_seed(0)
    p = torch.rand(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 2, 2, 3, 2) > 0.5).double()
    mask = (torch.rand(2, 1, 2, 3, 2) > 0.3).double() if masked else None
    assert torch.autograd.gradcheck(
        lambda x: soft_dice(x, target, mask, over_batch=over_batch), (p,)
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_dice_cross_entropy_has_the_gradient_of_its_value(name: str) -> None:
    # the loss computes in float32, so differences of 1e-2 and a tolerance to match
    scheme = SCHEMES[name]
    torch.manual_seed(0)
    logits = torch.randn(2, scheme.heads, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, max(scheme.all_values) + 1, (2, 1, 1, 2, 2))
    loss = DiceCrossEntropy(scheme)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, labels), (logits,), eps=1e-2, atol=2e-3, rtol=1e-2
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_of_extreme_logits_are_finite(name: str) -> None:
    logits, labels = _draw(SCHEMES[name], "extreme")
    logits.requires_grad_()
    DiceCrossEntropy(SCHEMES[name])(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_soft_dice_of_two_half_overlapping_boxes_is_one_half() -> None:
    p, g = torch.zeros(2, 1, 1, 1, 1, 4).unbind()
    p[..., 0:2] = 1
    g[..., 1:3] = 1
    assert float(soft_dice(p, g)) == pytest.approx(2 * 1 / (2 + 2), abs=1e-5)


class Counted(nn.Module):
    """Returns the mean logit, and remembers the labels it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.seen.append(tuple(labels.shape[2:]))
        return logits.mean()


def test_three_resolutions_weigh_two_thirds_one_third_and_nothing() -> None:
    inner = Counted()
    outputs = [torch.full((1, 2, n, n, n), value) for n, value in ((8, 3.0), (4, 6.0), (2, 1e9))]
    total = DeepSupervision(inner)(outputs, torch.zeros(1, 1, 8, 8, 8, dtype=torch.int16))
    assert float(total) == pytest.approx((1 * 3 + 0.5 * 6) / 1.5)
    assert inner.seen == [(8, 8, 8), (4, 4, 4)]  # the coarsest is not even computed


def test_of_two_resolutions_the_finer_one_counts() -> None:
    outputs = [torch.full((1, 2, n, n, n), value) for n, value in ((4, 3.0), (2, 1e9))]
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    assert float(DeepSupervision(Counted())(outputs, labels)) == 3


@pytest.mark.parametrize("as_list", [False, True])
def test_one_resolution_is_its_own_mean(as_list: bool) -> None:
    output = torch.full((1, 2, 4, 4, 4), 5.0)
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    total = DeepSupervision(Counted())([output] if as_list else output, labels)
    assert float(total) == 5


def test_labels_shrink_to_values_that_were_there() -> None:
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16)
    labels[..., 2:] = 300  # above what half precision or bytes hold exactly
    small = shrink(labels, torch.zeros(1, 3, 2, 2, 2))
    assert small.dtype == torch.int16
    assert small[0, 0, 0, 0].tolist() == [0, 300]
    assert shrink(labels, torch.zeros(1, 3, 4, 4, 4)) is labels


def test_dice_counts_count_voxels_of_each_structure() -> None:
    #                      0  1  2  3  4  5
    truth = torch.tensor([[0, 1, 1, 2, 1, 0]])
    said = torch.tensor([[1, 1, 0, 2, 1, 2]])
    logits = nn.functional.one_hot(said, 3).movedim(-1, 1).float()[..., None, None]
    counts = dice_counts(logits, truth[:, None, :, None, None], TargetEncoder(CLASSES))
    # kidney: right at 1 and 4, too much at 0, missed at 2; tumour: right at 3, too much at 5
    assert counts.tolist() == [[2, 1], [1, 1], [1, 0]]


def test_a_region_of_which_nothing_is_said_is_not_counted() -> None:
    logits = torch.zeros(1, 2, 1, 1, 3)  # a probability of 0.5
    counts = dice_counts(
        logits, torch.ones(1, 1, 1, 1, 3, dtype=torch.int16), TargetEncoder(REGIONS)
    )
    assert counts.tolist() == [[0, 0], [0, 0], [3, 0]]


def test_dice_counts_of_regions_overlap_and_leave_out_what_is_ignored() -> None:
    truth = torch.tensor([[0, 1, 2, 3]])
    organ, tumour = [1, 1, -1, 1], [-1, 1, 1, 1]
    logits = torch.tensor([[organ, tumour]]).float()[..., None, None]
    scheme = SCHEMES["regions with ignore"]
    counts = dice_counts(logits, truth[:, None, :, None, None], TargetEncoder(scheme))
    # organ is voxels 1 and 2: hit 1, missed 2, too much 0; tumour is 2: hit, too much 1; 3 is ignored
    assert counts.tolist() == [[1, 1], [1, 1], [1, 0]]


def test_masked_mean_divides_by_what_counts() -> None:
    values = torch.tensor([1.0, 2.0, 30.0])
    assert float(masked_mean(values, torch.tensor([1.0, 1.0, 0.0]))) == 1.5
    assert float(masked_mean(values, torch.tensor([0.0, 0.0, 1.0]))) == 30
    assert float(masked_mean(values, torch.zeros(3))) == 0
    assert float(masked_mean(values, None)) == 11


def test_every_public_name_is_there() -> None:
    assert sorted(losses.__all__) == losses.__all__
    assert all(hasattr(losses, name) for name in losses.__all__)


def test_what_is_ignored_belongs_to_no_head() -> None:
    labels = torch.tensor([0, 1, 2, 3], dtype=torch.int16).reshape(1, 1, 1, 1, 4)
    encoder = TargetEncoder(SCHEMES["classes with ignore"])
    target, mask = encoder(labels)
    assert target[0, :, 0, 0].T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert mask is not None
    assert mask.ravel().tolist() == [1, 1, 1, 0]
    assert not encoder.state_dict()  # what labels mean is the dataset's, no checkpoint's


def test_on_labels_leaves_out_what_is_ignored() -> None:
    scheme = SCHEMES["classes with ignore"]
    logits, labels = _draw(scheme, "random")
    truth = labels[:, 0].long()
    known = truth != 3
    expected = nn.functional.cross_entropy(logits, truth.clamp(max=2), reduction="none")[known]
    loss = OnLabels(CrossEntropy(), scheme)(logits, labels)
    assert float(loss) == pytest.approx(float(expected.mean()))


def test_on_labels_gives_regions_that_overlap() -> None:
    scheme = SCHEMES["regions with ignore"]
    logits, labels = _draw(scheme, "random")
    truth = torch.cat([(labels == 1) | (labels == 2), labels == 2], 1).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    known = (labels != 3).expand_as(expected)
    loss = OnLabels(CrossEntropy(exclusive=False), scheme)(logits, labels)
    assert float(loss) == pytest.approx(float(expected[known].mean()))


@pytest.mark.parametrize("name", SCHEMES)
def test_losses_are_built_by_name_with_what_the_settings_say(name: str) -> None:
    scheme = SCHEMES[name]
    logits, labels = _draw(scheme, "random")
    target, mask = TargetEncoder(scheme)(labels)
    exclusive = not scheme.has_regions
    expected = {
        "dice": Dice(exclusive=exclusive, over_batch=True),
        "ce": CrossEntropy(exclusive=exclusive),
        "hra_ce": HardRegionCrossEntropy(0.3, average="selected", exclusive=exclusive),
        "hra_dice": HardRegionDice(0.3, exclusive=exclusive, over_batch=True),
        "hra_mse": HardRegionMSE(0.3, average="selected", exclusive=exclusive),
        "balanced_ce": BalancedCrossEntropy(0.3, exclusive=exclusive),
    }
    for kind, loss in expected.items():
        settings = LossSettings.model_validate(
            {"name": kind, "threshold": 0.3, "average": "selected"}
        )
        built = build_loss(scheme, settings, over_batch=True)
        assert torch.equal(built(logits, labels), loss(logits, target, mask)), kind
    for over_batch in (False, True):
        built = build_loss(scheme, LossSettings(), over_batch=over_batch)
        expected_default = DiceCrossEntropy(scheme, over_batch=over_batch)(logits, labels)
        assert torch.equal(built(logits, labels), expected_default)


@pytest.mark.parametrize(
    "kind", [Dice, CrossEntropy, HardRegionCrossEntropy, HardRegionDice, HardRegionMSE]
)
def test_unless_told_otherwise_classes_exclude_each_other_and_each_sample_has_its_dice(
    kind: Callable[..., nn.Module],
) -> None:
    logits, labels = _draw(CLASSES, "random")
    target, _ = TargetEncoder(CLASSES)(labels)
    asked: dict[str, bool] = {"exclusive": True}
    if "dice" in kind.__name__.lower():
        asked["over_batch"] = False
    assert torch.equal(kind()(logits, target), kind(**asked)(logits, target))
    assert not torch.equal(kind()(logits, target), kind(exclusive=False)(logits, target))


def test_a_loss_by_its_name_has_the_same_defaults() -> None:
    logits, labels = _draw(CLASSES, "random")
    target, _ = TargetEncoder(CLASSES)(labels)
    dice, own = LossSettings(name="dice"), Dice(exclusive=True, over_batch=False)
    assert torch.equal(build_voxel_loss(dice)(logits, target), own(logits, target))
    assert torch.equal(build_loss(CLASSES, dice)(logits, labels), own(logits, target))
    both = DiceCrossEntropy(CLASSES, over_batch=False)(logits, labels)
    assert torch.equal(build_loss(CLASSES, LossSettings())(logits, labels), both)
    assert torch.equal(DiceCrossEntropy(CLASSES)(logits, labels), both)
    predicted = logits.softmax(1)
    assert soft_dice(predicted, target) == soft_dice(predicted, target, over_batch=False)
    assert soft_dice(predicted, target) != soft_dice(predicted, target, over_batch=True)


@pytest.mark.parametrize("kind", ["dice", "ce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce"])
def test_every_loss_learns_over_the_resolutions_of_deep_supervision(kind: str) -> None:
    scheme = SCHEMES["classes with ignore"]
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (1, 1, 8, 8, 8), dtype=torch.int16)
    outputs = [torch.zeros(1, 3, n, n, n, requires_grad=True) for n in (8, 4, 2)]
    loss = DeepSupervision(build_loss(scheme, LossSettings.model_validate({"name": kind})))
    optimizer = torch.optim.SGD(outputs, lr=1.0)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(outputs, labels)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]
    assert [bool(output.any()) for output in outputs] == [True, True, False]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "focal"}, {"threshold": 1}, {"threshold": -0.1}, {"threshold": "nan"}, {"T": 0.1}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LossSettings.model_validate(wrong)


def test_the_settings_bounds_are_their_limits() -> None:
    assert (LossSettings().threshold, LossSettings().background_weight) == (0.1, 0.2)
    for values in ({"threshold": 0}, {"threshold": 0.999}, {"background_weight": 0}):
        assert LossSettings.model_validate(values)
    with pytest.raises(ValidationError):
        LossSettings(background_weight=-0.01)
