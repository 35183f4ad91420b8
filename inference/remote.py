"""Cases predicted by other processes that see the same files, e.g. a cluster's: a call a case."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalplan.errors import ModelError, RenalplanError, UsageError
from renalplan.imports import trust
from renalplan.inference.failures import Failure, ForeignError, explain
from renalplan.inference.job import Ledger, remove_leftovers_of, start_job
from renalplan.inference.scans import ScanFiles
from renalplan.parallel import CaseExecutor, map_cases

if TYPE_CHECKING:
    from renalplan.inference.predictor import Predictor


@dataclass(frozen=True)
class Predicted:
    """A case that is done: the fingerprint of its files, and the seconds it took."""

    inputs: str
    seconds: float


def run_remote(
    executor: CaseExecutor,
    recipe: dict[str, Any],
    scans: Sequence[ScanFiles],
    out: Path,
    ledger: Ledger,
    *,
    save_probabilities: bool = False,
) -> None:
    """As `run_job`, by an executor.

    Args:
        executor: Its processes see the same files under the same names.
        recipe: `Predictor.recipe()`.
        scans: All cases.
        out: Folder for the results.
        ledger: With a report that knows what is there already.
        save_probabilities: Also write probabilities.

    Raises:
        ModelError: a process cannot open the model.
        OSError: a process cannot write a result.
        WorkerError: the executor is gone, or nothing is finished any more.
    """
    chosen = start_job(scans, out, ledger, save_probabilities=save_probabilities)
    there = [
        replace(scan, images=tuple(path.absolute() for path in scan.images)) for scan in chosen
    ]
    ended = map_cases(
        predict_case, there, recipe, out.resolve(), save_probabilities, executor=executor
    )
    for scan, result in ended:
        if isinstance(result, (ModelError, UsageError)):  # UsageError: no such device there
            raise ModelError(str(result))
        if isinstance(result, RenalplanError):
            ledger.failed(scan.id, result)
        elif isinstance(result, Failure):
            ledger.failed(scan.id, ForeignError(result))
        else:
            ledger.done(scan.id, result.inputs, result.seconds)
    remove_leftovers_of(chosen, out, also="")  # of processes that died while they wrote


def predict_case(
    scan: ScanFiles, recipe: dict[str, Any], out: Path, save_probabilities: bool
) -> Predicted | Failure:
    """Predict one case in this process; the model stays open for the next one.

    Returns:
        What came of it, or why it failed.

    Raises:
        ModelError: no other case would fare better.
        UsageError: the model is to run on a device that is not here.
        OSError: a result cannot be written; nor could others.
    """
    start = time.monotonic()
    try:
        predictor = _open(json.dumps(recipe, sort_keys=True))
        inputs = scan.fingerprint()
        try:
            volume = scan.read()
        except Exception as problem:
            return explain(problem)
        write = predictor.segment_case(scan, volume, out, save_probabilities=save_probabilities)
        write()
    except (ModelError, UsageError, OSError):
        raise
    except Exception as problem:
        return explain(problem)
    return Predicted(inputs, round(time.monotonic() - start, 2))


@lru_cache(maxsize=1)
def _open(recipe: str) -> Predictor:
    from renalplan.inference.predictor import Predictor

    values = json.loads(recipe)
    for module in values["plugins"]:
        trust(module)
    predictor = Predictor.from_recipe(values)
    if predictor.job() != values["job"]:
        raise ModelError(
            f"a worker sees other weights in {', '.join(m['path'] for m in values['members'])} "
            "than this machine; all need the same file system."
        )
    for member in predictor.members:
        member.load()
    return predictor
