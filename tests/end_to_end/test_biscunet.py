"""BiSC-UNet from raw scans to segmentations: planned, trained, killed, resumed, moved, predicted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest

from renalplan.errors import UsageError
from renalplan.images import read_volume
from renalplan.model_folder import ModelFolder
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.trainers.rois import read_kidneys
from renalplan.training import train
from renalplan.workspace import Workspace

TRAINER = "renalplan.trainers.biscunet:BiSCUNet"
SETTINGS = ["epochs=3", "iterations=1", "validation_iterations=0", "batch_size=1"]
SCRIPT = """
import sys
from pathlib import Path
import torch
from renalplan.training import train
from renalplan.workspace import Workspace

torch.set_num_threads(1)
train("1", 0, {trainer!r}, settings={settings!r}, name="killed", workspace=Workspace(Path(sys.argv[1])),
      workers=0, progress=False, device="cpu")
"""


def _plan(workspace: Workspace, **options: object) -> None:
    given: dict = {"planner": "bisc", "base_features": 4, "max_features": 8}
    plan_and_preprocess(
        "1", options=PlanOptions(**(given | options)), workspace=workspace, workers=0,
        progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def workspace(analytic_dataset: Callable[..., Workspace]) -> Workspace:
    """Regions of 32 voxels in plane: 125 mm at 5 mm, finer than which nobody looks here."""
    made = analytic_dataset("plain", {"left kidney": 1, "right kidney": 2})
    _plan(made, spacing=(6.0, 5.0, 5.0))
    return made


def _train(workspace: Workspace, name: str, **values: object) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", 0, TRAINER, name=name, workspace=workspace, **(given | values)).model


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace) -> Path:
    return _train(workspace, "uninterrupted")


def test_every_phase_leaves_what_the_next_one_needs(uninterrupted: Path) -> None:
    model = ModelFolder.open(uninterrupted)
    rough, fine = model.plan.run()
    assert (rough.spacing, fine.spacing) == ((6, 6, 6), (6, 5, 5))
    assert fine.patch_size == (16, 32, 32)
    fold = model.fold_folder("0")
    assert {p.name for p in fold.iterdir() if p.is_dir()} == {
        "rough", "rough_errors", "fine", "validation"
    }  # fmt: skip
    kidneys = read_kidneys(fold / "rough_errors")
    (training,) = {name.split(".")[0] for name in kidneys.boxes}
    assert training in ("case_0", "case_1")
    # both kidneys, although the margin of 45 mm stores them as one item
    assert [len(boxes) for boxes in kidneys.boxes.values()] == [2]
    assert kidneys.compared + kidneys.missed == 2
    assert not list(uninterrupted.rglob("checkpoint.pt"))
    assert not list(uninterrupted.rglob(".tmp-*"))


def test_killed_in_its_fine_phase_it_goes_on_there_and_ends_the_same(
    workspace: Workspace,
    uninterrupted: Path,
    kill_when: Callable[[str, Workspace, Path], None],
) -> None:
    fold = workspace.results("Dataset001_Analytic") / "killed" / "fold_0"
    code = SCRIPT.format(trainer=TRAINER, settings=SETTINGS)
    kill_when(code, workspace, fold / "fine" / "checkpoint.pt")
    assert not (fold / "fine" / "model.safetensors").exists()
    done = [fold / "rough" / "model.safetensors", fold / "rough_errors" / "kidneys.json"]
    before = [path.stat().st_mtime_ns for path in done]
    assert _train(workspace, "killed") == fold.parent
    assert [path.stat().st_mtime_ns for path in done] == before
    for phase in ("rough", "fine"):
        weights = (fold / phase / "model.safetensors").read_bytes()
        assert weights == (uninterrupted / "fold_0" / phase / "model.safetensors").read_bytes()
    assert len((fold / "fine" / "log.csv").read_text().splitlines()) == 4  # and a header
    assert read_kidneys(done[1].parent) == read_kidneys(uninterrupted / "fold_0" / "rough_errors")
    assert not list(fold.rglob("checkpoint.pt"))


def test_the_model_folder_alone_predicts_the_same(
    workspace: Workspace,
    uninterrupted: Path,
    predict_anywhere: Callable[[Workspace, Path], list[np.ndarray]],
) -> None:
    predict_anywhere(workspace, uninterrupted)


def test_a_patch_that_does_not_fit_is_refused_before_anything_is_written(
    workspace: Workspace,
) -> None:
    with pytest.raises(UsageError, match=r"first 20 \(nearest 16 or 24\)"):
        _train(workspace, "odd", settings=["patch_size=20,32,32"])
    assert not (workspace.results("Dataset001_Analytic") / "odd").exists()


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_with_networks_that_are_right_every_geometry_is_right(
    analytic_dataset: Callable[..., Workspace],
    scans: Path,
    plugins: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = analytic_dataset("plain", {"kidney": 1}, join=True)
    _plan(workspace)
    trained = train(
        "1", 0, "oracle_biscunet:OracleBiSCUNet", workspace=workspace, workers=0, progress=False,
        device="cpu",
    )  # fmt: skip
    assert trained.folds["0"]["kidney"] > 0.97
    kidneys = read_kidneys(trained.model / "fold_0" / "rough_errors")
    assert (kidneys.compared, kidneys.missed) == (2, 0)
    assert max(kidneys.error_mm) < 6.0  # a voxel of the rough stage
    caplog.set_level(logging.INFO)
    report = predict(
        scans / "imagesTs", tmp_path / "out", models=[trained.model], device="cpu", progress=False
    )
    assert not report.failed
    assert "kidney found" not in caplog.text  # all have two
    found = {}
    for path in sorted((scans / "labelsTs").iterdir()):
        answer = read_volume(tmp_path / "out" / path.name, labels=True).array > 0
        found[path.name] = _dice(answer, read_volume(path, labels=True).array > 0)
    assert len(found) == 6
    assert min(found.values()) >= 0.97, found


def test_it_is_trained_and_validated_within_a_budget(
    workspace: Workspace, check_budget: Callable[[Path, Collection[str]], None]
) -> None:
    """The settings' schedule ends it long before the budget does."""
    check_budget(_train(workspace, "timed", budget="40m") / "fold_0", {"rough", "fine"})
