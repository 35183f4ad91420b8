"""Small label folders on disk: every count in the tests can be checked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.geometry import Grid
from renalplan.images import write_volume
from renalplan.labels import LabelScheme

SHAPE = (4, 5, 6)
# 1 x 2 x 5 mm voxels: 0.01 ml each
GRID = Grid(
    size=SHAPE[::-1], spacing=(1, 2, 5), origin=(3, -4, 5), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)


@pytest.fixture
def scheme() -> LabelScheme:
    return LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))


@pytest.fixture
def write() -> Callable[..., Path]:
    """Write a label map given as {value: number of voxels}, laid one after the other."""

    def writer(
        path: Path, counts: dict[int, int] | NDArray, grid: Grid = GRID, start: int = 0
    ) -> Path:
        if isinstance(counts, dict):
            flat = np.zeros(SHAPE, np.uint8).ravel()
            for value, count in counts.items():
                flat[start : start + count] = value
                start += count
            counts = flat.reshape(SHAPE)
        write_volume(path, counts, grid)
        return path

    return writer


@pytest.fixture
def folders(tmp_path: Path, write: Callable[..., Path]) -> tuple[Path, Path]:
    """Predictions and references of three cases, with a dataset.json above the references.

    a: kidney 10 voxels, 10 predicted, 5 shared (Dice 0.5); tumor 2 of 2 right (Dice 1).
    b: kidney perfect; no tumor anywhere (Dice 1).
    c: no prediction. d: no reference.
    """
    predictions, references = tmp_path / "predictions", tmp_path / "data" / "labelsTr"
    write(references / "a.nii.gz", {1: 10, 0: 5, 2: 2})
    write(predictions / "a.nrrd", {0: 5, 1: 10, 2: 2})
    write(references / "b.nii.gz", {1: 10})
    write(predictions / "b.mha", {1: 10})
    write(references / "c.nii.gz", {1: 10})
    write(predictions / "d.nii", {1: 1})
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumor": 2},
    }
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description))
    return predictions, references
