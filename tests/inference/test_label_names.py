"""Segmentations say what their labels mean, and nobody else's dataset.json is touched."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.dataset import DatasetDescription
from renalplan.evaluation.surgery.report import find_scheme
from renalplan.files import read_record, write_json
from renalplan.inference.ensembling import ensemble_folders
from renalplan.inference.label_names import write_label_names
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.predicting import predict

Make = Callable[..., ModelFolder]
Write = Callable[..., np.ndarray]
REGIONS = DatasetDescription(
    channel_names={"0": "CT"},
    labels={"background": 0, "left": [1, 3], "right": [2], "tumor": [3], "ignore": 4},
    regions_class_order=[1, 2, 3],
    patients={"case_a": "somebody"},
    numTraining=7,
)
PAIRED = DatasetDescription(
    channel_names={"0": "CT"},
    labels={"background": 0, "left": 1, "right": 2},
    mirrored_labels=[("left", "right")],
)


def _predict(model: ModelFolder, folder: Path, out: str = "out", **values: Any) -> None:
    there = {"models": [model.path], "device": "cpu", "progress": False, "workers": 0}
    predict(folder / "in", folder / out, **there, **values)


def _scheme(out: Path) -> LabelScheme:
    return find_scheme(out / "a.nii.gz", None)


@pytest.mark.parametrize("meant", [REGIONS, PAIRED])
def test_all_of_the_scheme_is_said_and_nothing_of_patients(
    meant: DatasetDescription, tmp_path: Path
) -> None:
    write_label_names(tmp_path, meant, ".mha", overwrite=False, alone=True)
    said = read_record(tmp_path / "dataset.json", DatasetDescription)
    assert said.scheme() == meant.scheme()
    assert (said.channels, said.file_ending) == (("CT",), ".mha")
    assert "somebody" not in (tmp_path / "dataset.json").read_text()


def test_predictions_are_read_by_what_their_model_calls_them(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model = make_model()
    _predict(model, tmp_path)
    assert _scheme(tmp_path / "out") == model.scheme
    before = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
    _predict(model, tmp_path)
    assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == before


def test_what_was_said_goes_with_the_predictions_that_are_replaced(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    _predict(make_model(), tmp_path)
    other = make_model("other", labels={"background": 0, "spleen": 1})
    _predict(other, tmp_path, overwrite=True)
    assert list(_scheme(tmp_path / "out").foreground) == ["spleen"]


@pytest.mark.parametrize(
    "text", ['{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}', "{", ""]
)
def test_what_somebody_else_says_is_left_and_told(
    make_model: Make, write_scan: Write, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    theirs = tmp_path / "out" / "dataset.json"
    theirs.parent.mkdir()
    theirs.write_text(text)
    with caplog.at_level(logging.WARNING, "renalplan"):
        _predict(make_model(), tmp_path, overwrite=True)
    assert theirs.read_text() == text
    assert f"{theirs}" in caplog.text
    assert "it is left as it is" in caplog.text
    assert (tmp_path / "out" / "a.nii.gz").is_file()


def test_every_part_may_say_it_and_none_takes_another_ones_file_away(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    for name in "ab":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    model, writing = make_model(), tmp_path / "out" / ".tmp-1-dataset.json"
    writing.parent.mkdir()
    writing.write_text("{")  # by another part, at this moment
    for part in (0, 1):
        _predict(model, tmp_path, parts=2, part=part)
    assert writing.is_file()
    assert _scheme(tmp_path / "out") == model.scheme
    _predict(model, tmp_path)  # alone: nobody writes it any more
    assert not writing.exists()


def test_decisions_about_a_case_of_that_name_keep_it(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "dataset_0000.nii.gz")
    _predict(make_model(), tmp_path)
    assert (tmp_path / "out" / "dataset.nii.gz").is_file()
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("said", ["by both", "by one", "of others", "by none"])
def test_an_ensemble_says_what_its_folders_do(
    make_model: Make, write_scan: Write, tmp_path: Path, said: str
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model = make_model()
    for folder in ("one", "two"):
        _predict(model, tmp_path, folder, save_probabilities=True)
    for folder in {"by both": (), "by one": ("one",)}.get(said, ("one", "two")):
        path = tmp_path / folder / "dataset.json"
        if said == "of others":
            write_json(
                path, json.loads(path.read_text()) | {"labels": {"background": 0, "liver": 1}}
            )
        else:
            path.unlink()
    ensemble_folders([tmp_path / "one", tmp_path / "two"], tmp_path / "mean")
    if said in ("of others", "by none"):
        assert not (tmp_path / "mean" / "dataset.json").exists()
    else:
        assert _scheme(tmp_path / "mean") == model.scheme
