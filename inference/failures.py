"""Why a case failed: one sentence, and for what we did not foresee the traceback as well."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from renalplan.errors import RenalplanError


@dataclass(frozen=True)
class Failure:
    """The reason in a sentence; the traceback if it is not one of our own errors."""

    reason: str
    traceback: str | None = None


class ForeignError(Exception):
    """What another process did not foresee, with that process's own account of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


def explain(problem: BaseException) -> Failure:
    """What goes into the report and onto the last lines."""
    if isinstance(problem, ForeignError):
        return problem.failure
    if isinstance(problem, RenalplanError):
        return Failure(str(problem))
    account = "".join(traceback.format_exception(problem))
    if isinstance(problem, MemoryError):
        what = f" ({problem})" if str(problem) else ""
        return Failure(f"memory ran out{what}; free some and run the same command again.", account)
    said = " ".join(str(problem).split())
    named = f"{type(problem).__name__}: {said}" if said else type(problem).__name__
    return Failure(f"{named.rstrip('.')}. The traceback is in the report.", account)
