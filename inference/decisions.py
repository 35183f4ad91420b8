"""What a segmenter's rules decided for one scan: written beside the segmentation, said in the log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from renalplan.errors import PredictionError
from renalplan.files import Record, read_record, write_json


@dataclass(frozen=True)
class Decisions:
    """The decisions of one model about one scan.

    Attributes:
        values: Name of a decision -> JSON value.
        remarks: Sentences for whoever reads the result: what is unusual about it.
    """

    values: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The values, and the remarks under a name of their own."""
        return {**self.values, "remarks": list(self.remarks)}


class CaseDecisions(Record):
    """<case>.json beside a segmentation.

    Attributes:
        case: Case id.
        decisions: Model folder's name (its path, where two have the same) -> what its rules decided;
            and `postprocessing` -> what was removed by the rules of postprocessing.json.
    """

    case: str
    decisions: dict[str, dict[str, Any]]


def write_decisions(path: Path, case: str, decisions: dict[str, Decisions]) -> None:
    """Write a case's decisions; those of another model's prediction that is replaced go."""
    if not decisions:
        with suppress(PredictionError):  # anything else of this name is not ours
            read_record(path, CaseDecisions, PredictionError)
            path.unlink()
        return
    values = {model: found.as_json() for model, found in decisions.items()}
    write_json(path, CaseDecisions(case=case, decisions=values))
