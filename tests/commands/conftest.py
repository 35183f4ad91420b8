"""A workspace with a tiny dataset, its plan and a model of one step, made by the commands themselves."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from renalplan import cli

NAME = "Dataset001_Tiny"
PLANNED = ["1", "--gpu_memory", "0.004", "--base_features", "4", "--cascade", "none"]
SHORT = ["epochs=1", "iterations=1", "validation_iterations=0"]
BAR = ("━", "left:")  # a line with one of these is a progress bar


@dataclass(frozen=True)
class Ran:
    """What a command returned and said; `err` without progress bars."""

    status: int
    out: str
    err: str


def _write(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 8.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def _write_dataset(folder: Path) -> None:
    """Two cases of 16 x 32 x 32 voxels: a warm kidney in a body in air."""
    z, y, x = np.mgrid[:16, :32, :32]
    for number in range(2):
        body = (y - 16) ** 2 + (x - 16) ** 2 < 14**2
        kidney = ((z - 8) / 5) ** 2 + ((y - 16) / 6) ** 2 + ((x - 12 - 8 * number) / 4) ** 2 < 1
        noise = np.random.default_rng(number).normal(0, 5, z.shape)
        scan = (np.where(kidney, 200, np.where(body, 40, -1000)) + noise).astype(np.float32)
        _write(folder / "imagesTr" / f"case_{number}_0000.nii.gz", scan)
        _write(folder / "labelsTr" / f"case_{number}.nii.gz", kidney.astype(np.uint8))
        if number == 0:
            _write(folder / "imagesTs" / "new_0000.nii.gz", scan)
            _write(folder / "labelsTs" / "new.nii.gz", kidney.astype(np.uint8))
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw, preprocessed and results of the dataset; fold 0 is trained. Copied, never changed."""
    root = tmp_path_factory.mktemp("commands") / "work"
    _write_dataset(root / "raw" / NAME)
    there = ["--workspace", str(root), "--workers", "0"]
    assert cli.plan_and_preprocess([*PLANNED, *there]) == 0
    assert cli.train(["1", "0", *there, "--device", "cpu", "--set", *SHORT]) == 0
    return root


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command leaves in its process is not seen by the next one."""
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("renalplan.imports._trusted", set())
    yield
    logging.getLogger("renalplan").handlers.clear()  # it holds this test's captured stderr


@pytest.fixture
def here(finished_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; `work` in it is a workspace of the test's own."""
    drawn = shutil.ignore_patterns("tensorboard", "*.png")  # no command reads them
    shutil.copytree(finished_workspace, tmp_path / "work", ignore=drawn)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENALPLAN_WORKSPACE", "work")
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[[str], Ran]:
    """Runs a command line in this process: `run("check 1")`; hears what libraries of C print too."""

    def call(line: str) -> Ran:
        name, *arguments = line.split()
        capfd.readouterr()
        try:
            status = getattr(cli, name)(arguments)
        except SystemExit as leaving:  # argparse's way
            status = int(leaving.code or 0)
        said = capfd.readouterr()
        lines = [text for text in said.err.splitlines() if not any(mark in text for mark in BAR)]
        return Ran(status, said.out, "\n".join(lines).strip())

    return call
