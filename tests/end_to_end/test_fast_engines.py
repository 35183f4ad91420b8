"""A trained network gives the same labels whatever computes it, and in whichever precision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.images import read_volume
from renalplan.inference.engines import choice, openvino_engine
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.training import train
from renalplan.workspace import Workspace

LEARNED = [
    "epochs=2", "iterations=60", "validation_iterations=0", "optimizer=adamw",
    "learning_rate=0.005", "foreground_share=1", "batch_size=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    shutil.copytree(phantoms, root / "raw" / phantoms.name)
    workspace = Workspace(root)
    options = PlanOptions(base_features=8, max_features=16, gpu_memory_gb=0.008, cascade="none")
    plan_and_preprocess("2", options=options, workspace=workspace, workers=0, progress=False)
    return train(
        "2", 0, settings=LEARNED, workspace=workspace, workers=0, progress=False, device="cpu"
    ).model


@pytest.mark.parametrize(
    ("engine", "precision"), [("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]
)
def test_labels_are_those_of_pytorch_in_float32(
    model: Path, phantoms: Path, tmp_path: Path, engine: str, precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(choice, "is_installed", openvino_engine.is_installed)
    (truth,) = (phantoms / "labelsTs").iterdir()

    def labels(engine: str, precision: str) -> NDArray:
        out = tmp_path / f"{engine}_{precision}"
        report = predict(
            phantoms / "imagesTs", out, models=[model], device="cpu", engine=engine,
            precision=precision, progress=False, workers=0,
        )  # fmt: skip
        assert not report.failed
        return read_volume(out / truth.name, labels=True).array

    expected, found = labels("torch", "fp32"), labels(engine, precision)
    kidney = read_volume(truth, labels=True).array > 0
    assert (expected[kidney] > 0).mean() > 0.3, "it has not learned anything to compare"
    assert float(np.mean(expected == found)) >= 0.999
