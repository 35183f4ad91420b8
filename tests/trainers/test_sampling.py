"""A batch is a function of (seed, step); forced patches hold what was drawn, anywhere in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from renalplan.store import ANNOTATED, ItemArrays, StoredItem
from renalplan.trainers.randomness import seeded
from renalplan.trainers.sampling import PatchSource, corner_around
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.variation import Variation

PATCH = (8, 8, 8)


def _source(task: TrainingTask, **values: Any) -> PatchSource:
    given: dict[str, Any] = {
        "items": task.training_items(task.plan.stage("whole")),
        "patch": PATCH,
        "margin": (0, 0, 0),
        "batch_size": 3,
        "foreground_share": 0.33,
        "transform": None,
        "seed": 0,
    }
    return PatchSource(**(given | values))


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in ("image", "labels"))


class Noisy:
    """Draws from all three global generators, as augmentation libraries do."""

    on_device = True

    def draw(self, generator: np.random.Generator, channels: int) -> Variation:
        return Variation(noise=np.random.random() + random.random() + float(torch.rand(1)))

    def reach(self, drawn: Variation) -> tuple[int, int, int]:
        return (0, 0, 0)

    def __call__(self, sample: dict[str, Any], drawn: Variation) -> dict[str, Any]:
        return sample | {"image": sample["image"].float() + drawn.noise}


def test_the_same_step_gives_the_same_batch_whatever_came_before(
    make_task: Callable[..., TrainingTask],
) -> None:
    source = _source(make_task(), transform=Noisy())
    first = source.batch(7)
    source.batch(8)
    torch.rand(3)
    np.random.random(3)
    assert _equal(source.batch(7), first)
    assert _equal(_source(make_task(), transform=Noisy()).batch(7), first)


def test_other_steps_and_other_seeds_give_other_batches(
    make_task: Callable[..., TrainingTask],
) -> None:
    source = _source(make_task())
    batches = [source.batch(step) for step in range(4)]
    batches.append(_source(make_task(), seed=1).batch(0))
    for number, batch in enumerate(batches):
        assert not any(_equal(batch, other) for other in batches[:number])


def test_the_samples_of_a_batch_differ(make_task: Callable[..., TrainingTask]) -> None:
    image = _source(make_task()).batch(0)["image"]
    assert not torch.equal(image[0], image[1])


def test_drawing_a_batch_leaves_the_global_generators_alone(
    make_task: Callable[..., TrainingTask],
) -> None:
    source = _source(make_task(), transform=Noisy())
    before = np.random.get_state()[1].copy(), torch.get_rng_state(), random.getstate()  # type: ignore[index]
    source.batch(0)
    assert np.array_equal(np.random.get_state()[1], before[0])  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]


def test_global_generators_come_back_after_an_error() -> None:
    before = torch.get_rng_state(), random.getstate()

    def fail() -> None:
        with seeded(1, 2):
            random.random()
            torch.rand(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_batches_have_the_shapes_and_types_training_expects(
    make_task: Callable[..., TrainingTask],
) -> None:
    batch = _source(make_task(), batch_size=2).batch(0)
    assert batch["image"].shape == (2, 1, 8, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["labels"].shape == (2, 1, 8, 8, 8)
    assert batch["labels"].dtype == torch.int16


def test_forced_patches_hold_foreground(make_task: Callable[..., TrainingTask]) -> None:
    source = _source(make_task(), batch_size=1, foreground_share=1.0, patch=(3, 3, 3))
    assert all(source.batch(step)["labels"].any() for step in range(40))


def test_every_structure_is_drawn_about_as_often(make_task: Callable[..., TrainingTask]) -> None:
    # a patch of one voxel is the drawn voxel itself
    source = _source(make_task(), batch_size=1, foreground_share=1.0, patch=(1, 1, 1))
    drawn = [int(source.batch(step)["labels"]) for step in range(200)]
    assert set(drawn) == {1, 2}
    assert 70 <= drawn.count(1) <= 130  # 100 +- 4 standard deviations of 7


def test_the_forced_share_of_a_batch_is_its_last_samples(
    make_task: Callable[..., TrainingTask],
) -> None:
    # 3 samples at 0.33: 3 - round(3 * 0.67) = 1 is forced; one voxel shows whether it was
    source = _source(make_task(), patch=(1, 1, 1))
    labels = torch.stack([source.batch(step)["labels"].flatten() for step in range(60)])
    assert (labels[:, 2] > 0).all()
    assert not (labels[:, 0] > 0).all()
    assert not (labels[:, 1] > 0).all()


def test_cases_are_equally_likely_however_many_items_they_have(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    first, second = task.training_items(task.plan.stage("whole"))
    source = _source(task, items=(first, first, first, second))
    rng = np.random.default_rng(0)
    cases = [source.draw(rng, False)[0].case for _ in range(200)]
    assert 70 <= cases.count("case_b") <= 130


def test_an_image_smaller_than_the_patch_is_centred_in_zeros(
    make_task: Callable[..., TrainingTask],
) -> None:
    source = _source(make_task(), patch=(26, 24, 22), batch_size=1)  # the image is 20 x 24 x 22
    batch = source.batch(0)
    image = batch["image"][0, 0]
    assert not image[:3].any()
    assert not image[23:].any()
    assert image[3:23].all()  # noise is nowhere exactly zero


def test_the_margin_is_read_around_the_patch(make_task: Callable[..., TrainingTask]) -> None:
    plain = _source(make_task(), batch_size=1).batch(3)["image"]
    wide = _source(make_task(), batch_size=1, margin=(1, 2, 0)).batch(3)["image"]
    assert wide.shape == (1, 1, 10, 12, 8)
    assert torch.equal(wide[:, :, 1:-1, 2:-2], plain)


def test_only_the_given_items_are_opened(make_task: Callable[..., TrainingTask]) -> None:
    task = make_task()
    for path in (task.stores / "whole").glob("case_c*"):
        path.unlink()
    source = _source(task)
    for step in range(10):
        source.batch(step)


def _item(structures: dict[str, int], places: dict[str, list[list[int]]]) -> ItemArrays:
    shape = (1, 1, 50)
    item = ItemArrays(
        None,  # type: ignore[arg-type]
        StoredItem(name="x.0", box=((0, 1), (0, 1), (0, 50)), shape=shape, structures=structures),
        "x",
    )
    item.__dict__["places"] = {name: np.array(voxels) for name, voxels in places.items()}
    return item


def test_structures_win_over_annotated_voxels_when_foreground_is_forced() -> None:
    item = _item(
        {"kidney": 1, "tumour": 0, ANNOTATED: 2},
        {"kidney": [[0, 0, 40]], ANNOTATED: [[0, 0, 3], [0, 0, 40]]},
    )
    source = PatchSource((item,), (1, 1, 1), (0, 0, 0), 1, 1.0, None, 0)
    rng = np.random.default_rng(0)
    assert {source.draw(rng, True)[1] for _ in range(20)} == {(0, 0, 40)}


def test_with_an_ignore_label_every_patch_holds_something_annotated() -> None:
    # else most patches of a sparsely annotated case would teach nothing [nnU-Net does the same]
    item = _item({"kidney": 0, ANNOTATED: 1}, {ANNOTATED: [[0, 0, 7]]})
    source = PatchSource((item,), (1, 1, 3), (0, 0, 0), 1, 0.33, None, 0)
    rng = np.random.default_rng(0)
    for forced in (False, True):
        corners = {source.draw(rng, forced)[1][2] for _ in range(50)}
        assert corners == {5, 6, 7}


def test_without_any_structure_a_forced_patch_is_a_random_one() -> None:
    source = PatchSource((_item({"kidney": 0}, {}),), (1, 1, 40), (0, 0, 0), 1, 1.0, None, 0)
    rng = np.random.default_rng(0)
    corners = {source.draw(rng, True)[1][2] for _ in range(300)}
    assert corners == set(range(11))  # 50 - 40 + 1 places


@dataclass(frozen=True)
class Axis:
    size: int
    patch: int
    voxel: int


axes = st.integers(1, 40).flatmap(
    lambda size: st.builds(Axis, st.just(size), st.integers(1, 50), st.integers(0, size - 1))
)


@given(st.lists(axes, min_size=3, max_size=3), st.integers(0, 1000))
def test_a_patch_around_a_voxel_holds_it_and_stays_inside(given: list[Axis], seed: int) -> None:
    corner = corner_around(
        np.array([axis.voxel for axis in given]),
        tuple(axis.size for axis in given),
        tuple(axis.patch for axis in given),
        np.random.default_rng(seed),
    )
    for start, axis in zip(corner, given, strict=True):
        assert start <= axis.voxel < start + axis.patch
        if axis.size >= axis.patch:
            assert 0 <= start <= axis.size - axis.patch
        else:
            assert start == (axis.size - axis.patch) // 2


def test_away_from_borders_a_voxel_is_at_every_place_of_the_patch_alike() -> None:
    rng = np.random.default_rng(0)
    corners = np.array(
        [
            corner_around(np.array([50, 50, 50]), (100, 100, 100), (4, 8, 5), rng)
            for _ in range(2000)
        ]
    )
    for axis, length in enumerate((4, 8, 5)):
        offsets, counts = np.unique(50 - corners[:, axis], return_counts=True)
        assert offsets.tolist() == list(range(length))
        expected = 2000 / length
        assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_single_samples_are_forced_that_share_of_the_steps() -> None:
    def forced(share: float, batch_size: int = 1) -> list[bool]:
        source = PatchSource((), (1, 1, 1), (0, 0, 0), batch_size, share, None, 0)
        return [source.wanted(step, 0) for step in range(12)]

    assert sum(forced(1 / 3)) in (3, 4)
    assert forced(0.5) == [False, True] * 6
    assert forced(0) == [False] * 12
    assert forced(1) == [True] * 12
    assert forced(0.5, batch_size=2) == [False] * 12
