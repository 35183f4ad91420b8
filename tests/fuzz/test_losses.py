"""Losses of any predictions and labels: finite, and blind to order, sides and what is masked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from renalplan.trainers.losses.choice import LossSettings, build_voxel_loss
from renalplan.trainers.losses.voxels import VoxelLoss

KINDS = ("dice", "ce", "wce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce")
shapes = st.tuples(*[st.integers(1, 3)] * 5).map(lambda s: (s[0], s[1] + 1, *s[2:]))
seeds = st.integers(0, 2**32 - 1)


def draw(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K, Z, Y, X), class indices and a mask (B, 1, Z, Y, X)."""
    rng = np.random.default_rng(seed)
    one = (shape[0], 1, *shape[2:])
    logits = torch.from_numpy(rng.normal(0, 4, shape))
    classes = torch.from_numpy(rng.integers(0, shape[1], one))
    return logits, classes, torch.from_numpy((rng.random(one) < 0.7).astype(float))


def loss_of(kind: str, average: str, *, exclusive: bool, over_batch: bool) -> VoxelLoss:
    settings = LossSettings.model_validate({"name": kind, "threshold": 0.2, "average": average})
    return build_voxel_loss(settings, exclusive=exclusive, over_batch=over_batch)


kinds = st.builds(
    loss_of,
    st.sampled_from(KINDS),
    st.sampled_from(("all", "selected")),
    exclusive=st.booleans(),
    over_batch=st.booleans(),
)


@given(kinds, shapes, seeds)
def test_a_loss_is_finite_not_negative_and_blind_beyond_the_mask(
    loss: VoxelLoss, shape: tuple[int, ...], seed: int
) -> None:
    logits, classes, mask = draw(shape, seed)
    logits.requires_grad_()
    found = loss(logits, classes, mask)
    found.backward()
    assert found.isfinite()
    assert found >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[(mask == 0).expand_as(logits)].any()
    other = torch.where(mask == 0, -3.0, logits.detach())
    classes = torch.where(mask == 0, 99, classes)
    assert loss(other, classes, mask) == pytest.approx(float(found.detach()), rel=1e-9, abs=1e-12)


@given(kinds, shapes, seeds, st.permutations([0, 1, 2]), st.sets(st.integers(2, 4)))
def test_how_a_batch_lies_does_not_matter(
    loss: VoxelLoss, shape: tuple[int, ...], seed: int, order: list[int], flips: set[int]
) -> None:
    found = loss(*draw(shape, seed))
    axes = (0, 1, *(2 + axis for axis in order))
    turned = [part.permute(axes).flip([0, *flips]) for part in draw(shape, seed)]
    assert loss(*turned) == pytest.approx(float(found.detach()), rel=1e-9, abs=1e-12)


@given(kinds, shapes, seeds)
def test_indices_and_their_encoding_are_one_target(
    loss: VoxelLoss, shape: tuple[int, ...], seed: int
) -> None:
    logits, classes, mask = draw(shape, seed)
    encoded = torch.zeros_like(logits).scatter_(1, classes, 1)
    assert loss(logits, encoded, mask) == loss(logits, classes, mask)


@given(kinds, shapes, seeds)
def test_the_truth_itself_costs_nothing_and_the_opposite_most(
    loss: VoxelLoss, shape: tuple[int, ...], seed: int
) -> None:
    logits, classes, mask = draw(shape, seed)
    truth = 60 * (2 * torch.zeros_like(logits).scatter_(1, classes, 1) - 1)
    assert loss(truth, classes, mask) == pytest.approx(0, abs=1e-6)
    assert loss(logits, classes, mask) <= loss(-truth, classes, mask) + 1e-9


def reference(kind: str, average: str, *, exclusive: bool) -> Callable[..., float]:
    """What the losses' docstrings say, in double precision and without a trick."""

    def value(logits: Tensor, classes: Tensor, mask: Tensor) -> float:
        x, known = logits.numpy(), np.broadcast_to(mask.numpy() > 0, logits.shape)
        y = np.moveaxis(np.eye(x.shape[1])[classes.numpy()[:, 0]], -1, 1)
        if exclusive:
            log_p = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
            p, terms, entries = np.exp(log_p), -y * log_p, y * known
        else:
            p, entries = 1 / (1 + np.exp(-x)), known * 1
            terms = y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)
        hard = (np.abs(y - p) > 0.2) if kind.startswith(("hra", "balanced")) else np.ones_like(p)
        if kind == "wce" and exclusive:
            terms[:, 0] *= 0.2
        elif kind == "wce":
            terms = terms * np.where(y == 1, 1, 0.2)
        if kind == "hra_mse":
            terms, entries = (y - p) ** 2, known * 1
        if kind == "balanced_ce":
            shares = [
                (terms * hard * side * known)[:, channel].sum() / n
                for side in ((y,) if exclusive else (y, 1 - y))
                for channel in range(x.shape[1])
                if (n := (side * known)[:, channel].sum())
            ]
            return float(np.mean(shares)) if shares else 0.0
        if average == "selected":
            entries = entries * hard
        return float((terms * hard * known).sum() / max(1, entries.sum()))

    return value


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize(
    ("kind", "average"),
    [
        *((kind, "all") for kind in ("ce", "wce", "hra_ce", "hra_mse", "balanced_ce")),
        *((kind, "selected") for kind in ("hra_ce", "hra_mse")),
    ],
)
@example(shape=(1, 2, 1, 1, 1), seed=1)  # one voxel, which does not count, and one that does
@example(shape=(1, 2, 1, 1, 1), seed=0)
@given(shape=shapes, seed=seeds)
def test_what_numpy_computes(
    kind: str, average: str, exclusive: bool, shape: tuple[int, ...], seed: int
) -> None:
    loss = loss_of(kind, average, exclusive=exclusive, over_batch=False)
    inputs = draw(shape, seed)
    expected = reference(kind, average, exclusive=exclusive)(*inputs)
    assert float(loss(*inputs)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
