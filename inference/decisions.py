"""What a segmenter's rules decided for one scan: written beside the segmentation, said in the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from renalplan.files import Record


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
