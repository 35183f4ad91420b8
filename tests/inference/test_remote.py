"""Cases predicted by an executor: the same files, and one that loses cases or is gone.

A real cluster of two machines' worth is in `tests/commands/test_dask.py`.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan import imports
from renalplan.errors import ModelError, UsageError, WorkerError
from renalplan.inference import remote as module
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.remote import Predicted, predict_case
from renalplan.inference.scans import ScanFiles
from renalplan.model_folder import ModelFolder
from renalplan.parallel import Here
from renalplan.predicting import predict

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]
CPU = InferenceOptions(device="cpu", step=1.0)


class Elsewhere(Here):
    """What goes to it and comes from it has been pickled, as between machines; it may lose a case."""

    def __init__(self, lose: str = "", gone: bool = False) -> None:
        self.lose = lose
        self.gone = gone

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        function, given = pickle.loads(pickle.dumps((fn, args)))
        if given[0].id == self.lose:
            lost: Future[Any] = Future()
            lost.set_exception(RuntimeError("worker died\nthree times"))
            return lost
        future = super().submit(function, *given)
        if (problem := future.exception()) is not None:
            pickle.loads(pickle.dumps(problem))
            return future
        there: Future[Any] = Future()
        there.set_result(pickle.loads(pickle.dumps(future.result())))
        return there

    def lost(self, problem: BaseException) -> WorkerError | None:
        if self.gone:
            raise WorkerError("everybody is gone.")
        return WorkerError("its worker died.") if isinstance(problem, RuntimeError) else None


@pytest.fixture
def folder(write_scan: Write, tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        write_scan(tmp_path / "in" / f"{name}_0000.nii.gz", sign=number + 1)
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_open() -> Iterator[None]:
    module._open.cache_clear()
    yield
    module._open.cache_clear()


def _segmentations(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.glob("*.nii.gz")}


def test_an_executor_makes_the_same_files_and_continues(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(folds=("0", "1")), None, CPU)
    predictor.predict_folder(folder / "in", folder / "here", workers=0)
    (folder / "in" / "d_0000.nii.gz").write_bytes(b"no image")
    said: list[tuple[str, str]] = []
    report = predictor.predict_folder(
        folder / "in", folder / "there", executor=Elsewhere(),
        on_case=lambda *what: said.append(what),
    )  # fmt: skip
    assert sorted(report.done) == ["a", "b", "c"]
    assert "d_0000.nii.gz cannot be read" in report.failed["d"]
    assert report.tracebacks == {}
    assert len(said) == 4
    assert _segmentations(folder / "there") == _segmentations(folder / "here")
    # what it did is known to a run here, and the other way round
    assert predictor.predict_folder(folder / "in", folder / "there", workers=0).kept == list("abc")
    again = predictor.predict_folder(folder / "in", folder / "here", executor=Elsewhere())
    assert again.kept == list("abc")


def test_a_case_that_is_lost_fails_alone(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)
    half = folder / "out" / ".tmp-12-b.nii.gz"

    class DiesWriting(Elsewhere):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            half.write_bytes(b"half")
            return super().submit(fn, *args, **kwargs)

    report = predictor.predict_folder(folder / "in", folder / "out", executor=DiesWriting("b"))
    assert not half.exists()
    assert sorted(report.done) == ["a", "c"]
    assert report.failed == {"b": "its worker died."}


def test_when_the_executor_is_gone_what_was_done_is_kept(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)
    with pytest.raises(WorkerError, match="everybody is gone"):
        predictor.predict_folder(folder / "in", folder / "out", executor=Elsewhere("b", gone=True))
    report = predictor.predict_folder(folder / "in", folder / "out", workers=0)
    assert report.kept == ["a"]
    assert sorted(report.done) == ["b", "c"]


def test_what_nobody_foresaw_on_a_worker_comes_with_its_traceback(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("on a worker")

    monkeypatch.setattr(Predictor, "segment_case", fail)
    report = predictor.predict_folder(folder / "in", folder / "out", executor=Elsewhere())
    assert report.failed["a"].startswith("ValueError: on a worker.")
    assert 'raise ValueError("on a worker")' in report.tracebacks["a"]


@pytest.mark.parametrize(
    ("problem", "kind"), [(ModelError("broken"), ModelError), (OSError(28, "no space"), OSError)]
)
def test_what_no_other_case_would_survive_ends_the_run(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, problem: Any, kind: Any
) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)

    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(Predictor, "segment_case", fail)
    with pytest.raises(kind, match=r"broken|no space"):
        predictor.predict_folder(folder / "in", folder / "out", executor=Elsewhere())
    assert not _segmentations(folder / "out")


def test_a_recipe_is_plain_and_makes_the_same_predictor(make_model: Make) -> None:
    first, second = make_model("one"), make_model("two", sign=-1.0)
    members = [Predictor.from_model(m, None, CPU).members[0] for m in (first, second)]
    given = Predictor(members, [2.0, 1.0])
    recipe = json.loads(json.dumps(given.recipe()))
    made = Predictor.from_recipe(recipe)
    assert made.job() == given.job()
    assert [m.options for m in made.members] == [m.options for m in members]
    assert recipe["plugins"] == ["stub_networks"]


def test_a_worker_with_other_weights_or_without_the_plugin_says_so(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Predictor.from_model(make_model(), None, CPU).recipe()
    scan = ScanFiles(id="a", images=(folder / "in" / "a_0000.nii.gz",), ending=".nii.gz")
    with pytest.raises(ModelError, match="sees other weights"):
        predict_case(scan, {**recipe, "job": "other"}, folder, False)
    monkeypatch.setattr(imports, "_trusted", set())
    with pytest.raises(ModelError, match="add --plugin stub_networks"):
        predict_case(scan, {**recipe, "plugins": []}, folder, False)
    recipe["members"][0]["options"]["device"] = "abacus"
    with pytest.raises(UsageError, match="abacus is not known"):
        predict_case(scan, recipe, folder, False)
    recipe["members"][0]["options"]["device"] = "cpu"
    assert isinstance(predict_case(scan, recipe, folder, False), Predicted)


def test_files_on_the_side_are_where_the_recipe_says_whatever_the_current_folder(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = InferenceOptions(device="cpu", scratch_folder=Path("out"))
    recipe = Predictor.from_model(make_model(), None, options).recipe()
    assert recipe["members"][0]["options"]["scratch_folder"] == str(folder / "out")


def test_without_distributed_the_option_says_what_to_install(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'renalplan\[dask\]'"):
        predict(
            folder / "in", folder / "out", models=[make_model().path], dask="tcp://x:1",
            progress=False,
        )  # fmt: skip
    assert not (folder / "out").exists()
