"""DICOM SEG: references by pydicom, voxels and geometry by dcmqi (DCMTK and ITK), which is no relative of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from renalplan import cli
from renalplan.dicom import find_series, read_series
from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.report import dicom_seg
from renalplan.evaluation.report.dicom_seg import write_dicom_seg
from renalplan.evaluation.space import require_same_space
from renalplan.geometry import Orientation
from renalplan.images import write_volume

pytest.importorskip("highdicom", reason="needs highdicom (the extra `dicom`)")
import pydicom
from pydicom.uid import generate_uid

DCMQI = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
LABELS = {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}
PATIENT = {
    "PatientID": "P1", "PatientName": "A^B", "PatientBirthDate": "19500101", "PatientSex": "F",
    "StudyID": "1", "StudyDate": "20200101", "StudyTime": "120000", "AccessionNumber": "7",
}  # fmt: skip


@pytest.fixture
def series(
    write_series: Callable[..., list[Path]], tmp_path: Path
) -> Callable[..., tuple[Path, Path, NDArray]]:
    """A series, a segmentation of it in a folder with dataset.json, and the labels in slice order."""

    def make(labels: dict[str, Any] = LABELS, **values: Any) -> tuple[Path, Path, NDArray]:
        rng = np.random.default_rng(0)
        hu = rng.integers(-500, 500, (7, 11, 13)) * 2
        uids = {name: generate_uid() for name in ("StudyInstanceUID", "FrameOfReferenceUID")}

        def number(k: int, image: Any) -> None:
            image.InstanceNumber = k + 1

        given = PATIENT | uids | {"change": number} | values
        write_series(tmp_path / "study" / "CT", hu, **given)
        found = read_series(find_series(tmp_path / "study").series[0].files)
        planes = rng.integers(0, 3, hu.shape).astype(np.uint8)  # no cyst
        planes[0] = planes[5] = 0  # slices without a label are left out of the object
        path = tmp_path / "seg" / "study_CT.nii.gz"
        path.parent.mkdir()
        write_volume(path, Orientation.of(found.grid).apply(planes), found.grid)
        description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 0}
        if any(isinstance(value, list) for value in labels.values()):
            description["regions_class_order"] = [1, 2]
        description["file_ending"] = ".nii.gz"
        (path.parent / "dataset.json").write_text(json.dumps(description))
        return tmp_path / "study" / "CT", path, planes

    return make


def read_by_dcmqi(path: Path, folder: Path) -> dict[str, sitk.Image]:
    """Segment label -> its mask on the grid that the object states."""
    folder.mkdir()
    command = (DCMQI, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd")
    ran = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = {}
    (meta,) = folder.glob("*.json")
    for group in json.loads(meta.read_text())["segmentAttributes"]:
        for segment in group:
            number = segment["labelID"]
            (file,) = [f for f in folder.glob("*.nrrd") if f.stem.split("-")[-1] == str(number)]
            found[segment["SegmentLabel"]] = sitk.ReadImage(str(file))
    return found


def on_series(mask: sitk.Image, folder: Path) -> NDArray[np.bool_]:
    """A mask on the series' grid as ITK's own reader has it; beyond the object it is empty."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    placed = sitk.Resample(mask, reader.Execute(), sitk.Transform(), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(placed) > 0


@pytest.mark.skipif(DCMQI is None, reason="needs dcmqi (the extra `test`, on Linux)")
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    "labels", [LABELS, {"background": 0, "kidney": [1, 2], "tumor": [2]}], ids=["labels", "regions"]
)
def test_an_independent_reader_gets_the_same_voxels(
    series: Callable[..., Any],
    oblique: tuple[float, ...],
    tmp_path: Path,
    turned: bool,
    labels: Any,
) -> None:
    values = {"orientation": oblique} if turned else {}
    folder, path, planes = series(labels, **values)
    out = tmp_path / "out.dcm"
    assert write_dicom_seg(folder, path, out) == len(labels) - 1
    found = read_by_dcmqi(out, tmp_path / "read")
    expected = {name: value for name, value in labels.items() if name not in ("background", "cyst")}
    assert set(found) >= set(expected)
    for name, value in expected.items():
        assert np.array_equal(on_series(found[name], folder), np.isin(planes, value)), name
        assert (
            np.count_nonzero(sitk.GetArrayViewFromImage(found[name]))
            == np.isin(planes, value).sum()
        )


def test_frames_refer_to_the_slices_they_lie_on(
    series: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path, _ = series()
    out = tmp_path / "out.dcm"
    assert cli.dicom_seg(["-i", str(folder), "-s", str(path), "-o", str(out)]) == 0
    assert "3 segments" in capsys.readouterr().out
    made = pydicom.dcmread(out)
    sources = [pydicom.dcmread(file) for file in folder.iterdir()]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate"):
        assert made[name].value == sources[0][name].value
    assert made.SeriesInstanceUID != sources[0].SeriesInstanceUID
    (referenced,) = made.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert [s.SegmentLabel for s in made.SegmentSequence] == ["kidney", "tumor", "cyst"]
    kinds = [s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in made.SegmentSequence]
    assert kinds == ["Kidney", "Neoplasm", "Cyst"]
    places = {source.SOPInstanceUID: list(source.ImagePositionPatient) for source in sources}
    frames = made.PerFrameFunctionalGroupsSequence
    assert len(frames) == 2 * 5  # kidney and tumor in the five slices that have them
    for frame in frames:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        stated = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(stated) == places[image.ReferencedSOPInstanceUID]


def test_what_is_refused(series: Callable[..., Any], tmp_path: Path) -> None:
    folder, path, _ = series()
    with pytest.raises(UsageError, match=r"ends in \.dcm"):
        write_dicom_seg(folder, path, tmp_path / "out.nii")
    with pytest.raises(DatasetError, match="is not a folder"):
        write_dicom_seg(path, path, tmp_path / "out.dcm")
    grid = read_series(find_series(folder).series[0].files).grid
    write_volume(path, np.zeros(Orientation.of(grid).shape(grid), np.uint8), grid)
    with pytest.raises(DatasetError, match="holds none of"):
        write_dicom_seg(folder, path, tmp_path / "out.dcm")
    shutil.rmtree(tmp_path / "seg")
    shutil.rmtree(tmp_path / "study")
    folder, path, _ = series()
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        del image.FrameOfReferenceUID
        image.save_as(file)
    with pytest.raises(DatasetError, match="has no FrameOfReferenceUID"):
        write_dicom_seg(folder, path, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def change_slices(folder: Path, change: Callable[[Any], None]) -> None:
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        change(image)
        image.save_as(file)


def test_what_anonymization_takes_away_stays_empty(
    series: Callable[..., Any], tmp_path: Path
) -> None:
    folder, path, _ = series()

    def anonymize(image: Any) -> None:
        for name in PATIENT:
            delattr(image, name)

    change_slices(folder, anonymize)
    write_dicom_seg(folder, path, tmp_path / "out.dcm")
    made = pydicom.dcmread(tmp_path / "out.dcm")
    assert all(name in made and not made[name].value for name in PATIENT)


def test_slices_that_cannot_be_told_apart_are_refused(
    series: Callable[..., Any], tmp_path: Path
) -> None:
    folder, path, _ = series()
    change_slices(folder, lambda image: setattr(image, "SOPInstanceUID", "1.2.3"))
    with pytest.raises(DatasetError, match=r"several slices .* have one SOPInstanceUID"):
        write_dicom_seg(folder, path, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def test_what_another_run_has_written_meanwhile_stays(
    series: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path, _ = series()
    out = tmp_path / "out.dcm"

    def slow(*given: Any) -> Any:
        out.write_text("the other run's")
        return require_same_space(*given)

    monkeypatch.setattr(dicom_seg, "require_same_space", slow)
    with pytest.raises(UsageError, match="is there already"):
        write_dicom_seg(folder, path, out)
    assert out.read_text() == "the other run's"


def test_a_file_that_is_there_is_replaced_when_asked_and_a_name_of_one_word_is_no_remark(
    series: Callable[..., Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder, path, _ = series(PatientName="ANON")
    out = tmp_path / "out.dcm"
    assert write_dicom_seg(folder, path, out) == 3
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"is there already; .* --overwrite"):
        write_dicom_seg(folder, path, out)
    assert out.read_bytes() == before
    assert write_dicom_seg(folder, path, out, overwrite=True) == 3
    assert out.read_bytes() != before  # the object has UIDs of its own
    assert pydicom.dcmread(out).PatientName == "ANON"
    assert not [one for one in recwarn if "component" in str(one.message)]


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_series_and_what_is_no_dicom_seg_are_never_replaced(
    series: Callable[..., Any], tmp_path: Path, overwrite: bool
) -> None:
    folder, path, _ = series()
    slices = sorted(file.rename(f"{file}.dcm") for file in folder.iterdir())
    (tmp_path / "link").symlink_to(folder)
    for out in (slices[3], folder / "new.dcm", tmp_path / "link" / "new.dcm", folder / "a/b.dcm"):
        with pytest.raises(UsageError, match=r"lies in the series' folder .*; write it elsewhere"):
            write_dicom_seg(folder, path, out, overwrite=overwrite)
    elsewhere = tmp_path / "copy.dcm"
    for make in (
        lambda: shutil.copy(slices[3], elsewhere),
        lambda: elsewhere.symlink_to(slices[3]),
        lambda: elsewhere.write_text("a note"),
        lambda: elsewhere.symlink_to("nowhere"),
    ):
        make()
        with pytest.raises(UsageError, match=r"copy\.dcm is there already and is no DICOM SEG"):
            write_dicom_seg(folder, path, elsewhere, overwrite=overwrite)
        elsewhere.unlink()
    assert sorted(folder.iterdir()) == slices
    assert {pydicom.dcmread(file).Modality for file in slices} == {"CT"}


def test_without_highdicom_it_says_what_to_install(
    series: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path, _ = series()
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"renalplan\[dicom\]"):
        write_dicom_seg(folder, path, tmp_path / "out.dcm")
