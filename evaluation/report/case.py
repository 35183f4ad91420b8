"""One patient's files -> what the report is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.dicom import Findings, Series, find_series, read_series
from renalplan.errors import DatasetError, NotLabelsError
from renalplan.evaluation.report.look import Look, looks_of
from renalplan.evaluation.scene import CT_WINDOW_HU, grey_window
from renalplan.evaluation.space import require_same_space
from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.report import case_name, find_scheme, read_labels
from renalplan.geometry import Grid
from renalplan.images import Volume, read_volume
from renalplan.labels import LabelScheme
from renalplan.roles import find_roles

BRIGHT_PERCENTILE = 95.0  # of the kidneys: what is brighter is vessels and noise
ABOVE_HU, MOST_HU = 40.0, 500.0  # left for vessels; in a late phase urine is brighter than all else


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A scan and its segmentation; arrays are canonical (z, y, x) and share one shape.

    Attributes:
        name: The segmentation file's, without its ending.
        image: float32 intensities of the first channel.
        labels: Label values.
        structures: Place of the structure in the scheme's foreground, from 1, or 0; regions that
            overlap lie on each other in that order.
        grid: The segmentation file's.
        scheme: What the labels mean.
        window: Intensities shown black and white.
    """

    name: str
    image: NDArray
    labels: NDArray
    structures: NDArray
    grid: Grid
    scheme: LabelScheme
    window: tuple[float, float]

    @property
    def frame(self) -> Frame:
        """Where the arrays lie in the patient."""
        return Frame.of(self.grid)

    @property
    def looks(self) -> dict[str, Look]:
        """Structure name -> its look."""
        return looks_of(tuple(self.scheme.foreground))

    def mask(self, name: str) -> NDArray[np.bool_]:
        """The voxels of a structure."""
        return np.isin(self.labels, self.scheme.foreground[name])

    def kidneys(self) -> NDArray[np.bool_]:
        """Kidneys and their lesions, or everything if no label is a kidney; never empty."""
        organ = np.isin(self.labels, find_roles(self.scheme).organ)
        return organ if organ.any() else np.asarray(self.structures > 0)


def load_case(image: Path, segmentation: Path, labels: Path | None) -> Case:
    """Read a case.

    Args:
        image: The scan: a file, or a folder with one DICOM series.
        segmentation: Label file on the scan's grid.
        labels: dataset.json that names the labels, its folder, or a dataset's number or
            name in the workspace; None looks beside the segmentation and in the folder above.

    Raises:
        DatasetError: a file is unreadable, the grids differ, labels are not declared or there are none;
            the folder does not hold one series.
    """
    scheme = find_scheme(segmentation, labels)
    try:
        found = read_labels(segmentation, scheme)
    except NotLabelsError as problem:
        what = str(problem).rstrip(".")
        raise DatasetError(f"{what}; is it a scan? -i and -s may be swapped.") from None
    values = found.array[0]
    structures = np.zeros(values.shape, np.uint8 if len(scheme.foreground) < 256 else np.uint16)
    for place, of in enumerate(scheme.foreground.values(), 1):
        structures[np.isin(values, of)] = place
    if not structures.any():
        raise DatasetError(
            f"{segmentation} holds none of the structures {list(scheme.foreground)}; "
            "there is nothing to report."
        )
    scan = read_scan(image)
    require_same_space(segmentation, found.grid, image, scan.grid)
    return Case(
        name=case_name(segmentation),
        image=scan.array[0],
        labels=values,
        structures=structures,
        grid=found.grid,
        scheme=scheme,
        window=_window(scan.array[0], np.isin(values, find_roles(scheme).organ)),
    )


def _window(image: NDArray, organ: NDArray[np.bool_]) -> tuple[float, float]:
    """Intensities shown black and white: of CT so many that an enhanced cortex is not all white."""
    low, high = grey_window(image, None)
    if (low, high) != CT_WINDOW_HU or not organ.any():
        return low, high
    bright = float(np.percentile(image[organ], BRIGHT_PERCENTILE))
    return low, float(np.clip(round(bright + ABOVE_HU, -1), high, MOST_HU))


def read_scan(path: Path) -> Volume:
    """Read a scan from a file, or from a folder that holds one DICOM series.

    Raises:
        DatasetError: it is unreadable, or the folder holds none or several.
    """
    if not path.is_dir():
        return read_volume(path)
    found = find_series(path)
    if not found.series:
        raise DatasetError(
            f"{path} holds no DICOM series; give the folder of one series, or the scan's file itself."
        )
    return read_series(require_one_series(found, path).files)


def require_one_series(found: Findings, folder: Path) -> Series:
    """The only series of a folder; DatasetError if there are none or several, or it is no volume."""
    if len(found.series) != 1:
        count = f"{len(found.series)} DICOM series" if found.series else "no DICOM series"
        raise DatasetError(f"{folder} holds {count}; the folder of one series is needed.")
    (series,) = found.series
    if series.problem:
        raise DatasetError(series.problem)
    return series
