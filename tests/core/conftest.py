"""Small volumes, datasets and plans that the core's tests share, as fixtures that build them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from renalplan.dataset import DatasetDescription
from renalplan.files import write_json
from renalplan.geometry import Grid
from renalplan.images import write_file_array
from renalplan.model_folder import (
    FINISHED,
    WEIGHTS,
    Finished,
    ModelFolder,
    SegmenterSpec,
    TrainerRecord,
    build_network,
)
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan

HU = Intensities(
    mean=100,
    std=50,
    minimum=-1000,
    maximum=2000,
    median=90,
    percentile_00_5=-60,
    percentile_99_5=300,
)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
REPOSITORY = Path(__file__).parents[2]


def _grid(size: Sequence[int], **changes: Any) -> Grid:
    """A straight grid of 1 mm at the origin, unless told otherwise."""
    values = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": STRAIGHT}
    return Grid(size=tuple(size), **(values | changes))  # type: ignore[arg-type]


def _write(path: Path, array: NDArray, **changes: Any) -> Path:
    """Write a (z, y, x) array on a straight grid."""
    write_file_array(path, array, _grid(array.shape[::-1], **changes))
    return path


def _stage(name: str = "fullres", **changes: Any) -> StagePlan:
    values: dict[str, Any] = {
        "spacing": (1.0, 1.0, 1.0),
        "median_shape": (8, 8, 8),
        "patch_size": (4, 4, 4),
        "batch_size": 2,
        "network": NetworkSpec(factory="renalplan.networks.unet:ConvNorm"),
    }
    return StagePlan(name=name, **(values | changes))


def _plan(*stages: StagePlan, **changes: Any) -> Plan:
    """A plan whose only configuration runs all given stages in order."""
    stages = stages or (_stage(),)
    channel = ChannelPlan(name="CT", normalisation="ct", intensities=HU)
    values: dict[str, Any] = {
        "name": "test",
        "dataset": "Dataset001_Test",
        "planner": "none",
        "channels": (channel,),
        "stages": stages,
        "configurations": {"all": tuple(stage.name for stage in stages)},
        "default_configuration": "all",
    }
    return Plan(**(values | changes))


def _scan(seed: int = 0, shape: tuple[int, ...] = (8, 10, 12)) -> NDArray[np.float32]:
    """Tissue of -50 to 250 HU, whole numbers, inside one voxel of air."""
    tissue = np.random.default_rng(seed).integers(-50, 250, [n - 2 for n in shape])
    return np.pad(tissue, 1, constant_values=-1000).astype(np.float32)


def _two_structures(shape: tuple[int, ...] = (8, 10, 12)) -> NDArray[np.uint8]:
    """Label 1 in 3 x 3 x 3 = 27 voxels, label 2 in 2 x 2 x 2 = 8 voxels."""
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    labels[2:4, 6:8, 7:9] = 2
    return labels


def _description(**changes: Any) -> dict[str, Any]:
    values = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "kidney": 1, "tumour": 2},
        "file_ending": ".nii.gz",
    }
    return {k: v for k, v in (values | changes).items() if v is not None}


@pytest.fixture
def intensities() -> Intensities:
    return HU


@pytest.fixture
def make_grid() -> Callable[..., Grid]:
    return _grid


@pytest.fixture
def write() -> Callable[..., Path]:
    return _write


@pytest.fixture
def make_stage() -> Callable[..., StagePlan]:
    return _stage


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return _plan


@pytest.fixture
def make_scan() -> Callable[..., NDArray[np.float32]]:
    return _scan


@pytest.fixture
def two_structures() -> NDArray[np.uint8]:
    return _two_structures()


@pytest.fixture
def make_description() -> Callable[..., dict[str, Any]]:
    return _description


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Build a dataset folder; a case has one file a channel, and a label if it is a training one."""

    def build(
        cases: Sequence[str] = ("case_1", "case_2", "case_3"),
        unlabelled: Sequence[str] = (),
        name: str = "Dataset001_Test",
        **changes: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        description = _description(**changes)
        (folder / "dataset.json").write_text(json.dumps(description))
        ending = description["file_ending"]
        for number, case in enumerate([*cases, *unlabelled]):
            where = folder / ("imagesTr" if case in cases else "imagesUn")
            for channel in range(len(description["channel_names"])):
                _write(where / f"{case}_{channel:04d}{ending}", _scan(10 * number + channel))
            if case in cases:
                _write(folder / "labelsTr" / f"{case}{ending}", _two_structures())
        return folder

    return build


@pytest.fixture
def real_data() -> Path:
    """Real scans, kept outside the repository; tests that need them are skipped without."""
    folder = REPOSITORY / os.environ.get("RENALPLAN_REAL_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip("no real data; set RENALPLAN_REAL_DATA to their folder")
    return folder


class Bomb:
    """Creates a file when it is unpickled, which stands for any code an attacker likes."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    """An armed bomb: plain unpickling sets it off."""
    found = Bomb(tmp_path / "exploded")
    pickle.loads(pickle.dumps(found))
    assert found.marker.exists(), "the bomb must work, or the tests with it prove nothing"
    found.marker.unlink()
    return found


# 1 x 2 x 1 x 1 x 1 = 2 weights and 2 biases, and as many again of the norm
SMALL = NetworkSpec(
    factory="renalplan.networks.unet:ConvNorm",
    arguments={"inputs": 1, "outputs": 2, "kernel": [1, 1, 1]},
)


@pytest.fixture
def model(
    tmp_path: Path, make_plan: Callable[..., Plan], make_description: Callable[..., dict]
) -> ModelFolder:
    """A model of one phase with two finished folds and one that is being trained."""
    record = TrainerRecord(
        trainer="UNet",
        configuration="all",
        settings={"epochs": 1},
        networks={"segmentation": SMALL},
        segmenter=SegmenterSpec(),
    )
    description = DatasetDescription.model_validate(make_description(licence="none"))
    found = ModelFolder.create(tmp_path / "model", make_plan(), description, record)
    torch.manual_seed(0)
    for fold in ("0", "10", "2"):
        weights = found.fold_folder(fold) / "segmentation" / WEIGHTS
        weights.parent.mkdir(parents=True)
        save_file(build_network(SMALL, "test").state_dict(), weights)
        if fold != "2":
            finished = Finished(phases=("segmentation",), seconds=1.5)
            write_json(found.fold_folder(fold) / FINISHED, finished)
    return found
