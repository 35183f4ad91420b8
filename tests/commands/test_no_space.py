"""A disk that fills up: one sentence, nothing half-written, and the same command continues after it.

The disk's end is played by a limit on the size of a file, so it comes in the middle of a write.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.files import TEMPORARY

DATA = Path("work/raw/Dataset001_Tiny")
STAGE = Path("work/preprocessed/Dataset001_Tiny/renal/whole")
PLAN = "plan_and_preprocess 1 --gpu_memory 0.004 --base_features 4 --cascade none --workers 0"
TRAIN = (
    "train 1 1 --name new --workers 0 --device cpu "
    "--set epochs=2 iterations=1 validation_iterations=0"
)
PREDICT = f"predict -i {DATA / 'imagesTs'} -o out --device cpu"


def limited(line: str, limit: int) -> subprocess.CompletedProcess[str]:
    """Run a command where no file may grow beyond `limit` bytes."""
    name, *arguments = line.split()
    return subprocess.run(
        [str(Path(sys.executable).with_name(f"renalplan_{name}")), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def incompressible_scan() -> None:
    path = DATA / "imagesTr/case_0_0000.nii.gz"
    old = sitk.ReadImage(str(path))
    noise = np.random.default_rng(0).normal(0, 200, old.GetSize()[::-1]).astype(np.float32)
    new = sitk.GetImageFromArray(sitk.GetArrayFromImage(old) + noise)
    new.CopyInformation(old)
    sitk.WriteImage(new, str(path))


@pytest.mark.parametrize(
    ("line", "limit", "absent"),
    [
        pytest.param(PLAN, 10_000, STAGE / "case_0.json", id="preprocess"),
        pytest.param(
            TRAIN, 70_000, Path("work/results/Dataset001_Tiny/new/fold_1/whole/checkpoint.pt"),
            id="train",
        ),
        pytest.param(PREDICT, 300, Path("out/new.nii.gz"), id="predict"),
        pytest.param(
            f"{PREDICT} --save_probabilities", 2_000, Path("out/new.probabilities.b2nd"),
            id="predict probabilities",
        ),
    ],
)  # fmt: skip
def test_a_full_disk_is_reported_and_the_same_command_continues(
    here: Path, run: Callable[[str], Any], line: str, limit: int, absent: Path
) -> None:
    if line == PLAN:
        incompressible_scan()
        assert run(PLAN).status == 0
        shutil.rmtree(STAGE)
    failed = limited(line, limit)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "Traceback" not in failed.stderr
    message = [text for text in failed.stderr.splitlines() if text.startswith("renalplan_")]
    assert len(message) == 1
    assert "no space left" in message[0] or "is the disk full?" in message[0]
    assert str(absent.parent) in message[0]
    assert "run the same command again" in message[0]
    assert not absent.exists()
    assert not [path for path in here.rglob("*") if path.name.startswith(TEMPORARY)]
    assert run(line).status == 0
    assert absent.exists() or (absent.parent / "model.safetensors").exists()
