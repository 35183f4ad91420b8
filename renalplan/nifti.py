"""What ITK does not say about a NIfTI file: a cut-off end, an impossible spacing, lost NaN.

ITK's reader fills a missing end with zeros, takes a spacing of 0 for 1 mm, and turns NaN and infinity
into 0, all without a word. So the header, and of files of floats the values, are looked at here.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

ENDINGS = (".nii", ".nii.gz")
FLOATS = {16: "f4", 64: "f8"}  # NIfTI's data type codes; other types have no NaN
CHUNK_BYTES = 1 << 24
DAMAGE = (OSError, EOFError, ValueError, OverflowError, struct.error, zlib.error)


@dataclass(frozen=True)
class Header:
    """What is needed of a NIfTI-1 or -2 header.

    Attributes:
        order: Byte order, `<` or `>`.
        kind: Data type code.
        spacing: pixdim 1 to 3, as they stand in the file.
        start: Bytes before the first voxel.
        voxels: Number of voxels.
        bits: Of one voxel.
    """

    order: str
    kind: int
    spacing: tuple[float, float, float]
    start: int
    voxels: int
    bits: int

    @property
    def length(self) -> int:
        """Bytes that the whole file has, uncompressed."""
        return self.start + self.voxels * self.bits // 8


def read_header(path: Path) -> Header:
    """Read a NIfTI header.

    Raises:
        DAMAGE: one of these, if the file is cut off or no NIfTI.
    """
    with _open(path) as stream:
        raw = stream.read(352)
    order = "<" if struct.unpack("<i", raw[:4])[0] in (348, 540) else ">"
    if struct.unpack(order + "i", raw[:4])[0] == 540:
        kind, bits = struct.unpack_from(order + "2h", raw, 12)
        dims = struct.unpack_from(order + "8q", raw, 16)
        spacing = struct.unpack_from(order + "3d", raw, 112)
        start = struct.unpack_from(order + "q", raw, 168)[0]
    else:
        kind, bits = struct.unpack_from(order + "2h", raw, 70)
        dims = struct.unpack_from(order + "8h", raw, 40)
        spacing = struct.unpack_from(order + "3f", raw, 80)
        start = int(struct.unpack_from(order + "f", raw, 108)[0])
    voxels = math.prod(max(1, n) for n in dims[1 : 1 + max(0, min(7, dims[0]))])
    return Header(order, kind, spacing, start, voxels, bits)


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
        if not _is_gzip(path):
            return path.stat().st_size < expected
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


def count_not_finite(path: Path) -> int:
    """NaN and infinite voxels of a complete NIfTI file of floats; 0 for any other file.

    Raises:
        DAMAGE: one of these, if the compressed stream is damaged.
    """
    if not path.name.endswith(ENDINGS):
        return 0
    header = read_header(path)
    if header.kind not in FLOATS:
        return 0
    kind = np.dtype(header.order + FLOATS[header.kind])
    left = header.voxels * kind.itemsize
    found = 0
    with _open(path) as stream:
        stream.seek(header.start)
        while left > 0 and (chunk := stream.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            found += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk, kind))))
    return found


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _open(path: Path) -> BinaryIO:
    """The file's content, whether it is compressed or not."""
    return gzip.open(path) if _is_gzip(path) else path.open("rb")  # type: ignore[return-value]
