"""DPA-DenseBiasNet from raw scans to segmentations: planned, trained, stopped, moved, predicted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor, nn

from renalplan import training
from renalplan.dataset import Dataset
from renalplan.errors import UsageError
from renalplan.images import read_grid, read_volume
from renalplan.model_folder import ModelFolder
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.trainers.densebiasnet import SegmentationWithPriors
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.trainer import Trainer
from renalplan.trainers.unlabelled import read_regions
from renalplan.training import train
from renalplan.workspace import Workspace

TRAINER = "renalplan.trainers.densebiasnet:DenseBiasNet"
SETTINGS = [
    "patch_size=8,16,16", "epochs=2", "iterations=2", "validation_iterations=1",
    "autoencoder.epochs=1", "autoencoder.iterations=2", "earlier.epochs=1", "earlier.iterations=2",
    "earlier.validation_iterations=0", "bias_maps=2",
]  # fmt: skip
PHASES = ("locate", "unlabelled_regions", "autoencoder", "fine")


def _plan(workspace: Workspace) -> None:
    options = PlanOptions(
        base_features=4, max_features=8, gpu_memory_gb=0.004, cascade="locate", spacing=(6, 5, 5)
    )
    plan_and_preprocess("1", options=options, workspace=workspace, workers=0, progress=False)


@pytest.fixture(scope="module")
def workspace(analytic_dataset: Callable[..., Workspace], scans: Path) -> Workspace:
    """Two labelled cases; of the two without labels, one is of case_1's patient."""
    made = analytic_dataset("plain", {"left": 1, "right": 2}, patients={"un_same": "case_1"})
    folder = made.root / "raw" / "Dataset001_Analytic"
    (folder / "imagesUn").mkdir()
    for name, source in (("un_other", "plain"), ("un_same", "oblique")):
        target = folder / "imagesUn" / f"{name}_0000.nii.gz"
        shutil.copy(scans / "imagesTs" / f"{source}_0000.nii.gz", target)
    _plan(made)
    return made


def _train(workspace: Workspace, name: str, fold: int | str = 0, **values: Any) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", fold, TRAINER, name=name, workspace=workspace, **(given | values)).model


def _fold_of(workspace: Workspace, held_out: str) -> int:
    path = workspace.preprocessed("Dataset001_Analytic") / "splits.json"
    folds = json.loads(path.read_text())["folds"]
    return next(n for n, fold in enumerate(folds) if held_out in fold["val"])


@pytest.fixture(scope="module")
def fold(workspace: Workspace) -> int:
    """The fold that holds out case_0, so that nobody unlabelled is withheld."""
    return _fold_of(workspace, "case_0")


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace, fold: int) -> Path:
    return _train(workspace, "uninterrupted", fold)


def test_every_phase_leaves_what_the_next_one_needs(uninterrupted: Path, fold: int) -> None:
    model = ModelFolder.open(uninterrupted)
    folder = model.fold_folder(str(fold))
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {*PHASES, "validation"}
    boxes = read_regions(folder / "unlabelled_regions")
    assert set(boxes) == {"un_other.0", "un_same.0"}
    encoder = load_file(folder / "autoencoder" / "model.safetensors")
    fine = load_file(folder / "fine" / "model.safetensors")
    frozen = {name: value for name, value in fine.items() if name.startswith("prior_encoder.")}
    assert len(frozen) == 32
    for name, value in frozen.items():
        assert value.equal(encoder[name.replace("prior_encoder", "encoder", 1)])
    assert model.record.segmenter.arguments["patch_sizes"] == {"fine": [8, 16, 16]}
    assert set(model.record.networks) == {"locate", "autoencoder", "fine"}
    assert not list(uninterrupted.rglob("checkpoint.pt"))


def test_stopped_in_its_last_phase_it_goes_on_there_and_ends_the_same(
    workspace: Workspace, uninterrupted: Path, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SegmentationWithPriors.loss

    def loss(self: Any, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return real(self, network, batch, step)

    monkeypatch.setattr(SegmentationWithPriors, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        _train(workspace, "stopped", fold)
    monkeypatch.undo()
    folder = workspace.results("Dataset001_Analytic") / "stopped" / f"fold_{fold}"
    assert (folder / "fine" / "checkpoint.pt").is_file()
    done = [folder / phase / "model.safetensors" for phase in ("locate", "autoencoder")]
    done.append(folder / "unlabelled_regions" / "regions.json")
    before = [path.stat().st_mtime_ns for path in done]
    assert _train(workspace, "stopped", fold) == folder.parent
    assert [path.stat().st_mtime_ns for path in done] == before
    for phase in ("locate", "autoencoder", "fine"):
        weights = (folder / phase / "model.safetensors").read_bytes()
        same = uninterrupted / f"fold_{fold}" / phase / "model.safetensors"
        assert weights == same.read_bytes()
    assert len((folder / "fine" / "log.csv").read_text().splitlines()) == 3


def test_the_model_folder_alone_predicts_the_same(
    workspace: Workspace, uninterrupted: Path, scans: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(scans / "imagesTs" / "z_first_0000.nii.gz", images)

    def run(model: Path, out: Path) -> np.ndarray:
        report = predict(images, out, models=[model], device="cpu", progress=False)
        assert not report.failed
        (answer,) = out.glob("*.nii.gz")
        assert read_grid(answer).size == read_grid(images / "z_first_0000.nii.gz").size
        return read_volume(answer, labels=True).array

    here = run(uninterrupted, tmp_path / "here")
    elsewhere = Path(shutil.copytree(uninterrupted, tmp_path / "elsewhere"))
    away = workspace.root.rename(workspace.root.with_name("away"))  # raw and preprocessed
    try:
        there = run(elsewhere, tmp_path / "there")
    finally:
        away.rename(workspace.root)
    assert np.array_equal(here, there)
    assert 1 < len(np.unique(here)) <= 3  # something was found that could differ


def _tasks(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, fold: int | str
) -> dict[str, TrainingTask]:
    """What the folds of a command would be trained on."""
    found: dict[str, TrainingTask] = {}

    def note(trainer: Trainer, *_: object) -> dict[str, float]:
        found[trainer.task.fold_name] = trainer.task
        return {}

    monkeypatch.setattr(training, "train_and_validate", note)
    monkeypatch.setattr(training, "_gather", lambda *_: None)
    _train(workspace, name, fold)
    return found


def test_unlabelled_scans_of_held_out_patients_are_not_for_learning(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    tasks = _tasks(workspace, monkeypatch, "folds", "cv")
    assert tasks[str(fold)].unlabelled == ("un_other", "un_same")
    assert tasks[str(fold)].withheld == ()
    other = tasks[str(_fold_of(workspace, "case_1"))]
    assert other.unlabelled == ("un_other",)
    assert other.withheld == ("un_same",)
    everything = _tasks(workspace, monkeypatch, "everything", "all")["all"]
    assert everything.unlabelled == ("un_other", "un_same")


def test_every_fold_can_be_trained_when_one_withholds_all_unlabelled_scans(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Dataset,
        "unlabelled_cases",
        tuple(
            case
            for case in Dataset.open(
                workspace.root / "raw" / "Dataset001_Analytic"
            ).unlabelled_cases
            if case.id == "un_same"
        ),
    )
    tasks = _tasks(workspace, monkeypatch, "withheld", "cv")
    assert sorted(len(task.unlabelled) for task in tasks.values()) == [0, 1]


def test_what_cannot_work_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    def refused(match: str, *settings: str, **values: Any) -> None:
        with pytest.raises(UsageError, match=match):
            _train(workspace, "refused", settings=[*SETTINGS, *settings], **values)

    refused(r"first 12 \(nearest 8 or 16\).*--set patch_size", "patch_size=12,16,16")
    refused("three whole numbers", "patch_size=8,16")
    refused(r"whole number of at least 1, or a share", "bias_maps=abc")
    refused("--precision fp16 needs a GPU", precision="fp16")
    with pytest.raises(UsageError, match=r"--set patch_size: .*multiples of .*the nearest is"):
        train(
            "1", 0, settings=["patch_size=7,16,16"], name="refused", workspace=workspace,
            workers=0, progress=False, device="cpu",
        )  # fmt: skip
    assert not (workspace.results("Dataset001_Analytic") / "refused").exists()


def test_unlabelled_images_that_are_not_preprocessed_are_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = list(workspace.preprocessed("Dataset001_Analytic").glob("*/fine/un_other.json"))
    (sidecar,) = stores
    hidden = sidecar.rename(sidecar.with_name("hidden"))
    try:
        with pytest.raises(UsageError, match=r"un_other is not preprocessed for the stage fine"):
            _train(workspace, "refused")
        # a trainer that does not look at them does not ask for them
        monkeypatch.setattr(training, "train_and_validate", lambda *_: {})
        model = train(
            "1", 0, name="plain", workspace=workspace, workers=0, progress=False, device="cpu"
        ).model
        assert model.is_dir()
    finally:
        hidden.rename(sidecar)
    assert not (workspace.results("Dataset001_Analytic") / "refused").exists()


def test_it_is_trained_and_validated_within_a_budget(
    workspace: Workspace, fold: int, check_budget: Callable[[Path, Collection[str]], None]
) -> None:
    """The settings' schedule ends it long before the budget does."""
    check_budget(
        _train(workspace, "timed", fold, budget="40m") / f"fold_{fold}",
        {"locate", "autoencoder", "fine"},
    )
