import gzip
import itertools
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import DatasetError
from renalplan.geometry import Grid, Orientation
from renalplan.images import (
    ENDINGS,
    image_ending,
    read_channels,
    read_grid,
    read_volume,
    write_file_array,
    write_volume,
)

CANONICAL = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # (z, y, x), every voxel different
SPACING_MM = {0: 0.75, 1: 0.5, 2: 2.5}  # along LPS x, y, z; exact in single precision
FIRST_MM = np.array([-100.5, 33.25, 17.0])  # LPS of the canonical voxel (0, 0, 0)
TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)  # turned by 36.9 degrees around z

ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def stored_as(axes: tuple[int, ...], signs: tuple[int, ...]) -> sitk.Image:
    """CANONICAL in a file whose axis a (i, j, k) runs along world axis axes[a] with a sign."""
    # array axis 2 - a belongs to file axis a, canonical axis 2 - w to world axis w
    array = CANONICAL.transpose([2 - axes[2 - n] for n in range(3)])
    array = array[tuple(slice(None, None, signs[2 - n]) for n in range(3))]
    direction, origin = np.zeros((3, 3)), FIRST_MM.copy()
    for a, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[world, a] = sign
        if sign < 0:
            origin[world] += (CANONICAL.shape[2 - world] - 1) * SPACING_MM[world]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([SPACING_MM[world] for world in axes])
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def assert_same_geometry(image: sitk.Image, other: sitk.Image) -> None:
    assert image.GetSize() == other.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(
            getattr(image, name)(), getattr(other, name)(), rtol=0, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_every_orientation_is_read_alike_and_written_back(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image, path = stored_as(axes, signs), tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(path))

    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], CANONICAL)
    assert volume.spacing == (2.5, 0.5, 0.75)
    assert volume.shape == (2, 3, 4)

    write_volume(tmp_path / "back.nii.gz", volume.array[0], volume.grid)
    back = sitk.ReadImage(str(tmp_path / "back.nii.gz"))
    assert_same_geometry(back, image)
    # voxel 13 = 1 * 12 + 0 * 4 + 1 lies at canonical (1, 0, 1)
    index = [int(n) for n in np.argwhere(sitk.GetArrayFromImage(back) == 13)[0][::-1]]
    expected = FIRST_MM + np.array([1 * 0.75, 0 * 0.5, 1 * 2.5])
    np.testing.assert_allclose(back.TransformIndexToPhysicalPoint(index), expected, atol=1e-5)


@pytest.mark.parametrize("axes_and_signs", ORIENTATIONS[::7])
def test_writing_a_file_array_changes_no_axis(
    tmp_path: Path, axes_and_signs: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    image = stored_as(*axes_and_signs)
    grid = Grid(
        size=image.GetSize(),
        spacing=image.GetSpacing(),
        origin=image.GetOrigin(),
        direction=image.GetDirection(),
    )
    write_file_array(tmp_path / "scan.nii.gz", sitk.GetArrayFromImage(image), grid)
    back = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    assert_same_geometry(back, image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("hand", [1, -1])
def test_an_oblique_scan_stays_oblique_in_every_format(
    tmp_path: Path, make_grid: Callable[..., Grid], ending: str, hand: int
) -> None:
    direction = (*TILTED[:8], float(hand))
    grid = make_grid(
        (4, 3, 2), spacing=(0.75, 0.5, 2.5), origin=(-100.5, 33.25, 17.0), direction=direction
    )
    path = tmp_path / f"scan{ending}"
    write_file_array(path, CANONICAL, grid)
    volume = read_volume(path)
    assert volume.grid.size == (4, 3, 2)
    np.testing.assert_allclose(volume.grid.direction, direction, atol=1e-6)
    np.testing.assert_allclose(volume.grid.origin, grid.origin, atol=1e-6)
    np.testing.assert_allclose(volume.grid.spacing, grid.spacing, atol=1e-6)
    assert volume.orientation == Orientation((0, 1, 2), (hand < 0, False, False))
    np.testing.assert_array_equal(volume.array[0], CANONICAL[::hand])
    write_volume(tmp_path / f"back{ending}", volume.array[0], volume.grid)
    assert_same_geometry(sitk.ReadImage(str(tmp_path / f"back{ending}")), sitk.ReadImage(str(path)))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"back{ending}", f"scan{ending}"]


def test_an_array_of_the_wrong_shape_is_not_written(
    tmp_path: Path, make_grid: Callable[..., Grid]
) -> None:
    with pytest.raises(DatasetError, match=r"scan.nii: an array of shape \(2, 3, 4\) does not fit"):
        write_volume(tmp_path / "scan.nii", CANONICAL, make_grid((2, 3, 4)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_wide_number_types_become_float32(
    tmp_path: Path, write: Callable[..., Path], dtype: type
) -> None:
    array = read_volume(write(tmp_path / "scan.nii", CANONICAL.astype(dtype))).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[0], CANONICAL)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_narrow_integers_stay_what_they_are(
    tmp_path: Path, write: Callable[..., Path], dtype: type, ending: str
) -> None:
    array = read_volume(write(tmp_path / f"scan{ending}", CANONICAL.astype(dtype))).array
    assert array.dtype == dtype
    np.testing.assert_array_equal(array[0], CANONICAL)


def test_slope_and_intercept_are_applied(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "scan.nii", CANONICAL.astype(np.int16))
    patch_header(path, 112, struct.pack("<2f", 2.0, -1024.0))  # scl_slope, scl_inter
    np.testing.assert_allclose(read_volume(path).array[0], 2 * CANONICAL - 1024)


def test_labels_take_the_smallest_type(tmp_path: Path, write: Callable[..., Path]) -> None:
    small = write(tmp_path / "small.nii", CANONICAL)
    large = write(tmp_path / "large.nii", CANONICAL.astype(np.int32) * 100)
    assert read_volume(small, labels=True).array.dtype == np.uint8
    assert read_volume(large, labels=True).array.dtype == np.uint16
    assert read_volume(large, labels=True).array.max() == 2300


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.5, "fractional label values"),
        (-1.0, "label values from -1 to 23"),
        (70000.0, "label values from 0 to 70000"),
        (np.nan, "1 voxels that are NaN or infinite"),
    ],
)
def test_what_is_no_label_is_refused(
    tmp_path: Path, write: Callable[..., Path], value: float, sentence: str
) -> None:
    array = CANONICAL.copy()
    array[0, 1, 1] = value
    path = write(tmp_path / "labels.nii", array)
    with pytest.raises(DatasetError, match=f"labels.nii has {sentence}"):
        read_volume(path, labels=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_intensities_that_are_no_numbers_are_counted(
    tmp_path: Path, write: Callable[..., Path], value: float
) -> None:
    array = CANONICAL.astype(np.float64)
    array[0, 0, :2] = value
    path = write(tmp_path / "scan.nii", array)
    with pytest.raises(DatasetError, match=r"scan.nii has 2 voxels that are NaN or infinite"):
        read_volume(path)


def test_a_slice_is_no_scan(tmp_path: Path) -> None:
    path = tmp_path / "slice.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.float32)), str(path))
    with pytest.raises(DatasetError, match=r"slice.nii has 2 dimensions \(5, 4\)"):
        read_volume(path)


def test_a_series_in_time_is_no_scan(tmp_path: Path) -> None:
    path = tmp_path / "series.nii"
    array = np.zeros((2, 3, 4, 5), np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    with pytest.raises(DatasetError, match=r"series.nii has 4 dimensions \(5, 4, 3, 2\)"):
        read_volume(path)


def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.GetImageFromArray(CANONICAL[None], isVector=False), str(path))
    volume = read_volume(path)
    assert volume.grid.size == (4, 3, 2)
    np.testing.assert_array_equal(volume.array[0], CANONICAL)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Offset = nan 4 5", "has Offset = 'nan 4 5', which is not 3 numbers; repair its header"),
        ("Offset = 3,5 4 5", "has Offset = '3,5 4 5', which is not 3 numbers"),
        ("Offset = 3 4", "has Offset = '3 4', which is not 3 numbers"),
        ("ElementSpacing = 1 2 inf", "has ElementSpacing = '1 2 inf', which is not 3 numbers"),
        ("TransformMatrix = 1 0 0 0 1 0 0 1", "has TransformMatrix = .* not 9 numbers"),
        ("TransformMatrix = 1 0 0 1 0 0 0 0 1", "has a direction matrix without volume"),
        ("DimSize = 0 3 2", r"is empty: its size is \(0, 3, 2\)"),
    ],
)
def test_a_metaimage_whose_geometry_is_no_numbers_is_refused(
    tmp_path: Path, write: Callable[..., Path], line: str, says: str
) -> None:
    """ITK would read zeros in their place."""
    path = write(tmp_path / "scan.mha", CANONICAL)
    header, key = path.read_bytes(), line.split(" =")[0].encode()
    changed, times = re.subn(rb"(?m)^" + key + rb" = .*$", line.encode(), header)
    assert times == 1
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match=f"scan.mha {says}"):
        read_grid(path)


def test_a_metaimage_in_four_dimensions_has_four_numbers_a_line(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(CANONICAL[None], isVector=False), str(path))
    np.testing.assert_array_equal(read_volume(path).array[0], CANONICAL)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_colour_image_is_no_scan(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"photo{ending}"
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(path))
    with pytest.raises(DatasetError, match=f"photo{ending} has 3 values per voxel"):
        read_volume(path)


def patch_header(path: Path, offset: int, value: bytes) -> None:
    """Overwrite bytes of an uncompressed file."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_an_impossible_spacing_in_nifti_is_refused(
    tmp_path: Path, write: Callable[..., Path], value: float
) -> None:
    path = write(tmp_path / "scan.nii", CANONICAL)
    patch_header(path, 84, struct.pack("<f", value))  # pixdim[2]
    with pytest.raises(DatasetError, match=r"scan.nii has spacing .* must be above 0"):
        read_grid(path)


def test_a_zero_spacing_in_a_compressed_nifti_is_refused(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write(tmp_path / "scan.nii", CANONICAL)
    patch_header(path, 88, struct.pack("<f", 0.0))  # pixdim[3]
    packed = tmp_path / "scan.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"scan.nii.gz has spacing \(1, 1, 0\) mm"):
        read_grid(packed)


def test_a_zero_spacing_in_metaimage_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "scan.mha", CANONICAL)
    header = path.read_bytes()
    assert header.count(b"ElementSpacing = 1 1 1") == 1
    path.write_bytes(header.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 0 1"))
    with pytest.raises(DatasetError, match=r"scan.mha has spacing \(1.0, 0.0, 1.0\) mm"):
        read_grid(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_cut_in_half_is_refused(
    tmp_path: Path, write: Callable[..., Path], ending: str
) -> None:
    noise = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    path = write(tmp_path / f"scan{ending}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=rf"scan{ending} .*truncated"):
        read_volume(path)


@pytest.mark.parametrize("left", [200, 30])
def test_a_compressed_file_cut_within_its_header_is_refused(
    tmp_path: Path, write: Callable[..., Path], left: int
) -> None:
    path = write(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DatasetError, match=r"scan\.nii\.gz "):
        read_volume(path)


def test_a_complete_but_damaged_file_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(9, 9, 9)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"scan\.nii\.gz "):
        read_volume(path)


def test_a_plain_file_with_a_compressed_name_is_read(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    content = write(tmp_path / "plain.nii", CANONICAL).read_bytes()
    (tmp_path / "scan.nii.gz").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii.gz").array[0], CANONICAL)


@pytest.mark.parametrize("ending", ENDINGS)
def test_garbage_is_no_image(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    path.write_bytes(b"garbage" * 100)
    with pytest.raises(DatasetError, match=f"scan{ending} cannot be read as an image"):
        read_volume(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone.nii.gz does not exist\."):
        read_volume(tmp_path / "gone.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(DatasetError, match=r"folder.nii.gz is not a file\."):
        read_volume(tmp_path / "folder.nii.gz")


def test_channels_are_stacked(tmp_path: Path, write: Callable[..., Path]) -> None:
    first = write(tmp_path / "a_0000.nii", CANONICAL)
    second = write(tmp_path / "a_0001.nii", CANONICAL + 100)
    array = read_channels((first, second)).array
    assert array.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(array[1] - array[0], 100)


def test_channels_on_different_grids_are_refused(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    first = write(tmp_path / "a_0000.nii", CANONICAL)
    second = write(tmp_path / "a_0001.nii", CANONICAL, spacing=(1.0, 1.0, 3.0))
    with pytest.raises(
        DatasetError, match=r"a_0001.nii does not lie .* spacing \(1, 1, 1\) against \(1, 1, 3\) mm"
    ):
        read_channels((first, second))


def test_the_ending_of_a_file_name_is_found() -> None:
    assert image_ending(Path("a.b.nii.gz")) == ".nii.gz"
    assert image_ending(Path("a.nii")) == ".nii"
    assert image_ending(Path("a.gz")) is None


@pytest.mark.parametrize(
    "name",
    [
        "real_ct/totalseg_example_ct.nii.gz",
        "real_ct/totalseg_example_seg.nii.gz",
        "kits19_masks/case_00015.nii.gz",  # has a qform and no sform
        "kits19_masks/case_00030.nii.gz",
    ],
)
def test_a_real_file_keeps_its_geometry_and_voxels(
    tmp_path: Path, real_data: Path, name: str
) -> None:
    path = real_data / name
    if not path.is_file():
        pytest.skip(f"{name} is not among the real data")
    labels = "_ct" not in path.name
    volume = read_volume(path, labels=labels)
    write_volume(tmp_path / "back.nii.gz", volume.array[0], volume.grid)
    original, back = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "back.nii.gz"))
    assert_same_geometry(back, original)
    np.testing.assert_array_equal(
        sitk.GetArrayViewFromImage(back), sitk.GetArrayFromImage(original)
    )
    corner = [n - 1 for n in original.GetSize()]
    np.testing.assert_allclose(
        back.TransformIndexToPhysicalPoint(corner),
        original.TransformIndexToPhysicalPoint(corner),
        atol=1e-3,
    )


ROOM = """
import resource, sys
from pathlib import Path
import numpy
from renalplan.images import read_volume
numpy.linalg.det(numpy.eye(3))  # its library takes its memory now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
try:
    read_volume(Path(sys.argv[1]))
except MemoryError as problem:
    sys.exit(f"memory: {problem}")
"""


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
@pytest.mark.parametrize("room", [8 << 20, 72 << 20])
def test_a_scan_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, ending: str, room: int
) -> None:
    path = tmp_path / f"large{ending}"
    image = sitk.GetImageFromArray(np.zeros((64, 512, 512), np.float32))  # 64 MiB
    sitk.WriteImage(image, str(path), useCompression=True)
    ran = subprocess.run(
        [sys.executable, "-c", ROOM, str(path), str(room)],
        capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("memory: "), ran.stderr
