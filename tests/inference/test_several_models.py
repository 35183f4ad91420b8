"""Models of other plans, segmenters and folds become one answer: the weighted mean of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import ModelError, UsageError
from renalplan.inference.weights import member_weights
from renalplan.model_folder import ModelFolder
from renalplan.predicting import find_models, predict
from renalplan.workspace import Workspace

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]


def _predict(images: Path, out: Path, *models: ModelFolder, **values: object) -> np.ndarray:
    """The saved probabilities of case `a`."""
    predict(
        images, out, models=[m.path for m in models], device="cpu", progress=False,
        save_probabilities=True, **values,  # type: ignore[arg-type]
    )  # fmt: skip
    stored: np.ndarray = blosc2.open(str(out / "a.probabilities.b2nd"), mode="r")[:]
    return stored.astype(np.float64)


@pytest.mark.parametrize("turned", [False, True])
def test_the_answer_is_the_weighted_mean_of_the_members(
    make_model: Make, write_scan: Write, tmp_path: Path, turned: bool
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz", noise=3, turned=turned)
    models = [
        make_model("fine", sign=0.08),
        make_model("coarse", sign=-0.05, spacing=(4.0, 2.0, 2.5), folds=("0", "1")),
        make_model("other", sign=0.06, segmenter="largest_component:LargestComponentSegmenter"),
    ]
    alone = [_predict(tmp_path / "in", tmp_path / m.path.name, m) for m in models]
    for first in range(3):  # the members differ, or the test would say nothing
        assert np.abs(alone[first] - alone[first - 1]).max() > 0.05
    weights = [3.0, 1.0, 2.0]
    expected = np.average(alone, axis=0, weights=weights)
    together = _predict(tmp_path / "in", tmp_path / "all", *models, weights=weights)
    assert np.abs(together - expected).max() < 1e-3  # float16
    plain = _predict(tmp_path / "in", tmp_path / "plain", *models)
    assert np.abs(plain - np.mean(alone, axis=0)).max() < 1e-3
    assert np.abs(plain - together).max() > 0.01
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "all" / "a.nii.gz")))
    sure = np.abs(expected[1] - 0.5) > 1e-3
    assert sure.mean() > 0.9
    assert np.array_equal(labels[sure], expected.argmax(0)[sure])
    assert 0 < labels[sure].mean() < 1


def test_other_weights_are_another_job(make_model: Make, write_scan: Write, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    models = [make_model("yes"), make_model("no", sign=-1.0)]
    _predict(tmp_path / "in", tmp_path / "out", *models, weights=[2, 1])
    with pytest.raises(UsageError, match=r"other weights, rules .*--overwrite"):
        _predict(tmp_path / "in", tmp_path / "out", *models, weights=[1, 2])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"--weights 1: 1 for 2 models; give one to each"),
        ([1.0, 2.0, 3.0], "3 for 2 models"),
        ([1.0, 0.0], "must be above 0; leave out models"),
        ([1.0, -2.0], "--weights 1 -2: each must be above 0"),
        ([1.0, float("nan")], "must be above 0"),
        ([1.0, float("inf")], "must be above 0"),
    ],
)
def test_weights_that_make_no_mean_are_refused(
    make_model: Make, write_scan: Write, tmp_path: Path, weights: list[float], message: str
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    models = [make_model("one"), make_model("two")]
    with pytest.raises(UsageError, match=message):
        _predict(tmp_path / "in", tmp_path / "out", *models, weights=weights)
    assert not (tmp_path / "out").exists()


def test_equal_weights_are_none() -> None:
    assert member_weights([3, 3], 2, "models") is None
    assert member_weights(None, 2, "models") is None
    assert member_weights((2, 1), 2, "models") == [2.0, 1.0]


def test_models_of_other_labels_or_channels_are_refused_before_they_are_loaded(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    one = make_model("one")
    (one.fold_folder("0") / "whole" / "model.safetensors").write_bytes(b"damaged")
    other = make_model("other", labels={"background": 0, "tumor": 1})
    with pytest.raises(ModelError, match=r"other and .*one have different labels"):
        _predict(tmp_path / "in", tmp_path / "out", one, other)
    late = make_model("late", channels=("late",))
    with pytest.raises(ModelError, match=r"late and .*one have different channels"):
        _predict(tmp_path / "in", tmp_path / "out", one, late)


def test_a_tasks_models_come_in_the_order_they_are_asked_for(
    make_model: Make, tmp_path: Path
) -> None:
    for name in "ABC":
        make_model(f"results/Dataset001_Test/{name}")
    found = find_models(Workspace(tmp_path), task="1", trainers=["C", "A"])
    assert [model.path.name for model in found] == ["C", "A"]
