"""A model folder with a network that needs no training, and scans in any format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

from renalplan import imports
from renalplan.dataset import DatasetDescription
from renalplan.files import write_json
from renalplan.model_folder import FINISHED, Finished, ModelFolder, SegmenterSpec, TrainerRecord
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan

HU = Intensities(
    mean=0, std=1, minimum=0, maximum=1, median=0, percentile_00_5=0, percentile_99_5=1
)


@pytest.fixture(autouse=True)
def _stubs_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(imports, "_trusted", {"stub_networks"})


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., ModelFolder]:
    """A model that says "kidney" wherever its last channel is above 0; intensities as they are."""

    def make(
        name: str = "model",
        *,
        channels: tuple[str, ...] = ("MR",),
        sign: float = 1.0,
        folds: tuple[str, ...] = ("0",),
        labels: dict[str, int] | None = None,
        spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
        segmenter: str = "staged:StagedSegmenter",
        network: str = "Bright",
    ) -> ModelFolder:
        spec = NetworkSpec(factory=f"stub_networks:{network}")
        plan = Plan(
            name="renal",
            dataset="Dataset001_Test",
            planner="renal",
            channels=tuple(
                ChannelPlan(name=c, normalisation="none", intensities=HU) for c in channels
            ),
            stages=(
                StagePlan(
                    name="whole",
                    spacing=spacing,
                    median_shape=(10, 12, 14),
                    patch_size=(8, 8, 8),
                    batch_size=2,
                    network=spec,
                ),
            ),
            configurations={"whole": ("whole",)},
            default_configuration="whole",
        )
        description = DatasetDescription(
            channel_names={str(i): c for i, c in enumerate(channels)},
            labels=labels or {"background": 0, "kidney": 1},
        )
        record = TrainerRecord(
            trainer="stub",
            configuration="whole",
            settings={},
            networks={"whole": spec},
            segmenter=SegmenterSpec(
                factory=f"renalplan.inference.segmenters.{segmenter}",
                arguments={"stages": {"whole": "whole"}},
            ),
        )
        model = ModelFolder.create(tmp_path / name, plan, description, record)
        for fold in folds:
            folder = model.fold_folder(fold) / "whole"
            folder.mkdir(parents=True)
            save_file({"sign": torch.tensor(sign)}, folder / "model.safetensors")
            write_json(folder.parent / FINISHED, Finished(phases=("whole",), seconds=1.0))
        return model

    return make


@pytest.fixture
def write_scan() -> Callable[..., np.ndarray]:
    """Writes a scan of -1 with a box of 1 and returns its array in the file's axis order."""

    def write(path: Path, **values: Any) -> np.ndarray:
        array = np.full((10, 12, 14), -1, np.float32)
        array[2:6, 3:7, 4:12] = 1
        image = sitk.GetImageFromArray(values.get("sign", 1) * array)
        image.SetSpacing((1.0, 1.0, 2.0))
        image.SetOrigin((5.0, -7.0, 11.0))
        if "noise" in values:  # smooth, so that every grid sees much the same
            noise = np.random.default_rng(values["noise"]).normal(size=array.shape)
            array = 6 * gaussian_filter(noise, 1.5).astype(np.float32)
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.0, 1.0, 2.0))
        if values.get("turned", False):
            image = sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True), False)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return sitk.GetArrayFromImage(image)

    return write
