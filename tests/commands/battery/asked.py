"""Commands that are asked for what there is not, or where their input is not what they need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from battery.images import voxels
from battery.making import empty_folder
from battery.row import DATA, IMAGE, MODEL, PLAN, PREDICT, PREPROCESSED, SCANS, TRUTH, Row
from battery.row import TRAIN_LONG as TRAIN

dataset = partial(Row, "Datasets that are not found")
planning = partial(Row, "Planning")
training = partial(Row, "Training")
prediction = partial(Row, "Prediction")
choosing = partial(Row, "Choosing a model")
averaging = partial(Row, "Averaging")
evaluation = partial(Row, "Evaluation")
phantoms = partial(Row, "Phantoms")
command_line = partial(Row, "Command lines")


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
    path = PREPROCESSED / "renal/plan.json"
    plan = json.loads(path.read_text())
    plan["stages"][0]["batch_size"] = 3
    path.write_text(json.dumps(plan))
    voxels(lambda array: array + 1)(IMAGE)


def rows() -> Iterator[Row]:
    yield from CHECKS
    yield from PLANNING
    yield from TRAINING
    yield from PREDICTION
    yield from CHOICES
    yield from ENSEMBLES
    yield from EVALUATION
    yield from PHANTOMS
    yield from COMMAND_LINES


CHECKS = [
    dataset("dataset unknown", "check 7", ("'7'", "work/raw", "Give a path")),
    dataset("dataset misspelt", "check Dataset001_Tyni", ("Did you mean Dataset001_Tiny?",)),
    dataset("dataset path missing", "check nowhere/at_all", ("nowhere/at_all", "does not exist")),
    dataset("a negative number", "check -1", ("'-1'", "Give a path")),
    dataset("a folder in it", f"check {DATA}/imagesTr", ("no dataset.json", "it must be")),
    dataset("a file of it", f"check {IMAGE}", (str(IMAGE), "does not exist")),
    dataset("workspace unknown", "check 1 --workspace nowhere", ("nowhere/raw", "--workspace")),
    dataset("workers below 0", "check 1 --workers -1", ("--workers -1", "0 computes")),
]  # fmt: skip

PLANNING = [
    planning("dataset unknown", "plan_and_preprocess 7", ("'7'", "Give a path")),
    planning("planner unknown", f"{PLAN} --planner renall", ("'renall'", "there are renal, nn")),
    planning(
        "no such configuration", f"{PLAN} --configuration 3d", ("'3d'", "whole"),
        writes=("work/preprocessed",),
    ),
    planning("memory negative", "plan_and_preprocess 1 --gpu_memory -1", ("above 0", "-1")),
    planning("memory zero", "plan_and_preprocess 1 --gpu_memory 0", ("above 0 GB", "0.0")),
    planning("memory not a number", "plan_and_preprocess 1 --gpu_memory much", ("'much'",)),
    planning("spacing zero", "plan_and_preprocess 1 --spacing 1 0 1", ("above 0 mm", "0.0")),
    planning("one feature", "plan_and_preprocess 1 --base_features 1", ("between 2 and", "1")),
    planning("cascade unknown", "plan_and_preprocess 1 --cascade two", ("'two'", "locate")),
    planning(
        "edited plan, other data", PLAN, ("plan.json was edited by hand", "the dataset has changed", "--replan"),
        edited_plan_and_new_data, writes=("work/preprocessed",),
    ),
    planning("spacing NaN", "plan_and_preprocess 1 --spacing nan 1 1", ("above 0 mm", "nan")),
    planning("spacing infinite", "plan_and_preprocess 1 --spacing inf 1 1", ("between 0.01 and 100", "inf")),
    planning("spacing of an atom", "plan_and_preprocess 1 --spacing 1e-9 1 1", ("between 0.01 and 100", "1e-09")),
    planning("memory infinite", "plan_and_preprocess 1 --gpu_memory inf", ("above 0 GB", "inf")),
    planning("memory of a byte", "plan_and_preprocess 1 --gpu_memory 1e-9 --workers 0", ("not even a patch", "raise gpu_memory"), writes=("work/preprocessed",)),
    planning("window upside down", "plan_and_preprocess 1 --window 500 -200", ("the lower first", "500")),
    planning("window NaN", "plan_and_preprocess 1 --window nan 5", ("the lower first", "nan")),
    planning("plan name that leads elsewhere", "plan_and_preprocess 1 --plan_name ../x", ("'../x'", "letters, digits and _"), ),
    planning("workers below 0", "plan_and_preprocess 1 --workers -2", ("--workers -2", "0 computes")),
    planning("cluster of no address", "plan_and_preprocess 1 --dask nowhere", ("--dask nowhere", "give it as")),
]  # fmt: skip

TRAINING = [
    training(
        "budget on a cluster", "train 1 cv UNet --budget 1h --dask tcp://nowhere:1",
        ("--budget is for the machine it is typed on",),
    ),
    training("trainer unknown", "train 1 0 UNnet", ("'UNnet'", "Did you mean UNet?", "my_tr")),
    training("trainer like none", "train 1 0 xyz", ("'xyz'", "Installed are", "UNet")),
    training("module missing", "train 1 0 no_module:Thing", ("there is no module 'no_module'",)),
    training("class missing", "train 1 0 json:Thing", ("json has no class Thing",)),
    training("class is no trainer", "train 1 0 json:JSONDecoder", ("derived from Trainer",)),
    training("fold out of range", "train 1 2", ("FOLD 2 is out of range", "folds 0 to 1", "all")),
    training("fold in letters", "train 1 seven", ("'seven'", "'all' or 'cv'")),
    training("fold negative", "train 1 -1", ("-1",)),
    training("no fold", "train 1", ("TASK and FOLD are needed",)),
    training(
        "setting unknown", f"{TRAIN} --set epoch=3", ("epoch: there is no such setting", "epochs")
    ),
    training("setting of no form", f"{TRAIN} --set epochs", ("epochs", "form name=value")),
    training(
        "setting of another type", f"{TRAIN} --set epochs=many", ("epochs=many", "valid integer")
    ),
    training("setting out of range", f"{TRAIN} --set epochs=0", ("epochs=0", "greater than")),
    training(
        "other settings than before", "train 1 0 --workers 0 --set epochs=3",
        ("epochs was 1, is 3", "--name", "--restart"),
    ),
    training("plan unknown", f"{TRAIN} --plan nnunet", ("no plan 'nnunet'", "it has renal")),
    training("configuration unknown", f"{TRAIN} --configuration 2d", ("'2d'", "whole")),
    training("device unknown", f"{TRAIN} --name new --device gpu", ("--device gpu", "cuda:N")),
    training(
        "device of no number", f"{TRAIN} --name new --device cpu:x", ("--device cpu:x", "cuda:N"),
    ),
    training(
        "not planned yet", TRAIN,
        ("Dataset001_Tiny has not been planned", "run renalplan_plan_and_preprocess"),
        lambda: shutil.rmtree(PREPROCESSED),
    ),
    training(
        "not preprocessed", TRAIN,
        ("case_0 is not preprocessed", "run renalplan_plan_and_preprocess"),
        lambda: shutil.rmtree(PREPROCESSED / "renal/whole"),
    ),
    training("unknown help", "train --help-trainer Unnet", ("'Unnet'", "Did you mean UNet?")),
    training("fold 7", "train 1 7", ("FOLD 7 is out of range", "folds 0 to 1")),
    training("name that leads elsewhere", f"{TRAIN} --name ../x", ("--name '../x'", "use letters")),
    training("plan that leads elsewhere", f"{TRAIN} --plan ../renal", ("no plan '../renal'", "renal")),
    training("workers below 0", "train 1 1 --workers -1", ("--workers -1", "0 prepares")),
    training("no devices", f"{TRAIN} --devices 0", ("--devices 0", "at least 1")),
    training("no parts of a batch", f"{TRAIN} --accumulate 0", ("--accumulate 0", "at least 1")),
    training("budget in words", f"{TRAIN} --budget soon", ("--budget soon", "1h30m")),
    training("learning rate NaN", f"{TRAIN} --set learning_rate=nan", ("learning_rate=nan", "finite number")),
    training("patch that does not fit", f"{TRAIN} --set patch_size=7,7,7", ("patch_size (7, 7, 7)", "nearest is")),
    training("a channel there is not", f"{TRAIN} --set channels=3", ("channels=3", "0 (CT)")),
    training("code that is no trainer", "train 1 1 os:system", ("os:system", "derived from Trainer")),
    training("path as a module", "train 1 1 ../x:Y", ("there is no module '../x'",)),
]  # fmt: skip

PREDICTION = [
    prediction("input missing", "predict -i nowhere -o out", ("input nowhere does not exist",)),
    prediction(
        "input folder empty", PREDICT, (f"{SCANS} holds no images", ".nii.gz"), partial(empty_folder, SCANS)
    ),
    prediction(
        "input is no image", f"predict -i {DATA / 'dataset.json'} -o out", ("is not an image",)
    ),
    prediction("output inside input", f"predict -i {SCANS} -o {SCANS}/out", ("inside", "another")),
    prediction("output is the input", f"predict -i {SCANS} -o {SCANS}", ("inside", "another")),
    prediction("output is a file", PREDICT, ("out is not a folder", "another"), a_file("out")),
    prediction(
        "no model", PREDICT, ("no trained model in work/results", "-m"),
        lambda: shutil.rmtree("work/results"),
    ),
    prediction(
        "several models", PREDICT,
        ("holds 2 models; choose with -m:", f"\n  -m {MODEL}", f"\n  -m {MODEL.with_name('Other')}"),
        second_model, lines=3,
    ),
    prediction("model missing", f"{PREDICT} -m nowhere", ("nowhere does not exist",)),
    prediction("model named wrongly", f"{PREDICT} -d 1 -tr UNeXt", ("no model UNeXt", "UNet")),
    prediction("dataset without model", f"{PREDICT} -d 7", ("'7'", "Give a path")),
    prediction(
        "no fold finished", PREDICT, (f"{MODEL} has no finished fold", "renalplan_train"),
        lambda: (MODEL / "fold_0/finished.json").unlink(),
    ),
    prediction("unfinished fold", f"{PREDICT} -f 3", ("fold 3 is not finished", "finished are 0")),
    prediction("fold twice", f"{PREDICT} -f 0 0", ("fold 0 is asked for twice",)),
    prediction(
        "model twice", f"{PREDICT} -m {MODEL} {MODEL}", ("is given twice", "--weights"),
    ),
    prediction(
        "no such plugin", f"{PREDICT} --plugin nope",
        ("there is no module 'nope', neither installed nor in the current folder",),
    ),
    prediction(
        "code of a stranger", PREDICT, ("module 'stranger'", "add --plugin stranger"),
        stranger_in_trainer_json,
    ),
    prediction(
        "a weight too many", f"{PREDICT} -m {MODEL} --weights 2 1",
        ("--weights 2 1: 2 for 1 models", "one to each"),
    ),
    prediction("weight negative", f"{PREDICT} --weights -1", ("--weights -1", "must be above 0")),
    prediction(
        "unknown rule", PREDICT, (f"{MODEL / 'postprocessing.json'}: rules.0", "keep_largest"),
        lambda: (MODEL / "postprocessing.json").write_text('{"rules": [{"rule": "keep_largest"}]}'),
    ),
    prediction("step zero", f"{PREDICT} --step 0", ("--step 0", "above 0 and at most 1")),
    prediction("device unknown", f"{PREDICT} --device gpu", ("--device gpu", "cuda:N")),
    prediction(
        "a channel too many", PREDICT, ("new_0001.nii.gz reads as channel 1", "0000 (CT)"),
        lambda: shutil.copy(SCANS / "new_0000.nii.gz", SCANS / "new_0001.nii.gz"),
    ),
    prediction(
        "another job's output", f"{PREDICT} --step 1", ("out holds predictions", "--overwrite"),
        lambda: shutil.copytree(MODEL / "fold_0/validation", "out"),
    ),
    prediction("part not said", f"{PREDICT} --parts 3", ("--parts 3 needs --part", "0 to 2")),
    prediction(
        "part from 1", f"{PREDICT} --parts 3 --part 3", ("--part 3 of --parts 3", "from 0 to 2")
    ),
    prediction("part alone", f"{PREDICT} --part 1", ("--part 1 needs --parts",)),
    prediction("no parts", f"{PREDICT} --parts 0 --part 0", ("--parts 0 must be at least 1",)),
    prediction("workers below 0", f"{PREDICT} --workers -1", ("--workers -1", "0 computes")),
    prediction(
        "one DICOM image", "predict -i slice.dcm -o out", ("slice.dcm is one image", "the series' folder"),
        lambda: Path("slice.dcm").write_bytes(b"\0" * 128 + b"DICM"),
    ),
    prediction(
        "damaged DICOM", "predict -i series -o out --device cpu",
        ("failed: series: series/IM1 cannot be read as DICOM", "copy the series again"),
        lambda: (
            Path("series").mkdir(), Path("series/IM1").write_bytes(b"\0" * 128 + b"DICM")
        ),
        status=1, writes=("out",),
    ),
    prediction("weight NaN", f"{PREDICT} --weights nan", ("--weights nan", "above 0")),
    prediction("step NaN", f"{PREDICT} --step nan", ("--step nan", "above 0")),
    prediction("no patches at a time", f"{PREDICT} --batch 0", ("--batch 0", "at least 1")),
    prediction("memory in words", f"{PREDICT} --max_ram lots", ("--max_ram lots", "4G")),
    prediction("engine unknown", f"{PREDICT} --engine tensorrt", ("--engine tensorrt", "openvino")),
    prediction("fold that leads elsewhere", f"{PREDICT} -f ../fold_0", ("fold ../fold_0 is not finished",)),
    prediction("model that leads elsewhere", f"{PREDICT} -d 1 -tr ../UNet", ("no model ../UNet", "UNet")),
    prediction("output inside a file", f"predict -i {SCANS} -o {IMAGE}/out", ("cannot be made", "choose another")),
]  # fmt: skip

CHOICES = [
    choosing("dataset unknown", "find_best 7", ("'7'", "Give a path")),
    choosing(
        "no model",
        "find_best 1",
        ("no trained model in work/results", "renalplan_train"),
        lambda: shutil.rmtree("work/results"),
    ),
    choosing("model named wrongly", "find_best 1 -tr UNeXt", ("no model UNeXt", "UNet")),
    choosing(
        "never validated",
        "find_best 1",
        ("UNet has no scored held-out cases", "renalplan_train"),
        lambda: shutil.rmtree(MODEL / "fold_0/validation"),
    ),
    choosing(
        "table damaged",
        "find_best 1",
        (str(MODEL / "fold_0/validation/per_case.csv"), "lacks the"),
        lambda: (MODEL / "fold_0/validation/per_case.csv").write_text("case\n1\n"),
    ),
    choosing("nothing to pair", "find_best 1 --pairs", ("--pairs needs two", "only UNet")),
    choosing("device unknown", "find_best 1 --device gpu", ("--device gpu", "cuda:N")),
    choosing("model that leads elsewhere", "find_best 1 -tr ../UNet", ("no model ../UNet", "UNet")),
    choosing("workers below 0", "find_best 1 --workers -1", ("--workers -1", "0 computes")),
]  # fmt: skip

ENSEMBLES = [
    averaging("one folder", f"ensemble {SCANS} -o out", (f"{SCANS} holds no probabilities",)),
    averaging("no folder", "ensemble nowhere work -o out", ("nowhere is not a folder", "give")),
    averaging("no output", "ensemble work work", ("required: -o",)),
    averaging("weight in words", "ensemble a b -o out --weights one two", ("--weights", "'one'")),
    averaging("the same folder twice", f"ensemble {SCANS} {SCANS} -o out", (f"{SCANS} holds no probabilities",)),
]  # fmt: skip

EVALUATION = [
    evaluation("no predictions", f"evaluate nowhere {TRUTH}", ("nowhere is not a folder", "give")),
    evaluation(
        "nothing in common", f"evaluate {DATA / 'labelsTr'} {TRUTH} -o out",
        (str(TRUTH), "no case in common", "file name"),
    ),
    evaluation(
        "requirement malformed", f"evaluate {TRUTH} {TRUTH} -o out --require kidney",
        ("--require kidney", "NAME=DICE"),
    ),
    evaluation(
        "requirement no number", f"evaluate {TRUTH} {TRUTH} -o out --require kidney=good",
        ("--require kidney=good", "NAME=DICE"),
    ),
    evaluation(
        "requirement of nothing", f"evaluate {TRUTH} {TRUTH} -o out --require spleen=0.5",
        ("--require spleen", "there are kidney"), writes=("out",),
    ),
    evaluation(
        "below the requirement", f"evaluate pred {TRUTH} -o out --require kidney=0.9",
        ("kidney: mean Dice", "below the required 0.9"),
        lambda: (
            shutil.copytree(TRUTH, "pred"),
            voxels(lambda a: np.roll(a, 5, 2))(Path("pred/new.nii.gz")),
        ),
        status=1, writes=("out",),
    ),
    evaluation(
        "output is a file", f"evaluate {TRUTH} {TRUTH} -o out", ("out is not a folder",),
        a_file("out"),
    ),
    evaluation("output inside a file", f"evaluate {TRUTH} {TRUTH} -o {IMAGE}/out", ("is not a folder", "another")),
    evaluation("requirement NaN", f"evaluate {TRUTH} {TRUTH} -o out --require kidney=nan", ("kidney=nan", "0 to 1")),
    evaluation("pictures of nothing", f"evaluate {TRUTH} {TRUTH} -o out --images nowhere", ("nowhere is not a folder",)),
    evaluation("workers below 0", f"evaluate {TRUTH} {TRUTH} -o out --workers -1", ("--workers -1", "0 computes")),
    evaluation(
        "swapped: labels first", f"evaluate {TRUTH} pred -o out", (str(TRUTH), "look swapped", "PRED GT"),
        lambda: shutil.copytree(TRUTH, "pred"),
    ),
    evaluation(
        "swapped: a prediction second", "evaluate other pred -o out", ("predict_report.json", "look swapped"),
        lambda: (shutil.copytree(TRUTH, "other"), shutil.copytree(TRUTH, "pred"), Path("pred/predict_report.json").write_text("{}")),
    ),
    evaluation("a value that there is not", f"evaluate {TRUTH} {TRUTH} -o out --labels both=1,9", ("both=1,9", "no file holds the value 9")),
    evaluation("surgery of nothing", "surgery -s nowhere.nii.gz -o out.json --labels work/raw/Dataset001_Tiny", ("nowhere.nii.gz does not exist",)),
    evaluation("surgery of nothing, nor labels", "surgery -s nowhere.nii.gz -o out.json", ("nowhere.nii.gz does not exist",)),
    evaluation("surgery over dataset.json", f"surgery -s {TRUTH}/new.nii.gz -o {DATA}/dataset.json", ("dataset.json is there already", "choose another")),
    evaluation("tables among the references", f"evaluate pred {TRUTH} -o {TRUTH}", ("is the folder of the references", "-o"),
               lambda: shutil.copytree(TRUTH, "pred")),
    evaluation("tables among the scans", f"evaluate pred {TRUTH} --images {SCANS} -o {SCANS}", ("is the folder of the images", "-o"),
               lambda: shutil.copytree(TRUTH, "pred")),
    evaluation(
        "another program's summary", f"evaluate pred {TRUTH}", ("pred/summary.json is there already", "choose another"),
        lambda: (shutil.copytree(TRUTH, "pred"), Path("pred/summary.json").write_text('{"mean": {}}')),
    ),
    evaluation("surgery of a scan", f"surgery -s {SCANS}/new_0000.nii.gz -o out.json", ("fractional", "whole numbers")),
    evaluation("surgery into a picture", f"surgery -s {TRUTH}/new.nii.gz -o out.txt", ("out.txt", ".json")),
    evaluation("margin NaN", f"surgery -s {TRUTH}/new.nii.gz -o out.json --margins nan", ("margins are [nan]", "0 to 50")),
    evaluation("margin below 0", f"surgery -s {TRUTH}/new.nii.gz -o out.json --margins -1", ("margins are [-1.0]", "0 to 50")),
    evaluation("nothing names the labels", f"surgery -s {TRUTH}/new.nii.gz -o out.json --labels nowhere", ("nowhere does not exist",)),
    evaluation("a fold there is not", f"surgery -s {TRUTH}/new.nii.gz -o out.json --folds nowhere.nii.gz", ("nowhere.nii.gz does not exist",)),
    evaluation("tolerance NaN", f"evaluate {TRUTH} {TRUTH} -o out --tolerance nan", ("--tolerance nan", "tumor=1.5")),
    evaluation("tolerance below 0", f"evaluate {TRUTH} {TRUTH} -o out --tolerance -1", ("--tolerance -1", "from 0 on")),
    evaluation("label values in words", f"evaluate {TRUTH} {TRUTH} -o out --labels kidney=x", ("kidney=x", "mass=2,3")),
    evaluation("a structure there is not", f"evaluate {TRUTH} {TRUTH} -o out --labels spleen", ("spleen", "there are kidney")),
    evaluation("fewer pictures than none", f"evaluate {TRUTH} {TRUTH} -o out --pictures -1", ("--pictures -1", "0 (none)")),
]  # fmt: skip

PHANTOMS = [
    phantoms("task unknown", "phantom out --cases 1 --task kidny", ("'kidny'", "kidney_tumor")),
    phantoms("not empty", f"phantom {DATA} --cases 1", (f"{DATA} is not empty", "choose")),
    phantoms("no cases", "phantom out --cases 0", ("at least 1 case", "0")),
    phantoms("cases not given", "phantom out", ("--cases",)),
    phantoms(
        "share above 1", "phantom out --cases 1 --single_kidney_share 2", ("between 0 and 1", "2")
    ),
    phantoms("too small", "phantom out --cases 1 --size 1 1 1", ("at least", "(1, 1, 1)")),
    phantoms("output is a file", "phantom out --cases 1", ("out is not a folder",), a_file("out")),
    phantoms("seed below 0", "phantom out --cases 1 --seed -1", ("seed", "-1")),
    phantoms("larger than any scan", "phantom out --cases 1 --size 99999999 64 64", ("at most 4096", "99999999")),
    phantoms("spacing NaN", "phantom out --cases 1 --spacing nan 1 1", ("above 0 mm", "nan")),
    phantoms("spacing infinite", "phantom out --cases 1 --spacing 1 inf 1", ("between 0.05 and 50", "inf")),
    phantoms("workers below 0", "phantom out --cases 1 --workers -1", ("--workers -1", "0 makes")),
    phantoms("masks from nowhere", "phantom out --cases 1 --from_masks nowhere", ("nowhere is not a folder",)),
    phantoms("a folder without masks", f"phantom out --cases 1 --from_masks {DATA}", ("holds no label maps", ".nii.gz")),
]  # fmt: skip

COMMAND_LINES = [
    command_line("option misspelt", "train 1 0 --wokers 0", ("unrecognized arguments: --wokers 0",)),
    command_line("option abbreviated", "train 1 0 --work work", ("unrecognized arguments: --work",)),
    command_line("replan abbreviated", f"{PLAN} --rep", ("unrecognized arguments: --rep",)),
    command_line("overwrite abbreviated", f"{PREDICT} --over", ("unrecognized arguments: --over",)),
    command_line("nothing given", "evaluate", ("required: PRED, GT",)),
    command_line("workers in words", "check 1 --workers all", ("--workers", "'all'")),
]  # fmt: skip
