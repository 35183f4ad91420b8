"""Slices of a DICOM series: what each says about itself, and whether they make one straight volume.

Sorting and geometry are ours: ITK's series reader says nothing about a missing slice, a tilted gantry or
two phases in one series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan.geometry import Grid

TAGS = {
    "class": "0008|0016", "type": "0008|0008", "series": "0020|000e", "number": "0020|0011",
    "position": "0020|0032", "orientation": "0020|0037", "spacing": "0028|0030",
    "frames": "0028|0008", "photometric": "0028|0004",
}  # fmt: skip
ANGLE = 1e-3  # two direction cosines closer than this are the same
GAP = 0.1  # how far a slice may lie from its place, as a share of the slice distance


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What one DICOM file says about itself.

    Attributes:
        path: The file.
        series: Series instance UID.
        number: Series number as written, "" if there is none.
        kind: Image type, e.g. `ORIGINAL\\PRIMARY\\AXIAL`.
        size: Voxels along (x, y).
        values: Per voxel: 1, or 3 for colour.
        frames: Images in the file.
        inverted: Stored with bright and dark exchanged.
        position: LPS mm of the first voxel's centre; None if not stated.
        orientation: Cosines of a row, then of a column; None if not stated.
        spacing: mm along (x, y); None if not stated.
    """

    path: Path
    series: str
    number: str
    kind: str
    size: tuple[int, int]
    values: int
    frames: int
    inverted: bool
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None


def arrange(slices: Sequence[Slice]) -> tuple[list[int], str | None]:
    """Which slice follows which along their normal, and why they make no volume (None if they do)."""
    unsorted = list(range(len(slices)))
    if problem := _odd_image(slices) or _mixed(slices):
        return unsorted, problem
    where = slices[0].path.parent
    if len(slices) < 2:
        return unsorted, (
            f"{slices[0].path} is the only image of its series; a scan needs several slices."
        )
    normal = _axes(slices[0])[:, 2]
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    order = [int(i) for i in np.argsort(heights, kind="stable")]
    if problem := _uneven(heights[order], where):
        return order, problem
    steps = positions[order] - positions[order[0]]
    sideways = steps - np.outer(steps @ normal, normal)
    drift = float(np.linalg.norm(sideways, axis=1).max())
    if drift > 0.5 * min(slices[0].spacing or (1.0,)):
        return order, (
            f"the slices in {where} are shifted sideways by up to {drift:.1f} mm (a tilted gantry); "
            "resample the series to a straight grid."
        )
    return order, None


def series_grid(slices: Sequence[Slice]) -> Grid:
    """The voxel grid of slices in the order that `arrange` gives and finds no fault with."""
    first, last = slices[0], slices[-1]
    assert first.position is not None, "arrange has checked it"
    assert first.spacing is not None, "arrange has checked it"
    axes = _axes(first)
    extent = (np.array(last.position) - np.array(first.position)) @ axes[:, 2]
    x, y = first.spacing
    return Grid(
        size=(*first.size, len(slices)),
        spacing=(x, y, float(extent) / (len(slices) - 1)),
        origin=first.position,  # type: ignore[arg-type]
        direction=tuple(float(v) for v in axes.ravel()),
    )


def _axes(image: Slice) -> NDArray[np.float64]:
    """3 x 3; columns are the unit vectors along a row, along a column and across slices."""
    assert image.orientation is not None, "arrange has checked it"
    row, column = np.array(image.orientation[:3]), np.array(image.orientation[3:])
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # cosines are written with few digits
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _odd_image(slices: Sequence[Slice]) -> str | None:
    """The first image that can be no slice of a scan."""
    for s in slices:
        if s.values != 1:
            return f"{s.path} is a colour image; a scan with one value per voxel is needed."
        if s.inverted:
            return f"{s.path} has bright and dark exchanged (MONOCHROME1); convert it first."
        if s.frames > 1:
            return (
                f"{s.path} holds {s.frames} images in one file (enhanced DICOM); "
                "convert it to NIfTI, for example with dcm2niix."
            )
        if s.position is None or s.orientation is None or s.spacing is None:
            return f"{s.path} does not say where it lies in the patient (a screenshot?); remove it."
        row, column = np.array(s.orientation[:3]), np.array(s.orientation[3:])
        lengths = np.linalg.norm(row), np.linalg.norm(column)
        if not np.allclose(lengths, 1, atol=0.01) or abs(row @ column) > 0.01:
            return f"{s.path} has rows and columns that are not at right angles; export it again."
        if min(s.spacing) <= 0:
            return f"{s.path} has a pixel spacing of {s.spacing} mm; it must be above 0."
    return None


def _mixed(slices: Sequence[Slice]) -> str | None:
    """What differs between slices of one series and must not."""
    first = slices[0]
    for s in slices[1:]:
        what = ""
        if s.size != first.size:
            what = f"sizes, {first.size} and {s.size} pixels"
        elif not np.allclose(s.orientation or (), first.orientation or (), atol=ANGLE):
            what = "orientations"
        elif not np.allclose(s.spacing or (), first.spacing or (), rtol=1e-3):
            what = f"pixel spacings, {first.spacing} and {s.spacing} mm"
        if what:
            return (
                f"{first.path} and {s.path.name} are of one series with different {what}; "
                "give each a series (folder) of its own."
            )
    return None


def _uneven(heights: NDArray[np.float64], where: Path) -> str | None:
    """Why sorted slice positions (mm along the normal) are no regular stack."""
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    if usual <= 0 or gaps.min() < GAP * usual:
        return (
            f"{where} has several images at one position ({heights[int(gaps.argmin())]:.1f} mm); "
            "give each phase or reconstruction a folder of its own."
        )
    widest = int(gaps.argmax())
    place = f"between {heights[widest]:.1f} and {heights[widest + 1]:.1f} mm"
    if gaps[widest] > 1.5 * usual:
        missing = max(1, round(gaps[widest] / usual) - 1)
        return f"{where} lacks slices {place} ({missing} of them); copy the whole series again."
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / len(gaps)
    limit = GAP * usual
    if (
        gaps.max() - usual > limit
        or usual - gaps.min() > limit
        or abs(heights - even).max() > usual / 2
    ):
        return (
            f"the slices in {where} are {gaps.min():.2f} to {gaps.max():.2f} mm apart; "
            "one distance is needed, resample the series."
        )
    return None


def open_reader(path: Path) -> sitk.ImageFileReader:
    """A reader of one DICOM file, which takes it for nothing else."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def read_tag(reader: sitk.ImageFileReader, name: str) -> str:
    """A header value by its name in `TAGS`, "" if it is not there."""
    key = TAGS[name]
    return str(reader.GetMetaData(key)).strip("\0 ") if reader.HasMetaDataKey(key) else ""


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def describe(path: Path, reader: sitk.ImageFileReader) -> Slice:
    """What the headers say that a reader has just read."""
    spacing = _numbers(read_tag(reader, "spacing"), 2)
    frames = read_tag(reader, "frames")
    size = reader.GetSize()
    return Slice(
        path=path,
        series=read_tag(reader, "series"),
        number=read_tag(reader, "number"),
        kind=read_tag(reader, "type"),
        size=(int(size[0]), int(size[1])),
        values=int(reader.GetNumberOfComponents()),
        frames=int(frames) if frames.isdecimal() else 1,
        inverted=read_tag(reader, "photometric") == "MONOCHROME1",
        position=_numbers(read_tag(reader, "position"), 3),
        orientation=_numbers(read_tag(reader, "orientation"), 6),
        spacing=(spacing[1], spacing[0]) if spacing else None,  # the file has rows first
    )
