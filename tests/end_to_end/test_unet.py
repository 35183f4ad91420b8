"""The U-Net trainer from raw scans to segmentations, in every shape a plan can have."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from renalplan.images import read_grid, read_volume
from renalplan.model_folder import ModelFolder
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.training import train
from renalplan.workspace import Workspace

SHORT = ["epochs=2", "iterations=3", "validation_iterations=1"]
TINY = {"base_features": 4, "max_features": 8, "gpu_memory_gb": 0.003}


def _train(workspace: Workspace, options: PlanOptions, configuration: str | None = None) -> Path:
    plan_and_preprocess(
        "1" if (workspace.root / "raw" / "Dataset001_Analytic").exists() else "2",
        options=options,
        configurations=[configuration] if configuration else None,
        workspace=workspace,
        workers=0,
        progress=False,
    )
    (dataset,) = (workspace.root / "raw").iterdir()
    trained = train(
        str(dataset), 0, settings=SHORT, configuration=configuration, workspace=workspace,
        workers=0, progress=False, device="cpu",
    )  # fmt: skip
    assert all(0 <= dice <= 1 for dice in trained.folds["0"].values())
    return trained.model


@pytest.mark.parametrize(
    ("planner", "cascade", "configuration", "stages"),
    [
        ("renal", "none", None, ["whole"]),
        ("renal", "locate", None, ["locate", "fine"]),
        ("renal", "lowres", None, ["lowres", "fullres"]),
        ("nnunet", "auto", "2d", ["2d"]),
    ],
)
def test_a_model_folder_alone_predicts(
    phantoms: Path,
    tmp_path: Path,
    planner: str,
    cascade: str,
    configuration: str | None,
    stages: list[str],
) -> None:
    shutil.copytree(phantoms, tmp_path / "work" / "raw" / phantoms.name)
    options = PlanOptions(planner=planner, cascade=cascade, **TINY)  # type: ignore[arg-type]
    model = _train(Workspace(tmp_path / "work"), options, configuration)
    elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "work")
    assert [stage.name for stage in _stages(elsewhere)] == stages
    report = predict(
        phantoms / "imagesTs", tmp_path / "out", models=[elsewhere], device="cpu", progress=False
    )
    assert not report.failed
    (scan,) = (phantoms / "labelsTs").iterdir()
    answer = tmp_path / "out" / scan.name
    assert read_grid(answer) == read_grid(scan)
    assert set(np.unique(read_volume(answer, labels=True).array)) <= {0, 1, 2}
    assert not list(elsewhere.rglob("checkpoint.pt"))
    assert not list(elsewhere.rglob(".tmp-*"))


def _stages(model: Path) -> list:
    opened = ModelFolder.open(model)
    return list(opened.plan.run(opened.record.configuration))


def _ignore_border(labels: np.ndarray) -> np.ndarray:
    """Everything in the first third of the slices is unknown."""
    result = labels.copy()
    result[: len(result) // 3] = 3
    return result


@pytest.mark.parametrize(
    ("labels", "extra", "relabel"),
    [
        ({"left": 1, "right": 2}, {"mirrored_labels": [["left", "right"]]}, None),
        (
            {"kidneys": [1, 2], "right": [2]},
            {"regions_class_order": [1, 2]},
            None,
        ),
        ({"left": 1, "right": 2, "ignore": 3}, {}, _ignore_border),
    ],
    ids=["a left and right pair", "regions", "an ignore label"],
)
def test_every_kind_of_label_goes_through_training_and_mirrored_prediction(
    analytic_dataset: Callable[..., Workspace],
    tmp_path: Path,
    labels: dict,
    extra: dict,
    relabel: Callable | None,
) -> None:
    keys = {"relabel": relabel} if relabel else {}
    workspace = analytic_dataset("thick slices", labels, **extra, **keys)
    model = _train(workspace, PlanOptions(cascade="none", **TINY))  # type: ignore[arg-type]
    images = workspace.root / "raw" / "Dataset001_Analytic" / "imagesTr"
    report = predict(
        images, tmp_path / "out", models=[model], device="cpu", tta=True, step=1, progress=False
    )
    assert len(report.done) == 2
    for path in (tmp_path / "out").glob("*.nii.gz"):
        # the ignore value is never predicted
        assert set(np.unique(read_volume(path, labels=True).array)) <= {0, 1, 2}
