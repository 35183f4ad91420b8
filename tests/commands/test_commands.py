"""What the commands do when all is well: help, reruns, edited plans, tables; and the public face."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

import renalplan
from renalplan import cli

COMMANDS = (
    "check",
    "plan_and_preprocess",
    "train",
    "find_best",
    "predict",
    "ensemble",
    "evaluate",
    "compare",
    "export_model",
    "install_model",
    "phantom",
)
DATA = Path("work/raw/Dataset001_Tiny")
PLAN_FILE = Path("work/preprocessed/Dataset001_Tiny/renal/plan.json")
STAGE = PLAN_FILE.parent / "whole"
PLAN = "plan_and_preprocess 1 --gpu_memory 0.004 --base_features 4 --cascade none --workers 0"
SHORT = "--workers 0 --device cpu --set epochs=1 iterations=1 validation_iterations=0"
Run = Callable[[str], Any]


def edit_plan(**values: Any) -> None:
    plan = json.loads(PLAN_FILE.read_text())
    plan["stages"][0] |= values
    PLAN_FILE.write_text(json.dumps(plan))


def change_scan() -> None:
    path = str(DATA / "imagesTr/case_0_0000.nii.gz")
    sitk.WriteImage(sitk.ReadImage(path) + 1, path)


def stored_times() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in STAGE.glob("*.b2nd")}


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(f"renalplan_{name}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_and_gives_an_example(run: Run, name: str) -> None:
    ran = run(f"{name} --help")
    assert ran.status == 0
    assert ran.out.startswith(f"usage: renalplan_{name}")
    assert f"example:\n  renalplan_{name} " in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_installed_command_starts(name: str) -> None:
    ran = subprocess.run([script(name), "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert not ran.stderr
    assert f"usage: renalplan_{name}" in ran.stdout


def test_the_installed_command_returns_its_status_and_one_sentence(tmp_path: Path) -> None:
    ran = subprocess.run(
        [script("check"), "7", "--workspace", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("renalplan_check: no dataset '7'")
    assert len(ran.stderr.splitlines()) == 1


def test_a_trainers_settings_are_listed_with_their_values(run: Run) -> None:
    ran = run("train --help-trainer UNet")
    assert ran.status == 0
    assert ran.out.startswith("UNet: ")
    for setting in ("  epochs=1000", "  iterations=250", "  seed=0  (decides every random draw)"):
        assert f"{setting}" in ran.out
    assert "  optimizer=sgd  (sgd | adam | adamw; " in ran.out


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    code = "from renalplan.cli import train; raise SystemExit(train(['--help-trainer', 'UNet']))"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.close()
    _, said = child.communicate()
    assert (child.returncode, said) == (141, b"")


def test_settings_given_in_two_places_all_count(here: Path, run: Run) -> None:
    run(PLAN)
    ran = run(
        "train 1 0 UNet --workers 0 --set epochs=1 iterations=1 --set validation_iterations=0"
    )
    assert ran.status == 0
    assert "fold 0: whole 1 x 1 steps" in ran.err
    (record,) = Path("work/results/Dataset001_Tiny").glob("*/trainer.json")
    settings = json.loads(record.read_text())["settings"]
    assert [settings[n] for n in ("epochs", "iterations", "validation_iterations")] == [1, 1, 0]


def test_a_log_file_gets_a_line_an_epoch(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(PLAN)
    # what a library does that calls logging.warning() itself
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers, logging.StreamHandler(sys.stderr)])
    ran = run(
        "train 1 0 UNet --name lines --workers 0 --set epochs=2 iterations=1 validation_iterations=0"
    )
    for epoch in (1, 2):
        assert ran.err.count(f"fold 0 whole: epoch {epoch} of 2, loss") == 1


def test_a_stage_that_is_not_preprocessed_names_the_command_that_does_it(
    here: Path, run: Run
) -> None:
    run("plan_and_preprocess 1 --planner bisc --gpu_memory 2 --base_features 4 --workers 0")
    ran = run("train 1 0 SCUNet --plan bisc --configuration single")
    assert ran.status == 2
    assert (
        "run renalplan_plan_and_preprocess Dataset001_Tiny --planner bisc --configuration single:"
    ) in ran.err
    # a method that does not fit the plan is said first: preprocessing would not help
    ran = run("train 1 0 BiSCUNet --plan bisc --configuration single")
    assert "BiSCUNet needs a rough stage" in ran.err


def test_a_papers_planner_names_its_trainer_which_says_what_it_lacks(here: Path, run: Run) -> None:
    ran = run("plan_and_preprocess 1 --planner coarse_to_fine --base_features 4 --workers 0")
    assert ran.status == 0
    command = "train Dataset001_Tiny 0 CoarseToFine --plan coarse_to_fine"
    assert f"Next: renalplan_{command}" in ran.out
    ran = run(command)
    assert ran.status == 2
    assert "two structures are needed, kidney and tumor; the dataset has kidney." in ran.err
    assert not list((here / "work" / "results").rglob("CoarseToFine*"))


def test_a_second_run_has_nothing_to_do(here: Path, run: Run) -> None:
    first = stored_times()
    ran = run(PLAN)
    assert ran.status == 0
    assert "everything is up to date. Next: renalplan_train" in ran.out
    assert "edited by hand" not in ran.out
    assert stored_times() == first


def test_an_edited_plan_is_honoured_and_only_what_it_touches_is_redone(
    here: Path, run: Run
) -> None:
    first = stored_times()
    edit_plan(batch_size=5)  # shapes no stored array
    ran = run(PLAN)
    assert "plan renal (edited by hand, honoured)" in ran.out
    assert "batch 5" in ran.out
    assert "everything is up to date" in ran.out
    assert stored_times() == first
    edit_plan(spacing=[8.0, 8.0, 8.0])
    ran = run(PLAN)
    assert "edited by hand, honoured" in ran.out
    assert "spacing 8 x 8 x 8 mm" in ran.out
    assert "2 cases preprocessed" in ran.out
    assert stored_times() != first
    assert json.loads(PLAN_FILE.read_text())["stages"][0]["batch_size"] == 5


def test_changed_options_make_another_plan(here: Path, run: Run) -> None:
    before = PLAN_FILE.read_text()
    ran = run(PLAN.replace("--base_features 4", "--base_features 6"))
    assert ran.status == 0
    assert "edited" not in ran.out
    assert PLAN_FILE.read_text() != before
    assert "everything is up to date" in ran.out  # the network shapes no stored array


def test_a_changed_scan_is_measured_and_preprocessed_again(here: Path, run: Run) -> None:
    change_scan()
    ran = run(PLAN)
    assert ran.status == 0
    assert "edited" not in ran.out
    assert "everything is up to date" in run(PLAN).out


def test_an_edited_plan_is_not_silently_used_for_changed_data(here: Path, run: Run) -> None:
    edit_plan(batch_size=5)
    change_scan()
    refused = run(PLAN)
    assert refused.status == 2
    assert "--replan" in refused.err
    assert "batch 5" in PLAN_FILE.read_text().replace('_size": ', " ")
    replaced = run(f"{PLAN} --replan")
    assert replaced.status == 0
    assert "edited" not in replaced.out
    assert "batch 5" not in replaced.out


def test_check_lists_every_problem(here: Path, run: Run) -> None:
    sound = run("check 1 --workers 0")
    assert (sound.status, sound.out) == (0, "Dataset001_Tiny: 2 cases, 0 problems.\n")
    scan = DATA / "imagesTr/case_0_0000.nii.gz"
    scan.write_bytes(scan.read_bytes()[:3000])
    label = DATA / "labelsTr/case_1.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(label)) * 7, str(label))
    (DATA / "labelsTr/lonely.nii.gz").write_bytes(label.read_bytes())
    found = run("check 1 --workers 0")
    assert found.status == 2
    *problems, total = found.out.splitlines()
    assert total == "Dataset001_Tiny: 2 cases, 3 problems."
    assert len(problems) == 3
    assert "lonely.nii.gz has no image" in problems[0]
    assert f"{scan} is truncated" in problems[1]
    assert f"{label} holds label values [7]" in problems[2]


def test_prediction_continues_and_evaluation_writes_tables(here: Path, run: Run) -> None:
    predict = f"predict -i {DATA / 'imagesTs'} -o out --device cpu"
    assert "1 case predicted: out" in run(predict).out
    assert "0 cases predicted, 1 were there already" in run(predict).out
    other = run(f"{predict} --step 1")
    assert other.status == 2
    assert "--overwrite" in other.err
    assert run(f"{predict} --step 1 --overwrite").status == 0
    ran = run(f"evaluate out {DATA / 'labelsTs'} --images {DATA / 'imagesTs'} -o tables")
    assert ran.status == 0
    assert "kidney: mean Dice 0." in ran.out
    for name in ("per_case.csv", "summary.json", "summary.html"):
        assert (here / "tables" / name).is_file()
        assert f"tables/{name}" in ran.out


def test_the_best_model_is_found_and_its_command_works(here: Path, run: Run) -> None:
    assert run(f"train 1 0 UNet --name Second {SHORT} seed=1").status == 0
    assert run(f"train 1 1 UNet --name Third {SHORT}").status == 0  # another fold
    ran = run("find_best 1 --pairs --workers 0 --device cpu")
    assert ran.status == 0
    assert "left out: Third was validated on fold 1 (1 case), Second on" in ran.err
    assert "rests on 1 held-out case of 1 fold, so it may be chance; train the other" in ran.err
    head, *rows = ran.out.splitlines()
    assert head.split() == ["held-out", "Dice", "mean", "kidney"]
    models = [row.split("  ")[0].removesuffix(" (best)") for row in rows[:3]]
    assert sorted(models) == ["Second", "Second + UNet", "UNet"]
    assert [row for row in rows[:3] if "(best)" in row] == rows[:1]
    results = Path("work/results/Dataset001_Tiny")
    assert f"{results / 'best.json'}" in ran.out
    best = json.loads((results / "best.json").read_text())
    assert [path.parent.name for path in sorted(results.glob("*/postprocessing.json"))] == sorted(
        best["chosen"]
    )
    command = rows[-1].strip()
    assert command == best["command"]
    ready = command.replace("IMAGES", f"{DATA / 'imagesTs'}").replace("OUT", "out")
    assert run(f"{ready} --device cpu".removeprefix("renalplan_")).status == 0
    assert (here / "out" / "new.nii.gz").is_file()
    assert run("find_best 1 -tr UNet Third").status == 2


def test_saved_probabilities_are_averaged(here: Path, run: Run) -> None:
    predict = f"predict -i {DATA / 'imagesTs'} --device cpu --save_probabilities"
    assert run(f"{predict} -o half").status == 0
    assert run(f"{predict} -o whole --step 1").status == 0
    ensemble = "ensemble half whole -o out --weights 1 3"
    ran = run(ensemble)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "1 cases averaged: out\n"
    assert (here / "out" / "new.nii.gz").is_file()
    assert "0 cases averaged, 1 were there already" in run(ensemble).out
    assert "other weights" in run("ensemble half whole -o out --weights 3 1").err
    (here / "whole" / "new.probabilities.json").unlink()
    ran = run(f"{ensemble} --overwrite")
    assert ran.status == 2
    assert "whole/new.probabilities.json is missing" in ran.err
    assert run(f"{predict} -o whole --step 1").out.startswith("1 case predicted")
    assert run(f"{ensemble} --overwrite").status == 0


def test_models_of_two_plans_give_one_answer_in_one_pass_or_in_several(
    here: Path, run: Run
) -> None:
    located = PLAN.replace("--cascade none", "--cascade locate")
    assert run(f"{located} --plan_name coarse --spacing 12 8 8").status == 0
    assert run(f"train 1 0 UNet --plan coarse {SHORT}").status == 0
    again = run(f"train 1 0 UNet {SHORT}")  # what was typed before there was a second plan
    assert (again.status, "is done already" in again.err) == (0, True), again.err
    assert "choose one with --plan" in run(f"train 1 0 UNet --name New {SHORT}").err
    results = Path("work/results/Dataset001_Tiny")
    models = sorted(path.parent for path in results.glob("*/trainer.json"))
    assert [model.name for model in models] == ["UNet", "UNet__coarse"]
    plans = [json.loads((model / "plan.json").read_text()) for model in models]
    assert [len(plan["stages"]) for plan in plans] == [1, 2]
    predict = f"predict -i {DATA / 'imagesTs'} --device cpu --save_probabilities"
    for model in models:
        assert run(f"{predict} -o by_{model.name} -m {model}").status == 0
    both = f"-m {models[0]} {models[1]} --weights 1 2"
    assert run(f"{predict} -o pass {both}").status == 0
    assert run("ensemble by_UNet by_UNet__coarse -o out --weights 1 2").status == 0
    stored = [
        blosc2.open(f"{folder}/new.probabilities.b2nd")[:].astype(np.float64)
        for folder in ("by_UNet", "by_UNet__coarse", "pass")
    ]
    assert np.abs(stored[0] - stored[1]).max() > 0.01
    assert np.abs((stored[0] + 2 * stored[1]) / 3 - stored[2]).max() < 1e-3
    one, two = (
        sitk.GetArrayFromImage(sitk.ReadImage(f"{folder}/new.nii.gz")) for folder in ("pass", "out")
    )
    assert (one == two).mean() >= 0.999


def test_rules_of_a_model_can_be_left_out_and_go_with_its_fold(here: Path, run: Run) -> None:
    rules = Path("work/results/Dataset001_Tiny/UNet/postprocessing.json")
    everything = {"rule": "minimum_volume", "structure": "kidney", "ml": 9999}
    rules.write_text(json.dumps({"rules": [everything]}))
    predict = f"predict -i {DATA / 'imagesTs'} --device cpu"
    assert "removed" in run(f"{predict} -o out").err
    assert run(f"{predict} -o plain --no-postprocessing").err == ""
    assert not sitk.GetArrayFromImage(sitk.ReadImage("out/new.nii.gz")).any()
    assert sitk.GetArrayFromImage(sitk.ReadImage("plain/new.nii.gz")).any()
    before = (rules.parent / "fold_0/validation/per_case.csv").read_text()
    ran = run(f"train 1 0 {SHORT} --restart")
    assert (ran.status, rules.exists()) == (0, False)
    rules.write_text(json.dumps({"rules": [everything]}))
    (rules.parent / "fold_0/validation/predict_report.json").unlink()
    assert run(f"train 1 0 {SHORT}").status == 0  # validation scores what the network says
    assert (rules.parent / "fold_0/validation/per_case.csv").read_text() == before


def test_a_perfect_answer_passes_its_requirement(here: Path, run: Run) -> None:
    truth = DATA / "labelsTs"
    assert run(f"evaluate {truth} {truth} -o out --require kidney=1").status == 0
    assert not (truth / "per_case.csv").exists()


def test_cross_validation_gathers_the_folds_in_the_model_folder(here: Path, run: Run) -> None:
    ran = run(f"train 1 cv {SHORT}")
    assert ran.status == 0, ran.err
    assert "fold 0: mean Dice of held-out cases: kidney" in ran.out
    assert "fold 1: " in ran.out
    model = Path("work/results/Dataset001_Tiny/UNet")
    assert f"model: {model}" in ran.out
    assert json.loads((model / "crossval.json").read_text())


def test_standard_output_holds_results_only(here: Path, run: Run) -> None:
    first, second = run(f"train 1 1 {SHORT}").out.splitlines()
    assert first.startswith("fold 1: mean Dice of held-out cases: kidney ")
    assert second == "model: work/results/Dataset001_Tiny/UNet"


def test_folds_trained_one_by_one_gather_by_themselves(here: Path, run: Run) -> None:
    model = Path("work/results/Dataset001_Tiny/UNet")
    assert not (model / "crossval.json").exists()  # one fold is no cross-validation
    assert run(f"train 1 1 {SHORT}").status == 0
    found = json.loads((model / "crossval.json").read_text())
    assert found["cases_of_folds"] == {"0": 1, "1": 1}
    assert 'href="fold_1/validation/summary.html"' in (model / "crossval.html").read_text()


def test_runs_are_compared(here: Path, run: Run) -> None:
    assert run(f"train 1 1 {SHORT}").status == 0
    model = "work/results/Dataset001_Tiny/UNet"
    truth = DATA / "labelsTr"
    assert run(f"evaluate {truth} {truth} -o perfect --pictures 0").status == 0
    ran = run(f"compare perfect {model} -o compared --metrics dice hd95_mm")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("dice of kidney: perfect 1.0000 (best in 100 %), UNet 0.")
    assert "none of the 2 differences is significant" in ran.out  # of two cases
    assert (here / "compared/compare.html").is_file()
    ran = run(f"compare perfect {model} --metrics volume")
    assert (ran.status, ran.out) == (2, "")
    assert "--metrics volume" in ran.err


def test_evaluation_scores_what_is_asked_for(here: Path, run: Run) -> None:
    truth = DATA / "labelsTr"
    ran = run(f"evaluate {truth} {truth} -o out --labels organ=1 --tolerance 2.5 --pictures 1")
    assert ran.status == 0, ran.err
    assert "organ: mean Dice 1.0000, median 1.0000; surface Dice 1.0000 at 2.5 mm" in ran.out
    assert (here / "out/summary.html").read_text().count("<img") == 1
    for options, problem in (
        ("--labels spleen", "--labels spleen: there is no such structure"),
        ("--tolerance thick", "--tolerance thick: needs the form MM or NAME=MM"),
        ("--pictures -1", "--pictures -1"),
    ):
        ran = run(f"evaluate {truth} {truth} -o nowhere {options}")
        assert ran.status == 2
        assert problem in ran.err
    assert not (here / "nowhere").exists()


def test_all_cases_can_be_trained_on(here: Path, run: Run) -> None:
    ran = run(f"train 1 all UNet --name everything {SHORT}")
    assert ran.status == 0
    assert "fold all: trained" in ran.out


def test_an_interruption_is_not_a_traceback(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("renalplan.dataset.Dataset.open", interrupt)
    ran = run("check 1")
    assert ran.status == 130
    assert ran.err == "renalplan_check: SIGINT: interrupted; the same command continues."


def test_every_public_name_is_there() -> None:
    assert renalplan.__all__ == dir(renalplan)
    for name in renalplan.__all__:
        assert callable(getattr(renalplan, name)), name
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = renalplan.no_such_thing


@pytest.mark.parametrize("module", ["renalplan", "renalplan.cli"])
def test_importing_the_package_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"""
import sys, {module}
heavy = {{"torch", "SimpleITK", "scipy", "pandas", "matplotlib", "sklearn"}}
print(sorted(heavy & set(sys.modules)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ,
    )  # fmt: skip
    assert ran.stdout.strip() == "[]"


def test_every_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            getattr(cli, name)(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"renalplan {version('renalplan')}\n"
