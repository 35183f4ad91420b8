"""Lengths of time as people write them: 6h, 90m, 45s, 1h30m."""

from __future__ import annotations

import re

from renalplan.errors import UsageError

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str, option: str) -> float:
    """Seconds of a length of time above 0.

    Args:
        text: Hours, minutes and seconds in this order, each with its letter: `1h30m`.
        option: Who was given it, for the sentence.

    Raises:
        UsageError: it is not one.
    """
    found = _PARTS.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total > 0:
        bare = re.fullmatch(r"\d+(\.\d+)?", text.strip())
        wrong = " has no unit" if bare and float(text) else ""
        raise UsageError(
            f"{option} {text}{wrong}: give hours, minutes or seconds: 6h, 90m, 45s, 1h30m."
        )
    return total


def duration_text(seconds: float) -> str:
    """As people read it, no finer than what matters: `1h 05m`, `2m 05s`, `12s`."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"
