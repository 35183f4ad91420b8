"""What the labels of a segmentation mean: beside predictions it is known, else a dataset's number says it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery.row import DATA, MODEL, SCANS, TRUTH

Run = Callable[[str], Any]


def test_predictions_need_no_labels(here: Path, run: Run) -> None:
    assert run(f"predict -i {SCANS} -o out --device cpu --workers 0").status == 0
    shutil.copy(TRUTH / "new.nii.gz", "out/new.nii.gz")  # a network of one step finds little
    ran = run("surgery -s out/new.nii.gz -o numbers.json --no-error_bars")
    assert ran.status == 0, ran.err
    shutil.copytree(TRUTH, "truth")
    ran = run("evaluate out truth -o unnamed --pictures 0")
    assert ran.out.startswith("label 1: mean Dice 1.0000")
    ran = run("evaluate out truth -o named --pictures 0 --labels out")
    assert ran.out.startswith("kidney: mean Dice 1.0000")
    ran = run("check out")
    assert ran.status == 2
    assert "imagesTr is missing" in ran.out


@pytest.mark.parametrize("given", ["1", DATA.name, str(DATA), f"{DATA}/dataset.json", str(MODEL)])
def test_labels_are_a_path_or_a_dataset_of_the_workspace(here: Path, run: Run, given: str) -> None:
    shutil.copy(TRUTH / "new.nii.gz", "alone.nii.gz")
    ran = run(f"surgery -s alone.nii.gz -o numbers.json --no-error_bars --labels {given}")
    assert ran.status == 0, ran.err


@pytest.mark.parametrize(
    "line",
    [
        "surgery -s alone.nii.gz -o numbers.json",
        f"report -i {SCANS}/new_0000.nii.gz -s alone.nii.gz -o out",
        "dicom_seg -i study -s alone.nii.gz -o out.dcm",
    ],
)
def test_labels_that_are_unknown_are_named_with_the_workspace(
    here: Path, run: Run, line: str
) -> None:
    shutil.copy(TRUTH / "new.nii.gz", "alone.nii.gz")
    Path("study").mkdir()
    ran = run(f"{line} --labels 901")
    assert ran.status == 2
    assert "--labels 901 does not exist, nor is it a dataset in work/raw and work/prepro" in ran.err
    assert not any(Path(name).exists() for name in ("numbers.json", "out", "out.dcm"))


def test_capitals_of_a_metric_do_not_matter(here: Path, run: Run) -> None:
    for name in ("one", "two"):
        ran = run(
            f"evaluate {TRUTH.parent}/labelsTr {TRUTH.parent}/labelsTr -o {name} --pictures 0"
        )
        assert ran.status == 0, ran.err
    ran = run("compare one two -o out --metrics Dice HD95_mm")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("dice of kidney: ")
    assert run("compare one two -o out --metrics Dice dice").status == 2
