"""Pseudo masks: better than the box's ellipsoid where the image says more, never empty, never all of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from renalplan.plan import ChannelPlan, Intensities
from renalplan.trainers.boxes import inscribed_ellipsoid
from renalplan.trainers.pseudo_masks import (
    BoxMask,
    CrfSettings,
    PseudoMaskSettings,
    intensity_ratio,
    mask_of_box,
    unit_intensities,
)

CPU = torch.device("cpu")
HU = Intensities(
    mean=100, std=50, minimum=0, maximum=300, median=100, percentile_00_5=-50, percentile_99_5=250
)


def tumor() -> tuple[NDArray, NDArray, tuple]:
    """An L-shaped tumor of 60 HU in kidney of 180 HU and fat of -100 HU; image in 0..1, truth, tight box."""
    truth = np.zeros((24, 30, 30), bool)
    truth[6:18, 7:21, 7:14] = True
    truth[6:18, 14:21, 7:23] = True
    hu = np.where(np.arange(30) < 14, 180.0, -100.0) * np.ones(truth.shape)
    hu[truth] = 60
    hu += np.random.default_rng(0).normal(0, 15, truth.shape)
    image = np.clip((ndimage.gaussian_filter(hu, 0.5) + 200) / 700, 0, 1)
    return image.astype(np.float32)[None], truth, ((6, 18), (7, 21), (7, 23))


def dice(first: NDArray, second: NDArray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def made(method: str, margin: int = 0, **values: float) -> tuple[NDArray, BoxMask, NDArray, tuple]:
    image, truth, tight = tumor()
    box = tuple((a - margin, b + margin) for a, b in tight)
    settings = PseudoMaskSettings(method=method, **values)  # type: ignore[arg-type]
    mask, what = mask_of_box(image, box, [box], (1.0, 1.0, 1.0), settings, CrfSettings(), CPU)
    return mask, what, truth[tuple(slice(a, b) for a, b in box)], box


@pytest.mark.parametrize("method", ["convcrf", "gmm"])
@pytest.mark.parametrize("margin", [0, 2])
def test_it_beats_the_ellipsoid(method: str, margin: int) -> None:
    mask, what, truth, box = made(method, margin)
    assert not what.fell_back
    assert what.share == pytest.approx(mask.mean())
    assert dice(mask, truth) > dice(inscribed_ellipsoid(box, box), truth) + 0.1
    assert dice(mask, truth) > 0.85


def test_without_the_image_it_is_the_box_s_shape() -> None:
    mask, _, _, box = made("ellipsoid")
    assert np.array_equal(mask, inscribed_ellipsoid(box, box))
    mask, what, _, _ = made("box")
    assert mask.all()
    assert what == BoxMask(share=1.0, fell_back=False)


def test_the_intensity_term_counts() -> None:
    with_it, without = made("convcrf")[0], made("convcrf", intensity_term=0)[0]
    assert dice(with_it, made("convcrf")[2]) > dice(without, made("convcrf")[2])


@pytest.mark.parametrize(("level", "wanted"), [(30.0, "all of it"), (-30.0, "nothing")])
def test_too_much_or_too_little_falls_back(
    monkeypatch: pytest.MonkeyPatch, level: float, wanted: str
) -> None:
    from renalplan.trainers import pseudo_masks

    monkeypatch.setattr(
        pseudo_masks, "intensity_ratio", lambda image, *_: np.full(image.shape[1:], level)
    )
    mask, what, _, box = made("convcrf")
    assert what.fell_back, wanted
    assert (what.share > 0.95) == (level > 0)
    assert np.array_equal(mask, inscribed_ellipsoid(box, box))


def test_the_guard_is_at_a_fifth_and_at_95_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    from renalplan.trainers import pseudo_masks

    image, _, _ = tumor()
    box = ((0, 10), (0, 10), (0, 10))
    for kept, falls in ((199, True), (200, False), (950, False), (951, True)):
        mask = np.zeros(1000, bool)
        mask[:kept] = True
        full = np.zeros(image.shape[1:], bool)
        full[:10, :10, :10] = mask.reshape(10, 10, 10)
        around = (slice(0, 13),) * 3
        monkeypatch.setattr(pseudo_masks, "refine", lambda *_, full=full, a=around: full[a])
        _, what = mask_of_box(
            image, box, [box], (1.0, 1.0, 1.0), PseudoMaskSettings(), CrfSettings(), CPU
        )
        assert what == BoxMask(share=kept / 1000, fell_back=falls)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_boxes_and_boxes_at_the_border_have_a_mask(size: int) -> None:
    image = np.random.default_rng(1).random((1, size + 1, size, size)).astype(np.float32)
    box = ((0, size),) * 3
    mask, _ = mask_of_box(
        image, box, [box], (1.0, 1.0, 1.0), PseudoMaskSettings(), CrfSettings(), CPU
    )
    assert mask.shape == (size,) * 3
    assert mask.any()


def test_the_densities_are_of_the_core_and_of_what_no_box_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The samples handed over: the inner 0.6 of the ellipsoid, and what lies in none of the boxes."""
    from renalplan.trainers import pseudo_masks

    seen = []

    def record(image: NDArray, likely: NDArray, background: NDArray) -> NDArray:
        seen.append((image, likely, background))
        return np.zeros(image.shape[1:], np.float32)

    monkeypatch.setattr(pseudo_masks, "intensity_ratio", record)
    image = np.random.default_rng(0).random((1, 30, 30, 40)).astype(np.float32)
    box, other, far = (
        ((8, 20), (8, 20), (8, 24)),
        ((8, 20), (8, 20), (25, 38)),
        ((0, 2), (0, 2), (39, 40)),
    )
    settings = PseudoMaskSettings()
    mask_of_box(image, box, [box, other, far], (1.0,) * 3, settings, CrfSettings(), CPU)
    ((part, likely, background),) = seen
    # a quarter of the longest edge (16 voxels) on each side
    around = (slice(4, 24), slice(4, 24), slice(4, 28))
    assert np.array_equal(part, image[(slice(None), *around)])
    free = np.ones(image.shape[1:], bool)
    for (z0, z1), (y0, y1), (x0, x1) in (box, other, far):
        free[z0:z1, y0:y1, x0:x1] = False
    assert np.array_equal(background, free[around])
    z, y, x = np.ogrid[:30, :30, :40]
    q = ((z - 13.5) / 6) ** 2 + ((y - 13.5) / 6) ** 2 + ((x - 15.5) / 8) ** 2
    assert np.array_equal(likely, (q <= 0.36)[around])


def test_the_unary_term_is_the_box_s_shape_and_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    from renalplan.trainers import pseudo_masks

    seen = []
    monkeypatch.setattr(
        pseudo_masks, "intensity_ratio", lambda image, *_: np.full(image.shape[1:], 2.0)
    )
    monkeypatch.setattr(
        pseudo_masks, "refine", lambda p, *_: (seen.append(p), np.ones(p.shape, bool))[1]
    )
    image, _, box = tumor()
    settings = PseudoMaskSettings(intensity_term=0.5)
    mask_of_box(image, box, [box], (1.0,) * 3, settings, CrfSettings(), CPU)
    probability = seen[0][4:-4, 4:-4, 4:-4]  # a quarter of 16 voxels around the box
    for place in np.ndindex(probability.shape):
        q = sum(
            (2 * (n + 0.5) / size - 1) ** 2 for n, size in zip(place, (12, 14, 16), strict=True)
        )
        prior = 0.5 * np.exp(-(q**2)) + 0.3
        odds = prior / (1 - prior) * np.exp(0.5 * 2.0)
        assert probability[place] == pytest.approx(odds / (1 + odds), abs=1e-5)
    assert seen[0][0, 0, 0] == pytest.approx(0.01, abs=1e-6)


def test_the_ratio_is_that_of_two_fitted_densities() -> None:
    """One Gaussian against one Gaussian, of which the mixture of two is a special case."""
    rng = np.random.default_rng(0)
    image = np.concatenate([rng.normal(0.3, 0.05, 4000), rng.normal(0.5, 0.05, 4000)])
    image = image.reshape(1, 20, 20, 20).astype(np.float32)
    likely = np.zeros((20, 20, 20), bool)
    likely.reshape(-1)[:4000] = True
    ratio = intensity_ratio(image, likely, ~likely)
    wanted = stats.norm.logpdf(image[0], 0.3, 0.05) - stats.norm.logpdf(image[0], 0.5, 0.05)
    assert np.abs(ratio - np.clip(wanted, -3, 3)).mean() < 0.15
    assert np.abs(ratio).max() <= 3
    few = np.zeros_like(likely)
    few[0, 0, :9] = True
    assert not intensity_ratio(image, few, ~likely).any()
    assert not intensity_ratio(image, likely, few).any()


@pytest.mark.parametrize("normalisation", ["ct", "window"])
def test_intensities_are_hounsfield_units_again(normalisation: str) -> None:
    hu = np.array([-1000, -200, -50, 0, 150, 250, 500, 3000], np.float32).reshape(1, 2, 2, 2)
    if normalisation == "ct":
        channel = ChannelPlan(name="CT", normalisation="ct", intensities=HU)
        stored, kept = (np.clip(hu, -50, 250) - 100) / 50, np.clip(hu, -50, 250)
    else:
        window = (-100.0, 400.0)
        channel = ChannelPlan(name="CT", normalisation="window", intensities=HU, window=window)
        stored, kept = (np.clip(hu, -100, 400) + 100) / 500, np.clip(hu, -100, 400)
    found = unit_intensities(stored.astype(np.float16), (channel,))
    assert np.allclose(found, (np.clip(kept, -200, 500) + 200) / 700, atol=1e-3)


def test_other_channels_go_by_their_percentiles() -> None:
    values = np.random.default_rng(0).normal(0, 3, (2, 10, 10, 10)).astype(np.float32)
    channels = (
        ChannelPlan(name="MR", normalisation="zscore", intensities=HU),
        ChannelPlan(name="CT", normalisation="ct", intensities=HU),
    )
    found = unit_intensities(values, channels)
    low, high = np.percentile(values[0], (0.5, 99.5))
    assert np.allclose(found[0], np.clip((values[0] - low) / (high - low), 0, 1), atol=1e-5)
    assert np.allclose(found[1], np.clip((values[1] * 50 + 100 + 200) / 700, 0, 1), atol=1e-5)
    assert np.isfinite(unit_intensities(np.zeros((2, 4, 4, 4)), channels)).all()
