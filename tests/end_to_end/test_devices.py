"""Two processes that share every batch learn what one does: loss by loss, killed or not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from renalplan import training
from renalplan.cli import train as command
from renalplan.errors import LostError, UsageError, WorkerError
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.training import Trained, train
from renalplan.workspace import Workspace

# an epoch of one step, so that the log holds every step's loss
STEPS = ["epochs=4", "iterations=1", "validation_iterations=1", "batch_size=3"]
# sums over the batch; the default loss, a mean over samples, is for processes started by others
SUMS = ["loss.name=balanced_ce", "loss.threshold=0.01"]


@pytest.fixture(scope="module")
def workspace(analytic_dataset: Callable[..., Workspace]) -> Workspace:
    made = analytic_dataset("thick slices", {"left": 1, "right": 2})
    options = PlanOptions(base_features=4, max_features=8, gpu_memory_gb=0.004, cascade="none")
    plan_and_preprocess("1", options=options, workspace=made, workers=0, progress=False)
    return made


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def alone(workspace: Workspace) -> Trained:
    """By one process, named `alone`."""
    return _train(workspace, "alone")


@pytest.fixture(scope="module")
def summed(workspace: Workspace) -> Trained:
    """By one process with a loss that is a sum over the batch, named `summed`."""
    return _train(workspace, "summed", settings=[*STEPS, *SUMS])


def _train(workspace: Workspace, name: str, **values: object) -> Trained:
    given: dict = {"settings": STEPS, "workers": 0, "progress": False, "device": "cpu"}
    return train("1", 0, name=name, workspace=workspace, **(given | values))


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.results("Dataset001_Analytic") / name / "fold_0" / "whole"


def _losses(workspace: Workspace, name: str) -> NDArray:
    losses: NDArray = pd.read_csv(_folder(workspace, name) / "log.csv")["loss"].to_numpy()
    assert len(losses) == 4
    return losses


def _assert_alike(workspace: Workspace, one: str, other: str) -> None:
    """Losses and weights within what float32 makes of sums in another order."""
    losses = _losses(workspace, one)
    np.testing.assert_allclose(_losses(workspace, other), losses, rtol=2e-5, atol=2e-6)
    assert len(set(losses)) == 4  # it did learn
    weights, others = (
        load_file(_folder(workspace, name) / "model.safetensors") for name in (one, other)
    )
    for key, value in weights.items():
        np.testing.assert_allclose(others[key], value, rtol=1e-3, atol=1e-4, err_msg=key)


def test_two_processes_have_the_loss_curve_of_one(workspace: Workspace, summed: Trained) -> None:
    two = "two"
    together = _train(workspace, two, settings=[*STEPS, *SUMS], devices=2)
    _assert_alike(workspace, "summed", two)
    assert together.reported
    assert together.folds.keys() == summed.folds.keys() == {"0"}
    for name, dice in summed.folds["0"].items():
        assert together.folds["0"][name] == pytest.approx(dice, abs=0.02)
    left = {
        path.relative_to(_folder(workspace, two)) for path in _folder(workspace, two).rglob("*")
    }
    assert left >= {Path("log.csv"), Path("progress.png"), Path("model.safetensors")}
    assert len(list((_folder(workspace, two) / "tensorboard").iterdir())) == 1  # one of them writes


def test_parts_have_the_loss_curve_of_the_whole(workspace: Workspace, summed: Trained) -> None:
    settings = [*STEPS, *SUMS]
    _train(workspace, "parts", settings=settings, accumulate=2)
    _assert_alike(workspace, "summed", "parts")
    _train(workspace, "both", settings=settings, accumulate=2, devices=2)
    _assert_alike(workspace, "summed", "both")


def _environments(port: int) -> dict[str, list[dict[str, str]]]:
    """What torchrun, and what srun, tell each of two processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    slurm = {
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0", "SLURM_JOB_ID": "7", "SLURM_NNODES": "1",
    }  # fmt: skip
    ranks = ("0", "1")
    return {
        "torchrun": [address | torchrun | {"RANK": r, "LOCAL_RANK": r} for r in ranks],
        "srun": [address | slurm | {"SLURM_PROCID": r, "SLURM_LOCALID": r} for r in ranks],
    }


def test_what_srun_says_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    from renalplan import started
    from renalplan.trainers import replicas

    for name, value in _environments(12345)["srun"][1].items():
        monkeypatch.setenv(name, value)
    assert (started.started_world(), started.started_here()) == (2, 2)
    there = replicas._environment()
    assert (there.global_rank(), there.local_rank(), there.world_size()) == (1, 1, 2)
    assert (there.main_address, there.main_port) == ("127.0.0.1", 12345)
    assert there.creates_processes_externally


def test_processes_that_torchrun_started(workspace: Workspace, alone: Trained) -> None:
    by = "torchrun"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from renalplan.cli import train; sys.exit(train(sys.argv[1:]))"
    line = ["1", "0", "--workspace", str(workspace.root), "--name", by, "--device", "cpu"]
    line += ["--workers", "0", "--set", *STEPS]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, *line],
            env=os.environ | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in _environments(port)[by]
    ]
    said = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    _assert_alike(workspace, "alone", by)
    assert "mean Dice of held-out cases" in said[0][0]
    assert said[1][0] == ""  # the first alone reports


def test_a_killed_training_goes_on(workspace: Workspace, alone: Trained) -> None:
    code = (
        "import sys; from pathlib import Path; from renalplan.training import train;"
        "from renalplan.workspace import Workspace\n"
        "if __name__ == '__main__':\n"
        f"    train('1', 0, settings={STEPS!r}, name='killed', workspace=Workspace(Path(sys.argv[1])),"
        " workers=0, progress=False, device='cpu', devices=2)\n"
    )
    script = workspace.root / "script.py"
    script.write_text(code)
    child = subprocess.Popen([sys.executable, str(script), str(workspace.root)])
    log = _folder(workspace, "killed") / "log.csv"
    try:
        limit = time.monotonic() + 240
        while not log.is_file() or len(log.read_text().splitlines()) < 3:
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    time.sleep(2.5)  # its processes notice within a second that it is gone
    assert not (_folder(workspace, "killed") / "model.safetensors").exists()
    _train(workspace, "killed", devices=2)
    _assert_alike(workspace, "alone", "killed")


def test_a_process_that_dies_ends_all(workspace: Workspace, plugins: None) -> None:
    with pytest.raises(WorkerError, match=r"process 2 of 2 died \(status -9"):
        _train(workspace, "dies", trainer="trainers_that_fail:DiesOnTheSecond", devices=2)


def test_a_failure_of_one_is_everybodys_sentence(workspace: Workspace, plugins: None) -> None:
    with pytest.raises(WorkerError, match="process 2 of 2 failed: ZeroDivisionError"):
        _train(workspace, "fails", trainer="trainers_that_fail:FailsOnTheSecond", devices=2)
    with pytest.raises(UsageError, match="the first one's own sentence") as found:
        _train(workspace, "refuses", trainer="trainers_that_fail:RefusesOnTheFirst", devices=2)
    assert not isinstance(found.value, LostError)


def test_what_cannot_be_shared_is_refused(
    workspace: Workspace, plugins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="batch of 3 cannot be divided among 4 processes"):
        _train(workspace, "few", devices=4)
    with pytest.raises(UsageError, match="its loss is not known to be the same in parts"):
        _train(workspace, "own", trainer="trainers_that_fail:OwnLoss", devices=2)
    assert not (workspace.results("Dataset001_Analytic") / "own").exists()
    with pytest.raises(UsageError, match="--devices 0: at least 1"):
        _train(workspace, "none", devices=0)
    with pytest.raises(UsageError, match="--accumulate 0: at least 1"):
        _train(workspace, "none", accumulate=0)
    with pytest.raises(UsageError, match=r"--device cuda:1: that is one device"):
        _train(workspace, "none", device="cuda:1", devices=2)
    with pytest.raises(UsageError, match="one mps device"):
        _train(workspace, "none", device="mps", devices=2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="has started 2 processes already"):
        _train(workspace, "none", devices=2)


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from renalplan.trainers.replicas import check_devices
    from renalplan.trainers.task import Hardware

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, words in ((1, "has 1 GPU; use --devices 1"), (0, "has 0 GPUs")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(UsageError, match=f"--devices 2: this machine {words}"):
            check_devices(Hardware(), 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(Hardware(), 2)
    check_devices(Hardware(device="cpu"), 7)


def test_the_command_passes_on_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict = {}
    monkeypatch.setattr(
        training, "train", lambda *_, **more: told.update(more) or Trained(Path("m"), {})
    )
    command(["1", "0", "--devices", "2", "--accumulate", "3"])
    assert (told["devices"], told["accumulate"]) == (2, 3)
    command(["1", "0"])
    assert (told["devices"], told["accumulate"]) == (1, None)
