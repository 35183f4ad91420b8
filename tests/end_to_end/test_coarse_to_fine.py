"""The coarse-to-fine system from raw scans to segmentations: its rules, killed, resumed, moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan import store, training
from renalplan.errors import UsageError
from renalplan.images import read_grid, read_volume
from renalplan.model_folder import ModelFolder
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.trainers import loop
from renalplan.trainers.anatomy import read_anatomies
from renalplan.trainers.checkpoint import TrainingState
from renalplan.trainers.trainer import Trainer
from renalplan.training import train
from renalplan.workspace import Workspace

TRAINER = "renalplan.trainers.coarse_to_fine:CoarseToFine"
PHASES = ("coarse", "correction", "fine", "tumor_3d", "tumor_2d")
SETTINGS = [
    "epochs=2", "iterations=1", "validation_iterations=0", "batch_size=2", "widths=4,8",
    "coarse_pixels=32", "tumor_3d.epochs=4", "tumor_3d.iterations=1",
    "tumor_3d.validation_iterations=0", "tumor_3d.batch_size=3", "tumor_3d.widths=4,8",
]  # fmt: skip
# windows of 60 mm, since the scan is 120 mm wide
ORACLE = ["widths=4,8", "coarse_pixels=64", "fine_mm=60"]
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
BODY, KIDNEY, DIM, TUMOR, FAINT, CALCIUM = 40.0, 200.0, 150.0, 300.0, 250.0, 800.0  # HU
RIGHT, LEFT = -28.0, 28.0  # mm along x


def _inside(points: NDArray, centre: tuple[float, ...], semi: tuple[float, ...]) -> NDArray:
    return np.asarray((((points - centre) / semi) ** 2).sum(-1) <= 1)


def _patient(
    geometry: Any,
    *,
    sides: tuple[float, ...] = (RIGHT, LEFT),
    dim: tuple[float, ...] = (),
    tumor: float | None = TUMOR,
    stray: bool = False,
    joined: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """HU and labels (1 kidney, 2 tumor): kidneys of 63 ml, a tumor of 4 ml on the first one's edge.

    `dim` names the sides of kidneys that the coarse network misses; `stray` puts a bright ball of 2 ml
    between the kidneys; `joined` a bridge.
    """
    points = geometry.points()
    hu = np.full(points.shape[:3], -1000, np.float32)
    labels = np.zeros(points.shape[:3], np.uint8)
    hu[_inside(points, (0, 0, 0), (57, 55, 1e6))] = BODY
    for side in sides:
        kidney = _inside(points, (side, 5, 0), (18, 22, 38))
        hu[kidney] = DIM if side in dim else KIDNEY
        labels[kidney] = 1
    if joined:
        bridge = _inside(points, (0, 5, 0), (14, 9, 9)) & (labels == 0)
        hu[bridge], labels[bridge] = KIDNEY, 1
    if tumor is not None:
        lesion = _inside(points, (np.sign(sides[0]) * 40, 5, 8), (10, 10, 10))
        hu[lesion], labels[lesion] = tumor, 2
    if stray:
        hu[_inside(points, (0, -25, -10), (8, 8, 8))] = CALCIUM
    return hu, labels


def _write(folder: Path, part: str, name: str, geometry: Any, **values: Any) -> None:
    for kind, array in zip(("images", "labels"), _patient(geometry, **values), strict=True):
        path = folder / f"{kind}{part}" / f"{name}{'_0000' if kind == 'images' else ''}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(geometry.image(array), str(path))


def _workspace(root: Path, geometry: Any, labels: dict[str, Any], **values: Any) -> Workspace:
    """Two training cases: both kidneys, and the left one alone."""
    folder = root / "raw" / "Dataset001_Analytic"
    _write(folder, "Tr", "both", geometry)
    _write(folder, "Tr", "single", geometry, sides=(LEFT,))
    description = {
        "channel_names": {"0": "noNorm"}, "labels": {"background": 0, **labels},
        "file_ending": ".nii.gz", **values,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    made = Workspace(root)
    plan_and_preprocess(
        "1",
        options=PlanOptions(planner="coarse_to_fine", base_features=4, max_features=8),
        workspace=made, workers=0, progress=False,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, geometries: dict[str, Any]) -> Workspace:
    root = tmp_path_factory.mktemp("coarse_to_fine")
    return _workspace(root, geometries["plain"], {"kidney": 1, "tumor": 2})


def _train(workspace: Workspace, name: str, **values: Any) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", 0, TRAINER, name=name, workspace=workspace, **(given | values)).model


def _only_train(trainer: Trainer, *_: object) -> dict[str, float]:
    trainer.run()
    return {}


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace) -> Path:
    return _train(workspace, "uninterrupted")


def test_every_phase_leaves_what_the_next_one_needs(uninterrupted: Path) -> None:
    model = ModelFolder.open(uninterrupted)
    (grid,) = model.plan.run()
    assert grid.spacing == (3.0, 2.5, 2.5)  # the data's own, which are coarser than the paper's
    fold = model.fold_folder("0")
    assert {p.name for p in fold.iterdir() if p.is_dir()} == {"anatomy", *PHASES, "validation"}
    assert set(model.record.networks) == set(PHASES)
    (training,) = read_anatomies(fold / "anatomy")
    (held_out,) = (p.name.removesuffix(".nii.gz") for p in (fold / "validation").glob("*.nii.gz"))
    assert {training.split(".")[0], held_out} == {"both", "single"}
    decisions = json.loads((fold / "validation" / f"{held_out}.json").read_text())
    assert decisions["case"] == held_out
    assert {"abnormal", "corrected", "tumor_source"} <= set(decisions["decisions"]["uninterrupted"])
    assert not list(uninterrupted.rglob("checkpoint.pt"))
    assert not list(uninterrupted.rglob(".tmp-*"))


def _is_the_same(fold: Path, uninterrupted: Path) -> None:
    for name in PHASES:
        weights = (fold / name / "model.safetensors").read_bytes()
        assert weights == (uninterrupted / "fold_0" / name / "model.safetensors").read_bytes(), name
        epochs = 4 if name == "tumor_3d" else 2
        assert len((fold / name / "log.csv").read_text().splitlines()) == epochs + 1  # the header
    assert not list(fold.rglob("checkpoint.pt"))


def test_killed_it_goes_on_where_it_was_and_ends_the_same(
    workspace: Workspace,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_when: Callable[[str, Workspace, Path], None],
) -> None:
    fold = workspace.results("Dataset001_Analytic") / "killed" / "fold_0"
    code = SCRIPT.format(trainer=TRAINER, settings=SETTINGS)
    kill_when(code, workspace, fold / "tumor_3d" / "checkpoint.pt")
    before = {p: p.stat().st_mtime_ns for p in fold.glob("*/model.safetensors")}
    assert {p.parent.name for p in before} == {"coarse", "correction", "fine"}
    monkeypatch.setattr(training, "train_and_validate", _only_train)
    _train(workspace, "killed")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    _is_the_same(fold, uninterrupted)


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """Raised where a run is to end."""


def test_stopped_in_every_phase_it_ends_the_same_and_has_opened_nothing_held_out(
    workspace: Workspace, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[str] = set()
    open_array = store.open_array

    def recording(path: Path) -> Any:
        opened.add(path.name.split(".")[0])
        return open_array(path)

    monkeypatch.setattr(store, "open_array", recording)
    fold = workspace.results("Dataset001_Analytic") / "stopped" / "fold_0"
    monkeypatch.setattr(training, "train_and_validate", _only_train)
    real = loop.save_checkpoint

    def save_and_stop(folder: Path, state: TrainingState) -> None:
        real(folder, state)
        if state.epoch == 1:
            raise Stopped

    monkeypatch.setattr(loop, "save_checkpoint", save_and_stop)
    for number, phase in enumerate(PHASES):
        with pytest.raises(Stopped):
            _train(workspace, "stopped")
        done = {path.parent.name for path in fold.glob("*/model.safetensors")}
        assert done == set(PHASES[:number])
        assert (fold / phase / "checkpoint.pt").is_file()
    _train(workspace, "stopped")
    _is_the_same(fold, uninterrupted)
    (training_item,) = read_anatomies(fold / "anatomy")
    assert opened == {training_item.split(".")[0]}


def _predict(model: Path, images: Path, out: Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Case -> label map, and case -> what was decided."""
    report = predict(images, out, models=[model], device="cpu", progress=False)
    assert not report.failed
    labels, decisions = {}, {}
    for path in sorted(out.glob("*.nii.gz")):
        case = path.name.removesuffix(".nii.gz")
        labels[case] = read_volume(path, labels=True).array[0]
        decisions[case] = json.loads((out / f"{case}.json").read_text())["decisions"][model.name]
    return labels, decisions


def test_the_model_folder_alone_predicts_the_same(
    workspace: Workspace, uninterrupted: Path, tmp_path: Path, geometries: dict[str, Any]
) -> None:
    _write(tmp_path, "Ts", "scan", geometries["oblique"])
    here = _predict(uninterrupted, tmp_path / "imagesTs", tmp_path / "here")
    elsewhere = Path(shutil.copytree(uninterrupted, tmp_path / "away" / "uninterrupted"))
    away = workspace.root.rename(workspace.root.with_name("c2f_away"))
    try:
        there = _predict(elsewhere, tmp_path / "imagesTs", tmp_path / "there")
    finally:
        away.rename(workspace.root)
    assert np.array_equal(here[0]["scan"], there[0]["scan"])
    assert here[1] == there[1]


def test_a_plan_that_cannot_serve_is_refused_before_anything_is_written(
    workspace: Workspace,
) -> None:
    plan_and_preprocess(
        "1",
        options=PlanOptions(planner="bisc", base_features=4, max_features=8, spacing=(6, 5, 5)),
        workspace=workspace, workers=0, progress=False,
    )  # fmt: skip
    with pytest.raises(UsageError, match="plan bisc runs rough, fine along z y x"):
        _train(workspace, "odd", plan_name="bisc")
    shutil.rmtree(workspace.preprocessed("Dataset001_Analytic") / "bisc")
    assert not (workspace.results("Dataset001_Analytic") / "odd").exists()


def _dice(first: NDArray, second: NDArray) -> float:
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


PATIENTS: dict[str, dict[str, Any]] = {
    "two": {},
    "single_left": {"sides": (LEFT,)},
    "single_right": {"sides": (RIGHT,)},
    "missed": {"dim": (LEFT,)},
    "both_missed": {"dim": (LEFT, RIGHT)},
    "joined": {"joined": True},
    "faint": {"tumor": FAINT},
    "healthy": {"tumor": None},
    "stray": {"stray": True},
}


@pytest.fixture(scope="module")
def oracles(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, geometries: dict[str, Any]
) -> dict[str, Path]:
    """Patients of one geometry, and with right networks the model that corrects and one that does not."""
    images = tmp_path_factory.mktemp("patients")
    for name, values in PATIENTS.items():
        _write(images, "Ts", name, geometries["plain"], **values)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        trainer = "oracle_coarse_to_fine:OracleCoarseToFine"
        given: dict = {"workspace": workspace, "workers": 0, "progress": False, "device": "cpu"}
        models = {
            setting: train(
                "1", 0, trainer, settings=[*ORACLE, f"correction={setting}"], name=setting, **given
            )
            for setting in ("true", "false")
        }
    for trained in models.values():
        assert trained.folds["0"]["kidney"] > 0.95
        assert trained.folds["0"]["tumor"] > 0.9
    return {setting: trained.model for setting, trained in models.items()} | {"patients": images}


@pytest.fixture(scope="module")
def answers(
    oracles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, NDArray], dict[str, Any]]]:
    """`true` and `false`: with and without correction."""
    out = tmp_path_factory.mktemp("answers")
    images = oracles["patients"] / "imagesTs"
    return {s: _predict(oracles[s], images, out / s) for s in ("true", "false")}


def _truth(oracles: dict[str, Path], case: str) -> NDArray:
    labels: NDArray = read_volume(
        oracles["patients"] / "labelsTs" / f"{case}.nii.gz", labels=True
    ).array[0]
    return labels


@pytest.mark.parametrize("case", PATIENTS)
def test_with_right_networks_every_patient_is_right(
    oracles: dict[str, Path], answers: dict, case: str
) -> None:
    found, truth = answers["true"][0][case], _truth(oracles, case)
    assert _dice(found > 0, truth > 0) > 0.97
    if (truth == 2).any():
        assert _dice(found == 2, truth == 2) > 0.9
    else:
        assert not (found == 2).any()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("two", {"abnormal": False, "corrected": False, "coarse_kidneys": 2, "kidneys_found": 2}),
        ("single_left", {"abnormal": True, "corrected": True, "coarse_kidneys": 1, "kidneys_found": 1}),
        ("single_right", {"abnormal": True, "corrected": True, "kidneys_found": 1}),
        ("missed", {"abnormal": True, "corrected": True, "coarse_kidneys": 1, "kidneys_found": 2}),
        # only the tumor of one is bright enough for the coarse network
        ("both_missed", {"abnormal": True, "corrected": True, "coarse_kidneys": 0, "kidneys_found": 2}),
        ("joined", {"abnormal": True, "kidneys_found": 1, "kidneys_segmented": 2}),
        ("two", {"tumor_source": "3d+2d", "removed_lesions_ml": []}),
        ("faint", {"tumor_source": "2d fallback", "abnormal": False}),
        ("healthy", {"tumor_source": "none", "tumors_ml": []}),
        ("stray", {"tumor_source": "3d+2d", "abnormal": False}),
    ],
)  # fmt: skip
def test_what_the_rules_decided_is_beside_the_segmentation(
    answers: dict, case: str, expected: dict[str, Any]
) -> None:
    decided = answers["true"][1][case]
    assert {key: decided[key] for key in expected} == expected


def test_volumes_are_in_ml(answers: dict) -> None:
    decided = answers["true"][1]
    assert decided["two"]["tumors_ml"] == [pytest.approx(4.2, abs=0.5)]
    assert sorted(decided["two"]["kidney_ml"]) == [
        pytest.approx(63, abs=3),
        pytest.approx(65, abs=3),
    ]
    (stray,) = decided["stray"]["removed_lesions_ml"]
    assert stray == pytest.approx(2.1, abs=0.4)
    # the edge voxels, half kidney and half fat, are below what the coarse network takes
    assert decided["single_left"]["coarse_components_ml"] == [pytest.approx(55, abs=5)]
    assert len(decided["missed"]["corrected_components_ml"]) == 2
    assert decided["two"]["corrected_components_ml"] is None


def test_without_correction_a_kidney_that_the_coarse_network_misses_stays_lost(
    oracles: dict[str, Path], answers: dict
) -> None:
    labels, decided = answers["false"]
    missed = decided["missed"]
    assert (missed["abnormal"], missed["corrected"], missed["kidneys_found"]) == (True, False, 1)
    assert missed["corrected_components_ml"] is None
    truth = _truth(oracles, "missed") > 0
    left = slice(labels["missed"].shape[2] // 2, None)
    assert _dice(labels["missed"][..., left] > 0, truth[..., left]) == 0
    assert _dice(labels["missed"] > 0, truth) == pytest.approx(2 / 3, abs=0.05)
    # who has one kidney loses nothing by having no correction
    truth = _truth(oracles, "single_left") > 0
    assert _dice(labels["single_left"] > 0, truth) > 0.97
    assert not (oracles["false"] / "fold_0" / "correction").exists()


@pytest.mark.parametrize("geometry", ["oblique", "flipped", "z first"])
def test_every_geometry_is_answered_on_its_own_grid(
    oracles: dict[str, Path], geometries: dict[str, Any], geometry: str, tmp_path: Path
) -> None:
    for case in ("single_left", "missed"):
        _write(tmp_path, "Ts", case, geometries[geometry], **PATIENTS[case])
    labels, decided = _predict(oracles["true"], tmp_path / "imagesTs", tmp_path / "out")
    assert decided["single_left"]["kidneys_found"] == 1
    assert decided["missed"]["kidneys_found"] == 2
    for case, found in labels.items():
        path = tmp_path / "labelsTs" / f"{case}.nii.gz"
        assert not read_grid(tmp_path / "out" / path.name).differences(read_grid(path))
        truth = read_volume(path, labels=True).array[0]
        assert _dice(found > 0, truth > 0) > 0.95
        assert _dice(found == 2, truth == 2) > 0.85


def test_regions_are_answered_as_classes_are(
    tmp_path: Path, geometries: dict[str, Any], plugins: None
) -> None:
    made = _workspace(
        tmp_path, geometries["plain"], {"kidney": [1, 2], "tumor": 2}, regions_class_order=[1, 2]
    )
    trained = train(
        "1", 0, "oracle_coarse_to_fine:OracleCoarseToFine", settings=ORACLE, workspace=made,
        workers=0, progress=False, device="cpu",
    )  # fmt: skip
    assert trained.folds["0"]["kidney"] > 0.97
    assert trained.folds["0"]["tumor"] > 0.9


def test_it_is_trained_and_validated_within_a_budget(
    workspace: Workspace, check_budget: Callable[[Path, Collection[str]], None]
) -> None:
    """The settings' schedule ends it long before the budget does."""
    check_budget(_train(workspace, "timed", budget="40m") / "fold_0", set(PHASES))
