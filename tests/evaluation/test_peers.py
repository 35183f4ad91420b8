"""Our numbers against independent programs', on masks that tempt each of them to go wrong.

Where a definition differs, the test computes ours from the other program's parts or says what is left
out; docs/metrics.md has the table. Everything agrees to 1e-6, seg-metrics to the single precision that
it computes with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from renalplan.evaluation.overlap import overlap
from renalplan.evaluation.surface import (
    SurfaceDistances,
    directed_distances,
    surface_distances,
    surface_voxels,
)
from renalplan.evaluation.surfels import surface_dice

with warnings.catch_warnings():  # old ways of numpy and scipy
    warnings.simplefilter("ignore")
    import surface_distance as deepmind
    import torch
    from medpy.metric import binary as medpy
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )
    from monai.metrics.meandice import compute_dice
    from seg_metrics import seg_metrics

Spacing = tuple[float, float, float]
Pair = tuple[NDArray, NDArray, Spacing]
EXACT = {"rel": 1e-6, "abs": 1e-6}
SHAPE = (13, 17, 21)
THICK, CUBE, ODD = (5.0, 0.7, 0.8), (1.0, 1.0, 1.0), (0.9, 1.3, 0.45)


def blob(seed: int, size: float) -> NDArray:
    """A smooth random shape that keeps off the border."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    mask = np.zeros(SHAPE, bool)
    inner = (slice(2, -2),) * 3
    mask[inner] = (field > np.quantile(field, 1 - size))[inner]
    return mask


def bar(*bounds: tuple[int, int]) -> NDArray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


def noise(seed: int, share: float) -> NDArray:
    return np.random.default_rng(seed).random(SHAPE) < share


FREE: dict[str, tuple[NDArray, NDArray]] = {
    "blobs": (blob(1, 0.3), blob(2, 0.3)),
    "nearly equal": (blob(3, 0.3), blob(3, 0.33)),
    "small in large": (blob(4, 0.02), blob(4, 0.5)),
    "sheets": (bar((6, 7), (2, 15), (2, 19)), bar((2, 11), (8, 9), (2, 19))),
    "lines": (bar((6, 7), (8, 9), (2, 19)), bar((6, 7), (2, 15), (4, 5))),
    "voxels": (bar((3, 4), (4, 5), (5, 6)), bar((9, 10), (12, 13), (17, 18))),
    "two-voxel tubes": (bar((5, 7), (6, 8), (2, 19)), bar((6, 8), (7, 9), (2, 19))),
    "far apart": (bar((2, 4), (2, 5), (2, 5)), bar((9, 11), (12, 15), (16, 19))),
}
AT_THE_BORDER: dict[str, tuple[NDArray, NDArray]] = {
    "sparse noise": (noise(5, 0.02), noise(6, 0.05)),
    "half noise": (noise(7, 0.5), noise(8, 0.5)),
    "dense noise": (noise(9, 0.97), noise(10, 0.9)),
    "everything": (bar((0, 13), (0, 17), (0, 21)), blob(11, 0.3)),
    "corners": (bar((0, 4), (0, 5), (0, 6)), bar((0, 3), (0, 7), (14, 21))),
    "border planes": (bar((0, 1), (0, 17), (0, 21)), bar((12, 13), (0, 17), (0, 21))),
}
PAIRS = FREE | AT_THE_BORDER
spacings = pytest.mark.parametrize("spacing", [CUBE, THICK, ODD], ids=["cube", "thick", "odd"])
pairs = pytest.mark.parametrize("name", list(PAIRS))


def ours(name: str, spacing: Spacing) -> SurfaceDistances:
    reference, prediction = PAIRS[name]
    return surface_distances(reference, prediction, spacing)


def as_batch(mask: NDArray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None].astype(np.float32))


@pytest.fixture(autouse=True)
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pairs
def test_overlap_is_medpys_and_monais(name: str) -> None:
    reference, prediction = PAIRS[name]
    found = overlap(reference, prediction, THICK)
    assert found.dice == pytest.approx(medpy.dc(prediction, reference), **EXACT)
    assert found.iou == pytest.approx(medpy.jc(prediction, reference), **EXACT)
    assert found.sensitivity == pytest.approx(medpy.recall(prediction, reference), **EXACT)
    assert found.precision == pytest.approx(medpy.precision(prediction, reference), **EXACT)
    monai = compute_dice(as_batch(prediction), as_batch(reference)).item()
    assert found.dice == pytest.approx(monai, **EXACT)


@spacings
@pairs
def test_surface_distances_are_medpys(name: str, spacing: Spacing) -> None:
    reference, prediction = PAIRS[name]
    found = ours(name, spacing)
    assert found.hausdorff_mm == pytest.approx(medpy.hd(prediction, reference, spacing), **EXACT)
    means = medpy.asd(prediction, reference, spacing), medpy.asd(reference, prediction, spacing)
    assert found.average_hausdorff_mm == pytest.approx(max(means), **EXACT)
    assert found.assd_mm == pytest.approx(medpy.assd(prediction, reference, spacing), **EXACT)
    # MedPy's hd95 is the percentile of both directions together
    surfaces = surface_voxels(reference), surface_voxels(prediction)
    assert np.percentile(
        np.concatenate(directed_distances(*surfaces, spacing)), 95
    ) == pytest.approx(medpy.hd95(prediction, reference, spacing), **EXACT)


@spacings
@pairs
def test_surface_distances_are_monais(name: str, spacing: Spacing) -> None:
    reference, prediction = PAIRS[name]
    found, masks = ours(name, spacing), (as_batch(prediction), as_batch(reference))
    how: dict[str, Any] = {"include_background": True, "spacing": spacing}
    hd = compute_hausdorff_distance(*masks, **how).item()
    hd95 = compute_hausdorff_distance(*masks, percentile=95, **how).item()
    assd = compute_average_surface_distance(*masks, symmetric=True, **how).item()
    assert [found.hausdorff_mm, found.hd95_mm, found.assd_mm] == pytest.approx(
        [hd, hd95, assd], **EXACT
    )
    directed = [
        compute_average_surface_distance(a, b, **how).item() for a, b in (masks, masks[::-1])
    ]
    assert found.average_hausdorff_mm == pytest.approx(max(directed), **EXACT)


@pytest.mark.parametrize("tolerance", [0.0, 0.7, 1.0, 1.1498198361434828, 3.0])
@spacings
@pairs
def test_surface_dice_is_deepminds(name: str, spacing: Spacing, tolerance: float) -> None:
    reference, prediction = PAIRS[name]
    theirs = deepmind.compute_surface_distances(reference, prediction, spacing)
    expected = deepmind.compute_surface_dice_at_tolerance(theirs, tolerance)
    assert surface_dice(reference, prediction, spacing, tolerance) == pytest.approx(
        expected, **EXACT
    )


@spacings
@pairs
def test_surface_dice_is_monais_with_subvoxels(name: str, spacing: Spacing) -> None:
    reference, prediction = PAIRS[name]
    theirs = compute_surface_dice(
        as_batch(prediction), as_batch(reference), [1.3],
        include_background=True, spacing=spacing, use_subvoxels=True,
    ).item()  # fmt: skip
    assert surface_dice(reference, prediction, spacing, 1.3) == pytest.approx(theirs, **EXACT)


def seg_metrics_of(name: str, spacing: Spacing, wanted: list[str], fully: bool) -> list[float]:
    reference, prediction = (mask.astype(np.uint8) for mask in PAIRS[name])
    (found,) = seg_metrics.write_metrics(
        labels=[1], gdth_img=reference, pred_img=prediction, spacing=spacing,
        metrics=wanted, fully_connected=fully,
    )  # fmt: skip
    return [found[key][0] for key in wanted]


@spacings
@pytest.mark.parametrize("name", ["sheets", "lines", "voxels", "two-voxel tubes", "far apart"])
def test_numbers_of_boxes_are_seg_metrics(name: str, spacing: Spacing) -> None:
    wanted = ["dice", "jaccard", "precision", "recall", "hd", "msd"]
    scores, surface = overlap(*PAIRS[name], spacing), ours(name, spacing)
    found = [scores.dice, scores.iou, scores.precision, scores.sensitivity]
    found += [surface.hausdorff_mm, surface.assd_mm]
    assert found == pytest.approx(seg_metrics_of(name, spacing, wanted, fully=False), **EXACT)


@spacings
@pytest.mark.parametrize("name", list(FREE))
def test_distances_between_its_surfaces_are_seg_metrics(name: str, spacing: Spacing) -> None:
    """Its surface also holds voxels that touch the outside by an edge or a corner (not at a border)."""
    surfaces = [m & ~binary_erosion(m, np.ones((3, 3, 3))) for m in PAIRS[name]]
    both = np.concatenate(directed_distances(surfaces[0], surfaces[1], spacing))
    found = [both.max(), np.percentile(both, 95), both.mean(), np.median(both)]
    wanted = ["hd", "hd95", "msd", "mdsd"]
    assert found == pytest.approx(seg_metrics_of(name, spacing, wanted, fully=True), **EXACT)


@pytest.mark.parametrize("empty", ["reference", "prediction", "both"])
def test_empty_masks_are_where_the_others_differ(empty: str) -> None:
    """What docs/metrics.md says of MONAI and MedPy: NaN, or an error, where we state a number."""
    nothing, mask = bar((0, 0)), blob(1, 0.3)
    reference = nothing if empty != "prediction" else mask
    prediction = nothing if empty != "reference" else mask
    found = surface_distances(reference, prediction, CUBE)
    assert np.isfinite(found.hd95_mm)
    calls: list[Callable[[], float]] = [
        lambda: compute_hausdorff_distance(
            as_batch(prediction), as_batch(reference), include_background=True, percentile=95
        ).item(),
        lambda: medpy.hd95(prediction, reference),
    ]
    for call in calls:
        try:
            assert not np.isfinite(call())
        except RuntimeError:  # MedPy refuses
            assert call is calls[1]
