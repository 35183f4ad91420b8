"""DICOM series: which files belong together, whether they make one straight volume, and that volume.

GDCM reads the pixels (rescale slope and intercept applied, so CT is in HU).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from renalplan.dicom_slices import Slice, arrange, describe, open_reader, read_tag, series_grid
from renalplan.errors import DatasetError
from renalplan.geometry import Grid, Orientation
from renalplan.images import Volume, image_ending

# SOP classes without an image of their own: reports, presentations, raw data, RT, PDF, waveforms, DICOMDIR
_STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_IMAGES = (
    *(_STORAGE + kind for kind in ("88", "11", "66", "481", "104", "9.")),
    "1.2.840.10008.1.3.10",
)
# what exports and file managers put beside images
HARMLESS_NAMES = (
    "dicomdir",
    "thumbs.db",
    "desktop.ini",
    "license",
    "version",
    "readme",
    "lockfile",
)
HARMLESS_ENDINGS = (
    ".txt", ".json", ".xml", ".csv", ".tsv", ".pdf", ".html", ".htm", ".md", ".ini", ".inf", ".jpg",
    ".jpeg", ".png", ".gif", ".bmp", ".xlsx", ".exe", ".dll", ".css", ".js", ".log", ".sha256", ".md5",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Series:
    """Files of one series, in slice order if they make a volume.

    Attributes:
        folder: Where they lie; what is common where they lie in several folders.
        uid: Series instance UID.
        number: Series number as written.
        files: The files.
        problem: Why they make no volume, as one sentence; None if they do.
    """

    folder: Path
    uid: str
    number: str
    files: tuple[Path, ...]
    problem: str | None


@dataclass
class Findings:
    """What a folder tree holds.

    Attributes:
        series: Sorted by folder, number and UID.
        left_out: A sentence for each thing that is DICOM and no scan (scouts, reports).
    """

    series: list[Series] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_series(folder: Path) -> Findings:
    """All series in a folder and its subfolders, each checked by its headers.

    A file that is no DICOM spoils the series of its folder, since it may be one of their slices,
    damaged; only what is known to lie beside images (text, pictures, DICOMDIR) is passed over.
    """
    found = Findings()
    groups: dict[str, dict[Path, list[Slice]]] = {}
    spoiled: dict[Path, Path] = {}
    for path in _files(folder):
        if image_ending(path):
            found.left_out.append(f"{path} lies among DICOM files; it is left out.")
            continue
        image = _read_slice(path)
        if isinstance(image, Slice):
            groups.setdefault(image.series, {}).setdefault(path.parent, []).append(image)
        elif image is None:
            spoiled.setdefault(path.parent, path)
        elif image:
            found.left_out.append(f"{path} is {image}, no image; it is left out.")
    for uid, folders in groups.items():
        for where, slices in _together(folders):
            if all("LOCALIZER" in s.kind.upper() for s in slices):
                text = f"series {slices[0].number or uid} in {where} is a localizer"
                found.left_out.append(f"{text} (a scout of {len(slices)} images); it is left out.")
                continue
            bad = next((spoiled[s.path.parent] for s in slices if s.path.parent in spoiled), None)
            found.series.append(_series(where, uid, slices, bad))
    for where, path in spoiled.items():
        if any(where in folders for folders in groups.values()):
            continue
        if not is_dicom(path):
            found.left_out.append(f"{path} is no DICOM file; it is left out.")
        else:
            problem = f"{path} cannot be read as DICOM; it is damaged, copy the series again."
            found.series.append(
                Series(folder=where, uid="", number="", files=(path,), problem=problem)
            )
    found.series.sort(key=lambda s: (str(s.folder), s.number.zfill(12), s.uid))
    return found


def read_series(files: Sequence[Path]) -> Volume:
    """Read a series into canonical orientation.

    Returns:
        (1, z, y, x) float32, HU for CT.

    Raises:
        DatasetError: a file cannot be read, or they make no straight volume; the sentence says why.
    """
    slices, planes = [], []
    for path in files:
        reader = open_reader(path)
        try:
            image = reader.Execute()
        except RuntimeError as failure:
            if "allocate" in str(failure):
                raise MemoryError(f"{path} does not fit") from None
            raise DatasetError(
                f"{path} cannot be read as a DICOM image; it is damaged or compressed in a way we "
                "do not know. Copy the series again, or convert it to NIfTI."
            ) from None
        slices.append(describe(path, reader))
        planes.append(sitk.GetArrayViewFromImage(image).astype(np.float32))
    order, problem = arrange(slices)
    if problem:
        raise DatasetError(problem)
    array = np.stack([planes[i].reshape(planes[i].shape[-2:]) for i in order])
    planes.clear()
    if not np.isfinite(array).all():
        raise DatasetError(f"{Path(files[0]).parent} has voxels that are NaN or infinite.")
    grid = series_grid([slices[i] for i in order])
    orientation = Orientation.of(grid)
    canonical = np.ascontiguousarray(orientation.apply(array))
    return Volume(array=canonical[None], spacing=orientation.spacing(grid), grid=grid)


def read_series_grid(files: Sequence[Path]) -> Grid:
    """The grid that slices in order (see `Series.files`) state; their headers alone are read."""
    slices = []
    for path in files:
        reader = open_reader(path)
        reader.ReadImageInformation()
        slices.append(describe(path, reader))
    return series_grid(slices)


def _together(folders: dict[Path, list[Slice]]) -> Iterator[tuple[Path, list[Slice]]]:
    """A series spread over folders is one; copies of a series in several folders are several."""
    places = [{s.position for s in slices} for slices in folders.values()]
    if len(folders) > 1 and len(set().union(*places)) == sum(len(place) for place in places):
        common = Path(os.path.commonpath([str(folder) for folder in folders]))
        yield common, [s for slices in folders.values() for s in slices]
        return
    yield from folders.items()


def _series(where: Path, uid: str, slices: list[Slice], spoiled_by: Path | None) -> Series:
    order, problem = arrange(slices)
    if spoiled_by is not None:
        problem = (
            f"{spoiled_by} lies among the slices and cannot be read as DICOM; "
            "remove it if it is something else, or copy the series again."
        )
    files = tuple(slices[i].path for i in order)
    return Series(folder=where, uid=uid, number=slices[0].number, files=files, problem=problem)


def _files(folder: Path) -> Iterator[Path]:
    """Files of a folder tree in order, without what is hidden or known to lie beside images."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            low = name.lower()
            stem = low.partition(".")[0]
            if not (
                name.startswith(".") or low in HARMLESS_NAMES or stem in HARMLESS_NAMES
                or low.endswith(HARMLESS_ENDINGS)
            ):  # fmt: skip
                yield Path(where, name)


def _read_slice(path: Path) -> Slice | str | None:
    """A file's headers; what else it is, if it is DICOM without an image; None if it is unreadable."""
    if kind := _without_image(stated_class(path)):
        return kind
    reader = open_reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    if kind := _without_image(read_tag(reader, "class")):
        return kind
    return describe(path, reader)


def _without_image(sop_class: str) -> str:
    return f"DICOM of the class {sop_class}" if sop_class.startswith(NO_IMAGES) else ""


def stated_class(path: Path) -> str:
    """The SOP class in a file's own header, which is little endian with types in every DICOM file; else empty."""
    try:
        with path.open("rb") as stream:
            head = stream.read(2048)
    except OSError:
        return ""
    if head[128:132] != b"DICM":
        return ""
    start = head.find(b"\x02\x00\x02\x00UI")
    if start < 0:
        return ""
    length = int.from_bytes(head[start + 6 : start + 8], "little")
    return head[start + 8 : start + 8 + length].decode("ascii", "replace").strip("\0 ")
