"""A hand-made plan and stores of three small cases: what a training run needs, without any scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from renalplan import store
from renalplan.dataset import DatasetDescription
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan
from renalplan.splits import Fold
from renalplan.store import StoredCase, write_case, write_item
from renalplan.trainers.task import Hardware, TrainingTask

CASES = ("case_a", "case_b", "case_c")
SHAPE = (20, 24, 22)
SMALL = (10, 12, 11)
HU = Intensities(
    mean=100,
    std=50,
    minimum=0,
    maximum=300,
    median=100,
    percentile_00_5=0,
    percentile_99_5=250,
)
NETWORK = NetworkSpec(
    factory="renalplan.networks.unet:UNet",
    arguments={
        "features": [4, 8],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "kernels": [[3, 3, 3], [3, 3, 3]],
    },
)


def _stage(name: str, shape: tuple[int, int, int] = SHAPE, **values: Any) -> StagePlan:
    given: dict[str, Any] = {
        "name": name,
        "spacing": (2.0, 2.0, 2.0),
        "median_shape": shape,
        "patch_size": (8, 8, 8),
        "batch_size": 2,
        "network": NETWORK,
    }
    return StagePlan(**(given | values))


def _plan() -> Plan:
    return Plan(
        name="renal",
        dataset="Dataset001_Tiny",
        planner="renal",
        channels=(ChannelPlan(name="CT", normalisation="ct", intensities=HU),),
        stages=(
            _stage("whole"),
            _stage("locate", SMALL, target="foreground", spacing=(4.0, 4.0, 4.0)),
            _stage("fine", region="kidney", previous="locate"),
            _stage("lowres", SMALL, spacing=(4.0, 4.0, 4.0)),
            _stage("fullres", previous="lowres", previous_as_channels=True),
        ),
        configurations={
            "whole": ("whole",),
            "locate_fine": ("locate", "fine"),
            "cascade": ("lowres", "fullres"),
        },
        default_configuration="whole",
    )


def _arrays(number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An image whose two bright boxes are labels 1 and 2; the image tells every voxel apart."""
    labels = np.zeros(shape, np.uint8)
    z, y, x = (n // 4 for n in shape)
    labels[z : 3 * z, y : 2 * y, x : 2 * x] = 1
    labels[z : 3 * z, 2 * y + number : 3 * y + number, 2 * x : 3 * x] = 2
    noise = np.random.default_rng(number).normal(0, 0.3, shape)
    return (labels + noise).astype(np.float32)[None], labels


def _write_stores(folder: Path, plan: Plan, scheme: LabelScheme) -> None:
    for stage in plan.stages:
        for number, case in enumerate(CASES):
            image, labels = _arrays(number, stage.median_shape)
            items = [
                write_item(
                    folder / stage.name,
                    f"{case}.{n}",
                    image,
                    labels,
                    tuple((0, size) for size in stage.median_shape),
                    scheme,
                )
                for n in range(2 if stage.region == "kidney" else 1)
            ]
            write_case(
                folder / stage.name,
                StoredCase(
                    case=case,
                    patient=case,
                    inputs="-",
                    recipe="-",
                    spacing=tuple(stage.spacing),
                    items=tuple(items),
                ),
            )


@pytest.fixture
def description() -> DatasetDescription:
    return DatasetDescription(
        channel_names={"0": "CT"}, labels={"background": 0, "kidney": 1, "tumour": 2}
    )


@pytest.fixture
def make_task(tmp_path: Path, description: DatasetDescription) -> Callable[..., TrainingTask]:
    """A task on stores below tmp_path: cases a and b are trained on, c is held out."""
    plan = _plan()
    _write_stores(tmp_path / "stores", plan, description.scheme())

    def make(configuration: str = "whole", **values: Any) -> TrainingTask:
        given: dict[str, Any] = {
            "plan": plan,
            "configuration": configuration,
            "description": description,
            "fold": Fold(train=CASES[:2], val=CASES[2:]),
            "fold_name": "0",
            "stores": tmp_path / "stores",
            "model": ModelFolder(tmp_path / "model"),
            "hardware": Hardware(device="cpu", workers=0, progress=False),
        }
        return TrainingTask(**(given | values))

    return make


@pytest.fixture
def add_unlabelled(tmp_path: Path, description: DatasetDescription) -> Callable[..., None]:
    """Adds a case of images alone to every stage's store; `image` makes a stage's from its shape."""

    def add(case: str, image: Callable[[tuple[int, int, int]], np.ndarray] | None = None) -> None:
        for stage in _plan().stages:
            shape = stage.median_shape
            array = image(shape) if image else _arrays(3, shape)[0][0]
            folder = tmp_path / "stores" / stage.name
            box = ((0, shape[0]), (0, shape[1]), (0, shape[2]))
            item = write_item(folder, f"{case}.0", array[None], None, box, description.scheme())
            spacing = tuple(stage.spacing)
            write_case(
                folder,
                StoredCase(
                    case=case, patient=case, inputs="-", recipe="-", spacing=spacing, items=(item,)
                ),
            )

    return add


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Fills with the names of the stored arrays that are opened from now on, without `.b2nd`."""
    found: set[str] = set()
    real = store.open_array

    def recording(path: Path) -> Any:
        found.add(f"{path.parent.name}/{path.stem}")
        return real(path)

    monkeypatch.setattr(store, "open_array", recording)
    return found


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
