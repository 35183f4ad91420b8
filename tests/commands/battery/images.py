"""Bad images and label maps, before every command that reads one."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from battery import making
from battery.row import (
    DATA,
    FOLD,
    IMAGE,
    LABEL,
    PLAN,
    PREDICT,
    SCAN,
    SCANS,
    TRUTH,
    Fault,
    Reader,
    Row,
    cross,
)

DIMS, KIND, SPACING, START, SLOPE = 40, 70, 76, 108, 112  # offsets in a NIfTI-1 header
QFORM_CODE, QUATERNION, SROW = 252, 256, 280


def header(offset: int, form: str, *values: Any) -> Callable[[Path], Any]:
    """Other values at an offset of its header."""

    def change(path: Path) -> None:
        data = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into(f"<{form}", data, offset, *values)
        path.write_bytes(gzip.compress(bytes(data), 1))

    return change


def affine(*rows: tuple[float, float, float]) -> Callable[[Path], Any]:
    """Another matrix from voxels to mm, and no quaternion."""

    def change(path: Path) -> None:
        header(QFORM_CODE, "2h", 0, 1)(path)
        for number, row in enumerate(rows):
            header(SROW + 16 * number, "4f", *row, 0.0)(path)

    return change


def no_origin(path: Path) -> None:
    """An origin that is NaN, in both of its places."""
    header(268, "f", np.nan)(path)
    header(SROW + 12, "f", np.nan)(path)


def image(path: Path, array: Any, spacing: Any = (4.0, 4.0, 8.0), **how: Any) -> None:
    """Another image in its place."""
    made = sitk.GetImageFromArray(array, **how)
    made.SetSpacing(spacing[: made.GetDimension()])
    sitk.WriteImage(made, str(path))


def voxels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Any]:
    """Other voxels on the same grid."""
    return lambda path: image(path, change(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))))


def some(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Seven voxels of this value."""
    return lambda a: np.where(np.arange(a.size).reshape(a.shape) < 7, value, a.astype(np.float64))


def inner_truncated(path: Path) -> None:
    """The gzip stream is whole, the image in it is not."""
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[: len(data) // 2]))


def moved(path: Path) -> None:
    """The same voxels on another grid."""
    image(path, sitk.GetArrayFromImage(sitk.ReadImage(str(path))), (4.0, 5.0, 8.0))


ALL = (
    "report",
    "dicom_seg",
    "check",
    "plan_and_preprocess",
    "predict",
    "evaluate",
    "surgery",
    "phantom",
    "find_best",
)
NO_IMAGE = ("cannot be read as an image",)
CUT = ("is truncated", "copy it again")

# of a file of which only the header is right, and of what a file is to the system
FORMAT = [
    Fault("truncated", making.truncate, CUT),
    Fault("truncated inside the gzip stream", inner_truncated, CUT),
    Fault("no bytes at all", making.content(b""), NO_IMAGE),
    Fault("text instead of an image", making.content(b"not an image"), NO_IMAGE),
    Fault("gzip of garbage", making.content(gzip.compress(b"\x17garbage" * 99)), NO_IMAGE),
    Fault("cut off inside its header", making.content(gzip.compress(b"\x5c\x01\0\0" * 20)), CUT),
    Fault("wrong magic", header(344, "4s", b"nix\0"), NO_IMAGE),
    Fault("a size of zero", header(DIMS, "4h", 3, 0, 32, 16), ("size",)),
    Fault("a negative size", header(DIMS, "4h", 3, -32, 32, 16), ("size",)),
    Fault("300 dimensions", header(DIMS, "h", 300), ("300 dimensions",)),
    Fault("a huge declared size", header(DIMS, "4h", 3, *[32767] * 3), CUT),
    Fault("4-D", lambda p: image(p, np.zeros((2, 4, 6, 6), np.int16), (4.0, 4.0, 8.0, 1.0), isVector=False), ("4 dimensions", "3-D")),
    Fault("2-D", lambda p: image(p, np.zeros((6, 6), np.int16)), ("2 dimensions", "3-D")),
    Fault(
        "RGB", lambda p: image(p, np.zeros((4, 6, 6, 3), np.uint8), isVector=True),
        ("3 values per voxel", "one value per voxel"),
    ),
    Fault("complex numbers", lambda p: image(p, np.zeros((4, 6, 6), np.complex64)), ("2 values per voxel",)),
    Fault("an unknown type of voxel", header(KIND, "2h", 999, 32), NO_IMAGE),
    Fault("voxels that begin beyond its end", header(START, "f", 1e9), CUT),
    Fault("voxels that begin before it", header(START, "f", -1e9), NO_IMAGE),
    Fault("spacing of zero", header(SPACING + 4, "3f", 4.0, 0.0, 8.0), ("spacing (4, 0, 8) mm", "above 0")),
    Fault("negative spacing", header(SPACING + 4, "3f", 4.0, -4.0, 8.0), ("spacing (4.0, -4.0, 8.0) mm", "above 0")),
    Fault("spacing that is no number", header(SPACING + 4, "3f", 4.0, np.nan, 8.0), ("spacing", "above 0")),
    Fault("infinite spacing", header(SPACING + 4, "3f", 4.0, np.inf, 8.0), ("spacing", "above 0")),
    Fault("an origin that is no number", no_origin, ("origin",)),
    Fault("singular direction", affine((4, 4, 0), (0, 0, 0), (0, 0, 8)), ("right angles", "resample")),
    Fault("sheared axes", affine((4, 2, 0), (0, 4, 0), (0, 0, 8)), ("right angles", "resample")),
    Fault("a folder of its name", making.a_folder, ("not a file",)),
    Fault("a link to itself", making.a_loop, ("leads nowhere", "copy the file")),
    Fault("a link to nothing", making.a_dead_link, ("leads nowhere", "copy the file")),
    Fault("a pipe of its name", making.a_pipe, ("not a file",)),
    Fault("no permission to read it", making.closed, ("permission",)),
]  # fmt: skip

VOXELS = [
    Fault("voxels that are NaN", voxels(some(np.nan)), ("7 voxels that are NaN", "repair the file")),
    Fault("infinite voxels", voxels(some(np.inf)), ("7 voxels that are NaN or infinite", "repair")),
    Fault("voxels too large for 32 bits", voxels(some(1e300)), ("7 voxels", "repair")),
    Fault("a slope without meaning", header(SLOPE, "2f", 3e38, 0.0), ("voxels", "repair")),
    Fault(
        "every voxel alike", voxels(lambda a: np.full(a.shape, -1000, np.int16)),
        ("is empty", "every voxel is -1000"), fine=("plan_and_preprocess", "predict", "report"),
    ),
    Fault("64-bit integers", voxels(lambda a: a.astype(np.int64)), (), fine=ALL),
    Fault("64-bit floats", voxels(lambda a: a.astype(np.float64)), (), fine=ALL),
    Fault("a slope and an intercept", header(SLOPE, "2f", 0.5, -10.0), (), fine=ALL),
]  # fmt: skip


def prediction() -> None:
    shutil.copytree(TRUTH, "pred")
    shutil.copytree(TRUTH, "truth")  # no dataset's folder: which one is scored is nobody's guess
    shutil.copy(DATA / "dataset.json", "pred")
    shutil.copy(TRUTH / "new.nii.gz", "pred/old.nii.gz")
    shutil.copy(TRUTH / "new.nii.gz", TRUTH / "old.nii.gz")
    shutil.copy(TRUTH / "new.nii.gz", "truth/old.nii.gz")


def two_scans() -> None:
    shutil.copy(SCAN, SCANS / "old_0000.nii.gz")


def masks() -> None:
    Path("masks").mkdir()
    shutil.copy(TRUTH / "new.nii.gz", "masks/case.nii.gz")


REPORT = f"report -i {SCAN} -s {TRUTH / 'new.nii.gz'} -o out --no-error_bars"


def rows() -> Iterator[Row]:
    yield from cross("Scans", FORMAT + VOXELS, SCAN_READERS)
    yield from cross("Label maps", FORMAT + LABELS, LABEL_READERS)


SCAN_READERS = [
    Reader("check 1 --workers 0", IMAGE, lines=0),
    Reader(PLAN, IMAGE, writes=("work/preprocessed",)),
    Reader(
        PREDICT, SCAN, status=1, prepare=two_scans, writes=("out",), makes=("out/old.nii.gz", "out/predict_report.json"),
        leaves_out=("out/new.nii.gz",),
    ),
    Reader(REPORT, SCAN, writes=("out",), leaves_out=("out/new.html",), another={"a folder of its name": ("no DICOM series",)}),
]  # fmt: skip

LABELS = [
    Fault("fractional values", voxels(lambda a: a * 0.5), ("fractional", "whole numbers")),
    Fault("values that are NaN", voxels(some(np.nan)), ("7 voxels that are NaN", "repair")),
    Fault("negative values", voxels(lambda a: a.astype(np.int16) * -1), ("-1",)),
    Fault("values beyond 65535", voxels(lambda a: a.astype(np.int32) * 70000), ("70000", "65535")),
    Fault(
        "an undeclared value",
        voxels(lambda a: a * 9),
        ("9",),
        answers={
            "phantom": ("masks/case.nii.gz needs kidneys with label 1", "nothing else"),
            "find_best": ("validation", "run renalplan_train", "validates anew"),
        },
    ),
    Fault("another grid", moved, ("grid",), fine=("surgery", "phantom")),
    Fault("64-bit integers", voxels(lambda a: a.astype(np.int64)), (), fine=ALL),
]

LABEL_READERS = [
    Reader("check 1 --workers 0", LABEL, lines=0),
    Reader(PLAN, LABEL, writes=("work/preprocessed",)),
    Reader(f"evaluate pred {TRUTH} -o out", Path("pred/new.nii.gz"), prepare=prediction, leaves_out=("out",)),
    Reader("evaluate truth pred -o out", Path("pred/new.nii.gz"), prepare=prediction, leaves_out=("out",)),
    Reader(
        f"surgery -s {TRUTH / 'new.nii.gz'} -o out.json", TRUTH / "new.nii.gz",
        writes=("out.json",), leaves_out=("out.json",),
    ),
    Reader(REPORT, TRUTH / "new.nii.gz", writes=("out",), leaves_out=("out/new.html",)),
    Reader("phantom out --cases 1 --from_masks masks", Path("masks/case.nii.gz"), prepare=masks, leaves_out=("out",)),
    Reader("find_best 1 --workers 0", FOLD / "validation/case_1.nii.gz", writes=("work/results",)),
]  # fmt: skip
