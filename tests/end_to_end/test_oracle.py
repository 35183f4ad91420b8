"""With a network that is right, the whole way is right: every geometry, every voxel on its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan.images import read_grid, read_volume
from renalplan.model_folder import ModelFolder
from renalplan.phantom import make_phantom_dataset
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.predicting import predict
from renalplan.training import train
from renalplan.workspace import Workspace

ORACLE = "oracle_trainer:Oracle"


def _dice(first: NDArray, second: NDArray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def _require_same_header(answer: Path, truth: Path) -> None:
    mine, theirs = read_grid(answer), read_grid(truth)
    assert (mine.size, mine.spacing, mine.origin) == (theirs.size, theirs.spacing, theirs.origin)
    # NIfTI keeps an oblique direction as float32 numbers
    assert np.allclose(mine.direction, theirs.direction, rtol=0, atol=1e-7)


def _plan(workspace: Workspace, cascade: str) -> None:
    options = PlanOptions(base_features=4, gpu_memory_gb=0.1, cascade=cascade)  # type: ignore[arg-type]
    plan_and_preprocess("1", options=options, workspace=workspace, workers=0, progress=False)


def _train(workspace: Workspace, settings: list[str] | None = None) -> Path:
    trained = train(
        "1", 0, ORACLE, settings=settings, workspace=workspace, workers=0, progress=False,
        device="cpu",
    )  # fmt: skip
    assert trained.folds["0"]["kidney"] > 0.97
    return trained.model


@pytest.mark.parametrize(
    ("geometry", "cascade", "axes"),
    [
        ("plain", "none", ("z", "y", "x")),
        ("plain", "locate", ("z", "y", "x")),
        ("sagittal", "none", ("x", "z", "y")),
    ],
)
def test_an_oracle_is_right_in_every_geometry(
    analytic_dataset: Callable[..., Workspace],
    scans: Path,
    plugins: None,
    tmp_path: Path,
    geometry: str,
    cascade: str,
    axes: tuple[str, ...],
) -> None:
    workspace = analytic_dataset(geometry, {"kidney": 1}, join=True)
    _plan(workspace, cascade)
    model = _train(workspace, ["threshold_hu=140"])
    report = predict(
        scans / "imagesTs", tmp_path / "out", models=[model], device="cpu", progress=False
    )
    assert not report.failed
    assert len(report.done) == 6
    found = {}
    for path in sorted((scans / "labelsTs").iterdir()):
        answer = tmp_path / "out" / path.name
        truth = read_volume(path, labels=True).array
        found[path.name] = _dice(read_volume(answer, labels=True).array > 0, truth > 0)
        _require_same_header(answer, path)
    # a plan for 7.5 mm slices blurs a kidney 36 mm wide; scans of its own kind must be exact
    own = {"sagittal.nii.gz"} if geometry == "sagittal" else set(found)
    assert min(dice for name, dice in found.items() if name in own) >= 0.97, found
    assert min(found.values()) >= 0.9, found
    plan = ModelFolder.open(model).plan
    assert sorted(plan.axes) == sorted(axes)
    assert plan.axes[0] == axes[0]
    assert len(plan.run()) == (2 if cascade == "locate" else 1)


def test_a_scan_in_all_48_orientations_has_one_mask(
    analytic_dataset: Callable[..., Workspace],
    anatomy: Callable[..., tuple[NDArray, NDArray]],
    geometries: dict,
    plugins: None,
    tmp_path: Path,
) -> None:
    workspace = analytic_dataset("plain", {"kidney": 1}, join=True)
    _plan(workspace, "locate")
    model = _train(workspace, ["threshold_hu=140"])
    geometry = geometries["plain"]
    # off centre, so that no axis order and no flip leaves the scan as it is
    original = geometry.image(np.ascontiguousarray(anatomy(geometry, shift=9.0)[0][10:, 4:]))
    for number, (order, flips) in enumerate(
        product(permutations(range(3)), product([False, True], repeat=3))
    ):
        turned = sitk.Flip(sitk.PermuteAxes(original, order), flips, False)
        path = tmp_path / "scans" / f"scan_{number:02d}_0000.mha"
        path.parent.mkdir(exist_ok=True)
        sitk.WriteImage(turned, str(path))
    report = predict(
        tmp_path / "scans", tmp_path / "out", models=[model], device="cpu", progress=False
    )
    assert len(report.done) == 48
    masks = [
        read_volume(path, labels=True).array for path in sorted((tmp_path / "out").glob("*.mha"))
    ]
    assert masks[0].sum() > 1000
    assert sum(int((mask != masks[0]).sum()) for mask in masks) == 0


def test_an_oracle_is_right_on_phantoms(plugins: None, tmp_path: Path) -> None:
    """What is separable by intensity in a phantom: the label is all tissue above 150 HU."""
    folder = make_phantom_dataset(
        tmp_path / "raw" / "Dataset001_Bright",
        cases=2,
        test_cases=1,
        size=(64, 96, 96),
        spacing=(4.5, 3.6, 3.6),
    )
    for part in ("Tr", "Ts"):
        for path in (folder / f"images{part}").iterdir():
            image = sitk.ReadImage(str(path))
            target = folder / f"labels{part}" / path.name.replace("_0000.nii", ".nii")
            sitk.WriteImage(sitk.Cast(image > 150, sitk.sitkUInt8), str(target))
    text = (folder / "dataset.json").read_text()
    value = json.loads(text) | {"labels": {"background": 0, "kidney": 1}}
    (folder / "dataset.json").write_text(json.dumps(value))
    workspace = Workspace(tmp_path)
    _plan(workspace, "none")
    model = _train(workspace)
    predict(folder / "imagesTs", tmp_path / "out", models=[model], device="cpu", progress=False)
    (truth,) = (folder / "labelsTs").iterdir()
    answer = tmp_path / "out" / truth.name
    _require_same_header(answer, truth)
    masks = [read_volume(path, labels=True).array > 0 for path in (answer, truth)]
    assert _dice(*masks) >= 0.97
