"""Datasets small enough to run the whole way: analytic kidneys in any geometry, and phantoms."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from renalplan.images import read_grid, read_volume
from renalplan.phantom import make_phantom_dataset
from renalplan.predicting import predict
from renalplan.trainers import probe
from renalplan.trainers.budget import read_budget
from renalplan.workspace import Workspace

HERE = Path(__file__).parent
CENTRE = np.array([10.0, -20.0, 30.0])  # LPS mm; any point that is not the origin
FIELD = np.array([120.0, 120.0, 160.0])  # mm of the scan along (x, y, z)


@pytest.fixture
def check_budget(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Collection[str]], None]:
    """Looks at a fold that had a budget; budgets measure three steps of each network, not fifty."""
    monkeypatch.setattr(probe, "MOST", 3)

    def check(fold_folder: Path, networks: Collection[str]) -> None:
        record = read_budget(fold_folder)
        assert record is not None
        assert record.over
        assert set(record.begun) == set(networks)
        assert (fold_folder / "validation" / "summary.json").is_file()

    return check


@dataclass(frozen=True)
class Geometry:
    """How a scanner laid out its voxels.

    Attributes:
        spacing: mm along the file's axes (i, j, k).
        axes: Which world axis (0 x, 1 y, 2 z) each file axis follows, before turning.
        flips: Which file axes run against it.
        degrees: The scan is turned by this about x and about z.
    """

    spacing: tuple[float, float, float] = (2.5, 2.5, 3.0)
    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    degrees: float = 0.0

    @property
    def size(self) -> NDArray[np.int64]:
        return np.ceil(FIELD[list(self.axes)] / self.spacing).astype(int)

    @property
    def direction(self) -> NDArray[np.float64]:
        """Columns are the file axes' directions."""
        columns = np.zeros((3, 3))
        for column, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            columns[axis, column] = -1 if flip else 1
        c, s = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return about_z @ about_x @ columns

    @property
    def origin(self) -> NDArray[np.float64]:
        return CENTRE - self.direction @ ((self.size - 1) / 2 * self.spacing)

    def points(self) -> NDArray[np.float64]:
        """(k, j, i, 3) world mm relative to the anatomy's centre."""
        i, j, k = (np.arange(n) - (n - 1) / 2 for n in self.size)
        grid = np.stack(np.meshgrid(k, j, i, indexing="ij"), -1)[..., ::-1] * self.spacing
        return grid @ self.direction.T

    def image(self, array: NDArray) -> sitk.Image:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin.tolist())
        image.SetDirection(self.direction.ravel().tolist())
        return image


GEOMETRIES = {
    "plain": Geometry(),
    "oblique": Geometry(degrees=20),
    "flipped": Geometry(flips=(True, False, True)),
    "z first": Geometry(spacing=(3.0, 2.5, 2.5), axes=(2, 0, 1), flips=(False, True, False)),
    "thick slices": Geometry(spacing=(2.0, 2.0, 12.0)),
    "sagittal": Geometry(spacing=(1.25, 1.25, 7.5), axes=(1, 2, 0), flips=(False, True, True)),
}


def _inside(points: NDArray, centre: tuple[float, ...], semi: tuple[float, ...]) -> NDArray:
    return (((points - centre) / semi) ** 2).sum(-1) <= 1


def _anatomy(geometry: Geometry, *, shift: float = 0.0) -> tuple[NDArray, NDArray]:
    """HU (float32) and labels: 1 the left kidney, 2 the right one, without texture.

    Kidneys of 200 HU lie in a body of 40 HU in air. Each has a core of 80 HU (1.6 % of it), so that
    the plan's clipping at the 0.5 percentile of foreground keeps kidney and body apart.
    """
    points = geometry.points() - np.array([0, 0, shift])
    hu = np.full(points.shape[:3], -1000, np.float32)
    labels = np.zeros(points.shape[:3], np.uint8)
    hu[_inside(points, (0, 0, 0), (57, 55, 1e6))] = 40
    for value, side in ((1, 28.0), (2, -28.0)):
        kidney = _inside(points, (side, 5, 0), (18, 22, 38))
        hu[kidney] = 200
        hu[_inside(points, (side, 5, 0), (18 / 4, 22 / 4, 38 / 4))] = 80
        labels[kidney] = value
    return hu, labels


def _write_case(
    folder: Path, part: str, name: str, geometry: Geometry, ending: str = ".nii.gz", **values: Any
) -> None:
    hu, labels = _anatomy(geometry, shift=values.get("shift", 0.0))
    if values.get("join", False):
        labels = (labels > 0).astype(np.uint8)
    labels = values.get("relabel", lambda x: x)(labels)
    for kind, array in ((f"images{part}/{name}_0000", hu), (f"labels{part}/{name}", labels)):
        path = folder / f"{kind}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(geometry.image(array), str(path))


def _write_description(folder: Path, labels: dict[str, Any], **values: Any) -> None:
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **labels},
        "file_ending": ".nii.gz",
        **values,
    }
    (folder / "dataset.json").write_text(json.dumps(description))


@pytest.fixture(scope="session")
def geometries() -> dict[str, Geometry]:
    return GEOMETRIES


@pytest.fixture(scope="session")
def anatomy() -> Callable[..., tuple[NDArray, NDArray]]:
    return _anatomy


@pytest.fixture(scope="session")
def analytic_dataset(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Workspace]:
    """Makes a workspace whose dataset 1 has two training cases of one geometry."""

    def make(geometry: str, labels: dict[str, Any], *, cases: int = 2, **values: Any) -> Workspace:
        root = tmp_path_factory.mktemp("analytic")
        folder = root / "raw" / "Dataset001_Analytic"
        keys = {k: values.pop(k) for k in ("join", "relabel") if k in values}
        for number in range(cases):
            shift = 6.0 * number
            _write_case(folder, "Tr", f"case_{number}", GEOMETRIES[geometry], shift=shift, **keys)
        _write_description(folder, labels, **values)
        return Workspace(root)

    return make


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """imagesTs and labelsTs with one scan of each geometry, kidneys joined into one label."""
    folder = tmp_path_factory.mktemp("scans")
    for name, geometry in GEOMETRIES.items():
        _write_case(folder, "Ts", name.replace(" ", "_"), geometry, join=True, shift=3.0)
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of two tiny phantoms and one test scan."""
    folder = tmp_path_factory.mktemp("phantoms") / "raw" / "Dataset002_Phantom"
    return make_phantom_dataset(folder, cases=2, test_cases=1, size=(32, 48, 48))


@pytest.fixture(scope="session")
def kill_when() -> Callable[[str, Workspace, Path], None]:
    """Runs code on a workspace in a process of its own, and kills it once a file has appeared."""

    def run(code: str, workspace: Workspace, file: Path) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(workspace.root)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            limit = time.monotonic() + 180
            while not file.is_file():
                assert child.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < limit
                time.sleep(0.005)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()

    return run


@pytest.fixture
def predict_anywhere(scans: Path, tmp_path: Path) -> Callable[[Workspace, Path], list[NDArray]]:
    """The label maps of two scans; from a copy of the model alone, without its data, they are the same."""
    images = tmp_path / "images"
    images.mkdir()
    for name in ("oblique", "z_first"):
        shutil.copy(scans / "imagesTs" / f"{name}_0000.nii.gz", images)

    def run(model: Path, out: Path) -> dict[str, NDArray]:
        report = predict(images, out, models=[model], device="cpu", progress=False)
        assert not report.failed
        for path in out.glob("*.nii.gz"):
            made, given = read_grid(path), read_grid(scans / "labelsTs" / path.name)
            assert (made.size, made.spacing) == (given.size, given.spacing)
            # NIfTI keeps a rotation as a quaternion in single precision
            np.testing.assert_allclose(made.origin, given.origin, atol=1e-4)
            np.testing.assert_allclose(made.direction, given.direction, atol=1e-6)
        return {p.name: read_volume(p, labels=True).array for p in out.glob("*.nii.gz")}

    def both(workspace: Workspace, model: Path) -> list[NDArray]:
        here = run(model, tmp_path / "here")
        elsewhere = Path(shutil.copytree(model, tmp_path / "elsewhere"))
        away = workspace.root.rename(workspace.root.with_name("away"))
        try:
            there = run(elsewhere, tmp_path / "there")
        finally:
            away.rename(workspace.root)
        assert len(here) == 2
        assert all(np.array_equal(here[name], there[name]) for name in here)
        return list(here.values())

    return both


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainers of this folder and of docs/examples are importable."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(HERE.parents[1] / "docs" / "examples"))
    return


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
