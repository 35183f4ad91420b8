"""Saved probabilities are averaged to what one pass would have said, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from renalplan.errors import UsageError
from renalplan.files import write_json
from renalplan.geometry import Grid
from renalplan.images import read_grid
from renalplan.inference.ensembling import EnsembleReport, ensemble_folders
from renalplan.inference.probabilities import ProbabilityRecord, SavedProbabilities
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.predicting import predict

Make = Callable[..., ModelFolder]
CLASSES = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
REGIONS = LabelScheme(names=("kidney", "tumor"), values=((1, 2), (2,)), region_values=(1, 2))
GRID = Grid(
    size=(7, 6, 5), spacing=(1.0, 1.5, 2.0), origin=(3.0, 4.0, 5.0),
    direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
)  # fmt: skip


def save(
    folder: Path,
    case: str,
    seed: int,
    scheme: LabelScheme = CLASSES,
    grid: Grid = GRID,
    **values: Any,
) -> np.ndarray:
    """Random probabilities of a case, as `predict` saves them; returned in double precision."""
    array = np.random.default_rng(seed).random((scheme.heads, *grid.shape))
    if not scheme.has_regions:
        array /= array.sum(0)
    stored = array.astype(np.float16)
    folder.mkdir(exist_ok=True)
    blosc2.asarray(stored, urlpath=str(folder / f"{case}.probabilities.b2nd"), mode="w")
    record = ProbabilityRecord(
        models=(folder.name,), ending=values.get("ending", ".nii.gz"), labels=scheme, grid=grid
    )
    write_json(folder / f"{case}.probabilities.json", record)
    return stored.astype(np.float64)


def labels(path: Path) -> np.ndarray:
    found: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return found


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two folders of the cases `a` and `b`."""
    for number, name in enumerate(("one", "two")):
        for case in "ab":
            save(tmp_path / name, case, 10 * number + ord(case))
    return [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("scheme", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 1.0]])
@pytest.mark.parametrize("slab", [1, 4 * 3 * 42 * 2, 1 << 20])
def test_labels_are_those_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: LabelScheme,
    weights: list[float] | None, slab: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("renalplan.inference.fields.SLAB_BYTES", slab)
    names = ("one", "two", "three")
    arrays = [save(tmp_path / n, "a", i, scheme) for i, n in enumerate(names)]
    mean = np.average(arrays, axis=0, weights=weights)
    if scheme is CLASSES:
        expected = mean.argmax(0)
    else:
        expected = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
    ensemble_folders([tmp_path / n for n in names], tmp_path / "out", weights=weights)
    answer = tmp_path / "out" / "a.nii.gz"
    assert np.array_equal(labels(answer), expected)
    assert read_grid(answer).differences(GRID) == []


def test_the_answer_is_that_of_one_pass(make_model: Make, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).normal(size=(40, 60, 70))
    image = sitk.GetImageFromArray(20 * gaussian_filter(noise, 3).astype(np.float32))
    image.SetSpacing((1.0, 1.1, 2.0))
    image.SetDirection((0.0, 0.6, 0.8, -1.0, 0.0, 0.0, 0.0, -0.8, 0.6))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "a_0000.mha"))
    models = [
        make_model("fine", sign=0.08, spacing=(2.0, 1.0, 1.0)),
        make_model("coarse", sign=-0.05, spacing=(4.0, 2.0, 2.5)),
    ]
    common: dict[str, Any] = {"device": "cpu", "progress": False, "step": 1.0}
    folders = [tmp_path / f"by_{model.path.name}" for model in models]
    for model, folder in zip(models, folders, strict=True):
        predict(tmp_path / "in", folder, models=[model.path], save_probabilities=True, **common)
    paths = [model.path for model in models]
    predict(tmp_path / "in", tmp_path / "pass", models=paths, weights=[1, 2], **common)
    ensemble_folders(folders, tmp_path / "out", weights=[1, 2])
    one, two = labels(tmp_path / "pass" / "a.mha"), labels(tmp_path / "out" / "a.mha")
    assert (one == two).mean() >= 0.999
    assert 0.1 < one.mean() < 0.9
    alone = labels(folders[0] / "a.mha")
    assert (alone == one).mean() < 0.9  # the second model counts
    scan = read_grid(tmp_path / "in" / "a_0000.mha")
    assert read_grid(tmp_path / "out" / "a.mha") == scan
    assert one.dtype == two.dtype
    written = SavedProbabilities.open(folders[0], "a").record
    assert (written.labels, written.grid) == (models[0].scheme, scan)
    assert written.models == (str(models[0].path),)


def test_what_is_there_is_kept_until_its_files_change(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[str, str]] = []
    ensemble_folders(pair, out, on_case=lambda *state: seen.append(state))
    assert seen == [("a", "done"), ("b", "done")]
    report = EnsembleReport.model_validate_json((out / "ensemble_report.json").read_text())
    assert report.folders == tuple(str(folder) for folder in pair)
    assert report.models == {str(folder): (folder.name,) for folder in pair}
    (out / "b.nii.gz").unlink()
    again = ensemble_folders(pair, out)
    assert (list(again.done), again.kept) == (["b"], ["a"])
    before = labels(out / "a.nii.gz")
    save(pair[0], "a", 99)
    again = ensemble_folders(pair, out)
    assert (list(again.done), again.kept) == (["a"], ["b"])
    assert not np.array_equal(labels(out / "a.nii.gz"), before)
    assert sorted(ensemble_folders(pair, out, overwrite=True).done) == ["a", "b"]
    with pytest.raises(UsageError, match=r"other folders, or with other weights .*--overwrite"):
        ensemble_folders(pair, out, weights=[2, 1])
    ensemble_folders(pair, out, weights=[2, 1], overwrite=True)


def test_a_damaged_array_is_reported_and_the_others_go_on(pair: list[Path], tmp_path: Path) -> None:
    array = np.full((3, *GRID.shape), np.nan, np.float16)
    blosc2.asarray(array, urlpath=str(pair[1] / "a.probabilities.b2nd"), mode="w")
    report = ensemble_folders(pair, tmp_path / "out")
    assert list(report.done) == ["b"]
    assert "two/a.probabilities.b2nd holds values that are not finite" in report.failed["a"]
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    # what is repaired is done by the next run
    save(pair[1], "a", 3)
    assert list(ensemble_folders(pair, tmp_path / "out").done) == ["a"]


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _lazy(folder: Path) -> None:
    """An expression that would compute when read."""
    operand = blosc2.asarray(np.ones((3, *GRID.shape)), urlpath=str(folder / "x.b2nd"), mode="w")
    (folder / "a.probabilities.b2nd").unlink()
    (operand + 1).save(str(folder / "a.probabilities.b2nd"))


OTHER_GRID = Grid(
    size=(7, 6, 5), spacing=(1.0, 1.5, 2.5), origin=GRID.origin, direction=GRID.direction
)
SMALLER = Grid(size=(7, 6, 4), spacing=GRID.spacing, origin=GRID.origin, direction=GRID.direction)
NAMED = LabelScheme(names=("background", "kidney", "cyst"), values=((0,), (1,), (2,)))
B = "two/b.probabilities"
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing folder": (shutil.rmtree, "two is not a folder"),
    "nothing in it": (lambda f: [p.unlink() for p in f.iterdir()], "two holds no probabilities"),
    "a case less": (lambda f: (f / "b.probabilities.b2nd").unlink(), f"{B}.b2nd is missing, which .*one has"),
    "a case more": (lambda f: save(f, "c", 1), "one/c.probabilities.b2nd is missing, which .*two has"),
    "no record": (lambda f: (f / "b.probabilities.json").unlink(), f"{B}.json is missing"),
    "bad record": (lambda f: (f / "b.probabilities.json").write_text("{"), f"{B}.json is not valid JSON"),
    "unknown key": (lambda f: _edit(f / "b.probabilities.json", x=1), f"{B}.json: x: Extra inputs"),
    "odd ending": (lambda f: _edit(f / "b.probabilities.json", ending="/../x.nii"), "ending '/../x.nii' is not one of"),
    "odd labels": (
        lambda f: _edit(f / "b.probabilities.json", labels={"names": ["a"], "values": []}),
        f"{B}.json: .*labels need values",
    ),
    "odd grid": (
        lambda f: _edit(f / "b.probabilities.json", grid={"size": [1, 1, 1], "spacing": [1, 1, 1], "origin": [0, 0, 0], "direction": [0] * 9}),
        f"{B}.json: .*direction without volume",
    ),
    "truncated": (lambda f: _truncate(f / "b.probabilities.b2nd"), f"{B}.b2nd cannot be opened"),
    "other labels": (lambda f: save(f, "b", 1, NAMED), f"{B}.b2nd and .*one/b.probabilities.b2nd have different labels"),
    "other spacing": (lambda f: save(f, "b", 1, grid=OTHER_GRID), f"{B}.b2nd does not lie on the grid of .*one/b.* spacing"),
    "other shape": (lambda f: save(f, "b", 1, grid=SMALLER), f"{B}.b2nd does not lie on the grid of .* size"),
    "array of another shape": (
        lambda f: blosc2.asarray(np.zeros((3, 4, 6, 7), np.float16), urlpath=str(f / "b.probabilities.b2nd"), mode="w"),
        f"{B}.b2nd has the shape .3, 4, 6, 7., which does not fit b.probabilities.json",
    ),
    "other numbers": (
        lambda f: blosc2.asarray(np.zeros((3, 5, 6, 7), np.float64), urlpath=str(f / "b.probabilities.b2nd"), mode="w"),
        f"{B}.b2nd is not a plain array of float16",
    ),
    "an expression": (_lazy, "two/a.probabilities.b2nd (is not a plain array|cannot be opened)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_folders_that_do_not_go_together_are_refused(
    pair: list[Path], tmp_path: Path, mistake: str
) -> None:
    prepare, message = MISTAKES[mistake]
    prepare(pair[1])
    with pytest.raises(UsageError, match=message):
        ensemble_folders(pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_and_outputs_that_make_no_sense_are_refused(
    pair: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="at least two folders"):
        ensemble_folders(pair[:1], tmp_path / "out")
    with pytest.raises(UsageError, match="is given twice; use --weights"):
        ensemble_folders([*pair, pair[0] / ".." / "one"], tmp_path / "out")
    with pytest.raises(UsageError, match="--weights 1 2 3: 3 for 2 folders"):
        ensemble_folders(pair, tmp_path / "out", weights=[1, 2, 3])
    with pytest.raises(UsageError, match="is also an input"):
        ensemble_folders(pair, pair[1])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is not a folder"):
        ensemble_folders(pair, tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "predict_report.json").write_text("{}")
    with pytest.raises(UsageError, match="other holds predictions of a model"):
        ensemble_folders(pair, tmp_path / "other")
