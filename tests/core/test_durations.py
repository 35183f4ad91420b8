"""Lengths of time, as they are written and shown."""

from __future__ import annotations

import pytest

from renalplan.durations import duration_text, parse_duration
from renalplan.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6h", 21600), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("1h30m10s", 5410),
        ("0.5h", 1800), ("2M", 120), (" 3m ", 180),
    ],
)  # fmt: skip
def test_a_length_of_time_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "30m1h", "-5m", "0s", "6 hours", "1h 30m", "nanh"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--budget .*: give hours, .* 6h, 90m, 45s, 1h30m\.$"):
        parse_duration(text, "--budget")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (11.6, "12s"), (59.6, "1m 00s"), (125, "2m 05s"), (3900, "1h 05m")],
)
def test_a_length_of_time_is_shown(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
