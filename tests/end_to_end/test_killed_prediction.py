"""A killed prediction, started again with the same command, ends as one that was never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import psutil
import pytest

from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.training import train
from renalplan.workspace import Workspace

SCRIPT = """
import sys
import torch
from renalplan.predicting import predict

torch.set_num_threads(1)
predict(sys.argv[1], sys.argv[2], models=[sys.argv[3]], device="cpu", engine="torch", progress=False,
        save_probabilities=True, workers=int(sys.argv[4]))
"""


@pytest.fixture(scope="module")
def model(analytic_dataset: Callable[..., Workspace]) -> Path:
    workspace = analytic_dataset("plain", {"kidney": 1}, join=True)
    options = PlanOptions(base_features=4, max_features=8, gpu_memory_gb=0.004, cascade="none")
    plan_and_preprocess("1", options=options, workspace=workspace, workers=0, progress=False)
    settings = ["epochs=1", "iterations=1", "validation_iterations=0"]
    return train(
        "1", 0, settings=settings, workspace=workspace, workers=0, progress=False, device="cpu"
    ).model


def _contents(out: Path) -> dict[str, bytes]:
    """Segmentations byte for byte, probabilities value for value (their file has room at its end)."""
    arrays = {p.name: blosc2.open(str(p), mode="r")[:].tobytes() for p in out.glob("*.b2nd")}
    return {p.name: p.read_bytes() for p in out.glob("*.nii.gz")} | arrays


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_prediction_ends_with_the_same_files(
    model: Path, scans: Path, tmp_path: Path, workers: int
) -> None:
    images = scans / "imagesTs"
    cases = len(list(images.iterdir()))
    predict(
        images, tmp_path / "whole", models=[model], device="cpu", engine="torch", progress=False,
        save_probabilities=True, workers=0,
    )  # fmt: skip
    out = tmp_path / "killed"
    for after in (1, 4) if workers else (2,):  # killed early and late
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(images), str(out), str(model), str(workers)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        family: list[psutil.Process] = []
        try:
            limit = time.monotonic() + 180
            while len(list(out.glob("*.nii.gz"))) < after:
                assert child.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < limit
                time.sleep(0.005)
            family = psutil.Process(child.pid).children(recursive=True)
            time.sleep(random.uniform(0, 0.2))
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert len(family) == workers
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family):
            assert time.monotonic() < limit, "a reader outlives the run"
            time.sleep(0.01)
    report = predict(
        images, out, models=[model], device="cpu", engine="torch", progress=False, save_probabilities=True,
        workers=workers,
    )  # fmt: skip
    assert len(report.done) + len(report.kept) == cases
    assert report.kept
    made, expected = _contents(out), _contents(tmp_path / "whole")
    assert len(made) == 2 * cases
    assert [name for name in expected if made[name] != expected[name]] == []
    assert not list(out.glob(".tmp-*"))
