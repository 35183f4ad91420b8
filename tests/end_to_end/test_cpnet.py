"""CPNet from two contrast phases to segmentations: planned, trained, stopped, moved, predicted from one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from renalplan.errors import UsageError
from renalplan.images import read_grid, read_volume
from renalplan.model_folder import ModelFolder
from renalplan.phantom import make_phantom_dataset
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.store import read_case
from renalplan.trainers.episodic import EpisodicStage
from renalplan.training import train
from renalplan.workspace import Workspace

TRAINER = "renalplan.trainers.cpnet:CPNet"
SETTINGS = [
    "patch_size=16,16,16", "supervised_epochs=1", "epochs=2", "rounds=2", "iterations=2",
    "validation_iterations=1", "draws=2", "optimizer=adam", "learning_rate=0.001",
    "earlier.epochs=1", "earlier.iterations=2", "earlier.validation_iterations=0",
    "earlier.augmentation.enabled=false", "augmentation.enabled=false",
]  # fmt: skip
ROUNDS = ("prototypes_1", "pseudo_labels_1", "episodes_1", "prototypes_2", "pseudo_labels_2", "episodes_2")  # fmt: skip
PHASES = ("locate", "supervised", "unlabelled_regions", *ROUNDS, "fine")
NAME = "Dataset003_Compartments"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three labelled patients and one unlabelled, CTA and CTU of each; kidneys are located first."""
    made = Workspace(tmp_path_factory.mktemp("cpnet"))
    make_phantom_dataset(
        made.root / "raw" / NAME,
        task="compartments", cases=3, unlabelled_cases=1, size=(28, 40, 56), spacing=(5, 5, 5),
    )  # fmt: skip
    options = PlanOptions(base_features=4, max_features=8, gpu_memory_gb=0.01, cascade="locate")
    plan_and_preprocess("3", options=options, workspace=made, workers=0, progress=False)
    return made


def _train(workspace: Workspace, name: str, fold: int = 0, **values: Any) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("3", fold, TRAINER, name=name, workspace=workspace, **(given | values)).model


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace) -> Path:
    return _train(workspace, "uninterrupted")


def test_every_phase_leaves_what_the_next_one_needs(
    workspace: Workspace, uninterrupted: Path
) -> None:
    model = ModelFolder.open(uninterrupted)
    fold = model.fold_folder("0")
    assert {p.name for p in fold.iterdir() if p.is_dir()} == {*PHASES, "validation"}
    assert model.description.channel_names == {"0": "CTA"}
    assert [channel.name for channel in model.plan.channels] == ["CTA"]
    last = load_file(fold / "episodes_2" / "model.safetensors")
    kept = load_file(fold / "fine" / "model.safetensors")
    assert kept.pop("prototypes").shape == (2, 3, 32)
    assert kept.keys() == {f"extractor.{name}" for name in last}
    assert all(kept[f"extractor.{name}"].equal(value) for name, value in last.items())
    stored = read_case(workspace.preprocessed(NAME) / "renal" / "fine", "case_0003")
    assert stored is not None
    made = json.loads((fold / "pseudo_labels_2" / f"{stored.items[0].name}.json").read_text())
    assert set(made["structures"]) == {"cortex", "medulla"}
    assert not list(uninterrupted.rglob("checkpoint.pt"))
    assert not list(uninterrupted.rglob(".tmp-*"))


def test_stopped_in_its_last_episodes_it_goes_on_there_and_ends_the_same(
    workspace: Workspace, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EpisodicStage.loss

    def loss(self: Any, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if self.name == "episodes_2" and step == 1:
            raise KeyboardInterrupt
        return real(self, network, batch, step)

    monkeypatch.setattr(EpisodicStage, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        _train(workspace, "stopped")
    monkeypatch.undo()
    fold = workspace.results(NAME) / "stopped" / "fold_0"
    done = sorted(p for p in fold.rglob("*") if p.is_file() and p.parent.name != "episodes_2")
    before = [path.stat().st_mtime_ns for path in done]
    assert len(done) > 10
    assert _train(workspace, "stopped") == fold.parent
    assert [path.stat().st_mtime_ns for path in done] == before
    for phase in ("supervised", "episodes_1", "episodes_2", "fine"):
        weights = (fold / phase / "model.safetensors").read_bytes()
        assert weights == (uninterrupted / "fold_0" / phase / "model.safetensors").read_bytes()


def test_the_model_folder_alone_predicts_from_the_cta_alone(
    workspace: Workspace, uninterrupted: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    scan = workspace.root / "raw" / NAME / "imagesUn" / "case_0003_0000.nii.gz"
    shutil.copy(scan, images)

    def run(model: Path, out: Path) -> np.ndarray:
        report = predict(images, out, models=[model], device="cpu", progress=False)
        assert not report.failed
        (path,) = out.glob("*.nii.gz")
        assert read_grid(path) == read_grid(images / scan.name)
        return read_volume(path, labels=True).array

    here = run(uninterrupted, tmp_path / "here")
    elsewhere = Path(shutil.copytree(uninterrupted, tmp_path / "elsewhere"))
    away = workspace.root.rename(workspace.root.with_name("away"))
    try:
        there = run(elsewhere, tmp_path / "there")
    finally:
        away.rename(workspace.root)
    assert set(np.unique(here)) <= {0, 1, 2}
    np.testing.assert_array_equal(here, there)


def test_without_pseudo_labels_it_says_why_or_refuses(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(UsageError, match="no channel 5, a second contrast phase"):
        _train(workspace, "refused", settings=[*SETTINGS, "bwsm=true", "excretory=5"])
    assert not (workspace.results(NAME) / "refused").exists()
    model = _train(workspace, "labelled", settings=[*SETTINGS, "excretory=5"])
    assert "no channel 5" in caplog.text
    phases = {p.name for p in (model / "fold_0").iterdir() if p.is_dir()}
    assert phases == {"locate", "supervised", "fine", "validation"}
    assert len((model / "fold_0" / "supervised" / "log.csv").read_text().splitlines()) == 4


def test_it_is_trained_and_validated_within_a_budget(
    workspace: Workspace, check_budget: Callable[[Path, Collection[str]], None]
) -> None:
    """The settings' schedule ends it long before the budget does."""
    check_budget(
        _train(workspace, "timed", budget="40m") / "fold_0",
        {"locate", "supervised", "episodes_1", "episodes_2"},
    )
