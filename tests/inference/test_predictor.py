"""Folders of scans in, segmentations out: by rename, resumable, on exactly the scan's grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import ModelError, PredictionError, UsageError
from renalplan.geometry import Box
from renalplan.images import read_grid
from renalplan.inference.decisions import Decisions
from renalplan.inference.options import InferenceOptions, choose_device
from renalplan.inference.predictor import Predictor
from renalplan.inference.scans import find_scans
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.model_folder import ModelFolder
from renalplan.plan import StagePlan
from renalplan.predicting import predict
from renalplan.workspace import Workspace

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]
CPU = InferenceOptions(device="cpu", engine="torch", precision="fp32")


def _labels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _predict(model: ModelFolder, images: Path, out: Path, **values: object):  # type: ignore[no-untyped-def]
    return predict(images, out, models=[model.path], device="cpu", progress=False, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_segmentation_has_its_scans_format_grid_and_axis_order(
    make_model: Make, write_scan: Write, tmp_path: Path, ending: str, turned: bool
) -> None:
    array = write_scan(tmp_path / "in" / f"a_0000{ending}", turned=turned)
    report = _predict(make_model(), tmp_path / "in", tmp_path / "out")
    answer = tmp_path / "out" / f"a{ending}"
    assert list(report.done) == ["a"]
    assert np.array_equal(_labels(answer), array > 0)
    assert read_grid(answer) == read_grid(tmp_path / "in" / f"a_0000{ending}")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"a{ending}",
        "dataset.json",
        "predict_report.json",
    ]


def test_plain_names_are_taken_where_there_is_one_channel(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    for name in ("one", "two.dots"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    report = _predict(make_model(), tmp_path / "in", tmp_path / "out")
    assert sorted(report.done) == ["one", "two.dots"]
    assert (tmp_path / "out" / "two.dots.nii.gz").is_file()


def test_a_single_file_is_an_input_too(make_model: Make, write_scan: Write, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "scan.nrrd")
    report = _predict(make_model(), tmp_path / "in" / "scan.nrrd", tmp_path / "out")
    assert list(report.done) == ["scan"]


def test_channels_are_given_in_their_order(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    # the network looks at the last channel only
    write_scan(tmp_path / "in" / "a_0000.nii.gz", sign=-1)
    array = write_scan(tmp_path / "in" / "a_0001.nii.gz")
    _predict(make_model(channels=("one", "two")), tmp_path / "in", tmp_path / "out")
    assert np.array_equal(_labels(tmp_path / "out" / "a.nii.gz"), array > 0)


def test_what_is_there_is_kept_and_what_is_missing_is_made(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    model = make_model()
    for name in "ab":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    _predict(model, tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / "b.nii.gz").unlink()
    report = _predict(model, tmp_path / "in", tmp_path / "out")
    assert (list(report.done), report.kept) == (["b"], ["a"])
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == before
    report = _predict(model, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert sorted(report.done) == ["a", "b"]


@pytest.mark.parametrize(
    ("what", "says"), [("model", "of another model"), ("options", "made with other options")]
)
def test_predictions_of_another_model_are_not_mixed_in(
    make_model: Make, write_scan: Write, tmp_path: Path, what: str, says: str
) -> None:
    array = write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model = make_model()
    _predict(model, tmp_path / "in", tmp_path / "out")
    other = make_model("other", sign=-1.0) if what == "model" else model
    values = {} if what == "model" else {"step": 1.0}
    with pytest.raises(UsageError, match=rf"predictions {says} .*--overwrite"):
        _predict(other, tmp_path / "in", tmp_path / "out", **values)
    assert np.array_equal(_labels(tmp_path / "out" / "a.nii.gz"), array > 0)
    _predict(other, tmp_path / "in", tmp_path / "out", overwrite=True, **values)
    # the opposite model finds nothing: what is dark lies outside the body box
    expected = np.zeros_like(array) if what == "model" else array > 0
    assert np.array_equal(_labels(tmp_path / "out" / "a.nii.gz"), expected)


def test_an_unreadable_case_is_reported_and_the_others_go_on(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    (tmp_path / "in" / "b_0000.nii.gz").write_bytes(b"not an image")
    write_scan(tmp_path / "in" / "c_0000.nii.gz")
    report = _predict(make_model(), tmp_path / "in", tmp_path / "out")
    assert list(report.done) == ["a", "c"]
    assert list(report.failed) == ["b"]
    assert "b_0000.nii.gz" in report.failed["b"]
    written = json.loads((tmp_path / "out" / "predict_report.json").read_text())
    assert list(written["failed"]) == ["b"]
    assert not (tmp_path / "out" / "b.nii.gz").exists()
    assert not list((tmp_path / "out").glob(".tmp-*"))


@pytest.mark.parametrize("inside", ["", "out", "deep/out"])
def test_the_output_may_not_lie_in_the_input(
    make_model: Make, write_scan: Write, tmp_path: Path, inside: str
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    with pytest.raises(UsageError, match="lies inside the input"):
        _predict(make_model(), tmp_path / "in", tmp_path / "in" / inside)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("slab", [1, 1 << 20])
def test_saved_probabilities_have_the_files_axis_order(
    make_model: Make,
    write_scan: Write,
    tmp_path: Path,
    turned: bool,
    slab: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("renalplan.inference.fields.SLAB_BYTES", slab)
    array = write_scan(tmp_path / "in" / "a_0000.nii.gz", turned=turned)
    _predict(make_model(), tmp_path / "in", tmp_path / "out", save_probabilities=True)
    stored = blosc2.open(str(tmp_path / "out" / "a.probabilities.b2nd"), mode="r")[:]
    assert stored.dtype == np.float16
    assert stored.shape == (2, *array.shape)
    assert np.array_equal(stored.argmax(0), _labels(tmp_path / "out" / "a.nii.gz"))
    assert np.allclose(stored.astype(float).sum(0), 1, atol=2e-3)


def test_an_array_in_memory_is_segmented(make_model: Make) -> None:
    array = np.full((10, 12, 14), -1.0)
    array[2:6, 3:7, 4:12] = 1
    predictor = Predictor.from_model(make_model(), None, CPU)
    for image in (array, array[None]):
        labels = predictor.predict(image, (2.0, 1.0, 1.0))
        assert np.array_equal(labels, array > 0)
    with pytest.raises(PredictionError, match=r"needs 1 channels .MR., the image has 2"):
        predictor.predict(np.stack([array, array]), (2.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("array", "spacing", "says"),
    [
        (np.zeros((12, 14)), (2.0, 1.0, 1.0), r"shape \(12, 14\) is no scan"),
        (np.zeros((0, 12, 14)), (2.0, 1.0, 1.0), r"shape \(1, 0, 12, 14\) is no scan"),
        (np.full((10, 12, 14), np.nan), (2.0, 1.0, 1.0), "not finite"),
        (np.zeros((10, 12, 14)), (2.0, 1.0), "not three lengths"),
        (np.zeros((10, 12, 14)), (2.0, 1.0, 0.0), "not three lengths"),
        (np.zeros((10, 12, 14)), (2.0, 1.0, float("inf")), "not three lengths"),
    ],
)
def test_what_is_no_scan_is_refused(
    make_model: Make, array: np.ndarray, spacing: tuple[float, float, float], says: str
) -> None:
    with pytest.raises(PredictionError, match=says):
        Predictor.from_model(make_model(), None, CPU).predict(array, spacing)


def test_an_array_of_another_spacing_keeps_its_shape(make_model: Make) -> None:
    array = np.full((20, 24, 28), -1.0)
    array[4:12, 6:14, 8:24] = 1
    labels = Predictor.from_model(make_model(), None, CPU).predict(array, (1.0, 0.5, 0.5))
    assert labels.shape == array.shape
    assert np.array_equal(labels, array > 0)  # two voxels of the scan make one of the plan


def test_several_models_are_averaged_by_weight(make_model: Make) -> None:
    array = np.full((10, 12, 14), 1.0)
    yes, no = make_model("yes"), make_model("no", sign=-1.0)
    members = [Predictor.from_model(model, None, CPU).members[0] for model in (yes, no)]
    assert Predictor(members, [2.0, 1.0]).predict(array, (2.0, 1.0, 1.0)).all()
    assert not Predictor(members, [1.0, 2.0]).predict(array, (2.0, 1.0, 1.0)).any()
    other = make_model("other", labels={"background": 0, "tumour": 1})
    with pytest.raises(ModelError, match="have different labels"):
        Predictor([members[0], Predictor.from_model(other, None, CPU).members[0]])
    with pytest.raises(UsageError, match="no model"):
        Predictor([])


def test_folds_are_averaged_and_only_finished_ones_are_taken(make_model: Make) -> None:
    model = make_model(folds=("0", "1"))
    assert Predictor.from_model(model, None, CPU).members[0].folds == ["0", "1"]
    (model.fold_folder(1) / "finished.json").unlink()
    assert Predictor.from_model(model, None, CPU).members[0].folds == ["0"]
    with pytest.raises(ModelError, match="fold 1 is not finished"):
        Predictor.from_model(model, ["1"], CPU)
    validating = Predictor.from_model(model, ["1"], CPU, unfinished=True)
    assert validating.members[0].folds == ["1"]


def test_a_network_of_an_unknown_module_is_not_imported(
    make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renalplan.imports._trusted", set())
    predictor = Predictor.from_model(make_model(), None, CPU)
    with pytest.raises(ModelError, match="add --plugin stub_networks"):
        predictor.predict(np.zeros((10, 12, 14)), (2.0, 1.0, 1.0))


def test_inputs_that_hold_nothing_usable_are_refused(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no images"):
        list(find_scans(tmp_path / "empty", ("CT",)))
    with pytest.raises(UsageError, match="does not exist"):
        list(find_scans(tmp_path / "nowhere", ("CT",)))
    write_scan(tmp_path / "plain" / "a.nii.gz")
    with pytest.raises(UsageError, match="case_0000, case_0001"):
        list(find_scans(tmp_path / "plain", ("CT", "PET")))
    with pytest.raises(UsageError, match="give -i a folder or one of them"):
        list(find_scans(tmp_path / "plain" / "a.nii.gz", ("CT", "PET")))
    with pytest.raises(UsageError, match="does not exist"):
        _predict(make_model(), tmp_path / "nowhere", tmp_path / "out")


def test_a_model_is_only_guessed_where_there_is_one(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    where = {"workspace": Workspace(tmp_path), "device": "cpu", "progress": False}
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no trained model"):
        predict(tmp_path / "in", out, **where)  # type: ignore[arg-type]
    make_model("results/Dataset001_Test/One")
    assert predict(tmp_path / "in", out, **where).done  # type: ignore[arg-type]
    make_model("results/Dataset001_Test/Two")
    with pytest.raises(UsageError, match=r"holds 2 models; choose with -m:\n  -m .*One"):
        predict(tmp_path / "in", out, **where)  # type: ignore[arg-type]
    chosen = predict(tmp_path / "in", out, task="1", trainers=["One"], **where)  # type: ignore[arg-type]
    assert chosen.kept == ["a"]


@pytest.mark.parametrize("step", [0, -1, 1.1])
def test_a_step_beyond_its_range_is_refused(step: float) -> None:
    with pytest.raises(UsageError, match="must be above 0 and at most 1"):
        InferenceOptions(step=step)


def test_devices_that_are_not_there_are_named() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UsageError, match="--device tpu is not known"):
        choose_device("tpu")


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in folders whose name holds "ruled" decide something."""
    real = StagedSegmenter.decisions

    def decide(self: StagedSegmenter, stage: StagePlan, boxes: list[Box]) -> Decisions | None:
        if "ruled" not in str(self.model.path):
            return real(self, stage, boxes)
        return Decisions({"boxes": len(boxes)}, ("it is a test",))

    monkeypatch.setattr(StagedSegmenter, "decisions", decide)
    return


def _decided(out: Path) -> dict:
    found: dict = json.loads((out / "a.json").read_text())
    assert found["case"] == "a"
    decisions: dict = found["decisions"]
    return decisions


def test_each_models_decisions_stand_under_its_name(
    make_model: Make, write_scan: Write, tmp_path: Path, rules: None
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    models = [make_model(name) for name in ("ruled", "plain", "x/ruled_too", "y/ruled_too")]
    out = tmp_path / "out"
    predict(
        tmp_path / "in", out, models=[m.path for m in models], device="cpu", progress=False
    )  # fmt: skip
    own = {"boxes": 1, "remarks": ["it is a test"]}
    assert _decided(out) == {
        "ruled": own,
        str(tmp_path / "x" / "ruled_too"): own,
        str(tmp_path / "y" / "ruled_too"): own,
    }


def test_decisions_are_of_the_segmentation_beside_them(
    make_model: Make, write_scan: Write, tmp_path: Path, rules: None
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    out = tmp_path / "out"
    _predict(make_model("ruled"), tmp_path / "in", out)
    assert _decided(out) == {"ruled": {"boxes": 1, "remarks": ["it is a test"]}}
    # a model without rules takes its place, and leaves what is not ours
    plain = make_model("plain")
    _predict(plain, tmp_path / "in", out, overwrite=True)
    assert not (out / "a.json").exists()
    (out / "a.json").write_text('{"notes": "of the reader"}')
    _predict(plain, tmp_path / "in", out, overwrite=True)
    assert json.loads((out / "a.json").read_text()) == {"notes": "of the reader"}


def test_what_is_made_anew_leaves_no_probabilities_or_maps_of_before(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model, out = make_model(), tmp_path / "out"
    _predict(model, tmp_path / "in", out, save_probabilities=True, uncertainty=True)
    made = sorted(path.name for path in out.rglob("a*"))
    assert made == [
        "a.json", "a.nii.gz", "a.probabilities.b2nd", "a.probabilities.json", "a_entropy.nii.gz",
    ]  # fmt: skip
    _predict(model, tmp_path / "in", out, overwrite=True)
    assert [path.name for path in out.rglob("a*")] == ["a.nii.gz"]


def test_files_that_no_run_of_ours_has_written_are_left_alone(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    own = tmp_path / "out" / "a.nii.gz"
    own.parent.mkdir()
    own.write_bytes(b"drawn by hand")
    with pytest.raises(UsageError, match=rf"{own} is there and no predict_report.json says"):
        _predict(make_model(), tmp_path / "in", tmp_path / "out")
    assert own.read_bytes() == b"drawn by hand"
    _predict(make_model("again"), tmp_path / "in", tmp_path / "out", overwrite=True)
    assert own.read_bytes() != b"drawn by hand"


@pytest.mark.parametrize(
    ("out", "says"),
    [("file/sub", r"cannot be made \(Not a directory\)"), ("file", "is not a folder")],
)
def test_an_output_folder_that_cannot_be_made_is_said(
    make_model: Make, write_scan: Write, tmp_path: Path, out: str, says: str
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=says):
        _predict(make_model(), tmp_path / "in", tmp_path / out)


def test_uncertainty_has_no_forecast_and_a_part_needs_parts(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    with pytest.raises(UsageError, match="leave out --max_ram or --uncertainty"):
        _predict(make_model(), tmp_path / "in", tmp_path / "out", max_ram="4G", uncertainty=True)
    with pytest.raises(UsageError, match="--part 0 needs --parts"):
        _predict(make_model("again"), tmp_path / "in", tmp_path / "out", part=0)


def test_other_rules_are_another_job(make_model: Make, write_scan: Write, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model = make_model()
    _predict(model, tmp_path / "in", tmp_path / "out")
    path = model.path / "trainer.json"
    changed = json.loads(path.read_text())
    changed["segmenter"]["arguments"]["patch_sizes"] = {"whole": [4, 8, 8]}
    path.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="other weights, rules"):
        _predict(ModelFolder.open(model.path), tmp_path / "in", tmp_path / "out")


def test_a_refused_folder_says_what_differs(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model, scans, out = make_model(), tmp_path / "in", tmp_path / "out"
    _predict(model, scans, out)
    other = InferenceOptions(device="cpu", step=1.0, tta=True)
    with pytest.raises(UsageError, match=r"step 0\.5, now 1\.0, tta off, now on"):
        Predictor.from_model(model, None, other).predict_folder(scans, out)
    with pytest.raises(UsageError, match=rf"of another model \({model.path}\)"):
        _predict(make_model("another", sign=-1.0), scans, out)
    # a report of before options were written down
    path = out / "predict_report.json"
    before = json.loads(path.read_text())
    del before["options"]
    path.write_text(json.dumps(before))
    with pytest.raises(UsageError, match="other weights, rules"):
        Predictor.from_model(model, None, other).predict_folder(scans, out)
