"""A folder is a job: one case's failure is its own, and what a killed run left is cleared away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.errors import ModelError
from renalplan.images import Volume
from renalplan.inference.predictor import Predictor
from renalplan.inference.report import PredictionReport
from renalplan.inference.scans import ScanFiles
from renalplan.model_folder import ModelFolder
from renalplan.predicting import predict

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]


def _predict(model: ModelFolder, folder: Path, **values: Any) -> PredictionReport:
    given: dict[str, Any] = {"device": "cpu", "progress": False, **values}
    return predict(folder / "in", folder / "out", models=[model.path], **given)


def _raise_for(case: str, problem: BaseException) -> Callable[..., Any]:
    real = Predictor.segment_case

    def segment(self: Predictor, scan: ScanFiles, volume: Volume, out: Path, **values: Any) -> Any:
        if scan.id == case:
            raise problem
        return real(self, scan, volume, out, **values)

    return segment


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (ValueError("what nobody\nforesaw"), "ValueError: what nobody foresaw. The traceback is"),
        (AssertionError(), "AssertionError. The traceback is in the report."),
        (MemoryError(), "memory ran out; free some"),
    ],
)
def test_what_nobody_foresaw_fails_one_case_with_its_traceback(
    make_model: Make,
    write_scan: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
    says: str,
) -> None:
    for name in "abc":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    model = make_model()
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment_case", _raise_for("b", problem))
        report = _predict(model, tmp_path)
    assert list(report.done) == ["a", "c"]
    assert report.failed["b"].startswith(says)
    written = json.loads((tmp_path / "out" / "predict_report.json").read_text())
    assert written["failed"] == report.failed
    assert list(written["tracebacks"]) == ["b"]
    assert f"in segment\n    raise problem\n{type(problem).__name__}" in written["tracebacks"]["b"]
    again = _predict(model, tmp_path)
    assert (list(again.done), again.kept, again.failed) == (["b"], ["a", "c"], {})


@pytest.mark.parametrize("problem", [ModelError("broken"), OSError(28, "no space")])
def test_what_no_other_case_would_survive_ends_the_run(
    make_model: Make,
    write_scan: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
) -> None:
    for name in "abc":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    monkeypatch.setattr(Predictor, "segment_case", _raise_for("b", problem))
    with pytest.raises(type(problem)):
        _predict(make_model(), tmp_path)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz"]


def test_only_this_jobs_own_leftovers_are_removed(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    ours = [
        ".tmp-12-a.nii.gz",
        ".tmp-12-a.json",
        ".tmp-7-a.probabilities.b2nd",
        ".tmp-1-predict_report.json",
    ]
    theirs = [".tmp-12-b.nii.gz", ".tmp-x-a.nii.gz", ".tmp-12-aa.nii.gz"]
    for name in (*ours, *theirs):
        (out / name).write_bytes(b"half")
    _predict(make_model(), tmp_path)
    assert sorted(p.name for p in out.glob(".tmp-*")) == sorted(theirs)


def test_a_report_from_before_there_were_tracebacks_is_understood(
    make_model: Make, write_scan: Write, tmp_path: Path
) -> None:
    write_scan(tmp_path / "in" / "a_0000.nii.gz")
    model = make_model()
    _predict(model, tmp_path)
    path = tmp_path / "out" / "predict_report.json"
    old = json.loads(path.read_text())
    del old["tracebacks"]
    path.write_text(json.dumps(old))
    assert _predict(model, tmp_path).kept == ["a"]
