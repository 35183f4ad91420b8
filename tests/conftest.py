"""What tests of several folders share: hypothesis profiles, and DICOM series of which each file can be wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

# a shell's `&` starts programs that ignore Ctrl-C, which is passed on to the commands that tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` draws the same examples every time; --hypothesis-profile=long draws many new ones
settings.register_profile("quick", max_examples=50, derandomize=True, deadline=None)
settings.register_profile(
    "long", max_examples=5000, deadline=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(  # a failure is enough, the smallest one need not be found
    "mutants", settings.get_profile("quick"), phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-robustness",
        action="store_true",
        help="write docs/robustness.md anew from what the battery is answered",
    )


OBLIQUE = (0.96, 0.28, 0.0, -0.224, 0.768, 0.6)  # a row's and a column's cosines, at right angles


def _slice(plane: NDArray, position: NDArray, values: dict[str, Any]) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = values.get("SOPClassUID", CTImageStorage)
    image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    image.Modality = "CT"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SeriesNumber = 3
    image.ImagePositionPatient = [f"{v:.6g}" for v in position]
    image.Rows, image.Columns = plane.shape[:2]
    image.SamplesPerPixel = 1 if plane.ndim == 2 else 3
    image.PhotometricInterpretation = "MONOCHROME2" if plane.ndim == 2 else "RGB"
    if plane.ndim == 3:
        image.PlanarConfiguration = 0
    bits = 16 if plane.ndim == 2 else 8
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit = bits - 1
    image.PixelRepresentation = int(plane.dtype.kind == "i")
    image.RescaleSlope, image.RescaleIntercept = "2", "-1024"
    image.PixelData = plane.tobytes()
    for name, value in values.items():
        setattr(image, name, value)
    return image


@pytest.fixture(scope="session")
def write_series() -> Callable[..., list[Path]]:
    """Writes a (k, j, i) array of HU as DICOM slices and returns the files in slice order.

    Files are named against the slices' order. `change` is called with (k, dataset) before a slice is
    written and returns False to leave it out; other values replace attributes of every slice.
    """

    def write(
        folder: Path,
        hu: NDArray,
        *,
        spacing: tuple[float, float, float] = (0.5, 0.75, 2.0),
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        origin: tuple[float, float, float] = (5.0, -7.0, 11.0),
        uid: str | None = None,
        prefix: str = "",
        change: Callable[[int, Dataset], bool | None] = lambda *_: None,
        **values: Any,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(orientation[:3], orientation[3:])
        series = uid or generate_uid()
        files = []
        for k, plane in enumerate(hu):
            stored = plane if plane.ndim == 3 else ((plane + 1024) / 2).astype(np.int16)
            image = _slice(stored, np.array(origin) + k * spacing[2] * normal, values)
            image.SeriesInstanceUID = series
            image.ImageOrientationPatient = list(orientation)
            image.PixelSpacing = [spacing[1], spacing[0]]
            if change(k, image) is False:
                continue
            path = folder / f"{prefix}IM{len(hu) - k:04d}"
            image.save_as(path, enforce_file_format=True)
            files.append(path)
        return files

    return write


@pytest.fixture
def some_hu() -> NDArray:
    """(4, 5, 6) even HU values, every voxel another."""
    return (np.arange(120).reshape(4, 5, 6) * 16 - 1000).astype(np.float32)


@pytest.fixture(scope="session")
def oblique() -> tuple[float, ...]:
    """Cosines of a row and of a column of a scan turned about two axes."""
    return OBLIQUE


@pytest.fixture(scope="session", autouse=True)
def _without_openvino() -> Iterator[None]:
    """Converting a network takes longer than running the tests' small ones; its own tests do."""
    from renalplan.inference.engines import choice

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "is_installed", lambda: False)
        # and in the processes that tests start, which begin with what is there
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("without_openvino")), os.pathsep)
        yield
