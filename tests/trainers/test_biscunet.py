"""BiSC-UNet's phases: rough network, its errors, fine network on displaced regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from renalplan.errors import UsageError
from renalplan.geometry import Box, whole_box
from renalplan.networks.scunet import SCUNet as Network
from renalplan.trainers.biscunet import ERRORS_NAME, BiSCUNet, BiSCUNetSettings, FineStage
from renalplan.trainers.edges import EdgeSource
from renalplan.trainers.loop import fit
from renalplan.trainers.phase import ComputePhase, save_weights
from renalplan.trainers.rois import RoiSource, read_kidneys
from renalplan.trainers.scunet import SCUNetSettings, SCUNetStage
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.task import TrainingTask

Make = Callable[..., TrainingTask]
SHORT = ["epochs=2", "iterations=2", "validation_iterations=1"]


def _trainer(task: TrainingTask, *settings: str) -> BiSCUNet:
    return BiSCUNet(task, parse_settings(BiSCUNet.Settings, list(settings)))


def _with_stage(task: TrainingTask, name: str, **changes: Any) -> TrainingTask:
    stages = tuple(
        stage.model_copy(update=changes) if stage.name == name else stage
        for stage in task.plan.stages
    )
    return replace(task, plan=task.plan.model_copy(update={"stages": stages}))


def test_both_networks_share_the_papers_settings() -> None:
    found = BiSCUNetSettings()
    assert found.jitter == 1
    shared = found.model_dump(exclude={"jitter"})
    assert shared == SCUNetSettings().model_dump()
    assert BiSCUNet.Settings is BiSCUNetSettings


def test_the_phases_in_order(make_task: Make) -> None:
    trainer = _trainer(make_task("locate_fine"))
    trainer.check()
    rough, errors, fine = trainer.phases()
    assert (rough.name, errors.name, fine.name) == ("locate", ERRORS_NAME, "fine")
    assert type(rough) is SCUNetStage
    assert isinstance(errors, ComputePhase)
    assert type(fine) is FineStage
    assert isinstance(rough.build(), Network)
    # the locating stage of this plan learns foreground, with one edge; the fine one all labels
    assert rough.network.arguments == {"in_channels": 1, "num_classes": 2, "edges": 1}
    assert fine.network.arguments == {"in_channels": 1, "num_classes": 3, "edges": 2}
    spec = trainer.segmenter()
    assert spec.factory == "renalplan.inference.segmenters.kidney_rois:KidneyRoiSegmenter"
    assert spec.arguments == {"stages": {"locate": "locate", "fine": "fine"}}
    other = _trainer(make_task("locate_fine"), "patch_size=16,8,8").segmenter()
    assert other.arguments["patch_sizes"] == {"fine": [16, 8, 8]}


@pytest.mark.parametrize("configuration", ["whole", "cascade"])
def test_plans_without_kidney_regions_are_refused(make_task: Make, configuration: str) -> None:
    with pytest.raises(UsageError, match=r"BiSCUNet needs a rough stage") as caught:
        _trainer(make_task(configuration)).check()
    assert "--planner bisc" in str(caught.value)
    assert "SCUNet, which needs one stage" in str(caught.value)


def test_patches_that_cannot_be_pooled_are_refused_with_the_nearest_sizes(make_task: Make) -> None:
    task = make_task("locate_fine")
    with pytest.raises(UsageError, match=r"stage fine .* second 20 \(nearest 16 or 24\).*--set"):
        _trainer(task, "patch_size=8,20,8").check()
    # both networks are SC-UNets, and --set speaks of the fine one only
    odd = _with_stage(task, "locate", patch_size=(8, 8, 12))
    with pytest.raises(UsageError, match=r"stage locate .* third 12 \(nearest 8 or 16\)") as caught:
        _trainer(odd).check()
    assert "--set" not in str(caught.value)
    assert "plan.json" in str(caught.value)


@pytest.fixture
def measured(make_task: Make) -> TrainingTask:
    """A task whose rough network is as it was made, and whose errors have been measured."""
    task = make_task("locate_fine")
    rough, errors, _ = _trainer(task, *SHORT).phases()
    assert isinstance(rough, SCUNetStage)
    save_weights(rough.folder(task) / "model.safetensors", rough.build())
    errors.run(task)
    assert errors.is_done(task)
    return task


def test_the_fine_stage_looks_at_displaced_kidneys_with_their_edges(
    measured: TrainingTask,
) -> None:
    task = _with_stage(measured, "fine", margin_mm=13.0)
    *_, fine = _trainer(task, "jitter=3", "batch_size=3", "edges=canny").phases()
    assert isinstance(fine, FineStage)
    fine.prepare(task)
    source = fine.training_batches(task)
    assert isinstance(source, EdgeSource)
    assert source.method == "canny"
    inner = source.source
    assert isinstance(inner, RoiSource)
    known = read_kidneys(task.fold_folder / ERRORS_NAME)
    assert inner.kidneys == known.boxes
    assert set(known.boxes) == {f"case_{c}.{n}" for c in "ab" for n in (0, 1)}
    assert inner.spacing == (2, 2, 2)
    assert inner.margin_mm == 13
    assert inner.batch_size == 3
    # three times the measured error, at least half a voxel of the rough stage's 4 mm
    assert inner.jitter_mm == pytest.approx([3 * max(e, 2.0) for e in known.error_mm])
    batch = source.batch(0)
    assert batch["image"].shape == (3, 1, 8, 8, 8)
    assert batch["edges"].shape == (3, 2, 8, 8, 8)
    *_, still = _trainer(task, "jitter=0").phases()
    assert isinstance(still, FineStage)
    assert still.training_batches(task).source.jitter_mm == (0, 0, 0)  # type: ignore[attr-defined]


def test_slices_run_along_the_plans_z(measured: TrainingTask) -> None:
    turned = replace(measured, plan=measured.plan.model_copy(update={"axes": ("x", "z", "y")}))
    *_, fine = _trainer(turned).phases()
    assert isinstance(fine, FineStage)
    source = fine.training_batches(turned)
    assert source.slice_axis == source.source.slice_axis == 1  # type: ignore[attr-defined]


def test_true_kidneys_are_looked_at_not_the_rough_networks(measured: TrainingTask) -> None:
    """Training regions come from the labels: every box holds the item's foreground."""
    known = read_kidneys(measured.fold_folder / ERRORS_NAME)
    for item in measured.training_items(measured.plan.stage("fine")):
        labels = np.asarray(item.labels[0])
        inside = np.zeros(labels.shape, bool)
        for box in known.boxes[item.item.name]:
            inside[tuple(slice(a, b) for a, b in box)] = True
        assert not labels[~inside].any()
        boxes: tuple[Box, ...] = known.boxes[item.item.name]
        assert all(box != whole_box(labels.shape) for box in boxes)


def test_the_fine_stage_trains(measured: TrainingTask) -> None:
    *_, fine = _trainer(measured, *SHORT).phases()
    assert isinstance(fine, FineStage)
    fine.prepare(measured)
    fit(fine, measured)
    assert fine.is_done(measured)
