"""`python -m renalplan.fold_process`: trains one fold as a request on standard input says; see `fold_jobs`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from renalplan.cli.common import logging_to_stderr
from renalplan.ending import end_quickly
from renalplan.errors import RenalplanError
from renalplan.vitals import die_with
from renalplan.workspace import Workspace


def main() -> None:
    """Train, and answer on what was standard output."""
    end_quickly()
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    request = json.load(sys.stdin)
    die_with(request["parent"])
    with os.fdopen(answer_to, "w") as stream, logging_to_stderr():
        json.dump(answer(request["fold"], request["arguments"]), stream)


def answer(fold: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`scores`; or `error` and what it `said`, or `system`'s error. A defect ends the process."""
    from renalplan.training import train

    root = Path(arguments["workspace"])
    try:
        given = arguments | {"workspace": Workspace(root)}
        trained = train(fold=fold, progress=False, **given)
    except RenalplanError as problem:
        return {"error": type(problem).__name__, "said": str(problem)}
    except OSError as problem:
        said = problem.strerror or str(problem)
        return {"system": [problem.errno or 0, said, problem.filename]}
    return {"scores": trained.folds[fold]}


if __name__ == "__main__":
    main()
