"""Where the fine network looks while it is trained: kidney regions, displaced as measured."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.geometry import Box, box_shape
from renalplan.plan import NetworkSpec
from renalplan.rois import roi_box
from renalplan.store import ItemArrays, StoredCase, open_items, write_case, write_item
from renalplan.trainers import rois
from renalplan.trainers.rois import (
    KIDNEYS,
    Kidneys,
    RoiSource,
    jitter_mm,
    measure_rough_errors,
    read_kidneys,
)
from renalplan.trainers.task import TrainingTask

Make = Callable[..., TrainingTask]
UNUSED = NetworkSpec(factory="renalplan.networks.unet:UNet")
A: Box = ((8, 20), (10, 30), (6, 26))
B: Box = ((10, 20), (12, 30), (60, 80))


def _labels(shape: tuple[int, ...], *boxes: Box, value: int = 1) -> NDArray[np.uint8]:
    labels = np.zeros(shape, np.uint8)
    for box in boxes:
        labels[tuple(slice(a, b) for a, b in box)] = value
    return labels


def _store(
    task: TrainingTask, stage: str, case: str, items: list[NDArray[np.uint8]], spacing: float
) -> None:
    folder = task.stores / stage
    stored = [
        write_item(
            folder,
            f"{case}.{number}",
            labels[None].astype(np.float32),
            labels,
            tuple((0, n) for n in labels.shape),  # type: ignore[arg-type]
            task.scheme,
        )
        for number, labels in enumerate(items)
    ]
    write_case(
        folder,
        StoredCase(
            case=case,
            patient=case,
            inputs="-",
            recipe="-",
            spacing=(spacing,) * 3,
            items=tuple(stored),
        ),
    )


class Shifted:
    """Instead of a network: the item's truth, moved; what `lost` names is not found."""

    shift: tuple[int, int, int] = (0, 0, 0)
    lost: tuple[Box, ...] = ()

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, item: ItemArrays) -> NDArray[np.int16]:
        labels = np.array(item.labels[0]).astype(np.int16)
        for box in self.lost:
            labels[tuple(slice(a, b) for a, b in box)] = 0
        return np.roll(labels, self.shift, (0, 1, 2))


@pytest.fixture
def task(make_task: Make, monkeypatch: pytest.MonkeyPatch) -> TrainingTask:
    """Cases a and b: two kidneys and a speck on 4 mm; on 2 mm merged in one item, or an item each."""
    found = make_task("locate_fine")
    speck: Box = ((0, 1), (0, 1), (90, 91))
    rough = _labels((30, 40, 100), A, B, speck)
    fine: Box = ((16, 40), (20, 60), (12, 52)), ((20, 40), (24, 60), (120, 160))  # type: ignore[assignment]
    for case in ("case_a", "case_b"):
        _store(found, "locate", case, [rough], 4.0)
    whole = _labels((60, 80, 200), *fine)  # type: ignore[arg-type]
    _store(found, "fine", "case_a", [whole], 2.0)
    _store(found, "fine", "case_b", [whole[..., :100], whole[..., 100:], 0 * whole], 2.0)
    monkeypatch.setattr(rois, "ItemPredictor", Shifted)
    plan = found.plan
    stages = tuple(
        stage.model_copy(update={"minimum_component_ml": 1.0}) if stage.name == "fine" else stage
        for stage in plan.stages
    )
    return replace(found, plan=plan.model_copy(update={"stages": stages}))


def _measure(task: TrainingTask, folder: Path) -> Kidneys:
    folder.mkdir(exist_ok=True)
    locate, fine = task.plan.stage("locate"), task.plan.stage("fine")
    measure_rough_errors(task, locate, fine, UNUSED, folder)
    return read_kidneys(folder)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 0, -1), (-3, 4, 2)])
def test_the_measured_error_is_the_shift_in_mm(
    shift: tuple[int, int, int],
    task: TrainingTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Shifted, "shift", shift)
    found = _measure(task, tmp_path / "errors")
    assert found.error_mm == pytest.approx([4.0 * abs(s) for s in shift])
    assert (found.compared, found.missed) == (4, 0)  # specks are no kidneys


def test_the_error_is_the_root_of_the_mean_square(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the upper half of B is lost: its centre moves by 2.5 voxels, A's does not
    monkeypatch.setattr(Shifted, "lost", (((15, 20), *B[1:]),))
    found = _measure(task, tmp_path / "errors")
    assert found.error_mm == pytest.approx((4 * 2.5 / np.sqrt(2), 0, 0))


def test_kidneys_that_are_not_found_are_counted(
    task: TrainingTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shifted, "shift", (1, 0, 0))
    monkeypatch.setattr(Shifted, "lost", (B,))
    found = _measure(task, tmp_path / "errors")
    # B's place is taken by nothing; A, found elsewhere, is not taken for it
    assert (found.compared, found.missed) == (2, 2)
    assert found.error_mm == (4, 0, 0)  # of those that were found
    monkeypatch.setattr(Shifted, "lost", (A, B))
    found = _measure(task, tmp_path / "errors")
    # only the speck is left to be found, which meets no kidney
    assert (found.compared, found.missed) == (0, 4)
    assert found.error_mm == (0, 0, 0)


def test_kidneys_of_stored_items_have_a_box_each(task: TrainingTask, tmp_path: Path) -> None:
    boxes = _measure(task, tmp_path / "errors").boxes
    right, left = ((16, 40), (20, 60), (12, 52)), ((20, 40), (24, 60), (120, 160))
    assert (
        boxes
        == {
            "case_a.0": (right, left),  # stored together, still two regions of interest
            "case_b.0": (right,),
            "case_b.1": ((*left[:2], (20, 60)),),
            "case_b.2": (),
        }
    )
    assert "case_c.0" not in boxes  # held out
    assert (tmp_path / "errors" / KIDNEYS).is_file()


def test_jitter_is_the_error_but_at_least_half_a_rough_voxel() -> None:
    kidneys = Kidneys(boxes={}, error_mm=(10.0, 1.0, 0.0), compared=1, missed=0)
    assert jitter_mm(kidneys, (3.0, 4.0, 5.0), 1.0) == (10, 2, 2.5)
    assert jitter_mm(kidneys, (3.0, 4.0, 5.0), 0.5) == (5, 1, 1.25)
    assert jitter_mm(kidneys, (3.0, 4.0, 5.0), 0.0) == (0, 0, 0)


SHAPE = (60, 90, 200)
KIDNEY: Box = ((20, 40), (30, 60), (30, 60))
OTHER: Box = ((20, 40), (30, 60), (140, 170))


@pytest.fixture
def source(make_task: Make) -> Callable[..., RoiSource]:
    """Patches of an item of 60 x 90 x 200 voxels of 2 mm with two kidneys, the second a tumour."""
    task = make_task()
    labels = _labels(SHAPE, KIDNEY) + _labels(SHAPE, OTHER, value=2)
    folder = task.stores / "rois"
    folder.mkdir()
    for case, array in (("full", labels), ("empty", 0 * labels)):
        item = write_item(
            folder,
            f"{case}.0",
            array[None].astype(np.float32),
            array,
            tuple((0, n) for n in SHAPE),  # type: ignore[arg-type]
            task.scheme,
        )
        write_case(
            folder,
            StoredCase(
                case=case, patient=case, inputs="-", recipe="-", spacing=(2, 2, 2), items=(item,)
            ),
        )

    def make(*cases: str, **values: object) -> RoiSource:
        given: dict = {
            "items": tuple(open_items(folder, cases or ("full",))),
            "patch": (16, 24, 24),
            "margin": (0, 0, 0),
            "batch_size": 4,
            "foreground_share": 0.5,
            "transform": None,
            "seed": 3,
            "kidneys": {"full.0": (KIDNEY, OTHER), "empty.0": ()},
            "spacing": (2.0, 2.0, 2.0),
            "margin_mm": 45.0,
            "jitter_mm": (4.0, 6.0, 8.0),
        }
        return RoiSource(**(given | values))

    return make


def _draws(source: RoiSource, forced: bool, count: int = 200) -> list[tuple[int, ...]]:
    return [source.draw(np.random.default_rng(n), forced)[1] for n in range(count)]


def test_a_batch_depends_on_seed_and_step_alone(source: Callable[..., RoiSource]) -> None:
    one, again = source(), pickle.loads(pickle.dumps(source()))
    first = [one.batch(step) for step in range(4)]
    for step in (3, 0, 2, 1):  # in any order, in another process
        repeated = again.batch(step)
        assert all((repeated[k] == first[step][k]).all() for k in ("image", "labels"))
    assert (first[0]["image"] != first[1]["image"]).any()
    other = source(seed=4).batch(0)
    assert (other["image"] != first[0]["image"]).any()
    assert first[0]["image"].shape == (4, 1, 16, 24, 24)


def _inside(corner: tuple[int, ...], patch: tuple[int, ...], box: Box) -> bool:
    return all(a <= c and c + n <= b for c, n, (a, b) in zip(corner, patch, box, strict=True))


@pytest.mark.parametrize("forced", [True, False])
def test_patches_lie_in_a_displaced_region(
    forced: bool, source: Callable[..., RoiSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    regions: list[Box] = []
    real = RoiSource.region

    def remember(self: RoiSource, *arguments) -> Box:  # type: ignore[no-untyped-def]
        regions.append(real(self, *arguments))
        return regions[-1]

    monkeypatch.setattr(RoiSource, "region", remember)
    one = source()
    corners = _draws(one, forced)
    assert all(_inside(c, one.patch, r) for c, r in zip(corners, regions, strict=True))
    assert len(set(corners)) > 100
    # 125 mm are 62.5 voxels, so 64; 20 slices are within 32; 23 voxels beyond the kidney
    assert {box_shape(region) for region in regions} == {(32, 64, 64)}
    assert len({region[2] for region in regions}) > 10
    assert any(region[2][0] < 80 for region in regions)
    assert any(region[2][0] > 80 for region in regions)  # both kidneys have their turn


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_regions_are_displaced_as_far_as_they_are_told(
    factor: float, source: Callable[..., RoiSource]
) -> None:
    wanted = (4.0 * factor, 6.0 * factor, 8.0 * factor)
    huge = (400, 400, 400)
    kidney: Box = ((190, 210), (185, 215), (185, 215))
    one = source(jitter_mm=wanted, margin_mm=390.0)
    generator = np.random.default_rng(0)
    centres = np.array(
        [[(a + b) / 2 for a, b in one.region(kidney, huge, generator)] for _ in range(3000)]
    )
    assert (2.0 * centres).std(0) == pytest.approx(wanted, rel=0.06)
    assert centres.mean(0) == pytest.approx([200, 200, 200], abs=0.3)


def test_without_jitter_regions_are_those_of_prediction(
    source: Callable[..., RoiSource],
) -> None:
    one = source(jitter_mm=(0.0, 0.0, 0.0))
    found = one.region(KIDNEY, SHAPE, np.random.default_rng(0))
    assert found == ((14, 46), (13, 77), (13, 77))  # centred
    # not smaller than the patch, which would reach beyond it
    large = source(jitter_mm=(0.0, 0.0, 0.0), patch=(48, 24, 80))
    assert large.region(KIDNEY, SHAPE, np.random.default_rng(0)) == ((6, 54), (13, 77), (7, 83))
    edge: Box = ((0, 10), (30, 60), (30, 60))
    assert one.region(edge, SHAPE, np.random.default_rng(0))[0] == (0, 16)


def test_displaced_regions_stay_where_something_is_stored(
    source: Callable[..., RoiSource],
) -> None:
    one = source(jitter_mm=(60.0, 60.0, 60.0), margin_mm=30.0)  # 15 voxels beyond the kidney
    for seed in range(100):
        box = one.region(KIDNEY, SHAPE, np.random.default_rng(seed))
        for (a, b), (p, q), n in zip(box, KIDNEY, SHAPE, strict=True):
            assert max(0, p - 15) <= a < b <= min(n, q + 15)


def test_forced_patches_hold_the_structure_where_regions_are_not_displaced(
    source: Callable[..., RoiSource],
) -> None:
    one = source(jitter_mm=(0.0, 0.0, 0.0), patch=(4, 4, 4))
    labels = np.asarray(one.items[0].labels[0])

    def values(corner: tuple[int, ...]) -> set[int]:
        return set(np.unique(labels[tuple(slice(c, c + 4) for c in corner)]))

    seen = [values(corner) for corner in _draws(one, True)]
    assert all(found - {0} for found in seen)
    assert {1, 2} <= set().union(*seen)  # each by its own kidney's region
    assert any(values(corner) == {0} for corner in _draws(one, False))
    batch = one.batch(0)["labels"]  # the last half is forced
    assert all(sample.any() for sample in batch[2:])


def test_an_item_without_kidneys_is_looked_at_everywhere(
    source: Callable[..., RoiSource],
) -> None:
    one = source("empty", "full")
    corners = np.array(_draws(source("empty"), False))
    assert (corners.min(0) <= (2, 4, 10)).all()
    assert (corners.max(0) >= (42, 62, 166)).all()
    assert (corners.max(0) <= np.subtract(SHAPE, (16, 24, 24))).all()
    assert one.batch(0)["image"].shape == (4, 1, 16, 24, 24)
    unknown = source(kidneys={})
    assert unknown.batch(0)["image"].shape == (4, 1, 16, 24, 24)


def test_the_slice_axis_may_be_any(source: Callable[..., RoiSource]) -> None:
    one = source(slice_axis=2, jitter_mm=(0.0, 0.0, 0.0), margin_mm=200.0)
    box = one.region(KIDNEY, SHAPE, np.random.default_rng(0))
    assert box == roi_box(KIDNEY, (2.0, 2.0, 2.0), (2.0, 2.0, 2.0), tuple((0, n) for n in SHAPE), 2)
    assert box_shape(box) == (60, 64, 32)
