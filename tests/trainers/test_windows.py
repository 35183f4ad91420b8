"""Where the coarse-to-fine networks look while they learn: every source, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from renalplan.kidney_tumor import find_kidney_tumor
from renalplan.labels import LabelScheme
from renalplan.store import ItemArrays, write_item
from renalplan.trainers.anatomy import Anatomy, measure_item
from renalplan.trainers.windows import (
    IGNORED,
    DenseSource,
    KidneySource,
    SagittalSource,
    SliceSource,
    TumorSliceSource,
    WindowSource,
)

SPACING = (3.0, 2.0, 2.0)
SHAPE = (20, 30, 40)
RIGHT = (slice(4, 12), slice(8, 16), slice(4, 12))
LEFT = (slice(6, 16), slice(10, 18), slice(26, 36))
LESION = (slice(8, 11), slice(12, 16), slice(9, 14))  # at the right kidney's edge, 1 of 5 beyond it
SCHEME = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
IGNORING = LabelScheme(names=SCHEME.names, values=SCHEME.values, ignore=3)


def _labels(*, tumor: bool = True, single: bool = False) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[RIGHT] = 1
    if not single:
        labels[LEFT] = 1
    if tumor:
        labels[LESION] = 2
    return labels


@pytest.fixture
def item(tmp_path: Path) -> Callable[..., ItemArrays]:
    """A stored item; its image tells every voxel's position."""

    def make(name: str, labels: NDArray[np.uint8], scheme: LabelScheme = SCHEME) -> ItemArrays:
        z, y, x = np.indices(labels.shape)
        image = np.stack([z, y, x]).astype(np.float32) + 1  # 0 is beyond the border
        box: Any = tuple((0, n) for n in labels.shape)
        stored = write_item(tmp_path, f"{name}.0", image, labels, box, scheme)
        return ItemArrays(tmp_path, stored, name)

    return make


def _measure(item: ItemArrays, scheme: LabelScheme = SCHEME) -> Anatomy:
    structures = find_kidney_tumor(scheme)
    return measure_item(item, structures, SPACING, threshold_ml=1.0, padding_mm=6.0)


def _source(kind: type[WindowSource], *items: ItemArrays, **values: Any) -> WindowSource:
    given: dict[str, Any] = {
        "items": items,
        "patch": (1, 16, 16),
        "margin": (0, 0, 0),
        "batch_size": 4,
        "foreground_share": 0.5,
        "transform": None,
        "seed": 3,
        "anatomies": {item.item.name: _measure(item) for item in items},
        "target": (1, 2),
        "kidney": (1, 2),
        "tumor": (2,),
    }
    return kind(**(given | values))


def _samples(source: WindowSource, steps: int = 40) -> list[tuple[int, NDArray, NDArray]]:
    """(wanted, image, labels) of every sample."""
    found = []
    for step in range(steps):
        batch = source.batch(step)
        for place in range(source.batch_size):
            wanted = source.wanted(step, place)
            found.append((wanted, batch["image"][place].numpy(), batch["labels"][place].numpy()))
    return found


def test_an_anatomy_is_what_the_labels_say(item: Callable[..., ItemArrays]) -> None:
    found = _measure(item("a", _labels()))
    left, right = found.kidneys  # the larger one first
    assert left.box == ((6, 16), (10, 18), (26, 36))
    assert right.box == ((4, 12), (8, 16), (4, 14))  # its tumor included
    assert right.search == ((2, 14), (5, 19), (1, 17))  # 6 mm: 2 slices, 3 voxels
    assert right.tumor_slices == (8, 9, 10)
    assert left.tumor_slices == ()
    both = np.argwhere(_labels() > 0)
    assert found.centre == pytest.approx(tuple(both.mean(axis=0)))
    assert _measure(item("b", np.zeros(SHAPE, np.uint8))) == Anatomy(centre=None, kidneys=())
    single = _measure(item("c", _labels(single=True, tumor=False)))
    assert [kidney.box for kidney in single.kidneys] == [((4, 12), (8, 16), (4, 12))]
    assert single.kidneys[0].centre == pytest.approx((7.5, 11.5, 7.5))


@pytest.mark.parametrize(
    "kind", [SliceSource, SagittalSource, KidneySource, TumorSliceSource, DenseSource]
)
def test_a_batch_is_a_function_of_seed_and_step(
    kind: type[WindowSource], item: Callable[..., ItemArrays]
) -> None:
    made = item("a", _labels())
    source = _source(kind, made, jitter=(1.0, 3.0, 3.0))
    first = source.batch(5)
    source.batch(6)
    torch.rand(2)
    again = _source(kind, made, jitter=(1.0, 3.0, 3.0)).batch(5)
    assert all(torch.equal(first[k], again[k]) for k in ("image", "labels"))
    other = _source(kind, made, jitter=(1.0, 3.0, 3.0), seed=4)
    assert any(not torch.equal(source.batch(n)["image"], other.batch(n)["image"]) for n in range(4))


@pytest.mark.parametrize("kind", [SagittalSource, KidneySource, TumorSliceSource, DenseSource])
def test_labels_belong_to_the_image_and_are_zero_and_one(
    kind: type[WindowSource], item: Callable[..., ItemArrays]
) -> None:
    """The image tells where each voxel was, so the labels there are known."""
    truth = _labels()
    for _, image, labels in _samples(_source(kind, item("a", truth), jitter=(2.0, 4.0, 4.0)), 10):
        z, y, x = (channel.astype(int) - 1 for channel in image)
        inside = image[0] > 0
        expected = np.where(inside, truth[z, y, x] > 0, 0)
        assert np.array_equal(labels[0], expected)
        if kind is TumorSliceSource:
            assert np.array_equal(labels[1], expected)


def test_a_tumor_source_learns_tumor_and_is_shown_the_kidney_with_it(
    item: Callable[..., ItemArrays],
) -> None:
    truth = _labels()
    source = _source(TumorSliceSource, item("a", truth), target=(2,))
    for wanted, image, labels in _samples(source):
        z, y, x = (channel.astype(int) - 1 for channel in image)
        assert np.array_equal(labels[0], truth[z, y, x] == 2)
        assert np.array_equal(labels[1], truth[z, y, x] > 0)
        # half of the slices hold tumor, the others none, wherever their window lies
        assert (truth[z[0, 0, 0]] == 2).any() == bool(wanted)
        assert labels[0].any() == bool(wanted)


def test_every_slice_with_tumor_is_as_likely(item: Callable[..., ItemArrays]) -> None:
    truth = _labels()
    truth[13, 12, 30] = 2  # one voxel in the left kidney
    source = _source(TumorSliceSource, item("a", truth), foreground_share=1.0)
    drawn = Counter(int(image[0, 0, 0, 0]) - 1 for _, image, _ in _samples(source, 100))
    assert set(drawn) == {8, 9, 10, 13}
    assert min(drawn.values()) > 70  # 400 draws: 100 ± 9 each


def test_slices_without_tumor_lie_in_the_kidneys_boxes(item: Callable[..., ItemArrays]) -> None:
    source = _source(TumorSliceSource, item("a", _labels()), foreground_share=0.0)
    drawn = {int(image[0, 0, 0, 0]) - 1 for _, image, _ in _samples(source, 60)}
    # right: 2 to 13, left: 4 to 17; neither kidney's slices with tumor in the right one
    assert drawn == set(range(2, 18)) - {8, 9, 10}


def test_whole_slices_are_shrunk_and_half_of_them_hold_kidney(
    item: Callable[..., ItemArrays],
) -> None:
    source = _source(SliceSource, item("a", _labels()), patch=(1, 20, 20))
    seen = set()
    for wanted, image, labels in _samples(source, 80):
        assert image.shape == (3, 1, 20, 20)
        rows = image[0, 0].max(axis=1) > 0
        z = round(float(image[0, 0, 10, 10])) - 1
        seen.add((wanted, z))
        # 40 x 40 with the 30 rows in its middle: factor 2, rows 2.5 to 17.5
        assert rows[3:17].all()
        assert not rows[:2].any()
        truth = _labels()[z] > 0
        assert labels[0].sum() == pytest.approx(truth.sum() / 4, abs=0.15 * truth.sum() / 4 + 1)
        if truth.any():
            y, x = np.argwhere(truth).mean(axis=0)
            assert np.argwhere(labels[0, 0]).mean(axis=0) == pytest.approx(
                [(y + 5.5) / 2 - 0.5, (x + 0.5) / 2 - 0.5], abs=0.6
            )
    assert {z for wanted, z in seen if wanted} == set(range(4, 16))
    assert {z for wanted, z in seen if not wanted} == set(range(20))


def test_the_margin_around_a_whole_slice_is_empty(item: Callable[..., ItemArrays]) -> None:
    source = _source(SliceSource, item("a", _labels()), patch=(1, 20, 20), margin=(0, 3, 4))
    batch = source.batch(0)
    assert batch["image"].shape == (4, 3, 1, 26, 28)
    assert batch["labels"].shape == (4, 1, 1, 26, 28)
    assert not batch["image"][..., :3, :].any()
    assert not batch["image"][..., :4].any()
    plain = _source(SliceSource, item("a", _labels()), patch=(1, 20, 20)).batch(0)
    assert torch.equal(batch["image"][..., 3:-3, 4:-4], plain["image"])


def test_sagittal_windows_lie_around_the_middle_of_both_kidneys(
    item: Callable[..., ItemArrays],
) -> None:
    made = item("a", _labels())
    source = _source(SagittalSource, made, patch=(1, 8, 12))
    centre = _measure(made).centre
    assert centre is not None
    for wanted, image, labels in _samples(source):
        assert image.shape == (3, 1, 8, 12)  # x, then z and y
        z, y, x = image[:, 0] - 1
        assert len(np.unique(x)) == 1
        assert (z[:, 0] == z[0, 0] + np.arange(8)).all()
        assert (y[0] == y[0, 0] + np.arange(12)).all()
        assert (z[0, 0], y[0, 0]) == (round(centre[0] - 3.5), round(centre[1] - 5.5))
        if wanted:
            assert labels.any()


def test_axial_windows_lie_around_one_kidney_each(item: Callable[..., ItemArrays]) -> None:
    made = item("a", _labels())
    corners = set()
    for wanted, image, labels in _samples(_source(KidneySource, made, patch=(1, 14, 12)), 80):
        z, y, x = (int(c) - 1 for c in image[:, 0, 0, 0])
        corners.add((y, x))
        box = ((4, 12), (6, 16))[x > 15] if wanted else ((2, 14), (4, 18))[x > 15]
        assert box[0] <= z < box[1]
        if wanted:
            assert labels.any()
    middles = [(k.centre[1], k.centre[2]) for k in _measure(made).kidneys]
    assert corners == {(round(y - 6.5), round(x - 5.5)) for y, x in middles}


def test_jitter_moves_windows_by_its_standard_deviation_and_keeps_them_inside(
    item: Callable[..., ItemArrays],
) -> None:
    made = item("a", _labels(single=True))
    source = _source(KidneySource, made, patch=(1, 4, 4), jitter=(0.0, 1.5, 0.0))
    corners = np.array([image[:, 0, 0, 0] - 1 for _, image, _ in _samples(source, 100)])
    (kidney,) = _measure(made).kidneys
    assert corners[:, 1].mean() == pytest.approx(kidney.centre[1] - 1.5, abs=0.3)
    assert corners[:, 1].std() == pytest.approx(1.5, abs=0.25)
    assert (corners[:, 2] == round(kidney.centre[2] - 1.5)).all()
    far = _source(KidneySource, made, jitter=(0.0, 50.0, 50.0))
    assert all((image > 0).all() for _, image, _ in _samples(far))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7])
def test_dense_patches_are_centred_a_third_each_in_background_kidney_and_tumor(
    batch_size: int, item: Callable[..., ItemArrays]
) -> None:
    truth = _labels()
    source = _source(
        DenseSource, item("a", truth), target=(2,), patch=(4, 6, 8), batch_size=batch_size,
        foreground_share=2 / 3,
    )  # fmt: skip
    counts: Counter[int] = Counter()
    for wanted, image, _ in _samples(source, 84 // batch_size):
        z, y, x = (int(c) - 1 for c in image[:, 2, 3, 4])
        value = truth[z, y, x]
        assert value == wanted  # 0, 1 and 2 are background, kidney and tumor
        counts[int(value)] += 1
        if value == 0:  # near a kidney: 6 mm around it
            assert (2 <= z < 14 and 5 <= y < 19 and 1 <= x < 17) or (
                4 <= z < 18 and 7 <= y < 21 and 23 <= x < 39
            )
    total = sum(counts.values())
    assert all(abs(counts[value] - total / 3) <= 1 for value in range(3))


def test_other_shares_are_split_between_kidney_and_tumor(item: Callable[..., ItemArrays]) -> None:
    source = _source(DenseSource, item("a", _labels()), foreground_share=0.5, batch_size=2)
    wanted = Counter(source.wanted(step, place) for step in range(50) for place in range(2))
    assert wanted == {0: 50, 1: 25, 2: 25}


def test_kidney_patches_of_a_region_that_holds_the_tumor_avoid_the_tumor(
    item: Callable[..., ItemArrays],
) -> None:
    regions = LabelScheme(names=("kidney", "tumor"), values=((1, 2), (2,)), region_values=(1, 2))
    truth = _labels()
    made = item("a", truth, regions)
    source = _source(
        DenseSource, made, anatomies={"a.0": _measure(made, regions)}, patch=(2, 2, 2),
        foreground_share=1.0,
    )  # fmt: skip
    for wanted, image, _ in _samples(source, 30):
        z, y, x = (int(c) - 1 for c in image[:, 1, 1, 1])
        assert truth[z, y, x] == wanted


def test_what_is_wanted_comes_from_cases_that_have_it(item: Callable[..., ItemArrays]) -> None:
    healthy, ill = item("a", _labels(tumor=False)), item("b", _labels(single=True))
    empty = item("c", np.zeros(SHAPE, np.uint8))
    for kind in (TumorSliceSource, DenseSource):
        source = _source(kind, healthy, ill, empty, target=(2,), foreground_share=1.0)
        for wanted, _, labels in _samples(source, 10):
            if wanted == 2 or kind is TumorSliceSource:
                assert labels[0].any()
    source = _source(KidneySource, empty, ill, foreground_share=1.0)
    assert all(labels.any() for _, _, labels in _samples(source, 10))


@pytest.mark.parametrize(
    "kind", [SliceSource, SagittalSource, KidneySource, TumorSliceSource, DenseSource]
)
def test_a_dataset_without_what_is_wanted_is_learned_from_all_the_same(
    kind: type[WindowSource], item: Callable[..., ItemArrays]
) -> None:
    source = _source(kind, item("a", np.zeros(SHAPE, np.uint8)), patch=(1, 8, 8))
    for _, image, labels in _samples(source, 5):
        assert image.shape == (3, 1, 8, 8)
        assert not labels.any()


@pytest.mark.parametrize("kind", [SliceSource, KidneySource, SagittalSource])
def test_the_ignore_label_stays_apart(
    kind: type[WindowSource], item: Callable[..., ItemArrays]
) -> None:
    truth = _labels()
    truth[:, :, 14:] = 3
    made = item("a", truth, IGNORING)
    anatomies = {"a.0": _measure(made, IGNORING)}
    source = _source(kind, made, anatomies=anatomies, ignore=3, patch=(1, 20, 20))
    values = {int(v) for _, _, labels in _samples(source, 20) for v in np.unique(labels)}
    assert values == {0, 1, IGNORED}
