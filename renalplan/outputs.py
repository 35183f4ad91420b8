"""What an output may replace: what the same command wrote before, and nobody else's file."""

from __future__ import annotations

import os
from pathlib import Path

from renalplan.errors import DatasetError, UsageError
from renalplan.files import Record, read_json


def require_own(record: Path, kind: type[Record], *beside: Path) -> None:
    """Refuse to replace files that are no earlier output of the same command.

    Args:
        record: The JSON file of the output; a command writes it before `beside`, so that what a killed
            run left is known as its own.
        kind: What it holds. The keys that it must have tell it, so that another version's counts too.
        beside: Files of the same output that cannot tell whose they are.

    Raises:
        UsageError: one of them is there, and no such record.
    """
    there = [path for path in (record, *beside) if os.path.lexists(path)]
    if there and not _holds(record, kind):
        raise UsageError(
            f"{there[0]} is there already and is not known as an earlier output of this command; "
            "choose another output, or move it away."
        )


def _holds(path: Path, kind: type[Record]) -> bool:
    try:
        value = read_json(path) if path.is_file() else None
    except DatasetError:
        return False
    needed = {name for name, field in kind.model_fields.items() if field.is_required()}
    return isinstance(value, dict) and needed <= value.keys()
