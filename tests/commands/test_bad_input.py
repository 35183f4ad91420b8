"""Every mistake a user can make: its exit status, one sentence that helps, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.files import TEMPORARY

DATA = Path("work/raw/Dataset001_Tiny")
IMAGE, LABEL = DATA / "imagesTr/case_0_0000.nii.gz", DATA / "labelsTr/case_0.nii.gz"
SCANS, TRUTH = DATA / "imagesTs", DATA / "labelsTs"
PREPROCESSED = Path("work/preprocessed")
MODEL = Path("work/results/Dataset001_Tiny/UNet")
WEIGHTS = MODEL / "fold_0/whole/model.safetensors"
PREDICT = f"predict -i {SCANS} -o out --device cpu"
PLAN = "plan_and_preprocess 1 --gpu_memory 0.004 --base_features 4 --cascade none --workers 0"
TRAIN = "train 1 1 --workers 0 --device cpu"


def nothing() -> None:
    """The situation lies in the command line alone."""


@dataclass(frozen=True)
class Situation:
    """One mistake.

    Attributes:
        name: What is wrong.
        line: The command line, without `renalplan_`.
        says: Every one of these must be in the sentence: the file or value, and what to do.
        prepare: Makes it wrong; called in the current folder.
        status: What the command must return.
        lines: How long the message is; longer than one only where it lists a choice.
        writes: Folders that may have changed; everything else must be as it was.
        defect: Why the answer is still wrong, if it is.
    """

    name: str
    line: str
    says: tuple[str, ...]
    prepare: Callable[[], Any] = nothing
    status: int = 2
    lines: int = 1
    writes: tuple[str, ...] = ()
    defect: str = ""


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_image(path: Path, change: Callable[[np.ndarray], np.ndarray], spacing: Any = None) -> None:
    old = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(old)))
    new.SetSpacing(spacing or old.GetSpacing())
    sitk.WriteImage(new, str(path))


def with_nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.arange(array.size).reshape(array.shape) < 7, np.nan, array)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def truncate_inside() -> None:
    """The gzip stream is whole, the image in it is not."""
    content = gzip.decompress(IMAGE.read_bytes())
    IMAGE.write_bytes(gzip.compress(content[: len(content) // 2]))


def two_channels() -> None:
    edit_json(DATA / "dataset.json", channel_names={"0": "CT", "1": "late"})


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def second_model() -> None:
    shutil.copytree(MODEL, MODEL.with_name("Other"))


def stranger_in_trainer_json() -> None:
    Path("stranger.py").write_text("raise SystemExit('its code ran')\n")
    path = MODEL / "trainer.json"
    path.write_text(path.read_text().replace("renalplan.networks.unet:", "stranger:"))
    assert "stranger:" in path.read_text()


def a_file(name: str) -> Callable[[], Any]:
    return lambda: Path(name).write_text("here")


def edited_plan_and_new_data() -> None:
    path = PREPROCESSED / DATA.name / "renal/plan.json"
    plan = json.loads(path.read_text())
    plan["stages"][0]["batch_size"] = 3
    path.write_text(json.dumps(plan))
    edit_image(IMAGE, lambda array: array + 1)


CHECKS = [
    Situation("dataset unknown", "check 7", ("'7'", "work/raw", "Give a path")),
    Situation("dataset misspelt", "check Dataset001_Tyni", ("Did you mean Dataset001_Tiny?",)),
    Situation("dataset path missing", "check nowhere/at_all", ("nowhere/at_all", "does not exist")),
    Situation(
        "no dataset.json", "check 1", (str(DATA), "no dataset.json", "it must be"),
        lambda: (DATA / "dataset.json").unlink(),
    ),
    Situation(
        "dataset.json is not JSON", "check 1", (f"{DATA / 'dataset.json'}", "line 2, column 2"),
        lambda: (DATA / "dataset.json").write_text('{\n "labels": {},\n oops\n}'.replace('"', "'")),
    ),
    Situation(
        "dataset.json lacks labels", "check 1", ("dataset.json: labels: Field required",),
        lambda: (DATA / "dataset.json").write_text('{"channel_names": {"0": "CT"}}'),
    ),
    Situation(
        "file ending unknown", "check 1", ("file_ending", "'.dcm' is not one of .nii.gz"),
        lambda: edit_json(DATA / "dataset.json", file_ending=".dcm"),
    ),
]  # fmt: skip

PLANNING = [
    Situation("dataset unknown", "plan_and_preprocess 7", ("'7'", "Give a path")),
    Situation(
        "imagesTr is empty", PLAN, ("imagesTr has no images that end in _0000.nii.gz",),
        lambda: empty(DATA / "imagesTr"),
    ),
    Situation(
        "imagesTr is missing", PLAN, ("imagesTr is missing; training images belong there",),
        lambda: shutil.rmtree(DATA / "imagesTr"),
    ),
    Situation(
        "a label is missing", PLAN, (f"{LABEL} is missing", "case_0 has an image but no label"),
        LABEL.unlink,
    ),
    Situation(
        "truncated image", PLAN, (f"{IMAGE} is truncated", "copy it again"), lambda: truncate(IMAGE)
    ),
    Situation(
        "truncated inside the gzip", PLAN, (f"{IMAGE} is truncated", "copy it again"),
        truncate_inside,
    ),
    Situation(
        "no image at all", PLAN, (f"{IMAGE} cannot be read as an image",),
        lambda: IMAGE.write_text("not an image"),
    ),
    Situation(
        "label on another grid", PLAN,
        (f"{LABEL} does not lie on the grid of case_0_0000.nii.gz", "spacing", "4", "5"),
        lambda: edit_image(LABEL, lambda a: a, spacing=(4.0, 5.0, 8.0)),
    ),
    Situation(
        "undeclared label value", PLAN, (str(LABEL), "9", "declare", "dataset.json"),
        lambda: edit_image(LABEL, lambda a: a * 9), writes=("work/preprocessed",),
    ),
    Situation(
        "a channel is missing", PLAN, ("case_0_0001 (late) is missing", "needs 2 channels"),
        two_channels,
    ),
    Situation(
        "a channel too many", PLAN, ("case_0_0001.nii.gz reads as channel 1", "0000 (CT)"),
        lambda: shutil.copy(IMAGE, DATA / "imagesTr/case_0_0001.nii.gz"),
    ),
    Situation(
        "NaN in an image", PLAN, (f"{IMAGE} has 7 voxels that are NaN", "repair the"),
        lambda: edit_image(IMAGE, with_nan), writes=("work/preprocessed",),
    ),
    Situation("planner unknown", f"{PLAN} --planner renall", ("'renall'", "there are renal, nn")),
    Situation(
        "no such configuration", f"{PLAN} --configuration 3d", ("'3d'", "whole"),
        writes=("work/preprocessed",),
    ),
    Situation("memory negative", "plan_and_preprocess 1 --gpu_memory -1", ("above 0", "-1")),
    Situation("memory zero", "plan_and_preprocess 1 --gpu_memory 0", ("above 0 GB", "0.0")),
    Situation("memory not a number", "plan_and_preprocess 1 --gpu_memory much", ("'much'",)),
    Situation("spacing zero", "plan_and_preprocess 1 --spacing 1 0 1", ("above 0 mm", "0.0")),
    Situation("one feature", "plan_and_preprocess 1 --base_features 1", ("between 2 and", "1")),
    Situation("cascade unknown", "plan_and_preprocess 1 --cascade two", ("'two'", "locate")),
    Situation(
        "edited plan, other data", PLAN, ("plan.json was edited by hand", "the dataset has changed", "--replan"),
        edited_plan_and_new_data, writes=("work/preprocessed",),
    ),
]  # fmt: skip

TRAINING = [
    Situation(
        "budget on a cluster", "train 1 cv UNet --budget 1h --dask tcp://nowhere:1",
        ("--budget is for the machine it is typed on",),
    ),
    Situation("trainer unknown", "train 1 0 UNnet", ("'UNnet'", "Did you mean UNet?", "my_tr")),
    Situation("trainer like none", "train 1 0 xyz", ("'xyz'", "Installed are", "UNet")),
    Situation("module missing", "train 1 0 no_module:Thing", ("there is no module 'no_module'",)),
    Situation("class missing", "train 1 0 json:Thing", ("json has no class Thing",)),
    Situation("class is no trainer", "train 1 0 json:JSONDecoder", ("derived from Trainer",)),
    Situation("fold out of range", "train 1 2", ("FOLD 2 is out of range", "folds 0 to 1", "all")),
    Situation("fold in letters", "train 1 seven", ("'seven'", "'all' or 'cv'")),
    Situation("fold negative", "train 1 -1", ("-1",)),
    Situation("no fold", "train 1", ("TASK and FOLD are needed",)),
    Situation(
        "setting unknown", f"{TRAIN} --set epoch=3", ("epoch: there is no such setting", "epochs")
    ),
    Situation("setting of no form", f"{TRAIN} --set epochs", ("epochs", "form name=value")),
    Situation(
        "setting of another type", f"{TRAIN} --set epochs=many", ("epochs=many", "valid integer")
    ),
    Situation("setting out of range", f"{TRAIN} --set epochs=0", ("epochs=0", "greater than")),
    Situation(
        "other settings than before", "train 1 0 --workers 0 --set epochs=3",
        ("epochs was 1, is 3", "--name"),
    ),
    Situation("plan unknown", f"{TRAIN} --plan nnunet", ("no plan 'nnunet'", "it has renal")),
    Situation("configuration unknown", f"{TRAIN} --configuration 2d", ("'2d'", "whole")),
    Situation("device unknown", f"{TRAIN} --name new --device gpu", ("--device gpu", "cuda:N")),
    Situation(
        "device of no number", f"{TRAIN} --name new --device cpu:x", ("--device cpu:x", "cuda:N"),
    ),
    Situation(
        "not planned yet", TRAIN,
        ("Dataset001_Tiny has not been planned", "run renalplan_plan_and_preprocess"),
        lambda: shutil.rmtree(PREPROCESSED),
    ),
    Situation(
        "not preprocessed", TRAIN,
        ("case_0 is not preprocessed", "run renalplan_plan_and_preprocess"),
        lambda: shutil.rmtree(PREPROCESSED / DATA.name / "renal/whole"),
    ),
    Situation(
        "plan.json damaged", TRAIN, ("renal/plan.json is not valid JSON", "line 1"),
        lambda: (PREPROCESSED / DATA.name / "renal/plan.json").write_text("{"),
    ),
    Situation("unknown help", "train --help-trainer Unnet", ("'Unnet'", "Did you mean UNet?")),
]  # fmt: skip

PREDICTION = [
    Situation("input missing", "predict -i nowhere -o out", ("input nowhere does not exist",)),
    Situation(
        "input folder empty", PREDICT, (f"{SCANS} holds no images", ".nii.gz"), lambda: empty(SCANS)
    ),
    Situation(
        "input is no image", f"predict -i {DATA / 'dataset.json'} -o out", ("is not an image",)
    ),
    Situation("output inside input", f"predict -i {SCANS} -o {SCANS}/out", ("inside", "another")),
    Situation("output is the input", f"predict -i {SCANS} -o {SCANS}", ("inside", "another")),
    Situation("output is a file", PREDICT, ("out is not a folder", "another"), a_file("out")),
    Situation(
        "no model", PREDICT, ("no trained model in work/results", "-m"),
        lambda: shutil.rmtree("work/results"),
    ),
    Situation(
        "several models", PREDICT,
        ("holds 2 models; choose with -m:", f"\n  -m {MODEL}", f"\n  -m {MODEL.with_name('Other')}"),
        second_model, lines=3,
    ),
    Situation("model missing", f"{PREDICT} -m nowhere", ("nowhere does not exist",)),
    Situation("model named wrongly", f"{PREDICT} -d 1 -tr UNeXt", ("no model UNeXt", "UNet")),
    Situation("dataset without model", f"{PREDICT} -d 7", ("'7'", "Give a path")),
    Situation(
        "model incomplete", f"{PREDICT} -m {MODEL}", (f"{MODEL}", "plan.json is missing"),
        lambda: (MODEL / "plan.json").unlink(),
    ),
    Situation(
        "no fold finished", PREDICT, (f"{MODEL} has no finished fold", "renalplan_train"),
        lambda: (MODEL / "fold_0/finished.json").unlink(),
    ),
    Situation("unfinished fold", f"{PREDICT} -f 3", ("fold 3 is not finished", "finished are 0")),
    Situation("fold twice", f"{PREDICT} -f 0 0", ("fold 0 is asked for twice",)),
    Situation(
        "model twice", f"{PREDICT} -m {MODEL} {MODEL}", ("is given twice", "--weights"),
    ),
    Situation(
        "no such plugin", f"{PREDICT} --plugin nope",
        ("there is no module 'nope', neither installed nor in the current folder",),
    ),
    Situation(
        "weights damaged", PREDICT, (f"{WEIGHTS} is damaged",), lambda: truncate(WEIGHTS),
    ),
    Situation(
        "weights missing", PREDICT, (f"{WEIGHTS} is missing", "train fold 0 again or copy it"),
        WEIGHTS.unlink,
    ),
    Situation(
        "code of a stranger", PREDICT, ("module 'stranger'", "add --plugin stranger"),
        stranger_in_trainer_json,
    ),
    Situation(
        "a weight too many", f"{PREDICT} -m {MODEL} --weights 2 1",
        ("--weights 2 1: 2 for 1 models", "one to each"),
    ),
    Situation("weight negative", f"{PREDICT} --weights -1", ("--weights -1", "must be above 0")),
    Situation(
        "unknown rule", PREDICT, (f"{MODEL / 'postprocessing.json'}: rules.0", "keep_largest"),
        lambda: (MODEL / "postprocessing.json").write_text('{"rules": [{"rule": "keep_largest"}]}'),
    ),
    Situation("step zero", f"{PREDICT} --step 0", ("--step 0", "above 0 and at most 1")),
    Situation("device unknown", f"{PREDICT} --device gpu", ("--device gpu", "cuda:N")),
    Situation(
        "a channel too many", PREDICT, ("new_0001.nii.gz reads as channel 1", "0000 (CT)"),
        lambda: shutil.copy(SCANS / "new_0000.nii.gz", SCANS / "new_0001.nii.gz"),
    ),
    Situation(
        "another job's output", f"{PREDICT} --step 1", ("out holds predictions", "--overwrite"),
        lambda: shutil.copytree(MODEL / "fold_0/validation", "out"),
    ),
    Situation("part not said", f"{PREDICT} --parts 3", ("--parts 3 needs --part", "0 to 2")),
    Situation(
        "part from 1", f"{PREDICT} --parts 3 --part 3", ("--part 3 of --parts 3", "from 0 to 2")
    ),
    Situation("part alone", f"{PREDICT} --part 1", ("--part 1 needs --parts",)),
    Situation("no parts", f"{PREDICT} --parts 0 --part 0", ("--parts 0 must be at least 1",)),
    Situation("workers below 0", f"{PREDICT} --workers -1", ("--workers -1", "0 computes")),
    Situation(
        "one DICOM image", "predict -i slice.dcm -o out", ("slice.dcm is one image", "the series' folder"),
        lambda: Path("slice.dcm").write_bytes(b"\0" * 128 + b"DICM"),
    ),
    Situation(
        "damaged DICOM", "predict -i series -o out --device cpu",
        ("failed: series: series/IM1 cannot be read as DICOM", "copy the series again"),
        lambda: (
            Path("series").mkdir(), Path("series/IM1").write_bytes(b"\0" * 128 + b"DICM")
        ),
        status=1, writes=("out",),
    ),
    Situation(
        "a truncated scan", PREDICT, ("failed: new: ", "new_0000.nii.gz is truncated", "copy it"),
        lambda: truncate(SCANS / "new_0000.nii.gz"), status=1, writes=("out",),
    ),
]  # fmt: skip

CHOICES = [
    Situation("dataset unknown", "find_best 7", ("'7'", "Give a path")),
    Situation(
        "no model",
        "find_best 1",
        ("no trained model in work/results", "renalplan_train"),
        lambda: shutil.rmtree("work/results"),
    ),
    Situation("model named wrongly", "find_best 1 -tr UNeXt", ("no model UNeXt", "UNet")),
    Situation(
        "never validated",
        "find_best 1",
        ("UNet has no scored held-out cases", "renalplan_train"),
        lambda: shutil.rmtree(MODEL / "fold_0/validation"),
    ),
    Situation(
        "table damaged",
        "find_best 1",
        (str(MODEL / "fold_0/validation/per_case.csv"), "lacks the"),
        lambda: (MODEL / "fold_0/validation/per_case.csv").write_text("case\n1\n"),
    ),
    Situation("nothing to pair", "find_best 1 --pairs", ("--pairs needs two", "only UNet")),
    Situation("device unknown", "find_best 1 --device gpu", ("--device gpu", "cuda:N")),
]

ENSEMBLES = [
    Situation("one folder", f"ensemble {SCANS} -o out", (f"{SCANS} holds no probabilities",)),
    Situation("no folder", "ensemble nowhere work -o out", ("nowhere is not a folder", "give")),
    Situation("no output", "ensemble work work", ("required: -o",)),
    Situation("weight in words", "ensemble a b -o out --weights one two", ("--weights", "'one'")),
]

EVALUATION = [
    Situation("no predictions", f"evaluate nowhere {TRUTH}", ("nowhere is not a folder", "give")),
    Situation(
        "nothing in common", f"evaluate {DATA / 'labelsTr'} {TRUTH} -o out",
        (str(TRUTH), "no case in common", "file name"),
    ),
    Situation(
        "requirement malformed", f"evaluate {TRUTH} {TRUTH} -o out --require kidney",
        ("--require kidney", "NAME=DICE"),
    ),
    Situation(
        "requirement no number", f"evaluate {TRUTH} {TRUTH} -o out --require kidney=good",
        ("--require kidney=good", "NAME=DICE"),
    ),
    Situation(
        "requirement of nothing", f"evaluate {TRUTH} {TRUTH} -o out --require spleen=0.5",
        ("--require spleen", "there are kidney"), writes=("out",),
    ),
    Situation(
        "below the requirement", f"evaluate pred {TRUTH} -o out --require kidney=0.9",
        ("kidney: mean Dice", "below the required 0.9"),
        lambda: (
            shutil.copytree(TRUTH, "pred"),
            edit_image(Path("pred/new.nii.gz"), lambda a: np.roll(a, 5, 2)),
        ),
        status=1, writes=("out",),
    ),
    Situation(
        "output is a file", f"evaluate {TRUTH} {TRUTH} -o out", ("out is not a folder",),
        a_file("out"),
    ),
    Situation(
        "prediction on another grid", f"evaluate pred {TRUTH} -o out", ("pred/new.nii.gz", "5"),
        lambda: (
            shutil.copytree(TRUTH, "pred"),
            edit_image(Path("pred/new.nii.gz"), lambda a: a, spacing=(4.0, 5.0, 8.0)),
        ),
    ),
]  # fmt: skip

PHANTOMS = [
    Situation("task unknown", "phantom out --cases 1 --task kidny", ("'kidny'", "kidney_tumor")),
    Situation("not empty", f"phantom {DATA} --cases 1", (f"{DATA} is not empty", "choose")),
    Situation("no cases", "phantom out --cases 0", ("at least 1 case", "0")),
    Situation("cases not given", "phantom out", ("--cases",)),
    Situation(
        "share above 1", "phantom out --cases 1 --single_kidney_share 2", ("between 0 and 1", "2")
    ),
    Situation("too small", "phantom out --cases 1 --size 1 1 1", ("at least", "(1, 1, 1)")),
    Situation("output is a file", "phantom out --cases 1", ("out is not a folder",), a_file("out")),
]

COMMAND_LINES = [
    Situation("option misspelt", "train 1 0 --wokers 0", ("unrecognized arguments: --wokers 0",)),
    Situation("option abbreviated", "train 1 0 --work work", ("unrecognized arguments: --work",)),
    Situation("replan abbreviated", f"{PLAN} --rep", ("unrecognized arguments: --rep",)),
    Situation("overwrite abbreviated", f"{PREDICT} --over", ("unrecognized arguments: --over",)),
    Situation("nothing given", "evaluate", ("required: PRED, GT",)),
    Situation("workers in words", "check 1 --workers all", ("--workers", "'all'")),
]

SITUATIONS = [
    *CHECKS, *PLANNING, *TRAINING, *PREDICTION, *CHOICES, *ENSEMBLES, *EVALUATION, *PHANTOMS, *COMMAND_LINES,
]  # fmt: skip


def tree(folder: Path, writes: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Every path with size and time of change (0 for folders), except what may change."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(writes):
            state = path.stat()
            found[name] = (state.st_size, state.st_mtime_ns) if path.is_file() else (0, 0)
    return found


def parameter(case: Situation) -> Any:
    marks = [pytest.mark.xfail(reason=case.defect)] if case.defect else []
    return pytest.param(case, id=f"{case.line.split()[0]}: {case.name}", marks=marks)


@pytest.mark.parametrize("case", [parameter(case) for case in SITUATIONS])
def test_a_mistake_is_answered_in_one_sentence(
    case: Situation, here: Path, run: Callable[[str], Any]
) -> None:
    case.prepare()
    before = tree(here, case.writes)
    ran = run(case.line)
    assert ran.status == case.status, ran.err
    message = ran.err.partition("error: ")[2] if ran.err.startswith("usage:") else ran.err
    assert len(message.splitlines()) == case.lines, ran.err
    assert "Traceback" not in ran.err
    assert "\N{ESCAPE}" not in ran.err
    for part in case.says:
        assert part in message
    assert tree(here, case.writes) == before
    assert not [path for path in here.rglob("*") if path.name.startswith(TEMPORARY)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize(
    ("line", "folder"),
    [
        (PREDICT, "."),
        (f"evaluate {TRUTH} {TRUTH} -o out", "."),
        ("phantom out --cases 1", "."),
        (PLAN + " --plan_name other", "work/preprocessed/Dataset001_Tiny"),
        (TRAIN + " --name other", "work/results/Dataset001_Tiny"),
    ],
    ids=lambda text: text.split()[0],
)
def test_a_folder_that_may_not_be_written_is_named(
    here: Path, run: Callable[[str], Any], line: str, folder: str
) -> None:
    place = Path(folder)
    place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        ran = run(line)
    finally:
        place.chmod(stat.S_IRWXU)
    assert ran.status == 1
    assert len(ran.err.splitlines()) == 1
    assert "no permission" in ran.err
    assert "choose another folder or change its permissions" in ran.err
