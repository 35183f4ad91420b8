"""What there is to predict: one file, a folder of image files, or a folder of DICOM series."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from renalplan.dataset import CHANNEL_SUFFIX, find_images, require_channels
from renalplan.dicom import Series, find_series, is_dicom, read_series
from renalplan.errors import DatasetError, PredictionError, UsageError
from renalplan.files import real_path, require_shown, value_hash
from renalplan.images import ENDINGS, Volume, image_ending, read_channels, read_grid
from renalplan.inference.room import Room

DICOM_ENDING = ".nii.gz"  # what a segmentation of a DICOM series is written as
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScanFiles:
    """One case to predict.

    Attributes:
        id: Names the outputs.
        images: A file a channel; of a DICOM series its slices in order.
        ending: Of the segmentation.
        dicom: Whether `images` are the slices of one DICOM series.
        problem: What is already known to be wrong with it, as one sentence.
    """

    id: str
    images: tuple[Path, ...]
    ending: str
    dicom: bool = False
    problem: str | None = None

    @classmethod
    def of_case(cls, case: str, images: tuple[Path, ...]) -> ScanFiles:
        """A case's channels; its segmentation gets the first one's ending."""
        return cls(id=case, images=images, ending=image_ending(images[0]) or ".nii.gz")

    def fingerprint(self) -> str:
        """Changes when the case's files do: a result is only kept for the files it came from."""
        stats = [(path.resolve(), path.stat()) for path in self.images if path.exists()]
        return value_hash([(str(p), s.st_size, s.st_mtime_ns) for p, s in stats])

    def read(self) -> Volume:
        """The scan in canonical orientation.

        Raises:
            DatasetError: `problem`, or what reading finds wrong.
        """
        if self.problem is not None:
            raise DatasetError(self.problem)
        return read_series(self.images) if self.dicom else read_channels(self.images)

    def within(self, room: Room) -> ScanFiles:
        """Itself; with a `problem` if reading it takes more memory than there is.

        A file's header says so; the slices of a series are not opened for it.
        """
        if self.problem is not None or self.dicom:
            return self
        with suppress(DatasetError):  # reading it will say what is wrong
            voxels = prod(read_grid(self.images[0]).size)
            try:
                room.check_reading(str(self.images[0]), voxels, len(self.images))
            except PredictionError as problem:
                return replace(self, problem=str(problem))
        return self

    def as_json(self) -> dict[str, Any]:
        """Plain values, for another process that sees the same files."""
        return {**vars(self), "images": [str(path) for path in self.images]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ScanFiles:
        """From `as_json`."""
        return cls(**{**values, "images": tuple(Path(path) for path in values["images"])})


def read_scan(scan: ScanFiles) -> Volume:
    """`scan.read()`, as a function that another process can be told by name."""
    return scan.read()


def require_apart(images: Path, out: Path) -> None:
    """Refuse an output inside the input, where the next run would take it for scans.

    Raises:
        UsageError: it lies there, or is the input.
    """
    there, target = real_path(images), real_path(out)
    if there == target or there in target.parents:
        raise UsageError(f"the output {out} lies inside the input {images}; choose another folder.")


def find_scans(path: Path, channels: tuple[str, ...]) -> Iterator[ScanFiles]:
    """Cases of a folder, or of one file.

    A folder holds `case_0000.nii.gz` files (plain names if there is one channel), or else DICOM series,
    in itself and in subfolders. One file with the suffix of a channel brings its siblings with it.

    Raises:
        UsageError: nothing to predict.
        DatasetError: a case lacks a channel.
    """
    if path.is_file():
        yield _one_file(path, channels)
        return
    if not path.is_dir():
        raise UsageError(f"input {path} does not exist.")
    found = find_images(path)
    for case, files in found.items():
        images = require_channels(case, files, channels, path)
        yield ScanFiles.of_case(case, images)
    if found:
        _say_what_is_left_out(path, {file for files in found.values() for file in files.values()})
        return
    plain = [p for p in sorted(path.iterdir()) if p.is_file() and image_ending(p)]
    if not plain:
        yield from _dicom_scans(path, channels)
        return
    if len(channels) > 1:
        raise UsageError(
            f"{path}: the model needs {len(channels)} channels, so files must be named "
            "case_0000, case_0001 and so on."
        )
    for file in plain:
        require_shown(file)
        ending = image_ending(file) or ".nii.gz"
        yield ScanFiles(id=file.name.removesuffix(ending), images=(file,), ending=ending)
    _say_what_is_left_out(path, set(plain))


def _say_what_is_left_out(folder: Path, taken: set[Path]) -> None:
    """Files that are images by their names, and that we do not take for scans."""
    for file in sorted(folder.iterdir()):
        if file in taken or not file.is_file() or not file.name.lower().endswith(ENDINGS):
            continue
        if image_ending(file) is None:
            log.warning("%s is left out: write its ending in small letters", file)
        else:
            log.warning("%s is left out: other files here are named case_0000, it is not", file)


def _one_file(path: Path, channels: tuple[str, ...]) -> ScanFiles:
    ending = image_ending(path)
    if ending is None and is_dicom(path):
        raise UsageError(f"{path} is one image of a DICOM series; give -i the series' folder.")
    if ending is None:
        raise UsageError(f"{path} is not an image; we read {', '.join(ENDINGS)}.")
    name = path.name.removesuffix(ending)
    match = CHANNEL_SUFFIX.match(name)
    if match and (len(channels) > 1 or match["channel"] == "0000"):
        number = int(match["channel"])
        siblings = {number: path}  # of one channel exactly what was given
        if len(channels) > 1:
            siblings = find_images(path.parent, ending).get(match["case"], siblings)
        images = require_channels(match["case"], siblings, channels, path.parent)
        return ScanFiles(id=match["case"], images=images, ending=ending)
    if len(channels) > 1:
        raise UsageError(
            f"the model needs {len(channels)} channels, and {path.name} has no channel's suffix; "
            "name the files case_0000, case_0001 and so on, and give -i a folder or one of them."
        )
    return ScanFiles(id=name, images=(path,), ending=ending)


def _dicom_scans(folder: Path, channels: tuple[str, ...]) -> Iterator[ScanFiles]:
    found = find_series(folder)
    if not found.series:
        raise UsageError(
            f"{folder} holds no images{_elsewhere(folder)}; we read {', '.join(ENDINGS)} and DICOM "
            "series."
        )
    for sentence in found.left_out:
        log.info("%s", sentence)
    if len(channels) > 1:
        raise UsageError(
            f"{folder} holds DICOM series, one channel each; the model needs {len(channels)} "
            "channels. Convert them to NIfTI files case_0000, case_0001 and so on."
        )
    named = zip(_names(folder, found.series), found.series, strict=True)
    for case, series in sorted(named, key=lambda pair: pair[0]):
        yield ScanFiles(
            id=case, images=series.files, ending=DICOM_ENDING, dicom=True, problem=series.problem
        )


def _elsewhere(folder: Path) -> str:
    """Which subfolders hold image files: a dataset's folder is easily given for its scans' folder."""
    there = sorted({p.parent.relative_to(folder) for p in folder.rglob("*") if image_ending(p)})
    if not there:
        return ""
    more = f" and {len(there) - 3} more" if len(there) > 3 else ""
    return f" itself, its subfolders do ({', '.join(map(str, there[:3]))}{more}): give one of them"


def _names(root: Path, series: list[Series]) -> list[str]:
    """Readable case ids: the folder; with the series' number, then its UID's end, where that is no name."""
    own = root.resolve().name
    folders = [_safe("_".join(s.folder.relative_to(root).parts) or own) for s in series]
    numbered = [_safe(f"{f}_{s.number}") for f, s in zip(folders, series, strict=True)]
    unique = [f"{n}_{_safe(s.uid[-12:])}" for n, s in zip(numbered, series, strict=True)]
    names = folders
    for longer in (numbered, unique):
        count = Counter(names)
        names = [long if count[n] > 1 else n for n, long in zip(names, longer, strict=True)]
    return names


def _safe(name: str) -> str:
    """A name that is a plain file name everywhere."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "scan"
