"""A fold in a process of its own: what it says of errors, and how it ends; training is `test_dask`'s."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from renalplan import fold_jobs
from renalplan.errors import DatasetError, UsageError, WorkerError
from renalplan.fold_jobs import train_fold, train_folds
from renalplan.parallel import Here


@pytest.fixture(autouse=True)
def _on_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_jobs, "worker_threads", lambda: 3)
    monkeypatch.setattr(fold_jobs, "given_up", lambda: lambda: False)
    monkeypatch.setattr(fold_jobs, "LOOK_SECONDS", 0.02)


@pytest.fixture
def arguments(tmp_path: Path, make_dataset: Callable[..., Path]) -> dict[str, Any]:
    """Of a dataset that has not been planned."""
    return {
        "task": str(make_dataset()), "workspace": str(tmp_path), "trainer": "UNet", "settings": None,
        "plan_name": None, "configuration": None, "name": None, "device": "cpu",
        "precision": "auto", "workers": None,
    }  # fmt: skip


def test_an_error_of_a_fold_is_the_one_that_it_would_be_here(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="renalplan_plan_and_preprocess") as there:
        train_folds(["0"], arguments, Here())
    from renalplan.training import train
    from renalplan.workspace import Workspace

    given = arguments | {"workspace": Workspace(tmp_path)}
    with pytest.raises(UsageError) as here:
        train(fold="0", **given)
    assert str(there.value) == str(here.value)


def test_a_process_that_dies_or_is_not_wanted_any_more_is_a_lost_fold(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def end(process: Any) -> bool:
        begun.append(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        return bool(process.wait())

    monkeypatch.setattr(fold_jobs, "_has_ended", end)
    with pytest.raises(WorkerError, match=r"^fold 0: its process was killed by SIGKILL"):
        train_folds(["0"], arguments, Here())
    monkeypatch.setattr(fold_jobs, "given_up", lambda: lambda: True)
    monkeypatch.setattr(fold_jobs, "_has_ended", lambda process: begun.append(process.pid))
    with pytest.raises(WorkerError, match="it is given up"):
        train_fold("0", arguments, str(tmp_path))
    for pid in begun:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_other_folds_are_finished_before_one_that_failed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[str] = []

    def fail_first(fold: str, arguments: dict[str, Any], folder: str) -> dict[str, float]:
        if fold == "0":
            raise DatasetError("a.nii.gz is damaged.")
        trained.append(fold)
        return {"kidney": 0.5}

    monkeypatch.setattr(fold_jobs, "train_fold", fail_first)
    with pytest.raises(DatasetError, match=r"^a\.nii\.gz is damaged\.$"):
        train_folds(["0", "1", "2"], {}, Here())
    assert trained == ["1", "2"]
    assert train_folds(["2", "1"], {}, Here()) == {"2": {"kidney": 0.5}, "1": {"kidney": 0.5}}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"error": "DatasetError", "said": "damaged"}, DatasetError),
        ({"system": [28, "no space", "/out"]}, OSError),
    ],
)
def test_errors_arrive_as_what_they_were(answer: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"damaged|no space"):
        fold_jobs._result(answer)
