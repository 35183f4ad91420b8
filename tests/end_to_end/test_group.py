"""Group training from raw scans to segmentations: planned, trained, killed, resumed, moved, predicted."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from renalplan.cli import plan_and_preprocess as plan_command
from renalplan.errors import UsageError
from renalplan.files import read_record
from renalplan.images import read_volume
from renalplan.integrity import check_dataset
from renalplan.model_folder import ModelFolder
from renalplan.phantom import make_phantom_dataset
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.trainers.boxes import TumorBoxes
from renalplan.training import Trained, train
from renalplan.workspace import Workspace

TRAINER = "renalplan.trainers.group:GroupTraining"
SETTINGS = [
    "epochs=2", "iterations=1", "validation_iterations=0", "batch_size=1", "k=2", "crf.iterations=1",
    "earlier.epochs=1", "earlier.iterations=1", "earlier.validation_iterations=0",
    "earlier.batch_size=1", "box_margin=1", "augmentation.rotation_probability=0.5",
]  # fmt: skip
PHASES = (
    "boxes", "locate_masks", "locate", "pseudo_masks", "group_1", "group_2", "fusion", "fine"
)  # fmt: skip
NETWORKS = ("locate", "group_1", "group_2", "fine")
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
    given: dict = {
        "base_features": 4, "max_features": 8, "gpu_memory_gb": 0.1, "cascade": "locate",
        "spacing": (6.0, 6.0, 6.0),
    }  # fmt: skip
    plan_and_preprocess(
        "1", options=PlanOptions(**(given | options)), workspace=workspace, workers=0,
        progress=False,
    )  # fmt: skip


def _train(workspace: Workspace, name: str, **values: object) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", 0, TRAINER, name=name, workspace=workspace, **(given | values)).model


@pytest.fixture(scope="module")
def workspace(analytic_dataset: Callable[..., Workspace]) -> Workspace:
    """Four scans, two "tumors" each; three are trained on."""
    made = analytic_dataset("plain", {"tumor": 1}, join=True, cases=4)
    _plan(made)
    return made


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace) -> Path:
    return _train(workspace, "uninterrupted")


def _weights(model: Path) -> dict[str, bytes]:
    fold = model / "fold_0"
    return {name: (fold / name / "model.safetensors").read_bytes() for name in NETWORKS}


def test_every_phase_leaves_what_the_next_one_needs(uninterrupted: Path) -> None:
    fold = ModelFolder.open(uninterrupted).fold_folder("0")
    assert {p.name for p in fold.iterdir() if p.is_dir()} == {*PHASES, "validation"}
    training = {p.name.split(".")[0] for p in (fold / "fusion").glob("*.weights.b2nd")}
    assert len(training) == 3
    (held_out,) = {p.name.split(".")[0] for p in (fold / "validation").glob("*.nii.gz")}
    assert held_out not in training
    for phase in ("locate_masks", "pseudo_masks", "fusion"):
        assert not list((fold / phase).rglob(f"{held_out}*"))
    assert held_out not in (fold / "boxes" / "boxes.json").read_text()
    assert not list(uninterrupted.rglob("checkpoint.pt"))
    assert not list(uninterrupted.rglob(".tmp-*"))


@pytest.mark.parametrize("phase", ["group_1", "fine"])
def test_killed_while_it_trains_it_goes_on_there_and_ends_the_same(
    workspace: Workspace,
    uninterrupted: Path,
    phase: str,
    kill_when: Callable[[str, Workspace, Path], None],
) -> None:
    fold = workspace.results("Dataset001_Analytic") / "killed" / "fold_0"
    shutil.rmtree(fold.parent, ignore_errors=True)
    code = SCRIPT.format(trainer=TRAINER, settings=SETTINGS)
    kill_when(code, workspace, fold / phase / "checkpoint.pt")
    done = [*fold.rglob("model.safetensors"), *fold.rglob("done")]
    before = [path.stat().st_mtime_ns for path in done]
    assert not (fold / phase / "model.safetensors").exists()
    model = _train(workspace, "killed")
    assert [path.stat().st_mtime_ns for path in done] == before
    assert _weights(model) == _weights(uninterrupted)


@pytest.mark.parametrize("phase", ["boxes", "locate_masks", "pseudo_masks", "fusion"])
def test_a_phase_that_only_computes_goes_on_after_what_it_has_written(
    workspace: Workspace, uninterrupted: Path, phase: str
) -> None:
    """What a kill in such a phase leaves: earlier phases, some of its items, nothing after it."""
    copy = workspace.results("Dataset001_Analytic") / f"killed_in_{phase}"
    shutil.copytree(uninterrupted, copy)
    fold = copy / "fold_0"
    for later in (*PHASES[PHASES.index(phase) + 1 :], "validation"):
        shutil.rmtree(fold / later)
    (fold / "finished.json").unlink()
    (fold / phase / "done").unlink()
    if phase != "boxes":
        finished = sorted((fold / phase).glob("*.json"))
        assert len(finished) >= 3
        finished[0].unlink()
        kept = finished[1].stat().st_mtime_ns
    model = _train(workspace, copy.name)
    assert _weights(model) == _weights(uninterrupted)
    if phase != "boxes":
        assert finished[1].stat().st_mtime_ns == kept


def test_no_voxel_of_a_training_label_reaches_a_loss(
    workspace: Workspace, uninterrupted: Path, analytic_dataset: Callable[..., Workspace]
) -> None:
    """Other labels with the same boxes: every network ends with the same weights."""

    def hollow(labels: np.ndarray) -> np.ndarray:
        """A shell instead of a full kidney: the same extents, most voxels another label."""
        from scipy import ndimage

        return np.where(ndimage.binary_erosion(labels > 0, iterations=2), 0, labels)

    other = analytic_dataset("plain", {"tumor": 1}, join=True, cases=4, relabel=hollow)
    _plan(other)
    # the plan's own numbers (intensities, thickness) do follow the labels: take the first one's
    for name in ("plan.json", "plan_origin.json"):
        path = "preprocessed/Dataset001_Analytic/renal/" + name
        shutil.copy(workspace.root / path, other.root / path)
    for stage in ("locate", "fine"):
        folder = "preprocessed/Dataset001_Analytic/renal/" + stage
        for image in (workspace.root / folder).glob("*.image.b2nd"):
            shutil.copy(image, other.root / folder)
        for record in (workspace.root / folder).glob("*.json"):
            values, mine = record.read_text(), (other.root / folder / record.name).read_text()
            assert (
                values.split('"structures"')[0].split('"items"')[1]
                == (mine.split('"structures"')[0].split('"items"')[1])
            )
            recipe = values.split('"recipe": "')[1].split('"')[0]
            old = mine.split('"recipe": "')[1].split('"')[0]
            (other.root / folder / record.name).write_text(mine.replace(old, recipe))
    labels = "preprocessed/Dataset001_Analytic/renal/fine/case_0.0.labels.b2nd"
    assert (workspace.root / labels).read_bytes() != (other.root / labels).read_bytes()
    assert _weights(_train(other, "hollow")) == _weights(uninterrupted)


def test_the_model_folder_alone_predicts_the_same_and_one_piece(
    workspace: Workspace,
    uninterrupted: Path,
    predict_anywhere: Callable[[Workspace, Path], list[np.ndarray]],
) -> None:
    for labels in predict_anywhere(workspace, uninterrupted):
        assert ndimage.label(labels[0], ndimage.generate_binary_structure(3, 2))[1] <= 1


def test_two_structures_are_refused_before_anything_is_written(
    analytic_dataset: Callable[..., Workspace],
) -> None:
    workspace = analytic_dataset("plain", {"kidney": 1, "tumor": 2})
    _plan(workspace)
    with pytest.raises(UsageError, match="one label besides background"):
        _train(workspace, "two")
    assert not (workspace.results("Dataset001_Analytic") / "two").exists()


def test_boxes_without_any_label_are_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    folder = tmp_path / "raw" / "Dataset003_Boxes"
    make_phantom_dataset(folder, cases=3, task="boxes", size=(32, 48, 48), seed=3)
    (folder / "labelsTr").rename(tmp_path / "truth")
    labels_of = {path.name.split(".")[0]: path for path in (tmp_path / "truth").iterdir()}
    assert check_dataset(folder) == []
    words = "3 --base_features 4 --cascade none --gpu_memory 0.1 --window -200 500 --workers 0"
    assert plan_command([*words.split(), "--workspace", str(tmp_path)]) == 0
    logging.getLogger("renalplan").handlers.clear()  # it holds this test's captured stderr
    assert "Next: renalplan_train Dataset003_Boxes 0 GroupTraining" in capsys.readouterr().out

    def run(trainer: str, fold: int | str, *settings: str) -> Trained:
        given = ["epochs=1", "iterations=1", "batch_size=1", *settings]
        return train(
            "3", fold, trainer, settings=given, workspace=workspace, workers=0, progress=False,
            device="cpu",
        )  # fmt: skip

    with pytest.raises(UsageError, match=r"boxesTr\.csv stands for the labels of 3 cases"):
        run("UNet", 0)
    with pytest.raises(UsageError, match="box_margin makes boxes from labels"):
        run(TRAINER, 0, "k=0", "box_margin=0")
    assert not workspace.results("Dataset003_Boxes").exists()
    caplog.set_level(logging.INFO, logger="renalplan")
    trained = run(TRAINER, "cv", "k=0")
    assert trained.folds == {"0": {}, "1": {}, "2": {}}
    assert "fold 1: 1 of 1 held-out cases have boxes and no labels, so they are not scored" in (
        caplog.text
    )
    assert not (trained.model / "crossval.json").exists()
    rows = (folder / "boxesTr.csv").read_text().splitlines()[1:]
    for fold in trained.model.glob("fold_*"):
        found = read_record(fold / "boxes" / "boxes.json", TumorBoxes)
        assert found.source == "boxesTr.csv"
        for case, boxes in found.boxes.items():
            assert len(boxes) == sum(row.startswith(f"{case},") for row in rows)
            labels = read_volume(labels_of[case], labels=True).array[0]
            for box in boxes:
                part = labels[tuple(slice(int(a), int(b)) for a, b in box)]
                for axis in range(3):  # tight in the canonical scan, whatever the file's axes
                    assert part.take(0, axis).any()
                    assert part.take(-1, axis).any()
    report = predict(
        folder / "imagesTr", tmp_path / "out", models=[trained.model], device="cpu", progress=False
    )
    assert len(report.done) == 3


def test_it_is_trained_and_validated_within_a_budget(
    workspace: Workspace, check_budget: Callable[[Path, Collection[str]], None]
) -> None:
    """The settings' schedule ends it long before the budget does."""
    check_budget(_train(workspace, "timed", budget="40m") / "fold_0", set(NETWORKS))
