"""A small patient of known shapes, and the report made of it once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from renalplan.evaluation.report.make import patient_report
from renalplan.evaluation.report.records import PatientReport
from renalplan.geometry import Grid, Orientation, Spacing
from renalplan.images import write_volume

LABELS = {"background": 0, "kidney": 1, "<b>tumor</b>": 2, "renal_artery": 3, "cyst": 4}
HU = {0: -80, 1: 180, 2: 60, 3: 300, 4: 10}
CASE = "<script>alert(1)<"  # a file name cannot hold the slash of an end tag
TUMOR_MM = (62.0, -8.0, 6.0)  # LPS

Inside = Callable[[NDArray], NDArray]


@dataclass(frozen=True)
class Made:
    """A report on disk and the files that it was made of."""

    folder: Path
    report: PatientReport
    image: Path
    segmentation: Path

    def file(self, ending: str) -> Path:
        return self.folder / f"{self.report.case}{ending}"


def grid_of(
    low: tuple[float, ...], high: tuple[float, ...], spacing: Spacing, turned: Rotation | None
) -> Grid:
    """A grid that covers an LPS box with its axes turned; spacing is (z, y, x)."""
    turn = np.eye(3) if turned is None else turned.as_matrix()
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T @ turn
    steps = np.array(spacing[::-1])
    size = np.ceil((corners.max(axis=0) - corners.min(axis=0)) / steps).astype(int) + 1
    return Grid(
        size=tuple(int(n) for n in size),  # type: ignore[arg-type]
        spacing=tuple(steps),
        origin=tuple(turn @ (corners.min(axis=0) + 0.137)),
        direction=tuple(turn.ravel()),
    )


def points_of(grid: Grid) -> NDArray[np.float64]:
    """(z, y, x, 3) LPS mm of every voxel of the file's array, straight from the header's meaning."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    steps = np.stack([x, y, z], axis=-1) * grid.spacing
    return steps @ np.array(grid.direction).reshape(3, 3).T + grid.origin


def ball(centre: tuple[float, ...], semi: tuple[float, ...] | float) -> Inside:
    return lambda points: (((points - centre) / semi) ** 2).sum(axis=-1) < 1


def tube(start: tuple[float, ...], end: tuple[float, ...], radius: float) -> Inside:
    first, along = np.array(start), np.subtract(end, start)

    def inside(points: NDArray) -> NDArray:
        share = np.clip((points - first) @ along / (along @ along), 0, 1)
        return ((points - first - share[..., None] * along) ** 2).sum(axis=-1) < radius**2

    return inside


def canonical(array: NDArray, grid: Grid) -> NDArray:
    return np.ascontiguousarray(Orientation.of(grid).apply(array))


def write_patient(folder: Path, case: str, *, kidney: bool = True) -> tuple[Path, Path]:
    """Two kidneys, a tumor on the left one, its artery; a scan to it. Image and segmentation."""
    grid = grid_of((-90, -40, -45), (90, 40, 45), (2.0, 1.6, 1.6), None)
    points = points_of(grid)
    labels = np.zeros(grid.shape, np.uint8)
    bodies: list[tuple[int, Inside]] = [
        (1, ball((-50, 0, 0), (22, 20, 38))),
        (1, ball((50, 0, 0), (22, 20, 38))),
        (2, ball(TUMOR_MM, 14.0)),
        (3, tube((0, 10, 5), (40, 4, 0), 3.0)),
    ]
    for value, inside in bodies:
        if value != 1 or kidney:
            labels[inside(points)] = value
    noise = np.random.default_rng(0).normal(0, 8, labels.shape)
    table = np.array([HU[value] for value in sorted(HU)])
    image = (table[labels] + noise).astype(np.float32)
    image[:, :4] = -1000  # air in front, so that it is told to be CT
    segmentation = folder / "segmentations" / f"{case}.nii.gz"
    segmentation.parent.mkdir(parents=True)
    write_volume(folder / "scan.nii.gz", canonical(image, grid), grid)
    write_volume(segmentation, canonical(labels, grid), grid)
    description = {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    (folder / "segmentations" / "dataset.json").write_text(json.dumps(description))
    return folder / "scan.nii.gz", segmentation


@pytest.fixture
def shapes() -> SimpleNamespace:
    """What the tests draw with."""
    return SimpleNamespace(
        grid_of=grid_of, points_of=points_of, ball=ball, tube=tube, canonical=canonical
    )


@pytest.fixture
def patient() -> Callable[..., tuple[Path, Path]]:
    return write_patient


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("patient")
    image, segmentation = write_patient(folder, CASE)
    report = patient_report(image, segmentation, folder / "reports", margins=(5,))
    return Made(folder / "reports", report, image, segmentation)
