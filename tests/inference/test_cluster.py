"""Cases on a dask cluster: the same files, and a cluster that loses cases, workers or itself."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan import imports
from renalplan.errors import ModelError, UsageError, WorkerError
from renalplan.inference import cluster as module
from renalplan.inference.cluster import connect, predict_on_worker
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.model_folder import ModelFolder
from renalplan.predicting import predict

Write = Callable[..., np.ndarray]
Make = Callable[..., ModelFolder]
CPU = InferenceOptions(device="cpu", step=1.0)


class FakeCluster:
    """A thread that works; only plain values go through, as between machines."""

    address = "fake"

    def __init__(self, lose: str = "", present: int = 1) -> None:
        self.lose = lose
        self.present = present
        self.cancelled: list[Any] = []
        self._pool = ThreadPoolExecutor(1)

    def submit(self, *call: Any) -> Future[Any]:
        function, *values = call
        given = json.loads(json.dumps(values))
        if self.present == 0:
            return Future()
        if given[1]["id"] == self.lose:
            lost: Future[Any] = Future()
            lost.set_exception(RuntimeError("worker died\nthree times"))
            return lost
        return self._pool.submit(lambda: json.loads(json.dumps(function(*given))))

    def workers(self) -> int:
        return self.present

    def cancel(self, tasks: Sequence[Any]) -> None:
        self.cancelled.extend(tasks)


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


def test_a_cluster_makes_the_same_files_and_continues(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(folds=("0", "1")), None, CPU)
    predictor.predict_folder(folder / "in", folder / "here", workers=0)
    (folder / "in" / "d_0000.nii.gz").write_bytes(b"no image")
    said: list[tuple[str, str]] = []
    report = predictor.predict_folder(
        folder / "in", folder / "there", cluster=FakeCluster(),
        on_case=lambda *what: said.append(what),
    )  # fmt: skip
    assert sorted(report.done) == ["a", "b", "c"]
    assert "d_0000.nii.gz cannot be read" in report.failed["d"]
    assert report.tracebacks == {}
    assert len(said) == 4
    assert _segmentations(folder / "there") == _segmentations(folder / "here")
    # what a cluster did is known to a run here, and the other way round
    assert predictor.predict_folder(folder / "in", folder / "there", workers=0).kept == list("abc")
    again = predictor.predict_folder(folder / "in", folder / "here", cluster=FakeCluster())
    assert again.kept == list("abc")


def test_a_case_that_the_cluster_loses_fails_alone(make_model: Make, folder: Path) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)
    half = folder / "out" / ".tmp-12-b.nii.gz"

    class DiesWriting(FakeCluster):
        def submit(self, *call: Any) -> Future[Any]:
            half.write_bytes(b"half")
            return super().submit(*call)

    report = predictor.predict_folder(folder / "in", folder / "out", cluster=DiesWriting("b"))
    assert not half.exists()
    assert sorted(report.done) == ["a", "c"]
    assert report.failed == {
        "b": "the dask cluster lost it (RuntimeError: worker died three times)."
    }


def test_what_nobody_foresaw_on_a_worker_comes_with_its_traceback(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("on a worker")

    monkeypatch.setattr(Predictor, "segment_case", fail)
    report = predictor.predict_folder(folder / "in", folder / "out", cluster=FakeCluster())
    assert report.failed["a"].startswith("ValueError: on a worker.")
    assert 'raise ValueError("on a worker")' in report.tracebacks["a"]


@pytest.mark.parametrize(
    ("problem", "kind"), [(ModelError("broken"), ModelError), (OSError(28, "no space"), OSError)]
)
def test_what_no_other_case_would_survive_ends_the_run_and_gives_the_rest_up(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, problem: Any, kind: Any
) -> None:
    predictor = Predictor.from_model(make_model(), None, CPU)

    def fail(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(Predictor, "segment_case", fail)
    cluster = FakeCluster()
    with pytest.raises(kind, match=r"broken|no space"):
        predictor.predict_folder(folder / "in", folder / "out", cluster=cluster)
    assert len(cluster.cancelled) == 2


def test_a_cluster_without_workers_is_given_up(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NO_WORKERS_SECONDS", 0.1)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.06)
    predictor = Predictor.from_model(make_model(), None, CPU)
    cluster = FakeCluster(present=0)
    with pytest.raises(WorkerError, match=r"has had no workers for 0\.1 s; start some"):
        predictor.predict_folder(folder / "in", folder / "out", cluster=cluster)
    assert len(cluster.cancelled) == 3


def test_a_cluster_that_finishes_nothing_is_given_up(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CASE_SECONDS", 0.1)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.06)
    cluster = FakeCluster(present=0)
    monkeypatch.setattr(cluster, "workers", lambda: 3)
    predictor = Predictor.from_model(make_model(), None, CPU)
    with pytest.raises(WorkerError, match="no case was finished by the dask cluster at fake"):
        predictor.predict_folder(folder / "in", folder / "out", cluster=cluster)


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
    scan = {"id": "a", "images": [str(folder / "in" / "a_0000.nii.gz")], "ending": ".nii.gz"}
    answer = predict_on_worker({**recipe, "job": "other"}, scan, str(folder), False)
    assert "sees other weights" in answer["model"]
    monkeypatch.setattr(imports, "_trusted", set())
    answer = predict_on_worker({**recipe, "plugins": []}, scan, str(folder), False)
    assert "add --plugin stub_networks" in answer["model"]
    recipe["members"][0]["options"]["device"] = "abacus"
    assert "abacus is not known" in predict_on_worker(recipe, scan, str(folder), False)["model"]
    recipe["members"][0]["options"]["device"] = "cpu"
    answer = predict_on_worker(recipe, scan, str(folder), False)
    assert set(answer) == {"inputs", "seconds"}


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


def test_the_command_uses_the_client_as_it_is_meant(
    make_model: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []

    class Client(FakeCluster):
        status = "running"

        def __init__(self, address: str, timeout: float) -> None:
            super().__init__()
            used.append(address)

        def submit(self, *call: Any, pure: bool = True) -> Future[Any]:
            assert not pure  # else dask would take an earlier run's result for it
            return super().submit(*call)

        def scheduler_info(self) -> dict[str, Any]:
            return {"workers": {"one": {}}}

        def close(self) -> None:
            used.append("closed")

    fake: Any = types.ModuleType("distributed")
    fake.Client = Client
    monkeypatch.setitem(sys.modules, "distributed", fake)
    report = predict(
        folder / "in", folder / "out", models=[make_model().path], dask="tcp://node:8786",
        device="cpu", progress=False,
    )  # fmt: skip
    assert sorted(report.done) == ["a", "b", "c"]
    assert used == ["tcp://node:8786", "closed"]
    with connect("there") as found:
        assert found.workers() == 1
        found._client.status = "closed"
        assert found.workers() == 0


def test_a_real_cluster(make_model: Make, folder: Path) -> None:
    distributed = pytest.importorskip("distributed")
    model = make_model()
    (folder / "in" / "d_0000.nii.gz").write_bytes(b"no image")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        connect(cluster.scheduler_address) as there,
    ):
        assert there.workers() == 1
        predictor = Predictor.from_model(model, None, CPU)
        report = predictor.predict_folder(folder / "in", folder / "out", cluster=there)
    assert sorted(report.done) == ["a", "b", "c"]
    assert list(report.failed) == ["d"]
    predictor.predict_folder(folder / "in", folder / "here", workers=0)
    assert _segmentations(folder / "out") == _segmentations(folder / "here")


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(UsageError, match=r"--dask tcp://127\.0\.0\.1:9: no scheduler answers"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass
