"""The voxels of a NIfTI file, and what ITK does not say about one.

ITK's reader fills a missing end with zeros, takes a spacing of 0 for 1 mm, and turns NaN and infinity
into 0, all without a word; and it decompresses at half the speed that is possible. So where the grid
lies is ITK's to say, and what is in it is read here.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

ENDINGS = (".nii", ".nii.gz")
TYPES = {  # NIfTI's data type codes
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8",
    256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
OTHER_TYPES = (32, 128, 1536, 1792, 2048, 2304)  # complex, colours, 128 bits: for ITK to say
MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}  # size of the header -> where, what
CHUNK_BYTES = 1 << 24
MOST_INFLATED = 1032  # bytes that one compressed byte can stand for
EPSILON = float(np.finfo(np.float64).eps)  # a slope below is none, as for ITK
DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, OverflowError),
    *(struct.error, zlib.error, cast(type[Exception], isal_zlib.error)),
)


@dataclass(frozen=True)
class Header:
    """What is needed of a NIfTI-1 or -2 header.

    Attributes:
        order: Byte order, `<` or `>`.
        kind: Data type code.
        spacing: pixdim 1 to 3, as they stand in the file.
        start: Bytes before the first voxel.
        voxels: Number of voxels.
        bits: Of one voxel, as the header says; the data type code counts, if it is known.
        slope: What stored values are multiplied with; 1 where the file has none.
        intercept: What is added then.
    """

    order: str
    kind: int
    spacing: tuple[float, float, float]
    start: int
    voxels: int
    bits: int
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def length(self) -> int:
        """Bytes that the whole file has, uncompressed."""
        size = np.dtype(TYPES[self.kind]).itemsize if self.kind in TYPES else self.bits // 8
        return self.start + self.voxels * size


def read_header(path: Path) -> Header:
    """Read a NIfTI header.

    Raises:
        DAMAGE: one of these, if the file is cut off or no NIfTI.
    """
    return _parsed(_first_bytes(path))


def _parsed(raw: bytes) -> Header:
    order = "<" if struct.unpack("<i", raw[:4])[0] in (348, 540) else ">"
    if struct.unpack(order + "i", raw[:4])[0] == 540:
        kind, bits = struct.unpack_from(order + "2h", raw, 12)
        spacing = struct.unpack_from(order + "3d", raw, 112)
        start, slope, intercept = struct.unpack_from(order + "q2d", raw, 168)
    else:
        kind, bits = struct.unpack_from(order + "2h", raw, 70)
        spacing = struct.unpack_from(order + "3f", raw, 80)
        start, slope, intercept = struct.unpack_from(order + "3f", raw, 108)
    dims = _dims(raw, order)
    voxels = math.prod(max(1, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))])
    slope = slope if math.isfinite(slope) and abs(slope) > EPSILON else 1.0
    intercept = intercept if math.isfinite(intercept) else 0.0
    return Header(order, kind, spacing, int(start), voxels, bits, slope, intercept)


def header_problem(path: Path) -> str | None:
    """Why a file cannot be a NIfTI image, as the rest of a sentence; None if its header is sound.

    ITK takes a file without the magic for ANALYZE, whose left and right are anybody's guess, and
    voxels that begin inside the header for voxels behind it.
    """
    try:
        raw = _first_bytes(path)
    except EOFError:
        return "is truncated: it ends inside its header; copy it again."
    except DAMAGE as problem:
        return f"cannot be read as an image: it is no NIfTI file ({problem})."
    if not raw:
        return "cannot be read as an image: it has no content; copy it again."
    size = next((n for n in MAGIC if raw[:4] in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), 0)
    place, magic = MAGIC.get(size, (0, b"-"))
    if len(raw) >= size and raw[place : place + 4] != magic:
        return "cannot be read as an image: it is no NIfTI file (its first bytes are not of one)."
    if len(raw) < size:
        return "is truncated: it ends inside its header; copy it again."
    try:
        header = _parsed(raw)
    except DAMAGE as problem:
        return f"cannot be read as an image: its header is damaged ({problem})."
    dims = _dims(raw, header.order)
    if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1:
        given = f"the size {dims[1:4]} voxels" if 1 <= dims[0] <= 7 else f"{dims[0]} dimensions"
        return f"cannot be read as an image: its header gives {given}."
    if header.kind not in (*TYPES, *OTHER_TYPES):
        return f"cannot be read as an image: its voxels are of an unknown type ({header.kind})."
    if header.start < size:
        return f"cannot be read as an image: its voxels begin inside its header ({header.start})."
    if not np.isfinite(_placed(raw, size, header.order)).all():
        return "has an origin or a direction that is no number; repair its header."
    return None


def _first_bytes(path: Path) -> bytes:
    """As many as a header has. Raises `DAMAGE`, of these EOFError if a compressed stream is cut off."""
    # isal reads ahead, and would take a file that is cut off further on for one without a header
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as stream:
        return stream.read(544)


def _placed(raw: bytes, size: int, order: str) -> tuple[float, ...]:
    """The numbers of its quaternion and of its matrix, if it says that they count."""
    codes, first, form = (344, 352, "d") if size == 540 else (252, 256, "f")
    quaternion, matrix = struct.unpack_from(f"{order}2{'i' if size == 540 else 'h'}", raw, codes)
    numbers = struct.unpack_from(f"{order}18{form}", raw, first)
    return (*(numbers[:6] if quaternion > 0 else ()), *(numbers[6:] if matrix > 0 else ()))


def _dims(raw: bytes, order: str) -> tuple[int, ...]:
    """Number of axes, then the size along seven."""
    if struct.unpack(order + "i", raw[:4])[0] == 540:
        return struct.unpack_from(order + "8q", raw, 16)
    return struct.unpack_from(order + "8h", raw, 40)


def is_version_2(path: Path) -> bool:
    """Whether a file is NIfTI-2, which ITK takes for no image at all."""
    try:
        raw = _first_bytes(path)
    except DAMAGE:
        return False
    return raw[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") and raw[4:7] in (b"n+2", b"ni2")


def is_truncated(path: Path) -> bool:
    """Whether a NIfTI file ends before its header says, without decompressing a whole file.

    Other formats check themselves when they are read. gzip's last four bytes hold the uncompressed
    size modulo 2^32. If they match the header's promise the file is complete; if not (cut off, or
    written as several gzip members), only decompressing tells, so that is done then.
    """
    if not path.name.endswith(ENDINGS):
        return False
    try:
        expected = read_header(path).length
        size = path.stat().st_size
        if not _is_gzip(path):
            return size < expected
        if size * MOST_INFLATED < expected:
            return True
        with path.open("rb") as raw:
            raw.seek(-4, 2)
            stated = struct.unpack("<I", raw.read(4))[0]
        if stated >= expected % 2**32 and stated - expected % 2**32 < 2**20:
            return False
        with _open(path) as stream:
            length = 0
            while chunk := stream.read(CHUNK_BYTES):
                length += len(chunk)
    except DAMAGE:
        return True
    return length < expected


def read_voxels(path: Path) -> NDArray | None:
    """The voxels of a complete NIfTI file, one after the other as they stand in it.

    Returns:
        (voxels,) in the file's own type, or floats if it has a slope or an intercept, which are
        applied; None if the file has a type that is not among `TYPES`.

    Raises:
        DAMAGE: one of these, if the file is cut off or its compressed stream damaged.
        MemoryError: it does not fit.
    """
    header = read_header(path)
    if header.kind not in TYPES:
        return None
    voxels: NDArray = np.empty(header.voxels, header.order + TYPES[header.kind])
    left = voxels.view(np.uint8).data
    with _open(path) as stream:
        stream.seek(header.start)
        while left:
            got = stream.readinto(left[:CHUNK_BYTES])  # type: ignore[attr-defined]
            if not got:
                raise EOFError("it ends before its header says")
            left = left[got:]
        stream.read(1)  # at the end of a compressed stream its check sum is looked at
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) == (1.0, 0.0):
        return voxels
    scaled = voxels * np.float64(header.slope) + header.intercept
    with np.errstate(over="ignore"):  # becomes infinite, which whoever asked looks for
        return scaled if voxels.dtype == np.float64 else scaled.astype(np.float32)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _open(path: Path) -> BinaryIO:
    """The file's content, whether it is compressed or not."""
    return igzip.open(path) if _is_gzip(path) else path.open("rb")
