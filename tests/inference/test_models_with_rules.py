"""A model's postprocessing.json is obeyed by prediction and ensembles, unless told otherwise."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import ModelError, UsageError
from renalplan.files import write_json
from renalplan.images import read_grid
from renalplan.inference.ensembling import ensemble_folders
from renalplan.inference.predictor import Predictor
from renalplan.inference.segmenter import InferenceOptions
from renalplan.model_folder import ModelFolder
from renalplan.postprocessing import POSTPROCESSING, MinimumVolume, Postprocessing
from renalplan.predicting import predict

Make = Callable[..., ModelFolder]
CPU = InferenceOptions(device="cpu")
RULES = Postprocessing(rules=(MinimumVolume(structure="kidney", ml=0.1),))


def ruled(make_model: Make, name: str, rules: Postprocessing = RULES, **values: Any) -> ModelFolder:
    model = make_model(name, **values)
    write_json(model.path / POSTPROCESSING, rules)
    return ModelFolder.open(model.path)


def canonical() -> np.ndarray:
    """A kidney of 192 voxels of 2 microlitres, and a speck."""
    array = np.full((10, 12, 14), -1, np.float32)
    array[2:6, 3:7, 1:13] = 1
    array[8, 10, 3] = 1
    return array


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """The same on disk, stored in another orientation."""
    image = sitk.GetImageFromArray(canonical())
    image.SetSpacing((1.0, 1.0, 2.0))
    image = sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (True, False, True), False)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "a_0000.nii.gz"))
    return tmp_path / "in"


def seen(out: Path, scan: Path) -> np.ndarray:
    """The segmentation in canonical order; it lies on the scan's grid."""
    assert read_grid(out / "a.nii.gz") == read_grid(scan / "a_0000.nii.gz")
    image = sitk.DICOMOrient(sitk.ReadImage(str(out / "a.nii.gz")), "LPS")
    found: np.ndarray = sitk.GetArrayFromImage(image)
    return found


def run(scan: Path, out: Path, *models: ModelFolder, **values: Any) -> np.ndarray:
    predict(
        scan, out, models=[m.path for m in models], device="cpu", progress=False, **values
    )  # fmt: skip
    return seen(out, scan)


FULL = canonical() > 0
CLEAN = FULL.copy()
CLEAN[8, 10, 3] = False


def test_rules_are_applied_by_default_and_what_went_is_told(
    make_model: Make, scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ruled(make_model, "model")
    with caplog.at_level(logging.INFO, logger="renalplan"):
        assert np.array_equal(run(scan, tmp_path / "out", model), CLEAN)
    said = "1 piece of kidney removed (0.002 ml) by the rule minimum_volume"
    assert f"a: {said}" in caplog.messages
    told = json.loads((tmp_path / "out" / "a.json").read_text())
    assert told["decisions"] == {
        "postprocessing": {
            "removed": [
                {"rule": "minimum_volume", "structure": "kidney", "ml": 0.1, "pieces_ml": [0.002]}
            ],
            "remarks": [said],
        }
    }
    assert np.array_equal(run(scan, tmp_path / "plain", model, postprocessing=False), FULL)
    assert not (tmp_path / "plain" / "a.json").exists()


def test_arrays_in_memory_obey_too(make_model: Make) -> None:
    model = ruled(make_model, "model")
    spacing = (2.0, 1.0, 1.0)
    assert np.array_equal(
        Predictor.from_model(model, None, CPU).predict(canonical(), spacing), CLEAN
    )
    plain = Predictor.from_model(model, None, CPU, postprocessing=False)
    assert np.array_equal(plain.predict(canonical(), spacing), FULL)


def test_other_rules_are_another_job(make_model: Make, scan: Path, tmp_path: Path) -> None:
    model = ruled(make_model, "model")
    run(scan, tmp_path / "out", model)
    with pytest.raises(UsageError, match=r"other weights, rules .*--overwrite"):
        run(scan, tmp_path / "out", model, postprocessing=False)
    write_json(model.path / POSTPROCESSING, Postprocessing())
    with pytest.raises(UsageError, match=r"other weights, rules .*--overwrite"):
        run(scan, tmp_path / "out", model)
    assert np.array_equal(run(scan, tmp_path / "out", model, overwrite=True), FULL)


def test_no_rules_are_the_job_of_a_model_without_the_file(
    make_model: Make, scan: Path, tmp_path: Path
) -> None:
    model = make_model()
    run(scan, tmp_path / "out", model)
    write_json(model.path / POSTPROCESSING, Postprocessing())
    report = predict(scan, tmp_path / "out", models=[model.path], device="cpu", progress=False)
    assert report.kept == ["a"]


@pytest.mark.parametrize("alike", [True, False])
def test_several_models_obey_the_rules_they_agree_on(
    make_model: Make, scan: Path, tmp_path: Path, alike: bool, caplog: pytest.LogCaptureFixture
) -> None:
    other = RULES if alike else Postprocessing(rules=(MinimumVolume(structure="kidney", ml=9),))
    models = [ruled(make_model, "one"), ruled(make_model, "two", other, sign=0.5)]
    expected = CLEAN if alike else FULL
    caplog.set_level(logging.INFO, logger="renalplan")
    assert np.array_equal(run(scan, tmp_path / "pass", *models), expected)
    for model in models:
        run(scan, tmp_path / f"by_{model.path.name}", model, save_probabilities=True)
    folders = [tmp_path / "by_one", tmp_path / "by_two"]
    caplog.clear()
    ensemble_folders(folders, tmp_path / "out")
    assert np.array_equal(seen(tmp_path / "out", scan), expected)
    assert any("have different rules" in said for said in caplog.messages) != alike
    assert any("a: 1 piece of kidney removed" in said for said in caplog.messages) == alike
    ensemble_folders(folders, tmp_path / "raw", postprocessing=False)
    assert np.array_equal(seen(tmp_path / "raw", scan), FULL)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "postprocessing.json is not valid JSON"),
        ('{"rules": [{"rule": "keep_largest"}]}', "postprocessing.json: rules.0: .*keep_largest"),
        ('{"rules": [], "more": 1}', "postprocessing.json: more: Extra inputs"),
        (
            '{"rules": [{"rule": "minimum_volume", "structure": "kidney", "ml": 0}]}',
            "ml: Input should be greater than 0",
        ),
        (
            '{"rules": [{"rule": "at_most_two_kidneys", "at_most": 1}]}',
            "at_most: Input should be greater than or equal to 2",
        ),
        (
            '{"rules": [{"rule": "minimum_volume", "structure": "liver", "ml": 1}]}',
            "there is no structure 'liver' among the labels kidney; correct or delete the file",
        ),
        (
            '{"rules": [{"rule": "vessels_reach_the_aorta"}]}',
            "vessels_reach_the_aorta: there is no vessel among the labels kidney",
        ),
    ],
)
def test_rules_that_are_none_are_refused(make_model: Make, value: str, message: str) -> None:
    model = make_model()
    (model.path / POSTPROCESSING).write_text(value)
    with pytest.raises(ModelError, match=message):
        ModelFolder.open(model.path)
