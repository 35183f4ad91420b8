"""Episodes: supports that hold their structures, of different cases, the same for the same step."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from renalplan.errors import TrainingError
from renalplan.store import ItemArrays
from renalplan.trainers.episodes import EpisodeSource, SupportSource
from renalplan.trainers.sampling import PatchSource
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.variation import Variation

Make = Callable[..., TrainingTask]
NAMES = ("kidney", "tumour")
CASES = ("case_a", "case_b", "case_c")


class Noted(PatchSource):
    """Notes which item and corner every patch is read from."""

    read_from: list[tuple[str, tuple[int, ...]]] = []  # noqa: RUF012 - cleared by the fixture

    def sample(
        self, item: ItemArrays, corner: tuple[int, ...], generator: np.random.Generator
    ) -> dict[str, Any]:
        self.read_from.append((item.item.name, tuple(corner)))
        return super().sample(item, corner, generator)


@pytest.fixture(autouse=True)
def noted() -> list[tuple[str, tuple[int, ...]]]:
    Noted.read_from.clear()
    return Noted.read_from


def _patches(items: tuple[ItemArrays, ...], **values: Any) -> Noted:
    given: dict[str, Any] = {
        "items": items,
        "patch": (4, 6, 5),
        "margin": (0, 0, 0),
        "batch_size": 1,
        "foreground_share": 1.0,
        "transform": None,
        "seed": 3,
    }
    return Noted(**(given | values))


def _items(task: TrainingTask, cases: tuple[str, ...] = CASES) -> tuple[ItemArrays, ...]:
    (stage,) = task.stages
    found = (*task.training_items(stage), *task.held_out_items(stage))
    return tuple(item for item in found if item.case in cases)


def _source(task: TrainingTask, cases: tuple[str, ...] = CASES, **values: Any) -> EpisodeSource:
    patches = _patches(_items(task, cases), **values)
    return EpisodeSource(SupportSource(patches, NAMES), patches)


def _equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_shapes_and_types(make_task: Make) -> None:
    batch = _source(make_task(), batch_size=3).batch(0)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "support_image": (2, 1, 4, 6, 5),
        "support_labels": (2, 1, 4, 6, 5),
        "image": (3, 1, 4, 6, 5),
        "labels": (3, 1, 4, 6, 5),
    }
    for name, value in batch.items():
        assert value.dtype == (torch.float32 if "image" in name else torch.int16)


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_the_kth_support_holds_the_kth_structure(make_task: Make, names: tuple[str, ...]) -> None:
    source = SupportSource(_patches(_items(make_task()), patch=(2, 2, 2)), names)
    values = [1 + NAMES.index(name) for name in names]
    both = 0
    for step in range(100):
        labels = source.draw(step)["support_labels"]
        for value, each in zip(values, labels, strict=True):
            assert (each == value).any()
            both += int((each == 3 - value).any())
    assert both < 100, "patches are drawn for one structure each"


def test_images_and_labels_of_a_patch_belong_together(make_task: Make) -> None:
    """The image is the label plus noise of 0.3."""
    batch = _source(make_task()).batch(0)
    for image, labels in (("support_image", "support_labels"), ("image", "labels")):
        assert (batch[image] - batch[labels]).std() < 0.4
        assert batch[labels].any()


def test_the_voxel_lies_anywhere_in_its_patch(make_task: Make) -> None:
    """A structure that is one voxel is not always in the middle."""
    task = make_task()
    (item,) = _items(task, ("case_a",))
    where = np.array([[10, 12, 11]], np.int32)
    item.__dict__["places"] = {"kidney": where}
    source = SupportSource(_patches((item,)), ("kidney",))
    for step in range(80):
        source.draw(step)
    corners = np.array([corner for _, corner in Noted.read_from])
    assert (corners <= where).all()
    assert (corners > where - np.array([4, 6, 5])).all()
    assert len(np.unique(corners[:, 0])) == 4


# --- cases


def test_an_episode_has_three_cases_as_long_as_there_are_three(make_task: Make) -> None:
    source = _source(make_task())
    seen = set()
    for step in range(40):
        Noted.read_from.clear()
        source.batch(step)
        cases = [name.split(".")[0] for name, _ in Noted.read_from]
        assert sorted(cases) == list(CASES)
        seen.add(tuple(cases))
    assert len(seen) == 6, "every case can be in every place"


@pytest.mark.parametrize("cases", [CASES[:2], CASES[:1]])
def test_cases_repeat_when_there_are_not_enough(make_task: Make, cases: tuple[str, ...]) -> None:
    source = _source(make_task(), cases, batch_size=2)
    queries = set()
    for step in range(40):
        Noted.read_from.clear()
        source.batch(step)
        drawn = [name.split(".")[0] for name, _ in Noted.read_from]
        assert set(drawn[:2]) == set(cases), "all there are, before any comes again"
        queries |= set(drawn[2:])
    assert queries == set(cases)


def test_two_items_of_a_case_do_not_pass_as_two_cases(make_task: Make) -> None:
    task = make_task("locate_fine")
    items = task.training_items(task.stages[1])
    source = SupportSource(_patches(items), NAMES)
    for step in range(30):
        Noted.read_from.clear()
        source.draw(step)
        first, second = (name.split(".")[0] for name, _ in Noted.read_from)
        assert first != second


def test_a_support_comes_from_a_case_that_holds_its_structure(make_task: Make) -> None:
    a, b, c = _items(make_task())
    bare = tuple(
        replace(item, item=item.item.model_copy(update={"structures": {"kidney": 5, "tumour": 0}}))
        for item in (a, b)
    )
    source = SupportSource(_patches((*bare, c)), NAMES)
    for step in range(30):
        source.draw(step)
    assert {name for name, _ in Noted.read_from[1::2]} == {"case_c.0"}
    assert {name for name, _ in Noted.read_from[::2]} == {f"case_{x}.0" for x in "abc"}


@pytest.mark.parametrize("structures", [{"kidney": 5}, {"kidney": 5, "tumour": 0}])
def test_a_structure_that_no_case_holds_is_named(
    make_task: Make, structures: dict[str, int]
) -> None:
    items = tuple(
        replace(item, item=item.item.model_copy(update={"structures": structures}))
        for item in _items(make_task())
    )
    with pytest.raises(TrainingError, match="none of the fold's training cases holds tumour: "):
        SupportSource(_patches(items), NAMES)
    SupportSource(_patches(items), ("kidney",))


# --- draws


class Noisy:
    """Adds a number that it draws from every generator there is."""

    on_device = True

    def draw(self, generator: np.random.Generator, channels: int) -> Variation:
        return Variation(noise=generator.random() + float(torch.rand(1)) + np.random.random())

    def reach(self, drawn: Variation) -> tuple[int, int, int]:
        return (0, 0, 0)

    def __call__(self, sample: dict[str, Any], drawn: Variation) -> dict[str, Any]:
        return sample | {"image": sample["image"].float() + drawn.noise}


def test_the_same_step_gives_the_same_episode_whatever_came_before(make_task: Make) -> None:
    source = _source(make_task(), transform=Noisy())
    again = EpisodeSource(
        SupportSource(PatchSource(**vars(source.queries)), NAMES),
        PatchSource(**vars(source.queries)),
    )
    again = pickle.loads(pickle.dumps(replace(again, queries=replace(again.queries))))
    first = [source.batch(step) for step in range(5)]
    torch.manual_seed(99)
    for step in (4, 0, 3, 1, 2):
        assert _equal(again.batch(step), first[step])
    images = [batch[name].numpy().tobytes() for batch in first for name in batch if "image" in name]
    assert len(set(images)) == 10


def test_another_seed_gives_other_episodes(make_task: Make) -> None:
    first, second = (_source(make_task(), seed=seed).batch(0) for seed in (3, 4))
    assert not torch.equal(first["support_image"], second["support_image"])
    assert not torch.equal(first["image"], second["image"])


def test_cases_of_one_draw_are_free_again_for_the_next(make_task: Make) -> None:
    source = SupportSource(_patches(_items(make_task(), CASES[:2])), NAMES)
    first = source.draw(0)
    source.draw(1)
    assert _equal(source.draw(0), first)


class Chance(Noisy):
    """Nothing but that number."""

    def __call__(self, sample: dict[str, Any], drawn: Variation) -> dict[str, Any]:
        return sample | {"image": torch.full(sample["image"].shape, drawn.noise)}


def test_no_patch_of_any_step_shares_its_chances_with_another(make_task: Make) -> None:
    """With one seed for both, the n-th query would be augmented as the n-th support is."""
    source = _source(make_task(), transform=Chance(), batch_size=3)
    drawn = [
        float(image.mean())
        for step in range(20)
        for batch in [source.batch(step)]
        for image in (*batch["support_image"], *batch["image"])
    ]
    assert len(drawn) == 100
    assert len({round(value, 4) for value in drawn}) > 90


def test_supports_and_queries_of_one_case_are_other_patches(make_task: Make) -> None:
    source = _source(make_task(), CASES[:1])
    one = EpisodeSource(SupportSource(source.queries, ("kidney",)), source.queries)
    batches = [one.batch(step) for step in range(30)]
    same = [torch.equal(batch["support_image"], batch["image"]) for batch in batches]
    assert sum(same) < 3


def test_queries_with_and_without_foreground(make_task: Make) -> None:
    def with_foreground(share: float) -> int:
        source = _source(make_task(), foreground_share=share, patch=(2, 2, 2), batch_size=4)
        return sum(
            int(labels.any()) for step in range(25) for labels in source.batch(step)["labels"]
        )

    assert with_foreground(1.0) == 100
    plain, half = with_foreground(0.0), with_foreground(0.5)
    assert 5 < plain < 60
    assert plain + 10 < half < 90


def test_forced_queries_show_either_structure(make_task: Make) -> None:
    source = _source(make_task(), patch=(1, 1, 1))
    values = [int(source.batch(step)["labels"].max()) for step in range(60)]
    assert 15 < values.count(1) < 45
    assert values.count(1) + values.count(2) == 60


def test_queries_may_come_from_elsewhere(make_task: Make) -> None:
    task = make_task()
    supports, queries = _patches(_items(task, CASES[:2])), _patches(_items(task, CASES[2:]))
    source = EpisodeSource(SupportSource(supports, NAMES), queries)
    for step in range(10):
        Noted.read_from.clear()
        source.batch(step)
        names = [name for name, _ in Noted.read_from]
        assert set(names[:2]) == {"case_a.0", "case_b.0"}
        assert names[2:] == ["case_c.0"]
