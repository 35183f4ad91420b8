"""A folder divided among machines: no case twice, no report overwritten, and a later run knows it all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.errors import PredictionError, UsageError
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.report import Part, PredictionReport, ReportWriter
from renalplan.inference.scans import find_scans
from renalplan.model_folder import ModelFolder

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]
PARTS = ["predict_report.part_0_of_2.json", "predict_report.part_1_of_2.json"]


@pytest.fixture
def folder(write_scan: Write, tmp_path: Path) -> Path:
    for name in "abcde":
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz")
    return tmp_path


def _predict(model: ModelFolder, folder: Path, **values: Any) -> PredictionReport:
    options = InferenceOptions(device="cpu", step=values.pop("step", 0.5))
    predictor = Predictor.from_model(model, None, options)
    return predictor.predict_folder(folder / "in", folder / "out", workers=0, **values)


def _reports(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "out").glob("predict_report*.json"))


def _later(path: Path) -> None:
    """Make its time of change differ from that of what was written in the same tick."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10_000_000))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_cover_every_case_once_whatever_their_order(folder: Path, count: int) -> None:
    scans = list(find_scans(folder / "in", ("MR",)))
    parts = [Part(index=i, count=count).of(scans) for i in range(count)]
    assert sorted(scan.id for part in parts for scan in part) == list("abcde")
    assert parts == [Part(index=i, count=count).of(scans[::-1]) for i in range(count)]
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1


def test_each_part_has_a_report_and_a_whole_run_takes_them_over(
    make_model: Make, folder: Path
) -> None:
    model = make_model()
    assert list(_predict(model, folder, parts=2, part=0).done) == ["a", "c", "e"]
    assert list(_predict(model, folder, parts=2, part=1).done) == ["b", "d"]
    assert _reports(folder) == PARTS
    assert _predict(model, folder, parts=2, part=1).kept == ["b", "d"]
    assert _predict(model, folder, parts=3, part=0).kept == ["a", "d"]
    assert len(_reports(folder)) == 3
    whole = _predict(model, folder)
    assert (whole.kept, whole.done) == (list("abcde"), {})
    assert _reports(folder) == ["predict_report.json"]
    assert _predict(model, folder, parts=2, part=0).kept == ["a", "c", "e"]


def test_a_part_leaves_the_others_files_alone(make_model: Make, folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    theirs = [out / ".tmp-5-b.nii.gz", out / f".tmp-5-{PARTS[1]}"]
    ours = [out / ".tmp-5-a.nii.gz", out / f".tmp-5-{PARTS[0]}"]
    for path in (*theirs, *ours):
        path.write_bytes(b"half")
    _predict(make_model(), folder, parts=2, part=0)
    assert sorted(out.glob(".tmp-*")) == sorted(theirs)


def test_the_last_report_that_names_a_case_counts(make_model: Make, folder: Path) -> None:
    model = make_model()
    _predict(model, folder)
    first = folder / "in" / "a_0000.nii.gz"
    old = first.stat()
    os.utime(first, (1, 1))
    assert list(_predict(model, folder, parts=2, part=0).done) == ["a"]
    _later(folder / "out" / PARTS[0])
    os.utime(first, ns=(old.st_atime_ns, old.st_mtime_ns))
    # the report of the whole knows this state of the file, but the segmentation is of the other
    assert list(_predict(model, folder).done) == ["a"]


def test_another_model_overwrites_part_by_part(make_model: Make, folder: Path) -> None:
    _predict(make_model(), folder)
    other = make_model("other", sign=-1.0)
    with pytest.raises(UsageError, match="predictions of another model"):
        _predict(other, folder, parts=2, part=0)
    _predict(other, folder, parts=2, part=0, overwrite=True)
    _later(folder / "out" / PARTS[0])
    assert _predict(other, folder, parts=2, part=0).kept == ["a", "c", "e"]
    with pytest.raises(UsageError, match="predictions of another model"):
        _predict(other, folder)  # half of them are
    _predict(other, folder, parts=2, part=1, overwrite=True)
    _later(folder / "out" / PARTS[0])
    _later(folder / "out" / PARTS[1])
    assert _predict(other, folder).kept == list("abcde")


def test_a_killed_overwriting_part_continues(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _predict(make_model(), folder)
    other = make_model("other", sign=-1.0)
    real, made = Predictor.segment_case, []

    def die(self: Predictor, *given: Any, **values: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(1)
        return real(self, *given, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "segment_case", die)
        with pytest.raises(KeyboardInterrupt):
            _predict(other, folder, parts=2, part=0, overwrite=True)
    _later(folder / "out" / PARTS[0])
    report = _predict(other, folder, parts=2, part=0)
    assert (report.kept, list(report.done)) == (["a"], ["c", "e"])


def test_a_part_without_cases_is_done_at_once(make_model: Make, folder: Path) -> None:
    report = _predict(make_model(), folder, parts=9, part=7)
    assert not report.done
    written = json.loads((folder / "out" / "predict_report.part_7_of_9.json").read_text())
    assert written["inputs"] == {}


@pytest.mark.parametrize(("parts", "part"), [(0, 0), (2, 2), (2, -1), (1, 1)])
def test_parts_that_do_not_exist_are_refused(
    make_model: Make, folder: Path, parts: int, part: int
) -> None:
    with pytest.raises(UsageError, match=rf"--parts {parts}\b.* must be|--part {part} of --parts"):
        _predict(make_model(), folder, parts=parts, part=part)
    assert not (folder / "out").exists()


def test_a_path_is_an_input_of_the_api_too(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(), None, InferenceOptions(device="cpu"))
    report = predictor.predict_folder(str(folder / "in"), str(folder / "out"))
    assert list(report.done) == list("abcde")
    with pytest.raises(UsageError, match="lies inside the input"):
        predictor.predict_folder(folder / "in", folder / "in" / "out")
    with pytest.raises(UsageError, match="does not exist"):
        predictor.predict_folder(str(folder / "nowhere"), folder / "out")


def test_a_damaged_report_is_named_and_one_that_has_just_gone_is_not(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    _predict(model, folder, parts=2, part=0)
    (folder / "out" / PARTS[1]).write_text("{")
    with pytest.raises(PredictionError, match=rf"{PARTS[1]} is not valid JSON"):
        _predict(model, folder, parts=2, part=0)
    (folder / "out" / PARTS[1]).unlink()
    real = ReportWriter._reports

    def and_one_gone(self: ReportWriter) -> list[Path]:
        return [*real(self), self.out / PARTS[1]]

    monkeypatch.setattr(ReportWriter, "_reports", and_one_gone)
    assert _predict(model, folder, parts=2, part=0).kept == ["a", "c", "e"]
