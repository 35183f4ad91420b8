"""Models and pairs are compared on held-out cases, rules are kept where they help, and it is written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from renalplan.errors import ModelError, RenalplanError, UsageError
from renalplan.evaluation.evaluate import evaluate_folders
from renalplan.finding_best import Best, FoundBest, find_best
from renalplan.inference.predictor import Predictor
from renalplan.inference.scans import ScanFiles
from renalplan.inference.segmenter import InferenceOptions
from renalplan.model_folder import ModelFolder
from renalplan.postprocessing import AtMostTwoKidneys, MinimumVolume
from renalplan.predicting import predict
from renalplan.workspace import Workspace

Make = Callable[..., ModelFolder]
NAME = "Dataset001_Test"
FOLDS = {0: ("a", "b"), 1: ("c",)}


def scan(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels: kidneys half bright, half dim; `c` has one. Specks are no kidney."""
    image = np.full((10, 12, 24), -1, np.float32)
    for x in (3,) if case == "c" else (3, 15):
        image[2:8, 3:9, x : x + 3] = 0.6
        image[2:8, 3:9, x + 3 : x + 6] = 2
    labels = (image > 0).astype(np.uint8)
    image[0, 0, 0] = image[9, 11, 23] = 2
    return image, labels


def write(path: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with a dataset of three cases."""
    folder = tmp_path / "raw" / NAME
    for case in "abc":
        image, labels = scan(case)
        write(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        write(folder / "labelsTr" / f"{case}.nii.gz", labels)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "kidney": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return Workspace(tmp_path)


def validate(
    model: ModelFolder,
    place: Workspace,
    folds: dict[int, tuple[str, ...]] = FOLDS,
    channels: tuple[int, ...] = (0,),
) -> None:
    """What `renalplan_train` leaves: predictions of the held-out cases, and their scores."""
    raw = place.root / "raw" / NAME
    for fold, cases in folds.items():
        predictor = Predictor.from_model(model, [str(fold)], InferenceOptions(device="cpu"))
        out = model.fold_folder(fold) / "validation"
        scans = [
            ScanFiles(
                id=c,
                images=tuple(raw / "imagesTr" / f"{c}_000{n}.nii.gz" for n in channels),
                ending=".nii.gz",
            )
            for c in cases
        ]  # fmt: skip
        predictor.predict_folder(scans, out)
        evaluate_folders(
            out, raw / "labelsTr", model.scheme, out, cases=set(cases), pictures=0
        )  # fmt: skip


@pytest.fixture
def models(make_model: Make, place: Workspace) -> dict[str, ModelFolder]:
    """One sees what is bright, one what is dim (a little more: the specks are not); a poor third."""
    found = {}
    for name, sign, network in (
        ("Bright", 1.0, "Partial"),
        ("Dim", -1.0, "Partial"),
        ("Poor", -1.0, "Bright"),
    ):
        model = make_model(f"results/{NAME}/{name}", sign=sign, network=network, folds=("0", "1"))
        validate(model, place)
        found[name] = model
    return found


def choose(place: Workspace, **values: Any) -> FoundBest:
    return find_best(
        "1", workspace=place, device="cpu", workers=0, progress=False, **values
    )  # fmt: skip


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def table_dice(model: ModelFolder) -> float:
    tables = [
        pd.read_csv(model.fold_folder(f) / "validation" / "per_case.csv") for f in FOLDS
    ]  # fmt: skip
    return float(pd.concat(tables)["dice"].mean())


def test_the_model_of_the_highest_mean_dice_is_chosen(
    place: Workspace, models: dict[str, ModelFolder]
) -> None:
    found = choose(place)
    scores = {c.models: c.mean_dice for c in found.best.candidates}
    assert scores == pytest.approx({(name,): table_dice(m) for name, m in models.items()})
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert scores[("Poor",)] < 0.1
    assert found.best.chosen == max(scores, key=lambda names: scores[names])
    assert found.best.folds == {"0": ("a", "b"), "1": ("c",)}
    written = place.results(NAME) / "best.json"
    assert Best.model_validate_json(written.read_text()) == found.best
    assert found.files == (
        place.results(NAME) / found.best.chosen[0] / "postprocessing.json",
        written,
    )
    assert [path.exists() for path in found.files] == [True, True]
    assert len(list(place.results(NAME).rglob("postprocessing.json"))) == 1


def test_a_pair_is_chosen_if_it_is_better_and_its_command_gives_what_was_promised(
    place: Workspace, models: dict[str, ModelFolder], tmp_path: Path
) -> None:
    found = choose(place, trainers=["Bright", "Dim", "Poor"], pairs=True)
    assert found.best.chosen == ("Bright", "Dim")
    assert len(found.best.candidates) == 6
    # by hand: the pair sees all of the kidneys, and the specks
    expected = []
    for case in "abc":
        image, labels = scan(case)
        expected.append(dice(image > 0, labels > 0))
    best = found.best.candidates[0]
    assert best.mean_dice == pytest.approx(np.mean(expected))
    # two kidneys at most helps in a and b, leaves a speck in c, which a minimum volume removes
    kept = [t.rule for t in found.best.tried if t.kept]
    assert kept == [AtMostTwoKidneys(), MinimumVolume(structure="kidney", ml=0.01)]
    assert found.best.postprocessing.rules == tuple(kept)
    assert found.best.mean_dice == pytest.approx(1)
    volumes = {
        t.rule.ml: t for t in found.best.tried if isinstance(t.rule, MinimumVolume)
    }  # fmt: skip
    assert volumes[5.0].worse == ("kidney",)  # larger than a kidney of 108 x 2 microlitres
    assert volumes[0.1].mean_dice == pytest.approx(1)
    paths = [str(models[name].path) for name in ("Bright", "Dim")]
    assert found.best.command.split() == [
        "renalplan_predict",
        "-i",
        "IMAGES",
        "-o",
        "OUT",
        "-m",
        *paths,
    ]
    out = tmp_path / "out"
    predict(
        place.root / "raw" / NAME / "imagesTr", out, models=paths, device="cpu", progress=False
    )  # fmt: skip
    for case in "abc":
        answer = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{case}.nii.gz")))
        assert np.array_equal(answer, scan(case)[1])


def test_pairs_are_only_made_once(place: Workspace, models: dict[str, ModelFolder]) -> None:
    first = choose(place, trainers=["Bright", "Dim"], pairs=True)
    folders = [m.fold_folder(0) / "probabilities" for m in models.values()]
    assert [folder.exists() for folder in folders] == [True, True, False]
    array = folders[0] / "a.probabilities.b2nd"
    pair = place.results(NAME) / "pairs" / "Bright+Dim" / "fold_0" / "a.nii.gz"
    before = [path.stat().st_mtime_ns for path in (array, pair)]
    assert choose(place, trainers=["Bright", "Dim"], pairs=True).best == first.best
    assert [path.stat().st_mtime_ns for path in (array, pair)] == before
    # other weights: what was saved is of the old ones
    weights = models["Bright"].fold_folder(0) / "whole" / "model.safetensors"
    shutil.copy(models["Dim"].fold_folder(0) / "whole" / "model.safetensors", weights)
    shutil.rmtree(models["Bright"].fold_folder(0) / "validation")
    validate(models["Bright"], place, {0: FOLDS[0]})
    again = choose(place, trainers=["Bright", "Dim"], pairs=True)
    assert array.stat().st_mtime_ns != before[0]
    assert again.best != first.best


def test_rules_that_do_not_help_replace_those_that_stood_there(
    place: Workspace, models: dict[str, ModelFolder]
) -> None:
    raw = place.root / "raw" / NAME
    for fold, cases in FOLDS.items():  # as if it were perfect
        out = models["Dim"].fold_folder(fold) / "validation"
        for case in cases:
            shutil.copy(raw / "labelsTr" / f"{case}.nii.gz", out / f"{case}.nii.gz")
        evaluate_folders(
            out, raw / "labelsTr", models["Dim"].scheme, out, cases=set(cases), pictures=0
        )  # fmt: skip
    rules = models["Dim"].path / "postprocessing.json"
    rules.write_text('{"rules": [{"rule": "at_most_two_kidneys", "at_most": 3}]}')
    found = choose(place)
    assert found.best.chosen == ("Dim",)
    assert json.loads(rules.read_text())["rules"] == []
    assert not any(tried.kept for tried in found.best.tried)
    assert found.best.mean_dice == 1


def test_models_that_cannot_be_compared_are_left_out_or_refused_by_name(
    place: Workspace, models: dict[str, ModelFolder], make_model: Make
) -> None:
    shutil.rmtree(models["Poor"].fold_folder(1) / "validation")
    make_model(f"results/{NAME}/New", folds=("0",))
    other = make_model(
        f"results/{NAME}/Other", labels={"background": 0, "tumor": 1}, folds=("0", "1")
    )
    validate(other, place)
    found = choose(place)
    assert found.best.left_out.keys() == {"Poor", "New", "Other"}
    sentences = {
        "Poor": r"Poor was validated on fold 0 \(2 cases\), Bright on folds 0, 1 \(3 cases\)",
        "New": "New has no scored held-out cases .* train folds of it",
        "Other": "Other was scored for tumor, Bright for kidney; only models of the same labels",
    }
    for name, sentence in sentences.items():
        assert name not in [m for c in found.best.candidates for m in c.models]
        with pytest.raises(UsageError, match=sentence):
            choose(place, trainers=["Bright", name])
    # with nothing to compare it to, the part of a cross-validation does
    assert choose(place, trainers=["Poor"]).best.folds == {"0": ("a", "b")}


def test_a_pair_sees_the_channels_of_its_models(place: Workspace, make_model: Make) -> None:
    raw = place.root / "raw" / NAME
    description = json.loads((raw / "dataset.json").read_text())
    description["channel_names"] = {"0": "early", "1": "MR"}
    (raw / "dataset.json").write_text(json.dumps(description))
    for case in "abc":
        (raw / "imagesTr" / f"{case}_0000.nii.gz").rename(raw / "imagesTr" / f"{case}_0001.nii.gz")
        write(raw / "imagesTr" / f"{case}_0000.nii.gz", -scan(case)[0])
    values: dict[str, Any] = {"network": "Partial", "folds": ("0", "1")}
    for name, sign, channels in (
        ("Bright", 1.0, ("MR",)), ("Dim", -1.0, ("MR",)), ("Both", -1.0, ("early", "MR")),
    ):  # fmt: skip
        model = make_model(f"results/{NAME}/{name}", sign=sign, channels=channels, **values)
        validate(model, place, channels=(1,) if len(channels) == 1 else (0, 1))
    best = choose(place, pairs=True).best
    assert [c.models for c in best.candidates if len(c.models) > 1] == [("Bright", "Dim")]
    assert best.chosen == ("Bright", "Dim")
    assert best.mean_dice == pytest.approx(1)


def _stale_table(place: Workspace, models: dict[str, ModelFolder]) -> None:
    for fold in FOLDS:
        for name in models:
            path = models[name].fold_folder(fold) / "validation" / "per_case.csv"
            table = pd.read_csv(path)
            table["dice"] = 0.99
            table.to_csv(path, index=False)


def _lost(place: Workspace, models: dict[str, ModelFolder]) -> None:
    for name in models:
        (models[name].fold_folder(1) / "validation" / "c.nii.gz").unlink()


def _no_labels(place: Workspace, models: dict[str, ModelFolder]) -> None:
    for kind in ("imagesTr/c_0000", "labelsTr/c"):
        (place.root / "raw" / NAME / f"{kind}.nii.gz").unlink()


def _two_splits(place: Workspace, models: dict[str, ModelFolder]) -> None:
    for model in models.values():
        shutil.rmtree(model.fold_folder(1) / "validation")
        shutil.copytree(model.fold_folder(0) / "validation", model.fold_folder(1) / "validation")


def _bad_rules(place: Workspace, models: dict[str, ModelFolder]) -> None:
    (models["Dim"].path / "postprocessing.json").write_text("{")


def _no_models(place: Workspace, models: dict[str, ModelFolder]) -> None:
    shutil.rmtree(place.results(NAME))


MISTAKES: dict[str, tuple[Callable[..., None], dict[str, Any], type[RenalplanError], str]] = {
    "stale tables": (_stale_table, {}, UsageError, "their tables say 0.9900; run renalplan_train"),
    "lost segmentation": (_lost, {}, UsageError, "validation has no segmentation of c, which its"),
    "lost case": (_no_labels, {}, UsageError, "has no labels of c, which the models held out"),
    "two splits": (_two_splits, {}, UsageError, "a is held out in folds 0 and 1"),
    "bad rules": (_bad_rules, {}, ModelError, "Dim/postprocessing.json is not valid JSON"),
    "no models": (_no_models, {}, UsageError, "no trained model in .*Dataset001_Test"),
    "unknown model": (lambda *_: None, {"trainers": ["Brite"]}, UsageError, "no model Brite in .*there are Bright, Dim, Poor"),
    "named twice": (lambda *_: None, {"trainers": ["Dim", "Dim"]}, UsageError, "name each model once"),
    "no pair": (lambda *_: None, {"trainers": ["Dim"], "pairs": True}, UsageError, "there is only Dim"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_compared_is_said_in_a_sentence(
    place: Workspace, models: dict[str, ModelFolder], mistake: str
) -> None:
    prepare, values, error, message = MISTAKES[mistake]
    prepare(place, models)
    with pytest.raises(error, match=message) as said:
        choose(place, **values)
    assert len(str(said.value).splitlines()) == 1
    assert not list(place.root.rglob("best.json"))
