"""Dataset folders whose parts do not fit together, before the commands that read the whole of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from battery.images import moved, voxels
from battery.making import a_folder, edit_json, empty_folder, without
from battery.row import DATA, PLAN, PREPROCESSED, TRAIN, Fault, Reader, Row, cross
from renalplan import cli

CHECK, PLAN_NAME = "check", "plan_and_preprocess"


def described(**values: Any) -> Callable[[Path], Any]:
    """Other entries in dataset.json."""
    return lambda folder: edit_json(folder / "dataset.json", **values)


def labels(**values: Any) -> Callable[[Path], Any]:
    """Other labels in dataset.json."""
    return described(labels=values)


def second_channel(change: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A second channel for each case; case_0's is changed."""

    def make(folder: Path) -> None:
        described(channel_names={"0": "CT", "1": "late"})(folder)
        for case in ("case_0", "case_1"):
            first = folder / "imagesTr" / f"{case}_0000.nii.gz"
            shutil.copy(first, folder / "imagesTr" / f"{case}_0001.nii.gz")
        change(folder / "imagesTr/case_0_0001.nii.gz")

    return make


def beside(change: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """Change one file of the dataset."""
    return lambda folder: change(folder / name)


def in_two_formats(folder: Path) -> None:
    image = sitk.ReadImage(str(folder / "imagesTr/case_0_0000.nii.gz"))
    sitk.WriteImage(image, str(folder / "imagesTr/case_0_0000.nrrd"))


def one_case(folder: Path) -> None:
    (folder / "imagesTr/case_1_0000.nii.gz").unlink()
    (folder / "labelsTr/case_1.nii.gz").unlink()
    described(numTraining=1)(folder)


def no_foreground(folder: Path) -> None:
    for number in range(2):
        voxels(np.zeros_like)(folder / f"labelsTr/case_{number}.nii.gz")


def rare_structure(folder: Path) -> None:
    """A second structure, in one case alone."""
    labels(background=0, kidney=1, tumor=2)(folder)
    voxels(lambda a: np.where(np.cumsum(a).reshape(a.shape) < 50, a, a * 2))(
        folder / "labelsTr/case_0.nii.gz"
    )


def also_unlabelled(folder: Path) -> None:
    (folder / "imagesUn").mkdir()
    shutil.copy(folder / "imagesTr/case_0_0000.nii.gz", folder / "imagesUn")


def boxes(text: str) -> Callable[[Path], Any]:
    """boxesTr.csv in place of case_0's label."""

    def make(folder: Path) -> None:
        (folder / "labelsTr/case_0.nii.gz").unlink()
        (folder / "boxesTr.csv").write_text(text)

    return make


def copied(source: str, target: str) -> Callable[[Path], Any]:
    return lambda folder: shutil.copy(folder / source, folder / target)


HEAD = "case,label,z0,y0,x0,z1,y1,x1\n"
FIRST, LABEL = "imagesTr/case_0_0000.nii.gz", "labelsTr/case_0.nii.gz"
NOTHING_WRONG = (CHECK, PLAN_NAME)

DESCRIBED = [
    Fault("no dataset.json", beside(Path.unlink, "dataset.json"), ("no dataset.json", "it must be")),
    Fault("no labels", beside(lambda p: without(p, "labels"), "dataset.json"), ("labels: Field required",)),
    Fault("no label at all", labels(), ("labels", "at least 1 item")),
    Fault("no background", labels(kidney=1), ('needs "background": 0; add it',)),
    Fault("background that is not 0", labels(background=1, kidney=0), ('needs "background": 0',)),
    Fault("background alone", labels(background=0), ("nothing but background",)),
    Fault("one value for two labels", labels(background=0, kidney=1, tumor=1), ("one value to two names",)),
    Fault("a gap between labels", labels(background=0, kidney=1, tumor=3), ("without gaps", "renumber")),
    Fault("a negative label", labels(background=0, kidney=-1), ("without gaps", "-1")),
    Fault("a huge label", labels(background=0, kidney=10**12), ("without gaps", "renumber")),
    Fault("a label that is a fraction", labels(background=0, kidney=1.5), ("valid integer",)),
    Fault("a label that a terminal obeys", labels(background=0, **{"\x1b[2J": 1}), ("'\\x1b[2J'", "cannot be shown")),
    Fault("a region without values", labels(background=0, kidney=[]), ("region without values",)),
    Fault("regions without order", labels(background=0, organ=[1, 2], tumor=[2]), ("regions_class_order",)),
    Fault("an ignore label in between", labels(background=0, ignore=1, kidney=2), ("without gaps",)),
    Fault("channels with a gap", described(channel_names={"0": "CT", "2": "late"}), ("without gaps",)),
    Fault("no channel", described(channel_names={}), ("channel_names", "at least 1 item")),
    Fault("an unknown file ending", described(file_ending=".dcm"), ("'.dcm' is not one of .nii.gz",)),
    Fault("a path as file ending", described(file_ending="/../x.nii.gz"), ("is not one of",)),
    Fault("a pair of unknown labels", described(mirrored_labels=[["left", "right"]]), ("'left'", "labels are")),
    Fault("unknown keys", described(licence="CC0", colour=["blue"]), (), fine=NOTHING_WRONG),
    Fault(
        "another number of cases than stated", described(numTraining=7), ("numTraining is 7",),
    ),
]  # fmt: skip

FILES = [
    Fault("imagesTr is missing", lambda f: shutil.rmtree(f / "imagesTr"), ("imagesTr is missing", "belong there")),
    Fault("imagesTr is empty", lambda f: empty_folder(f / "imagesTr"), ("imagesTr has no images",)),
    Fault(
        "imagesTr is a file", lambda f: (shutil.rmtree(f / "imagesTr"), (f / "imagesTr").write_text("")),
        ("imagesTr is missing",),
    ),
    Fault("a case without label", beside(Path.unlink, LABEL), ("case_0 has an image but no label",)),
    Fault("a label without image", copied(LABEL, "labelsTr/case_9.nii.gz"), ("case_9", "no image in imagesTr")),
    Fault(
        "a case without one of two channels", described(channel_names={"0": "CT", "1": "late"}),
        ("case_0_0001 (late) is missing", "needs 2 channels"),
    ),
    Fault("a channel on another grid", second_channel(moved), ("case_0_0001.nii.gz does not lie on the grid",)),
    Fault("a channel too many", copied(FIRST, "imagesTr/case_0_0001.nii.gz"), ("reads as channel 1", "0000 (CT)")),
    Fault("a case in two formats", in_two_formats, ("are the same case and channel", "keep")),
    Fault("a label on another grid", beside(moved, LABEL), ("does not lie on the grid", "spacing")),
    Fault("a case that is also unlabelled", also_unlabelled, ("both have case_0", "remove or rename")),
    Fault(
        "no foreground in any case", no_foreground, ("is empty", "no voxel"),
        answers={PLAN_NAME: ("no training label has any foreground",)},
    ),
    Fault("one case", one_case, (), fine=NOTHING_WRONG),
    Fault("two cases for five folds", lambda _: None, (), fine=NOTHING_WRONG),
    Fault("a structure in one case alone", rare_structure, (), fine=NOTHING_WRONG),
    Fault("all cases of one patient", described(patients={"case_0": "a", "case_1": "a"}), (), fine=NOTHING_WRONG),
]  # fmt: skip

BOXES = [
    Fault("other columns", boxes("case,x,y\n"), ("boxesTr.csv: line 1 must be",)),
    Fault("a column too few", boxes(HEAD + "case_0,1,1,1,1,2,2\n"), ("line 2 has 7 columns",)),
    Fault("words as corners", boxes(HEAD + "case_0,1,a,1,1,2,2,2\n"), ("line 2", "whole numbers")),
    Fault("an unknown case", boxes(HEAD + "case_7,1,1,1,1,2,2,2\n"), ("no case 'case_7'",)),
    Fault("an unknown label", boxes(HEAD + "case_0,7,1,1,1,2,2,2\n"), ("no structure of label 7",)),
    Fault("a box inside out", boxes(HEAD + "case_0,1,5,1,1,2,2,2\n"), ("z0 must be", "below z1")),
    Fault("a box beyond the scan", boxes(HEAD + "case_0,1,1,1,1,2,2,999\n"), ("x1 is 999", "32 voxels")),
    Fault("a folder of its name", lambda f: (boxes("")(f), a_folder(f / "boxesTr.csv")), ("case_0",)),
    Fault("a zero byte", boxes(HEAD + "case_0,1,1,1,1,2,2,\0\n"), ("line 2", "whole numbers")),
]  # fmt: skip

# names that a shell, a page, a path or a format string would take for more than a name
NAMES = [
    "ä ö ü", "a b", "$(touch evil)", ";touch evil;", "`touch evil`", "<script>alert(1)</script>".replace("/", "|"),
    "--output", "%s%n{0}", "c" * 200, "'\"", "*?[a]",
]  # fmt: skip
UNSEEN = [
    "a\nb",
    "\x1b[2Jcleared",
    "\udcff",
]  # a line break, a terminal's command, a byte that is no UTF-8


def named(name: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        (folder / "imagesTr/case_0_0000.nii.gz").rename(folder / f"imagesTr/{name}_0000.nii.gz")
        (folder / "labelsTr/case_0.nii.gz").rename(folder / f"labelsTr/{name}.nii.gz")

    return make


HOSTILE = [
    Fault(
        f"a case named {json.dumps(name[:30], ensure_ascii=False)}",
        named(name),
        (),
        fine=NOTHING_WRONG,
    )
    for name in NAMES
] + [
    Fault(f"a case named {name!a}", named(name), (ascii(name)[1:-1], "cannot be shown; rename"))
    for name in UNSEEN
]


def one_patient() -> None:
    """A dataset of one case, planned."""
    one_case(DATA)
    unplanned()
    name, *arguments = PLAN.split()
    assert getattr(cli, name)(arguments) == 0


def rows() -> Iterator[Row]:
    yield Row(
        "Files of a dataset",
        "one case",
        TRAIN.replace("1 1", "1 0"),
        ("two patients", "FOLD 'all'"),
        one_patient,
    )
    yield Row(
        "Files of a dataset",
        "one case",
        TRAIN.replace("1 1", "1 all") + " --name one",
        (),
        one_patient,
        status=0,
        lines=0,
        writes=("work/results",),
        makes=("work/results/Dataset001_Tiny/one/fold_all/finished.json",),
    )
    yield from cross("dataset.json's entries", DESCRIBED, READERS)
    yield from cross("Files of a dataset", FILES, READERS)
    yield from cross("boxesTr.csv", BOXES, READERS)
    yield from cross("Names of cases", HOSTILE, READERS)


def unplanned() -> None:
    """Its folds are drawn anew."""
    shutil.rmtree(PREPROCESSED)


READERS = [
    Reader("check 1 --workers 0", DATA, lines=0),
    Reader(PLAN, DATA, writes=("work/preprocessed",), prepare=unplanned),
]
