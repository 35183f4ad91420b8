"""Reading and writing scans: with the two dicom modules the only files that know SimpleITK and formats."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan import nifti
from renalplan.errors import DatasetError, NotLabelsError
from renalplan.files import atomic_file
from renalplan.geometry import Grid, Orientation, Shape, Spacing, laid_out
from renalplan.text_headers import text_header_problem

UNREADABLE: tuple[type[Exception], ...] = (RuntimeError, MemoryError, *nifti.DAMAGE)
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
NIFTI_2 = "it is NIfTI-2, which ITK does not read; save it as NIfTI-1."

# ITK prints warnings of its own to stderr; ours say which file and what to do.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One scan in canonical orientation.

    Attributes:
        array: (channel, z, y, x). Labels are of an unsigned integer type; images float32, or
            integers of at most 16 bits if the file has them: half the memory, the same values.
        spacing: mm along (z, y, x).
        grid: The file's own header; what is written back gets exactly this.
    """

    array: NDArray
    spacing: Spacing
    grid: Grid

    @property
    def orientation(self) -> Orientation:
        """How the file's array turns into `array`."""
        return Orientation.of(self.grid)

    @property
    def shape(self) -> Shape:
        """Spatial shape (z, y, x)."""
        return self.array.shape[1:]


def read_grid(path: Path) -> Grid:
    """Read a file's header only.

    Raises:
        DatasetError: the file is missing, is no image, is not a 3-D scalar image, keeps its voxels
            in another file, or its header describes no possible grid (zero spacing, singular
            direction).
    """
    require_file(path)
    if problem := _header_problem(path):
        raise DatasetError(f"{path} {problem}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as problem:
        reason = NIFTI_2 if nifti.is_version_2(path) else _itk_reason(problem)
        raise DatasetError(f"{path} cannot be read as an image: {reason}") from None
    dimension = reader.GetDimension()
    size = reader.GetSize()
    if dimension != 3 and not (dimension == 4 and size[3] == 1):
        raise DatasetError(
            f"{path} has {dimension} dimensions {size}; one 3-D volume per file is needed, "
            "give each channel or time point a file of its own."
        )
    if reader.GetNumberOfComponents() != 1:
        raise DatasetError(
            f"{path} has {reader.GetNumberOfComponents()} values per voxel (a colour or vector "
            "image); a scan with one value per voxel is needed."
        )
    if dimension == 4:
        direction = np.asarray(reader.GetDirection()).reshape(4, 4)[:3, :3].ravel()
    else:
        direction = np.asarray(reader.GetDirection())
    grid = Grid(
        size=tuple(int(n) for n in size[:3]),  # type: ignore[arg-type]
        spacing=tuple(float(s) for s in reader.GetSpacing()[:3]),  # type: ignore[arg-type]
        origin=tuple(float(o) for o in reader.GetOrigin()[:3]),  # type: ignore[arg-type]
        direction=tuple(float(d) for d in direction),
    )
    _check_grid(path, grid)
    if path.name.endswith(nifti.ENDINGS):
        _check_nifti_spacing(path)
    return grid


def _check_grid(path: Path, grid: Grid) -> None:
    if min(grid.size) < 1:
        raise DatasetError(f"{path} is empty: its size is {grid.size} voxels.")
    if min(grid.spacing) <= 0 or not np.isfinite(grid.spacing).all():
        raise DatasetError(f"{path} has spacing {grid.spacing} mm; all three must be above 0.")
    if not np.isfinite(grid.origin).all():
        raise DatasetError(f"{path} has its origin at {grid.origin} mm; repair its header.")
    values = np.asarray(grid.direction).reshape(3, 3)
    if not np.isfinite(values).all() or abs(np.linalg.det(values)) < 1e-3:
        raise DatasetError(f"{path} has a direction matrix without volume: {grid.direction}.")


def _check_nifti_spacing(path: Path) -> None:
    """Refuse a spacing that ITK would take for 1 mm."""
    try:
        spacing = nifti.read_header(path).spacing
    except nifti.DAMAGE as problem:
        raise DatasetError(f"{path} cannot be read as an image: {problem}.") from None
    if not np.isfinite(spacing).all() or 0 in spacing:
        values = ", ".join(f"{value:g}" for value in spacing)
        raise DatasetError(f"{path} has spacing ({values}) mm; all three must be above 0.")


def read_volume(path: Path, *, labels: bool = False) -> Volume:
    """Read one file into canonical orientation.

    Args:
        path: Any format SimpleITK knows.
        labels: Return unsigned integers and refuse fractional values.

    Raises:
        DatasetError: unreadable or truncated file, wrong dimension, NaN or infinite values.
        NotLabelsError: fractional, negative or huge label values.
        MemoryError: it does not fit; the file may be as good as any.
    """
    grid = read_grid(path)
    array = _read_voxels(path, grid)
    array = _as_labels(path, array) if labels else _as_intensities(path, array)
    orientation = Orientation.of(grid)
    canonical = laid_out(orientation.apply(array))
    return Volume(array=canonical[None], spacing=orientation.spacing(grid), grid=grid)


def _read_voxels(path: Path, grid: Grid) -> NDArray:
    """A file's values in its own axis order (k, j, i); see `read_volume` for the errors."""
    if nifti.is_truncated(path):  # ITK would fill the rest with zeros and say nothing
        raise DatasetError(f"{path} is truncated: it ends before its header says; copy it again.")
    try:
        if path.name.endswith(nifti.ENDINGS) and (voxels := nifti.read_voxels(path)) is not None:
            return voxels.reshape(grid.shape)
        array: NDArray = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except UNREADABLE as problem:
        if "allocate" in str(problem) or isinstance(problem, MemoryError) or not _fits(grid):
            raise MemoryError(f"{path} with {grid.size} voxels does not fit") from None
        raise DatasetError(
            f"{path} cannot be read to its end ({_itk_reason(problem)}) "
            "The file is truncated or damaged; copy it again."
        ) from None
    return array.reshape(grid.shape)  # a fourth axis of one is dropped


def _fits(grid: Grid) -> bool:
    """Whether the system still gives memory for a volume; ITK does not say what it failed for."""
    try:
        np.empty(grid.shape, np.float64)
    except MemoryError:
        return False
    return True


def read_channels(paths: tuple[Path, ...]) -> Volume:
    """Read the channels of one case into one (channel, z, y, x) volume.

    Raises:
        DatasetError: as `read_volume`, or the channels do not lie on one grid.
    """
    volumes = [read_volume(path) for path in paths]
    for path, volume in zip(paths[1:], volumes[1:], strict=True):
        if differences := volumes[0].grid.differences(volume.grid):
            raise DatasetError(
                f"{path} does not lie on the grid of {paths[0].name}: {'; '.join(differences)}. "
                "All channels of a case need one grid; resample or re-register it."
            )
    if len(volumes) == 1:
        return volumes[0]
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array=array, spacing=volumes[0].spacing, grid=volumes[0].grid)


def _as_intensities(path: Path, array: NDArray) -> NDArray:
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return array
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is reported
        result: NDArray[np.float32] = array.astype(np.float32, copy=False)
    # min and max are NaN or infinite exactly if some voxel is; two passes, no temporary mask
    if not (np.isfinite(result.min()) and np.isfinite(result.max())):
        bad = int((~np.isfinite(result)).sum())
        raise DatasetError(f"{path} has {bad} voxels that are NaN or infinite; repair the file.")
    return result


def _as_labels(path: Path, array: NDArray) -> NDArray:
    if array.dtype.kind == "f":
        if bad := int(np.count_nonzero(~np.isfinite(array))):
            raise DatasetError(
                f"{path} has {bad} voxels that are NaN or infinite; repair the file."
            )
        rounded = np.rint(array)
        if np.abs(rounded - array).max() > 1e-3:
            raise NotLabelsError(
                f"{path} has fractional label values; labels must be whole numbers."
            )
        array = rounded
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise NotLabelsError(
            f"{path} has label values from {low} to {high}; 0 to 65535 are possible."
        )
    return array.astype(np.uint8 if high < 256 else np.uint16)


def write_volume(path: Path, array: NDArray, grid: Grid) -> None:
    """Write a canonical (z, y, x) array into a file with exactly this grid, by rename.

    Raises:
        DatasetError: the array does not have the grid's shape.
    """
    orientation = Orientation.of(grid)
    if array.shape != orientation.shape(grid):
        raise DatasetError(
            f"{path}: an array of shape {array.shape} does not fit a grid of {grid.size} voxels."
        )
    write_file_array(path, laid_out(orientation.undo(array)), grid)


def write_file_array(path: Path, array: NDArray, grid: Grid) -> None:
    """Write an array that already has the file's own axis order (k, j, i), by rename."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    with atomic_file(path) as temporary:
        try:
            sitk.WriteImage(
                image, str(temporary), useCompression=path.name.endswith((".gz", ".nrrd"))
            )
        except RuntimeError as problem:
            raise OSError(f"{path} cannot be written: {_itk_reason(problem)}") from None
        if nifti.is_truncated(temporary):  # ITK's NIfTI writer does not notice a full disk
            raise OSError(errno.ENOSPC, "the file is incomplete", str(path))


def image_ending(path: Path) -> str | None:
    """The image format ending of a file name, None if it is not one we read."""
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), None)


def _header_problem(path: Path) -> str | None:
    """What a file's first bytes say against it: formats are told by them, not guessed by ITK."""
    if path.name.endswith(nifti.ENDINGS):
        return nifti.header_problem(path)
    return text_header_problem(path)


def require_file(path: Path) -> None:
    """DatasetError if there is no such file, or it is none that may be read."""
    if not path.exists():
        if path.is_symlink():
            raise DatasetError(f"{path} is a link that leads nowhere; link or copy the file again.")
        raise DatasetError(f"{path} does not exist.")
    if not path.is_file():
        raise DatasetError(f"{path} is not a file.")
    try:
        path.open("rb").close()  # ITK does not tell it from a file of another format
    except OSError as problem:
        raise DatasetError(
            f"{path} cannot be read: {problem.strerror}; change its permissions or copy it again."
        ) from None


def _itk_reason(problem: Any) -> str:
    """The last informative line of an ITK exception, as one sentence."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    text = lines[-1] if lines else type(problem).__name__
    text = text.split("ITK ERROR:")[-1].split("Error:")[-1].strip()
    if "orthonormal" in text.lower():
        text = "its axes are not at right angles (sheared affine); resample it to a straight grid"
    if "Unable to determine ImageIO" in text or not text:
        text = "it is not an image file of a format we know"
    return text if text.endswith(".") else text + "."
