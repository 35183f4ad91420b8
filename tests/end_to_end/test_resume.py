"""A killed training, started again with the same command, ends as one that was never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from renalplan.errors import UsageError
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.training import train
from renalplan.workspace import Workspace

SETTINGS = ["epochs=6", "iterations=2", "validation_iterations=1"]
SCRIPT = """
import sys
from pathlib import Path
import torch
from renalplan.training import train
from renalplan.workspace import Workspace

torch.set_num_threads(1)
train("1", 0, settings={settings!r}, name=sys.argv[2], workspace=Workspace(Path(sys.argv[1])),
      workers=1, progress=False, device="cpu")
"""


@pytest.fixture(scope="module")
def workspace(analytic_dataset: Callable[..., Workspace]) -> Workspace:
    made = analytic_dataset("thick slices", {"left": 1, "right": 2})
    options = PlanOptions(base_features=4, max_features=8, gpu_memory_gb=0.004, cascade="none")
    plan_and_preprocess("1", options=options, workspace=made, workers=0, progress=False)
    return made


def _train(workspace: Workspace, name: str, **values: object) -> Path:
    given: dict = {"settings": SETTINGS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", 0, name=name, workspace=workspace, **(given | values)).model


@pytest.fixture(scope="module")
def uninterrupted(workspace: Workspace) -> Path:
    return _train(workspace, "uninterrupted") / "fold_0" / "whole"


def _rows(log: Path) -> int:
    return len(log.read_text().splitlines()) - 1 if log.is_file() else 0


def _start_and_kill(workspace: Workspace, name: str, rows: int) -> None:
    """Kill a training at a random moment after `rows` epochs."""
    folder = workspace.results("Dataset001_Analytic") / name / "fold_0" / "whole"
    code = SCRIPT.format(settings=SETTINGS)
    child = subprocess.Popen([sys.executable, "-c", code, str(workspace.root), name])
    try:
        limit = time.monotonic() + 120
        while _rows(folder / "log.csv") < rows:
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (folder / "model.safetensors").exists()


def test_a_training_killed_twice_ends_with_the_same_weights(
    workspace: Workspace, uninterrupted: Path
) -> None:
    name = "killed"
    for rows in (1, 3):
        _start_and_kill(workspace, name, rows)
    model = _train(workspace, name)
    folder = model / "fold_0" / "whole"
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (uninterrupted / "model.safetensors").read_bytes()
    assert _rows(folder / "log.csv") == 6
    assert not (folder / "checkpoint.pt").exists()
    assert not [path for path in model.rglob("*") if path.name.startswith(".tmp-")]


def test_what_is_done_is_not_trained_again(workspace: Workspace, uninterrupted: Path) -> None:
    before = (uninterrupted / "model.safetensors").stat().st_mtime_ns
    _train(workspace, "uninterrupted")
    assert (uninterrupted / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_need_a_restart(workspace: Workspace, uninterrupted: Path) -> None:
    short = ["epochs=1", "iterations=1", "validation_iterations=0"]
    _train(workspace, "restarted", settings=short)
    longer = ["epochs=2", *short[1:]]
    with pytest.raises(UsageError, match=r"epochs was 1, is 2"):
        _train(workspace, "restarted", settings=longer)
    model = _train(workspace, "restarted", settings=longer, restart=True)
    assert _rows(model / "fold_0" / "whole" / "log.csv") == 2


def test_a_restart_is_refused_where_another_fold_has_other_settings(workspace: Workspace) -> None:
    short = ["epochs=1", "iterations=1", "validation_iterations=0"]
    model = _train(workspace, "two_folds", settings=short)
    (model / "fold_0").rename(model / "fold_1")
    with pytest.raises(UsageError, match=r"epochs was 1, is 2"):
        _train(workspace, "two_folds", settings=["epochs=2", *short[1:]], restart=True)
    assert (model / "fold_1" / "whole" / "model.safetensors").is_file()


def test_a_copied_model_can_be_asked_to_train_again(
    workspace: Workspace, uninterrupted: Path
) -> None:
    import shutil

    target = workspace.results("Dataset001_Analytic") / "copied"
    shutil.copytree(uninterrupted.parents[1], target, copy_function=shutil.copyfile)
    assert _train(workspace, "copied") == target


def test_deterministic_trainings_end_with_the_same_weights(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    short = ["epochs=1", "iterations=2", "validation_iterations=0"]
    try:
        weights = [
            (_train(workspace, name, settings=short, deterministic=True, workers=workers)
             / "fold_0" / "whole" / "model.safetensors").read_bytes()
            for name, workers in (("once", 0), ("twice", 1))
        ]  # fmt: skip
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert weights[0] == weights[1]
        _train(workspace, "fast", settings=short)
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_clock_is_not_the_same_twice(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="--deterministic: under a --budget the clock decides"):
        _train(workspace, "timed", budget="10m", deterministic=True)
    assert not (workspace.results("Dataset001_Analytic") / "timed").exists()
