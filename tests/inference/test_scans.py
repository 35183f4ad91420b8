"""What counts as a case: files, channels of one file, DICOM series; and how cases are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan.dicom import read_series
from renalplan.errors import DatasetError, UsageError
from renalplan.images import read_grid
from renalplan.inference.scans import find_scans
from renalplan.model_folder import ModelFolder
from renalplan.predicting import predict

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]
WriteSeries = Callable[..., list[Path]]


def _names(folder: Path, channels: tuple[str, ...] = ("CT",)) -> list[str]:
    return [scan.id for scan in find_scans(folder, channels)]


@pytest.mark.parametrize("turned", [False, True])
def test_a_series_segmentation_lies_on_exactly_its_grid(
    make_model: Make,
    write_series: WriteSeries,
    oblique: tuple[float, ...],
    tmp_path: Path,
    turned: bool,
) -> None:
    hu = np.full((10, 12, 14), -2, np.float32)
    hu[2:6, 3:7, 4:12] = 2
    values = {"orientation": oblique} if turned else {}
    files = write_series(tmp_path / "in" / "P 1" / "late", hu, spacing=(1, 1, 2), **values)
    report = predict(
        tmp_path / "in", tmp_path / "out", models=[make_model().path], device="cpu", progress=False
    )
    assert list(report.done) == ["P_1_late"]
    answer = tmp_path / "out" / "P_1_late.nii.gz"
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(answer)))
    assert np.array_equal(labels, hu > 0)
    made, given = read_grid(answer), read_series(files).grid
    assert made.size == given.size
    # NIfTI keeps a rotation as a quaternion in single precision
    np.testing.assert_allclose(made.spacing, given.spacing, atol=1e-6)
    np.testing.assert_allclose(made.origin, given.origin, atol=1e-4)
    np.testing.assert_allclose(made.direction, given.direction, atol=1e-6)


def test_what_is_no_scan_by_its_name_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.nii.gz", "b_0000.nii.gz", "C.NII.GZ", "notes.txt"):
        (tmp_path / name).touch()
    assert _names(tmp_path) == ["b"]
    assert [record.getMessage().removeprefix(f"{tmp_path}/") for record in caplog.records] == [
        "C.NII.GZ is left out: write its ending in small letters",
        "a.nii.gz is left out: other files here are named case_0000, it is not",
    ]
    caplog.clear()
    (tmp_path / "b_0000.nii.gz").unlink()
    assert _names(tmp_path) == ["a"]
    assert len(caplog.records) == 1


def test_series_are_named_by_folder_then_number_then_uid(
    write_series: WriteSeries, some_hu: NDArray, tmp_path: Path
) -> None:
    root = tmp_path / "study"
    write_series(root / "P1" / "CT", some_hu)
    assert _names(root) == ["P1_CT"]
    write_series(root / "P1" / "CT", some_hu, prefix="b", SeriesNumber=4)
    assert _names(root) == ["P1_CT_3", "P1_CT_4"]
    write_series(root / "P1" / "CT", some_hu, prefix="c", SeriesNumber=4, uid="1.2.345678901234")
    names = _names(root)
    assert names[0] == "P1_CT_3"
    assert "P1_CT_4_345678901234" in names
    assert len(set(names)) == 3
    write_series(root, some_hu)
    assert "study" in _names(root)


def test_a_bad_series_fails_alone(
    make_model: Make, write_series: WriteSeries, some_hu: NDArray, tmp_path: Path
) -> None:
    write_series(tmp_path / "in" / "a", some_hu, change=lambda k, _: k != 1)
    write_series(tmp_path / "in" / "b", some_hu)
    report = predict(
        tmp_path / "in", tmp_path / "out", models=[make_model().path], device="cpu", progress=False
    )
    assert list(report.done) == ["b"]
    assert "in/a lacks slices between" in report.failed["a"]


def test_a_changed_slice_is_another_input(
    write_series: WriteSeries, some_hu: NDArray, tmp_path: Path
) -> None:
    files = write_series(tmp_path, some_hu)
    (before,) = find_scans(tmp_path, ("CT",))
    print_before = before.fingerprint()
    files[2].write_bytes(files[2].read_bytes() + b"\0\0")
    (after,) = find_scans(tmp_path, ("CT",))
    assert before.images == after.images
    assert print_before != after.fingerprint()


def test_one_file_brings_its_channels(write_scan: Write, tmp_path: Path) -> None:
    for name in ("a_0000.mha", "a_0001.mha", "b_0000.mha"):
        write_scan(tmp_path / name)
    (scan,) = find_scans(tmp_path / "a_0001.mha", ("CT", "PET"))
    assert (scan.id, [p.name for p in scan.images]) == ("a", ["a_0000.mha", "a_0001.mha"])
    with pytest.raises(DatasetError, match=r"b_0001 \(PET\) is missing"):
        list(find_scans(tmp_path / "b_0000.mha", ("CT", "PET")))
    hidden = tmp_path / ".c_0000.mha"
    write_scan(hidden)
    with pytest.raises(DatasetError, match=r"\.c_0001 \(PET\) is missing"):
        list(find_scans(hidden, ("CT", "PET")))
    # with one channel it is that file and no other; its name is the one it has in its folder
    (scan,) = find_scans(tmp_path / "a_0000.mha", ("CT",))
    assert (scan.id, [p.name for p in scan.images]) == ("a", ["a_0000.mha"])
    (scan,) = find_scans(tmp_path / "a_0001.mha", ("CT",))
    assert (scan.id, [p.name for p in scan.images]) == ("a_0001", ["a_0001.mha"])


def test_dicom_inputs_that_cannot_work_are_refused(
    write_series: WriteSeries, some_hu: NDArray, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "in", some_hu)
    with pytest.raises(UsageError, match="one image of a DICOM series; give -i the series' folder"):
        list(find_scans(files[0], ("CT",)))
    with pytest.raises(UsageError, match="one channel each; the model needs 2"):
        list(find_scans(tmp_path / "in", ("CT", "PET")))
    shutil.rmtree(tmp_path / "in")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(tmp_path / "in", some_hu, ImageType=scout)
    with pytest.raises(UsageError, match=r"holds no images; we read .* and DICOM series"):
        list(find_scans(tmp_path / "in", ("CT",)))


def test_a_datasets_folder_is_told_where_its_scans_are(
    write_scan: Callable[..., np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a line for each of its files: none lies among DICOM files."""
    for part in ("imagesTr", "imagesTs"):
        write_scan(tmp_path / "Dataset001" / part / "a_0000.nii.gz")
    (tmp_path / "Dataset001" / "dataset.json").write_text("{}")
    with pytest.raises(UsageError) as caught, caplog.at_level("INFO"):
        list(find_scans(tmp_path / "Dataset001", ("CT",)))
    assert "its subfolders do (imagesTr, imagesTs): give one of them" in str(caught.value)
    assert not caplog.records
