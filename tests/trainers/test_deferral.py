"""A batch in two halves is the batch in one, wherever the second half is done."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from renalplan.store import ItemArrays
from renalplan.trainers import loader, transform
from renalplan.trainers.augmentation import AugmentationSettings, build_augmentation
from renalplan.trainers.deferral import FirstHalf, halves, is_halvable, to_device
from renalplan.trainers.edges import EdgeSource
from renalplan.trainers.episodes import EpisodeSource, SupportSource
from renalplan.trainers.sampling import BatchSource, PatchSource
from renalplan.trainers.spatial import Turn
from renalplan.trainers.task import TrainingTask

Make = Callable[..., TrainingTask]
CPU, GPU = torch.device("cpu"), torch.device("cuda")  # named, not used
OFTEN = AugmentationSettings(rotation_probability=0.7, scaling_probability=0.5)


def _source(task: TrainingTask, *, cascade: bool = False, **values: Any) -> PatchSource:
    patch = (8, 10, 8)
    built = build_augmentation(patch, task.scheme, OFTEN, left_right_axis=2, cascade=cascade)
    given: dict[str, Any] = {
        "items": task.training_items(task.plan.stage("whole")),
        "patch": patch,
        "margin": built.margin,
        "batch_size": 2,
        "foreground_share": 0.5,
        "transform": built.transform,
        "seed": 0,
    }
    return PatchSource(**(given | values))


def _edges(source: BatchSource, method: Any = "erosion") -> EdgeSource:
    return EdgeSource(source, outlines=((1, 2), (2,)), spacing=(2.0, 2.0, 2.0), method=method)


@pytest.mark.parametrize("with_edges", [False, True])
def test_what_a_worker_began_is_finished_elsewhere_as_it_would_be_there(
    make_task: Make, with_edges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _source(make_task())
    source = _edges(plain) if with_edges else plain
    first, finish = halves(source, GPU)
    assert isinstance(first, FirstHalf)
    for step in range(12):
        expected = source.batch(step)
        sent = pickle.loads(pickle.dumps(first.batch(step)))
        found = finish(sent)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        with monkeypatch.context() as patched:  # what a GPU runs; here on the CPU
            patched.setattr(transform, "make_turn", Turn)
            other = finish(sent)
        assert torch.allclose(other["image"], expected["image"], atol=0.02)
        assert (other["labels"] == expected["labels"]).float().mean() > 0.999


def test_on_a_cpu_workers_do_it_all(make_task: Make) -> None:
    source = _source(make_task())
    first, finish = halves(source, CPU)
    assert first is source
    batch = source.batch(0)
    assert finish(batch) is batch


def test_what_a_gpu_cannot_do_workers_do(make_task: Make) -> None:
    task = make_task()
    plain = _source(task)
    episodes = EpisodeSource(SupportSource(plain, ("kidney",)), plain)
    whole: list[BatchSource] = [
        _source(task, cascade=True),
        _source(task, transform=None),
        _edges(plain, "canny"),
        _edges(_source(task, cascade=True)),
        episodes,
    ]
    for source in whole:
        assert not is_halvable(source)
        assert halves(source, GPU)[0] is source
    assert is_halvable(plain)
    assert is_halvable(_edges(plain))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_finished_as_they_come(
    make_task: Make, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(make_task())
    monkeypatch.setattr(loader, "halves", lambda source, device: halves(source, GPU))
    batches = loader.Batches(source, 3, workers=workers)
    try:
        for step in (3, 4, 5):
            found, expected = next(batches), source.batch(step)
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    finally:
        batches.close()


def test_only_as_much_is_read_as_a_variation_needs(make_task: Make) -> None:
    sizes: list[tuple[int, ...]] = []

    class Spy(ItemArrays):
        def stored_patch(self, start: tuple[int, ...], size: tuple[int, ...]) -> Any:
            sizes.append(size)
            return super().stored_patch(start, size)

    source = _source(make_task())
    source = replace(source, items=tuple(Spy(i.folder, i.item, i.case) for i in source.items))
    drawn = [one for step in range(20) for one in source.begun(step)["drawn"]]
    for size, one in zip(sizes, drawn, strict=True):
        margin = [(n - p) // 2 for n, p in zip(size, source.patch, strict=True)]
        if one.matrix is None:
            assert margin == [0, 0, 0]
        else:
            half = (np.array(source.patch) - 1) / 2
            needed = np.abs(np.array(one.matrix)) @ half - half
            assert (margin >= np.minimum(needed, source.margin)).all()
            assert (margin <= np.maximum(needed + 1.1, 0)).all()
    assert len({*sizes}) > 10


def test_a_read_margin_or_a_wider_one_makes_no_difference(make_task: Make) -> None:
    source = _source(make_task())
    assert source.transform is not None
    item = source.items[0]
    for seed in range(10):
        drawn = source.transform.draw(np.random.default_rng(seed), 1)
        if any(n > m for n, m in zip(source.transform.reach(drawn), source.margin, strict=True)):
            continue  # cut off where nnU-Net would read no further either
        patches = []
        for margin in (source.transform.reach(drawn), source.margin):
            image, labels = source.read(item, (6, 7, 7), margin)
            sample = {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}
            patches.append(source.transform(sample, drawn))
        narrow, wide = patches
        assert torch.allclose(narrow["image"], wide["image"], atol=0.02)
        assert (narrow["labels"] == wide["labels"]).float().mean() > 0.999


def test_tensors_move_wherever_they_are() -> None:
    given = {"image": torch.ones(1), "samples": [{"labels": torch.ones(2)}], "drawn": [None, 3]}
    found = to_device(given, torch.device("meta"))
    assert found["image"].is_meta
    assert found["samples"][0]["labels"].is_meta
    assert found["drawn"] == [None, 3]
