"""NIfTI files in which anything may be wrong: one of our sentences, or what ITK reads too."""

from __future__ import annotations

import gzip
import itertools
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from renalplan.errors import DatasetError, RenalplanError
from renalplan.images import read_grid, read_volume
from renalplan.nifti import TYPES

ROOM = 1 << 29  # bytes that reading a file of a few kilobytes may take
# offset and type of NIfTI's numbers: of version 1, and of version 2
FIELDS = {
    1: [(0, "i"), (70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f"), (252, "h"), (254, "h")]
    + [(40 + 2 * n, "h") for n in range(8)]
    + [(76 + 4 * n, "f") for n in range(8)]
    + [(256 + 4 * n, "f") for n in range(18)],
    2: [(0, "i"), (12, "h"), (14, "h"), (168, "q"), (176, "d"), (184, "d"), (344, "i"), (348, "i")]
    + [(16 + 8 * n, "q") for n in range(8)]
    + [(104 + 8 * n, "d") for n in range(8)]
    + [(352 + 8 * n, "d") for n in range(18)],
}
BITS = {"h": 16, "i": 32, "q": 64}
TELLING = [0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 348, 352, 540, 544, 1 << 14, 1 << 31, 1 << 40, 1 << 62]


def header(order: str, version: int, kind: int, size: tuple[int, ...]) -> bytes:
    """A valid one, of a straight grid."""
    bits = 8 * np.dtype(TYPES[kind]).itemsize
    dims = (3, *size, 1, 1, 1, 1)
    made = bytearray(544 if version == 2 else 352)
    rows = [(0.5, 0, 0, -3), (0, 1, 0, 5), (0, 0, 2, 7)]
    if version == 2:
        struct.pack_into(f"{order}i8s2h8q", made, 0, 540, b"n+2\0\r\n\x1a\n", kind, bits, *dims)
        struct.pack_into(f"{order}8d", made, 104, 1, 0.5, 1, 2, 1, 1, 1, 1)
        struct.pack_into(f"{order}q", made, 168, 544)
        struct.pack_into(f"{order}2i", made, 344, 0, 1)
        struct.pack_into(f"{order}12d", made, 400, *(v for row in rows for v in row))
    else:
        struct.pack_into(f"{order}i", made, 0, 348)
        struct.pack_into(f"{order}8h", made, 40, *dims)
        struct.pack_into(f"{order}3h8f", made, 70, kind, bits, 0, 1, 0.5, 1, 2, 1, 1, 1, 1)
        struct.pack_into(f"{order}f", made, 108, 352)
        struct.pack_into(f"{order}2h", made, 252, 0, 1)
        struct.pack_into(f"{order}12f", made, 280, *(v for row in rows for v in row))
        made[344:348] = b"n+1\0"
    return bytes(made)


@st.composite
def valid(draw: st.DrawFn) -> tuple[bytes, str, int]:
    """A NIfTI file, its byte order and its version."""
    order, version = draw(st.sampled_from("<>")), draw(st.sampled_from((1, 2)))
    kind = draw(st.sampled_from(sorted(TYPES)))
    size = draw(st.tuples(*[st.integers(1, 5)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    voxels = rng.integers(0, 100, int(np.prod(size))).astype(order + TYPES[kind])
    return header(order, version, kind, size) + voxels.tobytes(), order, version


def number(draw: st.DrawFn, kind: str) -> float:
    if kind in BITS:
        half = 1 << (BITS[kind] - 1)
        inside = [n for n in (*TELLING, half - 1, -half) if -half <= n < half]
        return draw(st.sampled_from(inside) | st.integers(-half, half - 1))
    odd = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf")])
    return draw(odd | st.floats(width=64 if kind == "d" else 32))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A file in which some numbers and bytes are others, and whether its name says it is compressed."""
    content, order, version = draw(valid())
    raw = bytearray(content)
    for offset, kind in draw(st.lists(st.sampled_from(FIELDS[version]), max_size=3)):
        struct.pack_into(order + kind, raw, offset, number(draw, kind))
    for place in draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[place] = draw(st.integers(0, 255))
    if draw(st.booleans()) and draw(st.booleans()):
        del raw[draw(st.integers(0, len(raw))) :]
    raw += draw(st.binary(max_size=8))
    if draw(st.booleans()):
        return bytes(raw), draw(st.integers(0, 9)) == 0
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=2)))
    edges = [0, *cuts, len(raw)]
    members = [gzip.compress(raw[a:b], 1, mtime=0) for a, b in itertools.pairwise(edges)]
    packed = bytearray(b"".join(members))
    for place in draw(st.lists(st.integers(0, len(packed) - 1), max_size=2)):
        packed[place] = draw(st.integers(0, 255))
    if draw(st.booleans()) and draw(st.booleans()):
        del packed[draw(st.integers(0, len(packed))) :]
    return bytes(packed), draw(st.integers(0, 9)) > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(scope="module", autouse=True)
def _little_room() -> Iterator[None]:
    """Whoever asks for the memory that a header promises does not get it, and fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs Linux to say how much memory is in use")
    used = next(int(line.split()[1]) for line in status.open() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def judge(path: Path, *, labels: bool) -> None:
    """Reading fails with a sentence that names the file, or gives what ITK gives."""
    try:
        grid = read_grid(path)
        volume = read_volume(path, labels=labels)
    except RenalplanError as problem:
        told = str(problem)
    else:
        told = ""
    if told:
        assert str(path) in told
        assert told.endswith(".")
        return
    assert volume.grid == grid
    array = volume.orientation.undo(volume.array[0])
    assert array.shape == grid.shape
    assert np.isfinite(array).all()
    if path.name.endswith(".gz"):  # of small compressed files ITK gives what lay in memory
        content = path.read_bytes()
        path = path.with_name("plain.nii")
        path.write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).reshape(grid.shape)
    if labels:
        expected = np.rint(expected)
    np.testing.assert_array_equal(array, expected.astype(array.dtype))


@given(damaged(), st.booleans())
def test_a_damaged_file_is_refused_or_read_as_itk_reads_it(
    folder: Path, file: tuple[bytes, bool], labels: bool
) -> None:
    content, compressed = file
    path = folder / ("scan.nii.gz" if compressed else "scan.nii")
    path.write_bytes(content)
    judge(path, labels=labels)


@given(valid(), st.booleans())
def test_a_sound_file_is_read_and_one_of_version_2_told(
    folder: Path, file: tuple[bytes, str, int], compressed: bool
) -> None:
    path = folder / ("scan.nii.gz" if compressed else "scan.nii")
    path.write_bytes(gzip.compress(file[0]) if compressed else file[0])
    if file[2] == 2:
        with pytest.raises(DatasetError, match="save it as NIfTI-1"):
            read_volume(path)
        return
    assert read_volume(path).spacing == (2, 1, 0.5)
    judge(path, labels=False)


@given(st.binary(max_size=400), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
def test_bytes_that_are_no_image_are_refused(folder: Path, content: bytes, ending: str) -> None:
    path = folder / f"noise{ending}"
    path.write_bytes(content)
    judge(path, labels=False)
