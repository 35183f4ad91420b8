"""Folds trained by a cluster's workers: one fold a worker, each in a process of its own.

A worker's own process is none to train in: it may not start others, its libraries were told to take one
core each, and what runs in it cannot be stopped. The fold's process (`renalplan.fold_process`) does
what `renalplan_train TASK FOLD` does, and ends with the worker, or when the fold is given up.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from renalplan import errors
from renalplan.errors import RenalplanError, WorkerError
from renalplan.on_worker import given_up, worker_threads
from renalplan.parallel import CaseExecutor, data_loaders, map_cases, of_case
from renalplan.vitals import cause_of_death

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0  # how often a worker looks whether its fold is still wanted


def train_folds(
    folds: list[str], arguments: dict[str, Any], executor: CaseExecutor
) -> dict[str, dict[str, float]]:
    """Have each fold trained and validated; the model folder must have its description already.

    Args:
        folds: `0` … or `all`.
        arguments: Of `renalplan.training.train` for every fold, plain values and absolute paths.
        executor: Who trains.

    Returns:
        Fold -> structure -> mean Dice of its held-out cases.

    Raises:
        RenalplanError: of the first fold that failed, after the others were finished.
    """
    found: dict[str, dict[str, float]] = {}
    failure: RenalplanError | None = None
    ended = map_cases(train_fold, folds, arguments, str(Path.cwd()), executor=executor)
    for fold, result in ended:
        if isinstance(result, RenalplanError):
            problem = of_case(f"fold {fold}", result)
            log.info("fold %s failed: %s", fold, result)
            failure = failure or problem
        else:
            log.info("fold %s is done", fold)
            found[fold] = result
    if failure is not None:
        raise failure
    return {fold: found[fold] for fold in folds}


def train_fold(fold: str, arguments: dict[str, Any], folder: str) -> dict[str, float]:
    """Train and validate a fold in a process of its own, with as many cores as this worker has threads.

    Args:
        fold: `0` … or `all`.
        arguments: See `train_folds`.
        folder: The current folder of who asks, where a trainer may be a file of the user's own.

    Returns:
        Structure -> mean Dice.

    Raises:
        RenalplanError: as `train`.
        OSError: as `train`.
        WorkerError: the process died, or the fold is given up.
    """
    threads = worker_threads()
    if arguments["workers"] is None:
        arguments = arguments | {"workers": data_loaders(threads)}
    process = subprocess.Popen(
        [sys.executable, "-m", "renalplan.fold_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder if Path(folder).is_dir() else None,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    unwanted = given_up()
    with process:
        try:
            json.dump({"parent": os.getpid(), "fold": fold, "arguments": arguments}, process.stdin)
            process.stdin.close()
            while not _has_ended(process):
                if unwanted():
                    raise WorkerError("it is given up.")
        finally:
            process.kill()
        said = process.stdout.read()
    if not said:
        raise WorkerError(
            f"its process {cause_of_death(process.returncode, 0)}; the worker's output says more."
        )
    return _result(json.loads(said))


def _has_ended(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _result(answer: dict[str, Any]) -> dict[str, float]:
    """What the process answered, or the error that it met."""
    if "system" in answer:
        raise OSError(*answer["system"])
    if "error" in answer:
        kind: type[RenalplanError] = getattr(errors, answer["error"])
        raise kind(answer["said"])
    scores: dict[str, float] = answer["scores"]
    return scores
