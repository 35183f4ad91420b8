import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import DatasetError
from renalplan.images import read_volume
from renalplan.nifti import (
    TYPES,
    Header,
    header_problem,
    is_truncated,
    is_version_2,
    read_header,
    read_voxels,
)

CANONICAL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def handmade(order: str, version: int) -> bytes:
    """A NIfTI file of 4 x 3 x 2 floats of 0.5 x 1 x 2 mm, one of them NaN and one infinite."""
    values = CANONICAL.astype(f"{order}f4")
    values[0, 0, 0], values[1, 2, 3] = np.nan, np.inf
    header = bytearray(544 if version == 2 else 352)
    dims, spacing = (3, 4, 3, 2, 1, 1, 1, 1), (0.5, 1.0, 2.0)
    if version == 2:
        struct.pack_into(f"{order}i8s2h8q", header, 0, 540, b"n+2", 16, 32, *dims)
        struct.pack_into(f"{order}3d", header, 112, *spacing)
        struct.pack_into(f"{order}q", header, 168, 544)
    else:
        struct.pack_into(f"{order}i", header, 0, 348)
        struct.pack_into(f"{order}8h", header, 40, *dims)
        struct.pack_into(f"{order}2h", header, 70, 16, 32)
        struct.pack_into(f"{order}3f", header, 80, *spacing)
        struct.pack_into(f"{order}f", header, 108, 352)
        struct.pack_into("4s", header, 344, b"n+1")
    return bytes(header) + values.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_both_versions_and_byte_orders_are_understood(
    tmp_path: Path, order: str, version: int
) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(handmade(order, version))
    start = {1: 352, 2: 544}[version]
    assert read_header(path) == Header(order, 16, (0.5, 1.0, 2.0), start, 24, 32)
    assert read_header(path).length == start + 4 * 24
    assert not is_truncated(path)
    expected = CANONICAL.copy()
    expected[0, 0, 0], expected[1, 2, 3] = np.nan, np.inf
    found = read_voxels(path)
    assert found is not None
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, expected.ravel())


CHANGES = [  # per version: where, in which form, what; and what is said of it
    ({1: (0, "i"), 2: (0, "i")}, 347, "no NIfTI file"),
    ({1: (42, "h"), 2: (24, "q")}, 0, "the size (0, 3, 2)"),
    ({1: (42, "h"), 2: (24, "q")}, -4, "the size (-4, 3, 2)"),
    ({1: (40, "h"), 2: (16, "q")}, 300, "gives 300 dimensions"),
    ({1: (70, "h"), 2: (12, "h")}, 999, "unknown type (999)"),
    ({1: (108, "f"), 2: (168, "q")}, 0, "inside its header (0)"),
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("places", "value", "sentence"), CHANGES)
def test_a_header_that_cannot_be_is_told(
    tmp_path: Path, order: str, version: int, places: dict, value: int, sentence: str
) -> None:
    path = tmp_path / "scan.nii"
    content = bytearray(handmade(order, version))
    path.write_bytes(content)
    assert header_problem(path) is None
    place, form = places[version]
    struct.pack_into(order + form, content, place, value)
    path.write_bytes(content)
    assert sentence in str(header_problem(path))


@pytest.mark.parametrize("version", [1, 2])
def test_a_place_that_is_no_number_is_told_if_it_counts(tmp_path: Path, version: int) -> None:
    path = tmp_path / "scan.nii"
    content = bytearray(handmade("<", version))
    matrix, code, forms = {1: (280, 254, "fh"), 2: (400, 348, "di")}[version]
    struct.pack_into(f"<{forms[0]}", content, matrix, np.nan)
    path.write_bytes(content)
    assert header_problem(path) is None
    struct.pack_into(f"<{forms[1]}", content, code, 1)
    path.write_bytes(content)
    assert "no number" in str(header_problem(path))


@pytest.mark.parametrize("kind", TYPES.values())
@pytest.mark.parametrize(
    "scale",
    [(0, 0), (1, 0), (0, -5), (2, -1024), (-0.5, 3), (1e-20, 7), (np.nan, 1), (np.inf, np.nan)],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_voxels_are_those_that_itk_reads(
    tmp_path: Path, kind: str, scale: tuple[float, float], compressed: bool
) -> None:
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.GetImageFromArray(CANONICAL.astype(kind)), str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, *scale)
    path.write_bytes(content)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if compressed:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(gzip.compress(content))
    found = read_voxels(path)
    assert found is not None
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected.ravel())


def test_a_type_that_is_not_known_is_left_to_itk(tmp_path: Path) -> None:
    content = bytearray(handmade("<", 1))
    struct.pack_into("<2h", content, 70, 1536, 128)  # floats of 128 bits
    (tmp_path / "scan.nii").write_bytes(content)
    assert read_voxels(tmp_path / "scan.nii") is None


def test_an_uncompressed_file_that_lost_a_byte_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(handmade("<", 1)[:-1])
    assert is_truncated(path)


@pytest.mark.parametrize("lost", [1, 4, 8, 9, 100, 2000])
def test_a_compressed_file_that_lost_its_end_is_truncated(
    tmp_path: Path, write: Callable[..., Path], lost: int
) -> None:
    noise = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    path = write(tmp_path / "scan.nii.gz", noise)
    assert not is_truncated(path)
    path.write_bytes(path.read_bytes()[:-lost])
    assert is_truncated(path)


def test_a_file_of_several_gzip_members_is_complete(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    content = write(tmp_path / "plain.nii", CANONICAL).read_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content[:370]) + gzip.compress(content[370:]))
    assert not is_truncated(path)
    np.testing.assert_array_equal(read_volume(path).array[0], CANONICAL)


def test_a_missing_gzip_member_is_noticed(tmp_path: Path, write: Callable[..., Path]) -> None:
    content = write(tmp_path / "plain.nii", CANONICAL).read_bytes()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(content[:370]))
    assert is_truncated(path)


def test_an_empty_or_nonsense_file_is_truncated(tmp_path: Path) -> None:
    for content in (b"", b"\x1f\x8b", b"nonsense" * 100):
        (tmp_path / "scan.nii.gz").write_bytes(content)
        assert is_truncated(tmp_path / "scan.nii.gz")


def test_other_formats_are_not_judged_by_their_length(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(b"")
    assert not is_truncated(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("bits", [0, -8, 8])
def test_what_a_voxel_takes_is_said_by_its_type(tmp_path: Path, bits: int) -> None:
    content = bytearray(handmade("<", 1))
    struct.pack_into("<h", content, 72, bits)
    struct.pack_into("<3h", content, 42, 30000, 30000, 1000)
    (tmp_path / "scan.nii").write_bytes(content)
    assert is_truncated(tmp_path / "scan.nii")
    packed = tmp_path / "scan.nii.gz"
    packed.write_bytes(gzip.compress(content))
    assert is_truncated(packed)


def test_more_than_any_compression_can_hold_is_not_looked_for(tmp_path: Path) -> None:
    # 2^32 voxels and those that are there: gzip's note of the size, modulo 2^32, agrees
    wide = bytearray(handmade("<", 2))
    struct.pack_into("<8q", wide, 16, 1, 24 + (1 << 32), 1, 1, 1, 1, 1, 1)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(wide))
    assert read_header(path).length % 2**32 == len(wide)
    assert is_truncated(path)


def test_nifti_2_is_named(tmp_path: Path) -> None:
    for name, content in (("a.nii", handmade("<", 2)), ("b.nii", handmade(">", 2))):
        (tmp_path / name).write_bytes(content)
        assert is_version_2(tmp_path / name)
        with pytest.raises(DatasetError, match=r"it is NIfTI-2.*save it as NIfTI-1\."):
            read_volume(tmp_path / name)
    (tmp_path / "c.nii").write_bytes(handmade("<", 1))
    (tmp_path / "d.nii").write_bytes(b"\x1f\x8b")
    assert not is_version_2(tmp_path / "c.nii")
    assert not is_version_2(tmp_path / "d.nii")
