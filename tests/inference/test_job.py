"""A folder is a job: one case's failure is its own, and what a killed run left is cleared away."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.errors import ModelError
from renalplan.images import Volume
from renalplan.inference import predictor, readers
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.report import PredictionReport
from renalplan.inference.scans import ScanFiles, find_scans
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
        (MemoryError("of 5 GiB"), "memory ran out (of 5 GiB); free some"),
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


@pytest.mark.parametrize("save_probabilities", [False, True])
def test_the_number_of_workers_changes_no_byte(
    make_model: Make, write_scan: Write, tmp_path: Path, save_probabilities: bool
) -> None:
    for number, name in enumerate("abcd"):
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz", sign=1 + number, turned=number > 1)
    (tmp_path / "in" / "c_0000.nii.gz").write_bytes(b"no image")
    model = make_model()
    found = {}
    for workers in (0, 1, 2):
        report = _predict(
            model, tmp_path, workers=workers, save_probabilities=save_probabilities, overwrite=True
        )
        assert (list(report.done), list(report.failed)) == (["a", "b", "d"], ["c"])
        files = (tmp_path / "out").glob("*.nii.gz" if not save_probabilities else "*.*")
        found[workers] = {p.name: p.read_bytes() for p in files if p.name != "predict_report.json"}
        found[workers]["why"] = report.failed["c"].encode()
    assert len(found[0]) == (11 if save_probabilities else 4)
    assert found[0] == found[1] == found[2]


def test_a_result_that_cannot_be_written_ends_a_run_with_workers_too(
    make_model: Make, write_scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(28, "no space left", str(path))

    for name in "ab":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    monkeypatch.setattr("renalplan.inference.predictor.write_volume", full)
    with pytest.raises(OSError, match="no space left"):
        _predict(make_model(), tmp_path, workers=1)
    written = json.loads((tmp_path / "out" / "predict_report.json").read_text())
    assert written["done_seconds"] == {}


def test_a_reader_that_dies_costs_one_case_at_most(
    make_model: Make, write_scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "killed", "killed_once", "z"):
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    stubbed = partial(readers.ReadAhead, function="stub_readers:read")
    monkeypatch.setattr(readers, "ReadAhead", stubbed)
    report = _predict(make_model(), tmp_path, workers=1)
    assert list(report.done) == ["a", "killed_once", "z"]
    assert list(report.failed) == ["killed"]
    assert "was killed by SIGKILL" in report.failed["killed"]
    assert "a second one was killed by SIGKILL" in report.failed["killed"]


@pytest.mark.parametrize("workers", [0, 1])
def test_cases_and_windows_are_reported_as_they_come(
    make_model: Make, write_scan: Write, tmp_path: Path, workers: int
) -> None:
    for name in "abc":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    (tmp_path / "in" / "b_0000.nii.gz").write_bytes(b"no image")
    model, said = make_model(), []
    told: Callable[..., None] = lambda *what: said.append(what)  # noqa: E731
    options = InferenceOptions(device="cpu", progress=told)
    given = Predictor.from_model(model, None, options)
    scans = list(find_scans(tmp_path / "in", ("MR",)))
    given.predict_folder(scans, tmp_path / "out", on_case=told, workers=workers)
    cases = [what for what in said if len(what) == 2]
    assert sorted(case for case, state in cases if state == "started") == ["a", "b", "c"]
    assert [case for case, state in cases if state == "done"] == ["a", "c"]
    assert len(cases) == 6
    windows = [what for what in said if len(what) == 3]
    sweeps = [what for what in windows if what[1] == what[2]]
    assert len(sweeps) == 2
    assert all(done <= total for _, done, total in windows)
    said.clear()
    given.predict_folder(scans, tmp_path / "out", on_case=told, workers=workers)
    assert said[:2] == [("a", "kept"), ("c", "kept")]


def test_reading_computing_and_writing_go_on_at_the_same_time(
    make_model: Make, write_scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here could end if one waited for the other."""
    for name in ("a", "b_once", "c"):
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    stubbed = partial(readers.ReadAhead, function="stub_readers:read")
    monkeypatch.setattr(readers, "ReadAhead", stubbed)
    computing_b, met = threading.Event(), []
    real_segment, real_write = Predictor.segment_case, predictor.write_volume

    def segment(self: Predictor, scan: ScanFiles, *given: Any, **values: Any) -> Any:
        if scan.id == "a":  # b is read while a is computed
            limit = time.monotonic() + 60
            while not Path(f"{tmp_path / 'in' / 'b_once_0000.nii.gz'}.seen").exists():
                assert time.monotonic() < limit
                time.sleep(0.01)
            met.append("read")
        if scan.id == "b_once":
            computing_b.set()
        return real_segment(self, scan, *given, **values)

    def write(path: Path, *given: Any) -> None:
        if path.name == "a.nii.gz" and computing_b.wait(60):  # a is written while b is computed
            met.append("written")
        real_write(path, *given)

    monkeypatch.setattr(Predictor, "segment_case", segment)
    monkeypatch.setattr(predictor, "write_volume", write)
    report = _predict(make_model(), tmp_path, workers=1)
    assert list(report.done) == ["a", "b_once", "c"]
    assert met == ["read", "written"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_result_that_fits_no_grid_fails_its_case_alone(
    make_model: Make,
    write_scan: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    for name in "ab":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    real = predictor.write_volume

    def write(path: Path, array: np.ndarray, grid: Any) -> None:
        real(path, array[1:] if path.name.startswith("a") else array, grid)

    monkeypatch.setattr(predictor, "write_volume", write)
    report = _predict(make_model(), tmp_path, workers=workers)
    assert list(report.done) == ["b"]
    assert "does not fit a grid" in report.failed["a"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scan_is_not_in_memory_any_more_when_the_next_is_computed(
    make_model: Make,
    write_scan: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """Whether it was predicted or failed."""
    for name in "abcd":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    real, seen, alive = Predictor.segment_case, [], []

    def segment(self: Predictor, scan: ScanFiles, volume: Volume, out: Path, **values: Any) -> Any:
        alive.extend(name for name, known in seen if known() is not None)
        seen.append((scan.id, weakref.ref(volume)))
        if scan.id == "b":
            raise ValueError(scan.id)
        return real(self, scan, volume, out, **values)

    monkeypatch.setattr(Predictor, "segment_case", segment)
    report = _predict(make_model(), tmp_path, workers=workers)
    assert list(report.done) == ["a", "c", "d"]
    assert len(seen) == 4
    assert alive == []
