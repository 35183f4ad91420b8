"""`--require kidney=0.85`: the least mean Dice a run must reach, for scripts that gate on it."""

from __future__ import annotations

from renalplan.errors import UsageError
from renalplan.evaluation.aggregate import Summary


def parse_requirements(texts: list[str]) -> dict[str, float]:
    """`["kidney=0.85"]` -> `{"kidney": 0.85}`.

    Raises:
        UsageError: not of the form NAME=DICE with a number from 0 to 1.
    """
    required: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            required[name] = float(value)
        except ValueError:
            required[name] = -1.0
        if not name or not 0 <= required[name] <= 1:
            raise UsageError(
                f"--require {text}: needs the form NAME=DICE with a Dice from 0 to 1, "
                "e.g. kidney=0.85."
            )
    return required


def shortfalls(required: dict[str, float], summary: Summary) -> list[str]:
    """A sentence for every structure whose mean Dice is below what is required.

    Raises:
        UsageError: a structure that was not scored is required.
    """
    found = []
    for name, least in required.items():
        if name not in summary.structures:
            raise UsageError(
                f"--require {name}: there is no such structure; "
                f"there are {', '.join(summary.structures)}."
            )
        mean = summary.structures[name].scores["dice"].mean
        if mean < least:
            found.append(f"{name}: mean Dice {mean:.4f} is below the required {least}")
    return found
