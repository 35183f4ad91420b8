"""DICOM series: HU, geometry and order as GDCM has them, and everything that makes no straight volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan.dicom import find_series, is_dicom, read_series
from renalplan.errors import DatasetError
from renalplan.geometry import Orientation

Write = Callable[..., list[Path]]


def _only(folder: Path) -> Any:
    (series,) = find_series(folder).series
    return series


@pytest.mark.parametrize("turned", [False, True])
def test_a_series_is_read_as_gdcm_orders_it_in_hu(
    write_series: Write, some_hu: NDArray, oblique: tuple[float, ...], tmp_path: Path, turned: bool
) -> None:
    values = {"orientation": oblique} if turned else {}
    files = write_series(tmp_path, some_hu, **values)
    series = _only(tmp_path)
    assert series.problem is None
    assert series.files == tuple(files)  # though their names run the other way
    volume = read_series(series.files)
    stored = Orientation.of(volume.grid).undo(volume.array)[0]
    assert stored.dtype == np.float32
    assert np.array_equal(stored, some_hu)

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(theirs), stored)
    assert volume.grid.size == theirs.GetSize()
    np.testing.assert_allclose(volume.grid.spacing, theirs.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(volume.grid.origin, theirs.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.grid.direction, theirs.GetDirection(), atol=1e-5)
    assert volume.spacing == tuple(volume.grid.spacing[::-1][a] for a in volume.orientation.order)


def test_each_slice_is_rescaled_by_its_own_slope(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    def change(k: int, image: Any) -> None:
        image.RescaleSlope = str(1 + k / 2)

    write_series(tmp_path, some_hu, change=change)
    stored = ((some_hu + 1024) / 2).astype(np.int16)
    expected = stored * (1 + np.arange(4) / 2)[:, None, None] - 1024
    assert np.array_equal(read_series(_only(tmp_path).files).array[0], expected)


def _drop_third(k: int, image: Any) -> bool:
    return k != 2


def _uneven(k: int, image: Any) -> None:
    image.ImagePositionPatient[2] += 0.3 * (k == 2)


def _twice(k: int, image: Any) -> None:
    image.ImagePositionPatient[2] -= 2 * (k == 2)


def _tilted(k: int, image: Any) -> None:
    image.ImagePositionPatient[1] += 0.4 * k


def _last_turned(k: int, image: Any) -> None:
    if k == 3:
        image.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]


def _last_smaller(k: int, image: Any) -> None:
    if k == 3:
        image.Rows, image.PixelData = 4, image.PixelData[: 2 * 4 * 6]


def _last_finer(k: int, image: Any) -> None:
    if k == 3:
        image.PixelSpacing = [0.5, 0.5]


def _nowhere(k: int, image: Any) -> None:
    del image.ImagePositionPatient


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            _drop_third,
            r"lacks slices between 13.0 and 17.0 mm \(1 of them\); copy the whole series again",
        ),
        (_uneven, r"are 1.70 to 2.30 mm apart; one distance is needed"),
        (_twice, r"several images at one position \(13.0 mm\); give each phase"),
        (_tilted, r"shifted sideways by up to 1.2 mm \(a tilted gantry\); resample"),
        (_last_turned, r"of one series with different orientations; give each"),
        (_last_smaller, r"different sizes, \(6, 4\) and \(6, 5\) pixels"),
        (_last_finer, r"different pixel spacings, \(0.5, 0.5\) and \(0.5, 0.75\) mm"),
        (_nowhere, r"does not say where it lies in the patient"),
        (lambda k, image: k == 1, r"is the only image of its series"),
    ],
)
def test_what_makes_no_straight_volume_is_said_when_found_and_when_read(
    write_series: Write, some_hu: NDArray, tmp_path: Path, change: Any, says: str
) -> None:
    write_series(tmp_path, some_hu, change=change)
    series = _only(tmp_path)
    assert series.problem is not None
    with pytest.raises(DatasetError, match=says) as raised:
        read_series(series.files)
    assert series.problem.startswith(str(tmp_path)) or str(tmp_path) in series.problem
    assert str(raised.value).endswith(".")
    assert "\n" not in series.problem


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
        ({"PixelSpacing": None}, "does not say where"),
    ],
)
def test_images_that_are_no_slices_are_named(
    write_series: Write, some_hu: NDArray, tmp_path: Path, values: dict[str, Any], says: str
) -> None:
    def change(k: int, image: Any) -> None:
        for name, value in values.items():
            setattr(image, name, value)

    write_series(tmp_path, some_hu, change=change)
    problem = _only(tmp_path).problem
    assert says in problem
    assert "IM000" in problem


def test_colour_and_several_frames_are_refused(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    colour = np.zeros((3, 5, 6, 3), np.uint8)
    write_series(tmp_path / "colour", colour)
    assert "is a colour image" in _only(tmp_path / "colour").problem

    def change(k: int, image: Any) -> bool:
        image.NumberOfFrames = 2
        image.PixelData = image.PixelData * 2
        return k == 0

    write_series(tmp_path / "frames", some_hu, change=change)
    assert "holds 2 images in one file" in _only(tmp_path / "frames").problem


def test_scouts_and_reports_are_left_out_with_a_sentence(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    write_series(tmp_path, some_hu)
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path, some_hu[:2], prefix="scout", ImageType=scout, SeriesNumber=1)
    report = "1.2.840.10008.5.1.4.1.1.88.67"  # radiation dose
    write_series(tmp_path, some_hu[:1], prefix="dose", SOPClassUID=report)
    found = find_series(tmp_path)
    assert [(s.number, s.problem) for s in found.series] == [("3", None)]
    assert len(found.left_out) == 2
    assert any("is a localizer (a scout of 2 images)" in text for text in found.left_out)
    assert any("doseIM0001 is DICOM of the class" in text for text in found.left_out)


def test_only_what_is_known_to_lie_beside_images_is_passed_over_in_silence(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    write_series(tmp_path, some_hu)
    for name in ("notes.txt", "DICOMDIR", ".DS_Store", "Thumbs.db", "VERSION"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "mask.nii.gz").write_bytes(b"something")
    found = find_series(tmp_path)
    assert found.series[0].problem is None
    assert found.left_out == [f"{tmp_path / 'mask.nii.gz'} lies among DICOM files; it is left out."]
    (tmp_path / "IM0009").write_bytes(b"half a slice")
    assert "IM0009 lies among the slices" in _only(tmp_path).problem


@pytest.mark.parametrize("keep", [20, 200, 900])
def test_a_truncated_slice_spoils_its_series(
    write_series: Write, some_hu: NDArray, tmp_path: Path, keep: int
) -> None:
    files = write_series(tmp_path, some_hu)
    content = files[3].read_bytes()  # the last one: without it the rest would look whole
    files[3].write_bytes(content[: min(keep, len(content) - 10)])
    series = _only(tmp_path)
    problem = series.problem
    if problem is None:
        with pytest.raises(DatasetError, match="damaged") as raised:
            read_series(series.files)
        problem = str(raised.value)
    assert files[3].name in problem


def test_a_folder_of_damaged_files_alone_is_a_series_that_fails(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    write_series(tmp_path / "good", some_hu)
    for file in write_series(tmp_path / "bad", some_hu):
        file.write_bytes(file.read_bytes()[:200])
    bad, good = find_series(tmp_path).series
    assert good.problem is None
    assert "cannot be read as DICOM; it is damaged" in bad.problem


def test_a_series_spread_over_folders_is_one_and_a_copy_is_another(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "a", some_hu, uid="1.2.3")
    (tmp_path / "b").mkdir()
    moved = files[3].rename(tmp_path / "b" / files[3].name)
    assert _only(tmp_path).files == (*files[:3], moved)
    write_series(tmp_path / "b", some_hu, uid="1.2.3")
    assert {s.folder.name for s in find_series(tmp_path).series} == {"a", "b"}


def test_a_link_to_the_folder_above_is_followed_once(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    write_series(tmp_path / "scan", some_hu)
    (tmp_path / "scan" / "up").symlink_to(tmp_path)
    assert len(_only(tmp_path).files) == 4


def test_dicom_is_known_by_its_beginning(
    write_series: Write, some_hu: NDArray, tmp_path: Path
) -> None:
    files = write_series(tmp_path, some_hu)
    assert is_dicom(files[0])
    (tmp_path / "text").write_bytes(b"x" * 200)
    assert not is_dicom(tmp_path / "text")
    assert not is_dicom(tmp_path / "nowhere")
