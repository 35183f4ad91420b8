"""The commands on a real cluster of two worker processes, one of which is killed in the middle."""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import call
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.cluster import connect
from renalplan.errors import WorkerError
from renalplan.parallel import map_cases
from renalplan.store import open_items

NAME = "Dataset001_Tiny"
PLANNED = "plan_and_preprocess 1 --gpu_memory 0.004 --base_features 4 --cascade none"
SHORT = "--device cpu --set epochs=1 iterations=1 validation_iterations=0"
dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two workers, each a process; a case whose second worker dies as well is lost.

    A worker that is killed is started again, however long that takes on a busy machine: by itself
    the cluster would give it up after 15 seconds.
    """
    patience = {"distributed.deploy.lost-worker-timeout": "1h"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1} | patience),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as found,
    ):
        yield found


@pytest.fixture
def address(client: Any) -> str:
    """Of the scheduler, when both workers are there: killed ones are started again."""
    client.wait_for_workers(2, timeout=180)
    return str(client.scheduler.address)


def pids(client: Any) -> set[int]:
    client.wait_for_workers(2, timeout=180)
    return set(client.run(os.getpid).values())


@pytest.fixture
def kill(client: Any) -> Iterator[Callable[[str], None]]:
    """Have one worker kill itself when it comes to a function; in the end it must have done so."""
    doomed: set[int] = set()

    def plant(place: str) -> None:
        # a function within a function is sent as it is: workers cannot import this file
        def arm() -> int:
            import importlib
            import os
            import signal

            module, _, name = place.partition(":")
            die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            setattr(importlib.import_module(module), name, die)
            return os.getpid()

        (pid,) = client.run(arm, workers=[_one(client)]).values()
        doomed.add(pid)

    yield plant
    assert not doomed & pids(client)


def _one(client: Any) -> str:
    return min(client.nthreads())


@pytest.fixture
def pretend(client: Any) -> Iterator[Callable[[str, object], None]]:
    """Replace a function on one worker by one that returns a value, for the length of a test."""
    replaced: list[str] = []

    def swap(place: str, value: object, back: bool = False) -> None:
        def change() -> None:
            import importlib

            path, _, name = place.partition(":")
            module = importlib.import_module(path)
            if back:
                setattr(module, name, module.__dict__.pop("_" + name + "_before"))
            else:
                setattr(module, "_" + name + "_before", getattr(module, name))
                setattr(module, name, lambda *_: value)

        client.run(change, workers=[_one(client)])
        replaced.append(place)

    yield swap
    for place in dict.fromkeys(replaced):
        swap(place, None, True)


def same_files(one: Path, two: Path, pattern: str) -> int:
    """How many files there are, all of them equal in both folders."""
    names = {str(path.relative_to(one)) for path in one.rglob(pattern) if path.is_file()}
    assert names == {str(path.relative_to(two)) for path in two.rglob(pattern) if path.is_file()}
    for name in names:
        assert filecmp.cmp(one / name, two / name, shallow=False), name
    return len(names)


@pytest.mark.usefixtures("here")
def test_check_says_what_it_says_here(address: str, run: Callable[[str], Any]) -> None:
    label = Path("work/raw") / NAME / "labelsTr" / "case_1.nii.gz"
    label.write_bytes(label.read_bytes()[:-30])
    found, known = run(f"check 1 --dask {address}"), run("check 1")
    assert found.status == known.status == 2
    assert found.out == known.out.replace("work/raw", str(Path("work/raw").absolute()))
    assert found.err == ""


@pytest.mark.usefixtures("here")
def test_preprocessing_loses_nothing_with_a_worker(
    address: str, run: Callable[[str], Any], kill: Callable[[str], None]
) -> None:
    shutil.copytree("work/raw", "other/raw")
    kill("renalplan.store_dataset:write_case")
    ran = run(f"{PLANNED} --workspace other --dask {address}")
    assert (ran.status, ran.err) == (0, "")
    assert "2 cases preprocessed" in ran.out
    folders = [Path(root) / "preprocessed" / NAME for root in ("work", "other")]
    for case in ("case_0", "case_1"):
        (mine,), (theirs,) = (open_items(f / "renal" / "whole", (case,)) for f in folders)
        assert mine.item == theirs.item
        np.testing.assert_array_equal(mine.image[:], theirs.image[:])
        np.testing.assert_array_equal(mine.labels[:], theirs.labels[:])
    for name in ("fingerprint.json", "splits.json", "renal/plan.json"):
        assert same_files(*folders, name.rpartition("/")[2]) == 1
    assert "everything is up to date" in run("plan_and_preprocess 1 --workspace other").out


@pytest.mark.usefixtures("here")
def test_predicting_and_evaluating_lose_nothing_with_a_worker(
    client: Any, address: str, run: Callable[[str], Any], kill: Callable[[str], None]
) -> None:
    data = Path("work/raw") / NAME
    scans, labels = data / "imagesTr", data / "labelsTr"
    kill("renalplan.inference.predictor:write_volume")
    there = f"predict -i {scans} -d 1 --device cpu --engine torch --step 1"
    assert run(f"{there} -o here --workers 0").status == 0
    ran = run(f"{there} -o away --dask {address}")
    assert (ran.status, ran.out, ran.err) == (0, "2 cases predicted: away\n", "")
    assert same_files(Path("here"), Path("away"), "*.nii.gz") == 2
    assert not list(Path("away").glob(".tmp-*"))

    pids(client)  # both are there again
    kill("renalplan.evaluation.evaluate:evaluate_case")
    ran = run(f"evaluate away {labels} --dask {address}")
    known = run(f"evaluate here {labels}")
    assert (ran.status, ran.err) == (known.status, known.err) == (0, "")
    assert ran.out == known.out.replace("here/", "away/")
    assert same_files(Path("here"), Path("away"), "per_case.csv") == 1


@pytest.mark.usefixtures("here")
def test_folds_are_trained_side_by_side_and_as_they_are_here(
    address: str, run: Callable[[str], Any], kill: Callable[[str], None]
) -> None:
    kill("renalplan.fold_jobs:_has_ended")  # the process that trains goes with it
    ran = run(f"train 1 cv --name Away --dask {address} {SHORT}")
    assert ran.status == 0, ran.err
    # the workers of this cluster write to the same terminal
    ours = [line for line in ran.err.splitlines() if not line.endswith(" steps")]
    assert sorted(ours) == ["fold 0 is done", "fold 1 is done"]
    here, away = (Path("work/results") / NAME / name for name in ("UNet", "Away"))
    assert ran.out.endswith(f"model: {away}\n")
    for fold in ("0", "1"):
        assert f"fold {fold}: mean Dice of held-out cases: kidney" in ran.out
        assert (away / f"fold_{fold}" / "finished.json").is_file()
    assert same_files(here / "fold_0", away / "fold_0", "model.safetensors") == 1
    assert (away / "crossval.json").is_file()
    again = run(f"train 1 0 --name Away --dask {address} --set epochs=2 iterations=1")
    assert again.status == 2
    assert "was trained with other settings" in again.err


def test_a_case_that_kills_its_workers_is_lost_alone(client: Any, address: str) -> None:
    deadly = partial(os._exit, 1)
    items = [deadly, *(partial(pow, 2, number) for number in range(5))]
    with connect(address) as cluster:
        found = dict(map_cases(call, items, executor=cluster))
    problem = found.pop(deadly)
    assert isinstance(problem, WorkerError)
    assert "each of the 2 dask workers that computed it died, the last at tcp://" in str(problem)
    assert sorted(found.values()) == [1, 2, 4, 8, 16]
    pids(client)


def test_a_call_that_nobody_waits_for_any_more_can_know_it(
    client: Any, address: str, tmp_path: Path
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"

    def work() -> None:
        import time

        from renalplan.on_worker import given_up

        unwanted = given_up()
        begun.write_text(str(unwanted()))
        while not unwanted():
            time.sleep(0.05)
        ended.touch()

    future = client.submit(work, pure=False)
    await_file(begun)
    assert begun.read_text() == "False"
    future.cancel()
    await_file(ended)


def await_file(path: Path) -> None:
    for _ in range(1200):
        if path.exists() and (path.name == "ended" or path.read_text()):
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("renalplan.on_worker:code_version", "0.0.9 (12ab)", "has renalplan 0.0.9 (12ab)"),
        ("renalplan.on_worker:_is_there", False, "as this machine does; all need the same file"),
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        "check 1",
        f"{PLANNED} --workspace other",
        "predict -i work/raw/Dataset001_Tiny/imagesTr -o out -d 1 --device cpu",
        "evaluate work/raw/Dataset001_Tiny/labelsTr work/raw/Dataset001_Tiny/labelsTr -o out",
        f"train 1 cv --name Away {SHORT}",
    ],
)
def test_a_worker_that_cannot_do_it_is_refused_before_any_work(
    address: str,
    run: Callable[[str], Any],
    pretend: Callable[[str, object], None],
    line: str,
    place: str,
    value: object,
    sentence: str,
) -> None:
    shutil.copytree("work/raw", "other/raw")
    before = sorted(Path.cwd().rglob("*"))
    pretend(place, value)
    ran = run(f"{line} --dask {address}")
    assert ran.status == 2
    assert sentence in ran.err
    assert ran.err.count("\n") == 0
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_an_address_where_nobody_or_no_worker_is_is_refused(
    run: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renalplan.cluster.CONNECT_SECONDS", 1)
    monkeypatch.setattr("renalplan.cluster.WORKERS_SECONDS", 0.2)
    ran = run("check 1 --dask tcp://127.0.0.1:9")
    assert ran.status == 2
    assert "--dask tcp://127.0.0.1:9: no scheduler answers (" in ran.err
    for address in ("nonsense", "nonsense://x:1", "127.0.0.1", "http://localhost:8799"):
        ran = run(f"check 1 --dask {address}")
        assert ran.status == 2
        assert f"--dask {address}: that is no address of a scheduler; give it as" in ran.err
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as nobody:
        ran = run(f"check 1 --dask {nobody.scheduler_address}")
        assert ran.status == 2
        assert "no worker has come in 0.2 s" in ran.err
        ran = run(f"check 1 --workers 2 --dask {nobody.scheduler_address}")
        assert ran.status == 2
        assert "leave one of the two out" in ran.err
