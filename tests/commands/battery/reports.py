"""Reports, comparisons and DICOM SEG that are asked for what cannot be, or of what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from battery.images import image, moved
from battery.making import content, edit_json, truncate
from battery.row import DATA, DESCRIPTION, FOLD, MODEL, SCAN, TRUTH, Row
from battery.tables import two_runs

LABELS = TRUTH / "new.nii.gz"
REPORT = f"report -i {SCAN} -s {LABELS} -o out --no-error_bars"
SEG = f"dicom_seg -i study -s {LABELS} -o out.dcm"
COMPARE = "compare one two -o out"
SEG_CLASS = b"1.2.840.10008.5.1.4.1.1.66.4"
OBJECT = bytes(128) + b"DICM\x02\x00\x02\x00UI\x1c\x00" + SEG_CLASS  # as far as it tells what it is

reports = partial(Row, "Reports")
comparisons = partial(Row, "Comparisons")
objects = partial(Row, "DICOM SEG")


def rows() -> Iterator[Row]:
    yield from REPORTS
    yield from COMPARISONS
    yield from OBJECTS


def nothing_found() -> None:
    image(LABELS, np.zeros((16, 32, 32), np.uint8))


def a_file(path: Path) -> Callable[[], Any]:
    return lambda: path.write_text("here")


def series(folder: Path = Path("study")) -> list[Path]:
    """The scan as DICOM slices, on its own grid."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    scan = sitk.ReadImage(str(SCAN))
    uids = {name: generate_uid() for name in ("Study", "Series", "FrameOfReference")}
    folder.mkdir()
    files = []
    for k, plane in enumerate(sitk.GetArrayFromImage(scan)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = uids["Study"], uids["Series"]
        slice_.FrameOfReferenceUID = uids["FrameOfReference"]
        slice_.Modality, slice_.PatientID, slice_.PatientName = "CT", "P1", "ANON"
        slice_.PatientBirthDate = slice_.PatientSex = slice_.AccessionNumber = ""
        slice_.StudyID = slice_.StudyDate = slice_.StudyTime = ""
        slice_.InstanceNumber = k + 1
        slice_.ImagePositionPatient = list(scan.TransformIndexToPhysicalPoint((0, 0, k)))
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing = [scan.GetSpacing()[1], scan.GetSpacing()[0]]
        slice_.SliceThickness = scan.GetSpacing()[2]
        slice_.Rows, slice_.Columns = plane.shape
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation, slice_.RescaleSlope, slice_.RescaleIntercept = 1, 1, 0
        slice_.PixelData = plane.astype("<i2").tobytes()
        files.append(folder / f"{k:03}.dcm")
        slice_.save_as(files[-1], enforce_file_format=True)
    return files


def with_series(change: Callable[[], Any]) -> Callable[[], None]:
    """A study, and something wrong with it or with the labels."""

    def prepare() -> None:
        series()
        change()

    return prepare


def two_series() -> None:
    series()
    series(Path("other"))
    shutil.move("other", "study/other")


def two_models() -> None:
    """Of both, one fold is trained."""
    shutil.copytree(MODEL, MODEL.with_name("Other"))


def whole_numbers() -> None:
    """A scan as most are stored."""
    scan = sitk.ReadImage(str(SCAN))
    sitk.WriteImage(sitk.Cast(sitk.Round(scan), sitk.sitkInt16), str(SCAN))


def renamed_structure() -> None:
    edit_json(DESCRIPTION, labels={"background": 0, "vessel_of_no_kind": 1})


REPORTS = [
    reports("no such scan", f"report -i nowhere.nii.gz -s {LABELS} -o out", ("nowhere.nii.gz does not exist",)),
    reports("no such segmentation", f"report -i {SCAN} -s nowhere.nii.gz -o out --labels {DATA}", ("nowhere.nii.gz does not exist",)),
    reports("no such segmentation, nor labels", f"report -i {SCAN} -s nowhere.nii.gz -o out", ("nowhere.nii.gz does not exist",)),
    reports("scan and segmentation swapped", f"report -i {LABELS} -s {SCAN} -o out --labels {DATA}", ("is it a scan?", "-i and -s"),
            whole_numbers),
    reports("another program's JSON of its name", REPORT, ("out/new.json is there already", "choose another"),
            lambda: (Path("out").mkdir(), Path("out/new.json").write_text('{"kidneys": 2}'))),
    reports("another program's PDF of its name", REPORT, ("out/new.pdf is there already", "choose another"),
            lambda: (Path("out").mkdir(), Path("out/new.pdf").write_text("here"))),
    reports("output is a file", REPORT, ("out is not a folder",), a_file(Path("out"))),
    reports("output inside a file", REPORT.replace("-o out", f"-o {SCAN}/out"), ("is not a folder",)),
    reports("margin NaN", f"{REPORT} --margins nan", ("margins are [nan]", "0 to 50")),
    reports("a folder without a series", f"report -i {DATA} -s {LABELS} -o out", ("no DICOM series", "the scan's file itself")),
    reports("a scan as segmentation", f"report -i {SCAN} -s {SCAN} -o out", ("fractional", "whole numbers", "-i and -s")),
    reports("an empty segmentation", REPORT, ("none of the structures", "nothing to report"), nothing_found),
    reports("nothing names the labels", f"{REPORT} --labels nowhere", ("nowhere does not exist",)),
    reports("a fold on another grid", f"{REPORT} --folds fold.nii.gz", ("fold.nii.gz", "does not lie on the grid"),
            lambda: (shutil.copy(LABELS, "fold.nii.gz"), moved(Path("fold.nii.gz")))),
    reports("labels that are no anatomy", REPORT, (), renamed_structure, status=0, lines=0,
            writes=("out",), makes=("out/new.html", "out/new.json")),
]  # fmt: skip

COMPARISONS = [
    comparisons("one run", "compare one -o out", ("two runs at least",), two_runs),
    comparisons("a run given twice", "compare one one -o out", ("given twice",), two_runs),
    comparisons("no such folder", "compare one nowhere -o out", ("nowhere", "renalplan_evaluate"), two_runs),
    comparisons(
        "models of one trained fold", f"compare {MODEL} {MODEL.with_name('Other')} -o out",
        ("without a cross-validation", "FOLD cv", f"{FOLD}/validation"), two_models,
    ),
    comparisons("runs of one case", f"compare {FOLD}/validation other -o out", ("has one case", "two at least"),
                lambda: shutil.copytree(FOLD / "validation", "other")),
    comparisons("metric unknown", f"{COMPARE} --metrics dise", ("--metrics dise", "of dice"), two_runs),
    comparisons("metric named twice", f"{COMPARE} --metrics dice dice", ("--metrics dice", "once"), two_runs),
    comparisons("output is a file", COMPARE, ("out is not a folder",),
                lambda: (two_runs(), Path("out").write_text("here"))),
    comparisons("another program's page as output", COMPARE, ("out/compare.html is there already", "choose another"),
                lambda: (two_runs(), Path("out").mkdir(), Path("out/compare.html").write_text("here"))),
    comparisons("two cases", COMPARE, (), two_runs, status=0, lines=0, writes=("out",),
                makes=("out/compare.json", "out/compare.html")),
]  # fmt: skip

OBJECTS = [
    objects("output of another kind", SEG.replace(".dcm", ".nii"), ("out.nii", "ends in .dcm")),
    objects("output is there", SEG, ("out.dcm is there already", "--overwrite"),
            with_series(lambda: Path("out.dcm").write_bytes(OBJECT))),
    objects("output is no DICOM SEG", SEG, ("out.dcm is there already", "no DICOM SEG"), a_file(Path("out.dcm"))),
    objects("a slice as output", SEG.replace("out.dcm", "study/003.dcm"), ("lies in the series' folder study",),
            with_series(lambda: None)),
    objects("a slice as output, to be replaced", SEG.replace("out.dcm", "study/003.dcm --overwrite"),
            ("lies in the series' folder study",), with_series(lambda: None)),
    objects("another scan's slice as output, to be replaced", f"{SEG} --overwrite", ("out.dcm", "no DICOM SEG"),
            with_series(lambda: shutil.copy("study/003.dcm", "out.dcm"))),
    objects("no such series", SEG, ("study is not a folder",)),
    objects("a folder without slices", SEG, ("no DICOM series",), lambda: Path("study").mkdir()),
    objects("two series", SEG, ("2 DICOM series",), two_series),
    objects("text among the slices", SEG, (), with_series(lambda: Path("study/notes.txt").write_text("here")),
            status=0, lines=0, makes=("out.dcm",)),
    objects("a slice is missing", SEG, ("study",), with_series(lambda: Path("study/007.dcm").unlink())),
    objects("a slice is truncated", SEG, ("study",), with_series(lambda: truncate(Path("study/007.dcm")))),
    objects("a slice without content", SEG, ("study",), with_series(lambda: content(b"")(Path("study/007.dcm")))),
    objects("labels on another grid", SEG, ("grid",), with_series(lambda: moved(LABELS))),
    objects("an empty segmentation", SEG, ("holds none of the structures",), with_series(nothing_found)),
    objects("an undeclared value", SEG, ("[9]", "--labels"),
            with_series(lambda: image(LABELS, np.full((16, 32, 32), 9, np.uint8)))),
    objects("no such segmentation", f"dicom_seg -i study -s nowhere.nii.gz -o out.dcm --labels {DATA}",
            ("nowhere.nii.gz does not exist",)),
    objects("a patient's name of one word", SEG, (), with_series(lambda: None), status=0, lines=0,
            makes=("out.dcm",)),
]  # fmt: skip
